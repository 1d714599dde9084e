"""A stream's send buffer: a ring of borrowed chunks, never a copy.

Bytes leave in this order: lost ones first, then new ones. They are given back as the acknowledged
prefix grows, so an owner's bytes come back in the order they were written.
"""

from libc.stdlib cimport free, malloc
from hooker.vtl.ranges cimport ranges_add, ranges_clear, ranges_find, ranges_trim

cdef enum:
    MAX_RANGES = 1 << 16       # beyond, an acknowledged range is sent again: slower, still right


cdef inline Chunk *slot(SendBuf *b, uint32_t i) noexcept nogil:
    return &b.ring[i & (b.cap - 1)]


cdef int grow(SendBuf *b) noexcept nogil:
    cdef uint32_t cap = 8 if b.cap == 0 else 2 * b.cap, i
    cdef Chunk *ring = NULL
    if cap <= (1 << 24):
        ring = <Chunk *>malloc(cap * sizeof(Chunk))
    if ring == NULL:
        return -1
    for i in range(b.tail - b.head):
        ring[(b.head + i) & (cap - 1)] = b.ring[(b.head + i) & (b.cap - 1)]
    free(b.ring)
    b.ring = ring
    b.cap = cap
    return 0


cdef int sendbuf_write(SendBuf *b, const uint8_t *ptr, size_t n, void *owner) noexcept nogil:
    cdef Chunk *c
    if b.tail != b.head:
        c = slot(b, b.tail - 1)
        if c.owner == owner and c.ptr + c.len == ptr:
            c.len += n
            b.end += n
            return 0
    if b.tail - b.head == b.cap and grow(b) < 0:
        return -1
    c = slot(b, b.tail)
    c.offset = b.end
    c.ptr = ptr
    c.len = n
    c.owner = owner
    b.tail += 1
    b.end += n
    return 0


cdef bint peek_lost(SendBuf *b, size_t max_len, Segment *out) noexcept nogil:
    """The first lost bytes that were not acknowledged after all."""
    cdef uint64_t start, end
    cdef uint32_t i
    ranges_trim(&b.lost, b.acked)
    while b.lost.n > 0:
        start = b.lost.v[0].start
        end = b.lost.v[0].end
        i = ranges_find(&b.done, start)
        if i < b.done.n:
            if b.done.v[i].start <= start:
                ranges_trim(&b.lost, b.done.v[i].end)
                continue
            end = min(end, b.done.v[i].start)
        out.offset = start
        out.len = min(max_len, end - start)
        out.again = True
        return True
    return False


cdef bint sendbuf_peek(SendBuf *b, uint64_t limit, size_t max_len, Segment *out) noexcept nogil:
    """What to send next: at most max_len bytes, new ones below offset limit. False: nothing."""
    cdef uint64_t end
    if b.lost.n > 0 and peek_lost(b, max_len, out):
        return True
    end = min(b.end, limit)
    if b.next >= end:
        return False
    out.offset = b.next
    out.len = min(max_len, end - b.next)
    out.again = False
    return True


cdef void sendbuf_commit(SendBuf *b, const Segment *sent) noexcept nogil:
    if sent.again:
        ranges_trim(&b.lost, sent.offset + sent.len)
    else:
        b.next = sent.offset + sent.len


cdef uint32_t find_chunk(SendBuf *b, uint64_t offset) noexcept nogil:
    cdef uint32_t lo = 0, hi = b.tail - b.head, mid
    cdef Chunk *c
    while lo < hi:
        mid = (lo + hi) // 2
        c = slot(b, b.head + mid)
        if c.offset + c.len <= offset:
            lo = mid + 1
        else:
            hi = mid
    return b.head + lo


cdef const Chunk *sendbuf_chunk(SendBuf *b, uint64_t offset, bint again) noexcept nogil:
    cdef Chunk *c
    cdef uint32_t i
    i = b.cursor
    if i - b.head >= b.tail - b.head:           # the cursor's chunk is gone
        i = b.head
    c = slot(b, i)
    if offset < c.offset or offset >= c.offset + c.len:
        i += 1
        c = slot(b, i)
        if i - b.head >= b.tail - b.head or offset < c.offset or offset >= c.offset + c.len:
            i = find_chunk(b, offset)
            c = slot(b, i)
    if not again:
        b.cursor = i
    return c


cdef const uint8_t *sendbuf_at(SendBuf *b, uint64_t offset, bint again, size_t *n) noexcept nogil:
    cdef const Chunk *c = sendbuf_chunk(b, offset, again)
    n[0] = c.len - (offset - c.offset)
    return c.ptr + (offset - c.offset)


cdef void sendbuf_on_acked(SendBuf *b, uint64_t offset, size_t n) noexcept nogil:
    cdef uint64_t end = offset + n
    if end <= b.acked:
        return
    if offset > b.acked:
        if ranges_add(&b.done, offset, end, MAX_RANGES) < 0:
            ranges_add(&b.lost, offset, end, 2 * MAX_RANGES)
        return
    b.acked = end
    if b.done.n > 0 and b.done.v[0].start <= end:
        if b.done.v[0].end > end:
            b.acked = b.done.v[0].end
        ranges_trim(&b.done, b.acked)
        if b.done.n > 0 and b.done.v[0].start == b.acked:
            b.acked = b.done.v[0].end
            ranges_trim(&b.done, b.acked)


cdef void sendbuf_on_lost(SendBuf *b, uint64_t offset, size_t n) noexcept nogil:
    cdef uint64_t end = offset + n
    if offset < b.acked:
        offset = b.acked
    if offset < end:
        ranges_add(&b.lost, offset, end, 2 * MAX_RANGES)


cdef void sendbuf_release(SendBuf *b, uint64_t upto, release_fn release, void *ctx) noexcept nogil:
    cdef Chunk *c
    cdef size_t n
    while b.head != b.tail:
        c = slot(b, b.head)
        if c.offset >= upto:
            return
        n = min(c.len, upto - c.offset)
        c.offset += n
        c.ptr += n
        c.len -= n
        if c.len == 0:
            b.head += 1
        release(ctx, c.owner, n)


cdef void sendbuf_clear(SendBuf *b, release_fn release, void *ctx) noexcept nogil:
    sendbuf_release(b, b.end, release, ctx)
    free(b.ring)
    b.ring = NULL
    b.cap = 0
    b.head = b.tail = b.cursor = 0
    ranges_clear(&b.done)
    ranges_clear(&b.lost)
