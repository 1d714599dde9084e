from libc.stdint cimport uint64_t
from hooker.vtl.api cimport vtl_addr, vtl_batch
from hooker.vtl.core cimport Assoc
from hooker.vtl.wire cimport Cursor, Header

cdef inline uint64_t largest_received(const Assoc *a) noexcept nogil:      # packet number; 0: none
    return a.received.v[a.received.n - 1].end - 1 if a.received.n > 0 else 0

# a DATA packet from elsewhere than the peer's address; a vtl_drop code
cdef int path_receive(Assoc *a, Cursor *c, const Header *h, const vtl_addr *src, uint64_t now) noexcept nogil
cdef void path_on_challenge(Assoc *a, uint64_t data) noexcept nogil
cdef void path_on_response(Assoc *a, uint64_t data, uint64_t now) noexcept nogil
cdef bint path_build(Assoc *a, vtl_batch *b, uint64_t now) noexcept nogil      # False: the batch is full
cdef void path_on_timer(Assoc *a, uint64_t now) noexcept nogil
