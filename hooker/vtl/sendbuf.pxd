# The send side of a stream: borrowed memory, what of it is sent, acknowledged, lost.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from hooker.vtl.ranges cimport RangeSet


cdef struct Chunk:             # borrowed bytes, contiguous in memory and in the stream
    uint64_t offset
    const uint8_t *ptr
    size_t len
    void *owner


cdef struct SendBuf:           # zeroed memory is an empty buffer
    Chunk *ring
    uint32_t cap               # power of two
    uint32_t head              # running counters; slot = counter & (cap - 1)
    uint32_t tail
    uint32_t cursor            # chunk near `next`
    uint64_t acked             # everything before is acknowledged
    uint64_t next              # first byte never sent
    uint64_t end               # bytes written
    uint64_t reported          # acked() was called up to here
    RangeSet done              # acknowledged beyond `acked`
    RangeSet lost              # to be sent again


cdef struct Segment:           # what to send next
    uint64_t offset
    size_t len
    bint again                 # retransmission


ctypedef void (*release_fn)(void *ctx, void *owner, size_t n) noexcept nogil

cdef inline bint sendbuf_has_lost(const SendBuf *b) noexcept nogil:
    return b.lost.n > 0

cdef int sendbuf_write(SendBuf *b, const uint8_t *ptr, size_t n, void *owner) noexcept nogil   # -1: no memory
cdef bint sendbuf_peek(SendBuf *b, uint64_t limit, size_t max_len, Segment *out) noexcept nogil
cdef void sendbuf_commit(SendBuf *b, const Segment *sent) noexcept nogil
cdef const Chunk *sendbuf_chunk(SendBuf *b, uint64_t offset, bint again) noexcept nogil   # what has the byte at offset
# borrowed bytes at offset
cdef const uint8_t *sendbuf_at(SendBuf *b, uint64_t offset, bint again, size_t *n) noexcept nogil
cdef void sendbuf_on_acked(SendBuf *b, uint64_t offset, size_t n) noexcept nogil
cdef void sendbuf_on_lost(SendBuf *b, uint64_t offset, size_t n) noexcept nogil
cdef void sendbuf_release(SendBuf *b, uint64_t upto, release_fn release, void *ctx) noexcept nogil
cdef void sendbuf_clear(SendBuf *b, release_fn release, void *ctx) noexcept nogil   # gives everything back
