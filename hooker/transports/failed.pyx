"""Addresses where nobody has answered: see failed.pxd."""

from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memset
from hooker.includes.siphash cimport siphash24
from hooker.transports.contract cimport PeerAddress

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *buf, size_t n, unsigned int flags)

cdef enum:
    PLACES = 64
    FIRST_PAUSE = 100000000    # ns
    PAUSES = 5                 # doublings


cdef void failed_init(FailedTable *t) noexcept nogil:
    memset(t, 0, sizeof(FailedTable))
    getrandom(t.key, sizeof(t.key), 0)


cdef bint same_peer(const PeerAddress *x, const PeerAddress *y) noexcept nogil:
    return x.port == y.port and memcmp(x.ip, y.ip, 16) == 0


cdef FailedPlace *place_of(FailedTable *t, const PeerAddress *peer) noexcept nogil:
    return &t.places[siphash24(t.key, peer.ip, 18) & (PLACES - 1)]


cdef void failed_note(FailedTable *t, const PeerAddress *peer, bint failed, uint64_t now) noexcept nogil:
    cdef FailedPlace *f = place_of(t, peer)
    if not same_peer(&f.peer, peer):
        if not failed:
            return
        f.peer, f.pauses = peer[0], 0
    if not failed:
        f.pauses = 0
        f.until = 0
        return
    f.until = now + (<uint64_t>FIRST_PAUSE << f.pauses)
    f.pauses = min(f.pauses + 1, <int>PAUSES)


cdef uint64_t failed_until(FailedTable *t, const PeerAddress *peer) noexcept nogil:
    cdef FailedPlace *f = place_of(t, peer)
    return f.until if same_peer(&f.peer, peer) else 0
