from libc.stdint cimport uint64_t
from hooker.vtl.api cimport vtl_addr
from hooker.vtl.core cimport Endpoint
from hooker.vtl.wire cimport Init

cdef enum:
    COOKIE_TIME_BITS = 30      # a cookie's clock ticks every 2^30 ns

cdef uint64_t cookie_mac(Endpoint *ep, const vtl_addr *peer, uint64_t client, uint64_t server,
                         uint64_t time) noexcept nogil
cdef bint cookie_fresh(Endpoint *ep, const Init *i, const vtl_addr *src, uint64_t now) noexcept nogil
cdef bint cookie_use(Endpoint *ep, const Init *i) noexcept nogil      # False: it was used before, or no memory
