"""Range sets: received packet numbers, acknowledged and lost bytes, buffered bytes, used stream ids.

Nearly every insertion extends the last range, so that case costs a comparison or two; any other
is a binary search and one ``memmove``.
"""

from libc.stdlib cimport free, realloc
from libc.string cimport memmove


cdef uint32_t ranges_find(const RangeSet *r, uint64_t x) noexcept nogil:
    cdef uint32_t lo = 0, hi = r.n, mid
    while lo < hi:
        mid = (lo + hi) // 2
        if r.v[mid].end <= x:
            lo = mid + 1
        else:
            hi = mid
    return lo


cdef bint ranges_contains(const RangeSet *r, uint64_t x) noexcept nogil:
    cdef uint32_t i
    if r.n == 0 or x >= r.v[r.n - 1].end:
        return False
    i = ranges_find(r, x)
    return r.v[i].start <= x


cdef int make_room(RangeSet *r, uint32_t limit) noexcept nogil:
    cdef uint32_t cap
    cdef Range *v
    if r.n < r.cap:
        return 0
    if r.n >= limit:
        return -1
    cap = 4 if r.cap == 0 else 2 * r.cap
    if cap > limit:
        cap = limit
    v = <Range *>realloc(r.v, cap * sizeof(Range))
    if v == NULL:
        return -1
    r.v = v
    r.cap = cap
    return 0


cdef int insert(RangeSet *r, uint32_t at, uint64_t start, uint64_t end, uint32_t limit) noexcept nogil:
    if make_room(r, limit) < 0:
        return -1
    memmove(&r.v[at + 1], &r.v[at], (r.n - at) * sizeof(Range))
    r.v[at].start = start
    r.v[at].end = end
    r.n += 1
    return 0


cdef int ranges_add(RangeSet *r, uint64_t start, uint64_t end, uint32_t limit) noexcept nogil:
    cdef uint32_t lo, hi
    if start >= end:
        return 0
    if r.n > 0 and r.v[r.n - 1].end == start:
        r.v[r.n - 1].end = end
        return 0
    if r.n == 0 or start > r.v[r.n - 1].end:
        return insert(r, r.n, start, end, limit)
    lo = ranges_find(r, start)                  # first range that ends beyond start …
    if lo > 0 and r.v[lo - 1].end == start:     # … or touches it
        lo -= 1
    hi = lo
    while hi < r.n and r.v[hi].start <= end:
        hi += 1
    if lo == hi:
        return insert(r, lo, start, end, limit)
    if r.v[lo].start > start:
        r.v[lo].start = start
    r.v[lo].end = max(end, r.v[hi - 1].end)
    memmove(&r.v[lo + 1], &r.v[hi], (r.n - hi) * sizeof(Range))
    r.n -= hi - lo - 1
    return 0


cdef void ranges_trim(RangeSet *r, uint64_t below) noexcept nogil:
    cdef uint32_t i = 0
    if r.n == 0 or r.v[0].start >= below:
        return
    i = ranges_find(r, below)
    if i > 0:
        memmove(&r.v[0], &r.v[i], (r.n - i) * sizeof(Range))
        r.n -= i
    if r.n > 0 and r.v[0].start < below:
        r.v[0].start = below


cdef void ranges_clear(RangeSet *r) noexcept nogil:
    free(r.v)
    r.v = NULL
    r.n = 0
    r.cap = 0
