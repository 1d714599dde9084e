# One datagram in the making: our own bytes in the batch's scratch memory, payload borrowed. Inline, for every packet.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from hooker.vtl.aead cimport TAG_SIZE
from hooker.vtl.api cimport vtl_addr, vtl_batch, vtl_datagram
from hooker.vtl.core cimport Assoc, Psk
from hooker.vtl.keys cimport psk_sign
from hooker.vtl.recovery cimport MAX_PACKET_FRAMES, recovery_add_frame

cdef enum:
    COPY_MAX = 256             # bytes; copying less is cheaper than one more iovec
    SHORT_MESSAGE = 256        # bytes, or less, that are not cut to fill a datagram
    SCRATCH_MIN = 256          # of scratch memory, to begin a datagram
    IOV_MIN = 4


cdef struct Builder:
    vtl_batch *b
    Assoc *a
    uint32_t iov0, scratch0, frame0
    uint32_t size, limit       # bytes
    bint eliciting
    bint ordered               # it has the reliability function's frame


cdef inline bint batch_room(const vtl_batch *b) noexcept nogil:
    """One more datagram fits."""
    return (b.dgram_len < b.dgram_cap and b.iov_len + IOV_MIN <= b.iov_cap
            and b.scratch_len + SCRATCH_MIN <= b.scratch_cap)

cdef inline bint sealed_room(const Assoc *a, const vtl_batch *b) noexcept nogil:
    """And can be encrypted."""
    return a.keys == NULL or b.sealed_len + a.max_datagram <= b.sealed_cap

cdef inline void begin(Builder *d, vtl_batch *b, Assoc *a, uint32_t limit) noexcept nogil:
    d.b = b
    d.a = a
    d.iov0 = b.iov_len
    d.scratch0 = b.scratch_len
    d.frame0 = a.rec.frame_tail if a != NULL else 0
    d.size = 0
    d.limit = limit
    d.eliciting = d.ordered = False

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

cdef inline void sign(Builder *d, const Psk *psk) noexcept nogil:
    """A tag over all the datagram has so far, which lies in one piece."""
    cdef uint32_t n = d.size
    cdef uint8_t *tag = put(d, TAG_SIZE)
    psk_sign(psk, tag - n, n, tag)

cdef inline void finish(Builder *d, const vtl_addr *to) noexcept nogil:
    cdef vtl_datagram *g = &d.b.dgram[d.b.dgram_len]
    g.to = to[0]
    g.first = d.iov0
    g.count = d.b.iov_len - d.iov0
    g.size = d.size
    g.ecn = 0
    g.alone = g.unproven = False
    d.b.dgram_len += 1
