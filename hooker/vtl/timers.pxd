from libc.stdint cimport uint64_t
from hooker.vtl.core cimport Assoc

cdef uint64_t assoc_deadline(const Assoc *a) noexcept nogil      # UINT64_MAX: none
cdef void assoc_on_timer(Assoc *a, uint64_t now) noexcept nogil
cdef void assoc_doubt(Assoc *a, uint64_t now) noexcept nogil     # a path error: prove that the peer is there
