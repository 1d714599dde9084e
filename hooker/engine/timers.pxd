# Deadlines of many things, the earliest first: a binary heap of pointers into them.

from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t

cdef struct timer:             # zeroed memory is one that is not set
    uint64_t at                # ns
    uint32_t place             # in the heap + 1; 0: not set

cdef struct timer_heap:        # zeroed memory is an empty one
    timer **v
    uint32_t n
    uint32_t cap

cdef int timers_reserve(timer_heap *h, uint32_t n) noexcept nogil           # so many find memory; -1: there is none
cdef int timer_set(timer_heap *h, timer *t, uint64_t at) noexcept nogil      # -1: no memory. UINT64_MAX: never
cdef void timer_clear(timer_heap *h, timer *t) noexcept nogil
cdef void timers_free(timer_heap *h) noexcept nogil

cdef inline uint64_t timers_next(const timer_heap *h) noexcept nogil:        # UINT64_MAX: none
    return h.v[0].at if h.n > 0 else UINT64_MAX
