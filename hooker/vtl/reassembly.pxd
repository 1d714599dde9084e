# The receive side of a stream: bytes that came out of order, or before the flow was accepted.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from hooker.vtl.ranges cimport Range, RangeSet


cdef enum:
    PAGE_BITS = 14
    PAGE_SIZE = 1 << PAGE_BITS
    MAX_HOLES = 1024           # ranges buffered for one stream


cdef struct Reassembly:        # zeroed memory is an empty buffer
    uint64_t next              # first byte not delivered
    RangeSet have              # buffered, all at or beyond next
    uint8_t **page             # ring; slot = (offset >> PAGE_BITS) & (pages - 1)
    uint32_t pages             # power of two
    uint32_t used              # pages there are


cdef inline uint64_t reassembly_memory(const Reassembly *r) noexcept nogil:      # bytes
    return <uint64_t>r.used * PAGE_SIZE + r.pages * sizeof(uint8_t *) + r.have.cap * sizeof(Range)

# What storing n bytes at offset may take beside that, at most.
cdef uint64_t reassembly_need(const Reassembly *r, uint64_t offset, size_t n) noexcept nogil
# -1: no memory
cdef int reassembly_store(Reassembly *r, uint64_t offset, const uint8_t *data, size_t n) noexcept nogil
# in-order bytes in one piece
cdef size_t reassembly_peek(const Reassembly *r, const uint8_t **out) noexcept nogil
cdef void reassembly_advance(Reassembly *r, uint64_t next) noexcept nogil
cdef void reassembly_clear(Reassembly *r) noexcept nogil
