# Where nobody has answered: the next try there waits, 0.1 s and twice as long each time up to 3.2 s.

from libc.stdint cimport uint8_t, uint64_t
from hooker.transports.contract cimport PeerAddress

cdef struct FailedPlace:
    PeerAddress peer
    uint64_t until             # ns
    uint8_t pauses             # 0: nobody's

cdef struct FailedTable:
    uint64_t key[2]
    FailedPlace places[64]     # addresses that are remembered; two in one place forget each other

cdef void failed_init(FailedTable *t) noexcept nogil
cdef void failed_note(FailedTable *t, const PeerAddress *peer, bint failed, uint64_t now) noexcept nogil
cdef uint64_t failed_until(FailedTable *t, const PeerAddress *peer) noexcept nogil     # ns; 0: at once
cdef bint same_peer(const PeerAddress *x, const PeerAddress *y) noexcept nogil
