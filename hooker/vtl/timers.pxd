from libc.stdint cimport uint64_t
from hooker.vtl.core cimport Assoc

cdef uint64_t assoc_deadline(const Assoc *a) noexcept nogil      # UINT64_MAX: none
cdef void assoc_on_timer(Assoc *a, uint64_t now) noexcept nogil
