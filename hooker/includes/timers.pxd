# Deadlines of many things, the earliest first: a binary heap of pointers into them. To set one, or to take
# it back, costs the logarithm of how many there are. Inline, for it is done for every packet.

from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t
from libc.stdlib cimport free, realloc

cdef struct timer:             # zeroed memory is one that is not set
    uint64_t at                # ns
    uint32_t place             # in the heap + 1; 0: not set

cdef struct timer_heap:        # zeroed memory is an empty one
    timer **v
    uint32_t n
    uint32_t cap


cdef inline void timer_put(timer_heap *h, uint32_t i, timer *t) noexcept nogil:
    h.v[i] = t
    t.place = i + 1

cdef inline void timer_sift(timer_heap *h, uint32_t i) noexcept nogil:
    cdef timer *t = h.v[i]
    cdef uint32_t child
    while i > 0 and h.v[(i - 1) // 2].at > t.at:
        timer_put(h, i, h.v[(i - 1) // 2])
        i = (i - 1) // 2
    while 2 * i + 1 < h.n:
        child = 2 * i + 1
        if child + 1 < h.n and h.v[child + 1].at < h.v[child].at:
            child += 1
        if h.v[child].at >= t.at:
            break
        timer_put(h, i, h.v[child])
        i = child
    timer_put(h, i, t)

cdef inline int timers_reserve(timer_heap *h, uint32_t n) noexcept nogil:
    """So many find memory; -1: there is none."""
    cdef timer **v = <timer **>realloc(h.v, n * sizeof(timer *)) if n > h.cap else h.v
    if v == NULL:
        return -1
    h.v = v
    h.cap = n if n > h.cap else h.cap
    return 0

cdef inline void timer_clear(timer_heap *h, timer *t) noexcept nogil:
    cdef uint32_t i = t.place
    if i == 0:
        return
    t.place = 0
    h.n -= 1
    if i - 1 < h.n:
        timer_put(h, i - 1, h.v[h.n])
        timer_sift(h, i - 1)

cdef inline int timer_set(timer_heap *h, timer *t, uint64_t at) noexcept nogil:
    """UINT64_MAX: never. -1: no memory."""
    if at == UINT64_MAX:
        timer_clear(h, t)
        return 0
    if t.place == 0:
        if h.n == h.cap and timers_reserve(h, 64 if h.cap == 0 else 2 * h.cap) < 0:
            return -1
        timer_put(h, h.n, t)
        h.n += 1
    t.at = at
    timer_sift(h, t.place - 1)
    return 0

cdef inline void timers_free(timer_heap *h) noexcept nogil:
    free(h.v)
    h.v = NULL
    h.n = h.cap = 0

cdef inline uint64_t timers_next(const timer_heap *h) noexcept nogil:        # UINT64_MAX: none
    return h.v[0].at if h.n > 0 else UINT64_MAX
