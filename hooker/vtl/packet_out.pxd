from libc.stdint cimport uint64_t
from hooker.vtl.api cimport vtl_batch
from hooker.vtl.core cimport Assoc, Endpoint

cdef bint batch_room(const vtl_batch *b) noexcept nogil      # one more datagram fits
# False: the batch is full, there may be more
cdef bint packets_build(Assoc *a, vtl_batch *b, uint64_t now) noexcept nogil
cdef void answers_build(Endpoint *ep, vtl_batch *b, uint64_t now) noexcept nogil
