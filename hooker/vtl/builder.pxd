# One datagram in the making: our own bytes in the batch's scratch memory, payload borrowed. Inline, for every packet.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from hooker.vtl.api cimport vtl_batch
from hooker.vtl.core cimport Assoc
from hooker.vtl.recovery cimport MAX_PACKET_FRAMES, recovery_add_frame

cdef enum:
    COPY_MAX = 256             # bytes; copying less is cheaper than one more iovec
    SHORT_MESSAGE = 256        # bytes, or less, that are not cut to fill a datagram


cdef struct Builder:
    vtl_batch *b
    Assoc *a
    uint32_t iov0, scratch0, frame0
    uint32_t size, limit       # bytes
    bint eliciting


cdef inline void begin(Builder *d, vtl_batch *b, Assoc *a, uint32_t limit) noexcept nogil:
    d.b = b
    d.a = a
    d.iov0 = b.iov_len
    d.scratch0 = b.scratch_len
    d.frame0 = a.rec.frame_tail if a != NULL else 0
    d.size = 0
    d.limit = limit
    d.eliciting = False

cdef inline void abandon(Builder *d) noexcept nogil:
    d.b.iov_len = d.iov0
    d.b.scratch_len = d.scratch0

cdef inline uint8_t *put(Builder *d, uint32_t n) noexcept nogil:
    """Room for n bytes of our own in the datagram; NULL: none left somewhere."""
    cdef vtl_batch *b = d.b
    cdef uint8_t *p = b.scratch + b.scratch_len
    if d.size + n > d.limit or b.scratch_len + n > b.scratch_cap:
        return NULL
    if b.iov_len > d.iov0 and <uint8_t *>b.iov[b.iov_len - 1].iov_base + b.iov[b.iov_len - 1].iov_len == p:
        b.iov[b.iov_len - 1].iov_len += n
    else:
        if b.iov_len == b.iov_cap:
            return NULL
        b.iov[b.iov_len].iov_base = p
        b.iov[b.iov_len].iov_len = n
        b.iov_len += 1
    b.scratch_len += n
    d.size += n
    return p

cdef inline void take_back(Builder *d, uint32_t n) noexcept nogil:
    """Undoes the last n bytes of the last put()."""
    cdef vtl_batch *b = d.b
    d.size -= n
    b.scratch_len -= n
    b.iov[b.iov_len - 1].iov_len -= n
    if b.iov[b.iov_len - 1].iov_len == 0:
        b.iov_len -= 1

cdef inline bint lend(Builder *d, const uint8_t *p, uint32_t n) noexcept nogil:
    """n borrowed bytes into the datagram."""
    cdef vtl_batch *b = d.b
    if b.iov_len == b.iov_cap:
        return False
    b.iov[b.iov_len].iov_base = <void *>p
    b.iov[b.iov_len].iov_len = n
    b.iov_len += 1
    d.size += n
    return True

cdef inline bint carry(Builder *d, const uint8_t *p, uint32_t n) noexcept nogil:
    """n bytes of payload, copied or borrowed."""
    cdef uint8_t *q = put(d, n) if n <= COPY_MAX else NULL
    if q == NULL:
        return lend(d, p, n)
    memcpy(q, p, n)
    return True

cdef inline void record(Builder *d, uint8_t type, uint8_t flags, uint32_t id, uint64_t offset,
                        uint16_t n) noexcept nogil:
    recovery_add_frame(&d.a.rec, type, flags, id, offset, n)
    d.eliciting = True

cdef inline bint has_frame_room(const Builder *d) noexcept nogil:
    return d.a.rec.frame_tail - d.frame0 < MAX_PACKET_FRAMES - 8
