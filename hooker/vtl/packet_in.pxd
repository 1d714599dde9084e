from libc.stdint cimport uint64_t
from hooker.vtl.core cimport Assoc
from hooker.vtl.wire cimport Cursor, Header

# what is behind the header of packet pn; a vtl_drop code
cdef int packet_receive(Assoc *a, Cursor *c, const Header *h, uint64_t pn, uint64_t now) noexcept nogil
# the loss timer fired
cdef void packets_lost_by_time(Assoc *a, uint64_t now) noexcept nogil
# the peer has moved: everything unacknowledged goes again
cdef void packets_abandon(Assoc *a) noexcept nogil
cdef void requeue_for_probe(Assoc *a) noexcept nogil
