from libc.stdint cimport uint64_t
from hooker.vtl.core cimport Assoc
from hooker.vtl.wire cimport Cursor

cdef int packet_receive(Assoc *a, Cursor *c, uint64_t pn, uint64_t now) noexcept nogil   # a vtl_drop code
# the loss timer fired
cdef void packets_lost_by_time(Assoc *a, uint64_t now) noexcept nogil
# the peer has moved: everything unacknowledged goes again
cdef void packets_abandon(Assoc *a) noexcept nogil
cdef void requeue_for_probe(Assoc *a) noexcept nogil
