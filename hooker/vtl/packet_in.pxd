from libc.stdint cimport uint64_t
from hooker.vtl.api cimport vtl_addr
from hooker.vtl.core cimport Assoc
from hooker.vtl.wire cimport Cursor, Header

# what is behind the header of packet pn; a vtl_drop code
cdef int packet_receive(Assoc *a, Cursor *c, const Header *h, uint64_t pn, uint64_t now) noexcept nogil
# the loss timer fired
cdef void packets_lost_by_time(Assoc *a, uint64_t now) noexcept nogil
# a DATA packet from elsewhere than the peer's address; a vtl_drop code
cdef int packet_from_elsewhere(Assoc *a, Cursor *c, const Header *h, const vtl_addr *src,
                               uint64_t now) noexcept nogil
