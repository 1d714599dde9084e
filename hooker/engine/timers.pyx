"""Deadlines of flows and of what waits for them: whoever comes or goes costs the logarithm of how many there are."""

from libc.stdlib cimport free, realloc


cdef inline void put(timer_heap *h, uint32_t i, timer *t) noexcept nogil:
    h.v[i] = t
    t.place = i + 1


cdef void sift(timer_heap *h, uint32_t i) noexcept nogil:
    cdef timer *t = h.v[i]
    cdef uint32_t child
    while i > 0 and h.v[(i - 1) // 2].at > t.at:
        put(h, i, h.v[(i - 1) // 2])
        i = (i - 1) // 2
    while 2 * i + 1 < h.n:
        child = 2 * i + 1
        if child + 1 < h.n and h.v[child + 1].at < h.v[child].at:
            child += 1
        if h.v[child].at >= t.at:
            break
        put(h, i, h.v[child])
        i = child
    put(h, i, t)


cdef int timers_reserve(timer_heap *h, uint32_t n) noexcept nogil:
    cdef timer **v = <timer **>realloc(h.v, n * sizeof(timer *)) if n > h.cap else h.v
    if v == NULL:
        return -1
    h.v = v
    h.cap = n if n > h.cap else h.cap
    return 0


cdef int timer_set(timer_heap *h, timer *t, uint64_t at) noexcept nogil:
    if at == UINT64_MAX:
        timer_clear(h, t)
        return 0
    if t.place == 0:
        if h.n == h.cap and timers_reserve(h, 64 if h.cap == 0 else 2 * h.cap) < 0:
            return -1
        put(h, h.n, t)
        h.n += 1
    t.at = at
    sift(h, t.place - 1)
    return 0


cdef void timer_clear(timer_heap *h, timer *t) noexcept nogil:
    cdef uint32_t i = t.place
    if i == 0:
        return
    t.place = 0
    h.n -= 1
    if i - 1 < h.n:
        put(h, i - 1, h.v[h.n])
        sift(h, i - 1)


cdef void timers_free(timer_heap *h) noexcept nogil:
    free(h.v)
    h.v = NULL
    h.n = h.cap = 0
