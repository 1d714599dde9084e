from libc.stdint cimport uint32_t, uint64_t
from hooker.vtl.core cimport Assoc

cdef uint64_t liveness_deadline(const Assoc *a) noexcept nogil   # of one that is up; UINT64_MAX: none
cdef void liveness_on_timer(Assoc *a, uint64_t now) noexcept nogil
# a question without consequence
cdef void assoc_ask(Assoc *a, uint64_t now) noexcept nogil
# prove that the peer is there, or be down for that reason
cdef void assoc_doubt(Assoc *a, uint32_t reason, uint64_t now) noexcept nogil
