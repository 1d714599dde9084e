from libc.stdint cimport uint64_t
from hooker.vtl.api cimport vtl_addr
from hooker.vtl.core cimport Assoc, Endpoint
from hooker.vtl.wire cimport Cursor, Header

cdef void handshake_start(Assoc *a, uint64_t now) noexcept nogil
cdef void handshake_timer(Assoc *a, uint64_t now) noexcept nogil

# The results are vtl_drop codes; n is the datagram's size.
cdef int on_init(Endpoint *ep, Cursor *c, const Header *h, size_t n, const vtl_addr *src,
                 uint64_t now) noexcept nogil
cdef int on_cookie(Endpoint *ep, Cursor *c, const Header *h, const vtl_addr *src, uint64_t now) noexcept nogil
cdef int on_init_ack(Endpoint *ep, Cursor *c, const Header *h, size_t n, const vtl_addr *src,
                     uint64_t now) noexcept nogil
cdef int on_stateless_reset(Endpoint *ep, const Header *h, const vtl_addr *src, uint64_t now) noexcept nogil
cdef int on_close(Endpoint *ep, Cursor *c, const Header *h, uint64_t now) noexcept nogil
