from libc.stdint cimport uint8_t, uint32_t, uint64_t
from hooker.vtl.api cimport vtl_addr, vtl_batch
from hooker.vtl.core cimport Assoc, Endpoint, Stateless
from hooker.vtl.wire cimport Header

# to the datagram in hand, whose source nobody has proven; NULL: too many wait, or it would be too large an answer
cdef Stateless *answer_unproven(Endpoint *ep, uint8_t type, const vtl_addr *to, uint64_t dcid,
                                uint64_t number) noexcept nogil
cdef void answer_unknown(Endpoint *ep, const vtl_addr *to, const Header *h, uint64_t now) noexcept nogil
cdef void say_close(Assoc *a, uint32_t reason) noexcept nogil
cdef void answers_build(Endpoint *ep, vtl_batch *b, uint64_t now) noexcept nogil
