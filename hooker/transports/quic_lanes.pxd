# The streams of one association: what they carry, and what is not acknowledged yet. See quic_lanes.pyx.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from hooker.flow.messages cimport Message

cdef enum:
    LANES = 32                 # of DATA
    STREAMS = LANES + 1        # and the first one, of control messages
    HEAD_ROOM = 104            # a frame's bytes before its payload, or a whole control message's

cdef struct Chunk:             # a frame, or several; `bytes` goes on behind the end
    Chunk *next
    uint32_t n
    uint8_t bytes[8]

cdef struct Lane:              # a stream that we send on
    int64_t id                 # -1: not open
    Chunk *first               # the oldest that is not acknowledged as a whole
    Chunk *last
    Chunk *at                  # what goes next; NULL: nothing
    uint32_t at_n              # of it, bytes that have gone
    uint64_t freed             # offset of `first`
    uint64_t written           # offset of what goes next
    uint64_t end
    uint64_t acked
    uint64_t seen              # `acked` when it was last looked at
    uint64_t moved             # when it was found larger, or nothing waited for it; ns
    uint32_t channels

cdef struct Inlet:             # a stream that we receive
    uint8_t head[104]          # HEAD_ROOM
    uint32_t head_n
    uint32_t left              # bytes of DATA's payload that are to come
    Message m

cdef enum inlet_verdict:
    INLET_HUNGRY = 0           # all bytes are used up
    INLET_MESSAGE              # `out` is one; there may be more
    INLET_BAD_MESSAGE          # one that cannot be read, in a frame that can
    INLET_BROKEN               # the peer breaks the rules


cdef inline uint64_t lane_waits(const Lane *l) noexcept nogil:
    """Bytes that have not gone yet."""
    return l.end - l.written

cdef inline uint64_t chunk_cost(uint32_t n) noexcept nogil:
    return sizeof(Chunk) + n

cdef Chunk *chunk_new(uint32_t n) noexcept nogil                                # NULL: no memory
cdef Chunk *chunk_cut(Chunk *c, uint32_t n) noexcept nogil  # to its first n bytes, before it is added
cdef void lane_add(Lane *l, Chunk *c) noexcept nogil
cdef void lane_gone(Lane *l, uint64_t n) noexcept nogil                         # so many bytes more have gone
cdef uint64_t lane_free_acked(Lane *l, uint64_t to) noexcept nogil  # cost of what is no longer kept
cdef uint64_t lane_free_all(Lane *l) noexcept nogil
# Since it was last looked at; or nothing is under way.
cdef bint lane_moves(Lane *l, uint64_t now) noexcept nogil
# The next message of *n bytes at *p, which both go on. DATA's payload is in those bytes.
cdef inlet_verdict inlet_next(Inlet *i, bint control, const uint8_t **p, size_t *n,
                              Message *out) noexcept nogil
