"""Out-of-order bytes in pages, and a range set that says which are there.

Memory is bounded by the stream's window however small the pieces are. The pages exist only while
something is buffered; in-order bytes never come here.
"""

from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy
from hooker.vtl.ranges cimport ranges_add, ranges_clear, ranges_find, ranges_trim


cdef inline uint8_t **page_of(const Reassembly *r, uint64_t offset) noexcept nogil:
    return &r.page[(offset >> PAGE_BITS) & (r.pages - 1)]


cdef uint64_t reassembly_need(const Reassembly *r, uint64_t offset, size_t n) noexcept nogil:
    cdef uint64_t last = offset + n, span = 0
    if last > r.next:
        span = (last >> PAGE_BITS) - (r.next >> PAGE_BITS) + 1
    return ((n >> PAGE_BITS) + 2) * PAGE_SIZE + (2 * span * sizeof(uint8_t *) if span > r.pages else 0) + (
        max(r.have.cap, 4) * sizeof(Range) if r.have.n == r.have.cap else 0)


cdef int reach(Reassembly *r, uint64_t last) noexcept nogil:
    """Makes the ring long enough for the byte at `last`."""
    cdef uint64_t need = (last >> PAGE_BITS) - (r.next >> PAGE_BITS) + 1, first = r.next >> PAGE_BITS
    cdef uint32_t pages = max(r.pages, 4), i
    cdef uint8_t **page
    if need <= r.pages:
        return 0
    if need > (1 << 24):
        return -1
    while pages < need:
        pages *= 2
    page = <uint8_t **>calloc(pages, sizeof(uint8_t *))
    if page == NULL:
        return -1
    for i in range(r.pages):
        page[(first + i) & (pages - 1)] = r.page[(first + i) & (r.pages - 1)]
    free(r.page)
    r.page = page
    r.pages = pages
    return 0


cdef int copy_in(Reassembly *r, uint64_t offset, const uint8_t *data, size_t n) noexcept nogil:
    cdef uint8_t **p
    cdef size_t at, part
    while n > 0:
        p = page_of(r, offset)
        if p[0] == NULL:
            p[0] = <uint8_t *>malloc(PAGE_SIZE)
            if p[0] == NULL:
                return -1
            r.used += 1
        at = offset & (PAGE_SIZE - 1)
        part = min(n, PAGE_SIZE - at)
        memcpy(p[0] + at, data, part)
        offset += part
        data += part
        n -= part
    return 0


cdef int copy_gaps(Reassembly *r, uint64_t offset, const uint8_t *data, uint64_t end) noexcept nogil:
    """Bytes already there stay: what was acknowledged once is never replaced."""
    cdef uint32_t i = ranges_find(&r.have, offset)
    cdef uint64_t stop
    while offset < end:
        stop = end
        if i < r.have.n:
            if r.have.v[i].start <= offset:
                stop = min(end, r.have.v[i].end)
                data += stop - offset
                offset = stop
                i += 1
                continue
            stop = min(end, r.have.v[i].start)
        if copy_in(r, offset, data, stop - offset) < 0:
            return -1
        data += stop - offset
        offset = stop
    return 0


cdef int reassembly_store(Reassembly *r, uint64_t offset, const uint8_t *data, size_t n) noexcept nogil:
    cdef uint64_t end = offset + n
    if end <= r.next:
        return 0
    if offset < r.next:
        data += r.next - offset
        offset = r.next
    if reach(r, end - 1) < 0 or copy_gaps(r, offset, data, end) < 0:
        return -1
    return ranges_add(&r.have, offset, end, MAX_HOLES)


cdef size_t reassembly_peek(const Reassembly *r, const uint8_t **out) noexcept nogil:
    cdef size_t at = r.next & (PAGE_SIZE - 1)
    if r.have.n == 0 or r.have.v[0].start > r.next:
        return 0
    out[0] = page_of(r, r.next)[0] + at
    return min(r.have.v[0].end - r.next, PAGE_SIZE - at)


cdef void reassembly_advance(Reassembly *r, uint64_t next) noexcept nogil:
    """Everything before `next` has been delivered."""
    cdef uint64_t i = r.next >> PAGE_BITS, last = next >> PAGE_BITS
    r.next = next
    if r.pages == 0:
        return
    ranges_trim(&r.have, next)
    if r.have.n == 0:
        reassembly_clear(r)
        return
    if last - i > r.pages:
        i = last - r.pages
    while i < last:
        if r.page[i & (r.pages - 1)] != NULL:
            free(r.page[i & (r.pages - 1)])
            r.page[i & (r.pages - 1)] = NULL
            r.used -= 1
        i += 1


cdef void reassembly_clear(Reassembly *r) noexcept nogil:
    cdef uint32_t i
    for i in range(r.pages):
        free(r.page[i])
    free(r.page)
    r.page = NULL
    r.pages = r.used = 0
    ranges_clear(&r.have)
