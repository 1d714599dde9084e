"""What a responder makes an initiator bring back before it keeps anything: a MAC over both connection ids, the
initiator's address and a coarse time. Each makes one association only.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy, memset
from hooker.vtl.core cimport *
from hooker.includes.siphash cimport siphash24
from hooker.vtl.wire cimport *

cdef enum:
    COOKIE_LIFETIME = 16       # ticks
    COOKIE_HASHES = 3          # of 20 bits each


cdef uint64_t cookie_mac(Endpoint *ep, const vtl_addr *peer, uint64_t client, uint64_t server,
                         uint64_t time) noexcept nogil:
    cdef uint8_t m[48]
    memset(m, 0, sizeof(m))
    memcpy(m, peer.ip, 16)
    store16(m + 16, peer.port)
    store64(m + 24, client)
    store64(m + 32, server)
    store64(m + 40, time)
    return siphash24(ep.secret, m, sizeof(m))


cdef bint cookie_fresh(Endpoint *ep, const Init *i, const vtl_addr *src, uint64_t now) noexcept nogil:
    cdef uint64_t age = (now >> COOKIE_TIME_BITS) - i.cookie_time
    return (age <= COOKIE_LIFETIME and i.cookie_cid != 0
            and cookie_mac(ep, src, i.scid, i.cookie_cid, i.cookie_time) == i.cookie_mac)


cdef uint64_t *filter_of(Endpoint *ep, uint64_t time) noexcept nogil:
    """The filter for cookies of that time; NULL: no memory."""
    cdef uint64_t generation = time // COOKIE_LIFETIME
    cdef uint32_t i = generation & 1
    if ep.cookies_used[i] == NULL:
        ep.cookies_used[i] = <uint64_t *>calloc(1, COOKIE_BITS // 8)
    elif ep.cookies_of[i] != generation:
        memset(ep.cookies_used[i], 0, COOKIE_BITS // 8)
    ep.cookies_of[i] = generation
    return ep.cookies_used[i]


cdef bint cookie_use(Endpoint *ep, const Init *i) noexcept nogil:
    """False: it was used before. An INIT that comes again after its association is gone must not make another with
    the same id: the initiator would take it for the one it knows. (Bloom 1970; the id's random bits are the hashes.
    Who is wrongly refused asks for another cookie, so no number of handshakes keeps others out.)"""
    cdef uint64_t *filter = filter_of(ep, i.cookie_time)
    cdef uint64_t bits = i.cookie_cid
    cdef uint32_t k, at
    cdef bint used = True
    if filter == NULL:
        return False
    for k in range(COOKIE_HASHES):
        at = bits & (COOKIE_BITS - 1)
        used = used and filter[at >> 6] >> (at & 63) & 1
        filter[at >> 6] |= <uint64_t>1 << (at & 63)
        bits >>= 20
    return not used
