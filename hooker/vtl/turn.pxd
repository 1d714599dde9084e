from libc.stdint cimport uint64_t
from hooker.vtl.api cimport vtl_batch
from hooker.vtl.core cimport Assoc

# False: the batch is full, there may be more
cdef bint turn_build(Assoc *a, vtl_batch *b, uint64_t now) noexcept nogil
