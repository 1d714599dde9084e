# Services of peers whose engine has accepted a flow of ours.
from hooker.includes.hk cimport hk_event
from hooker.vtl.api cimport vtl_assoc
from hooker.engine.worker cimport worker

# whether the engine that answered this SYN is known to accept, and to be at the other end of the association
cdef bint service_accepts(const worker *w, const hk_event *est, const vtl_assoc *assoc) noexcept nogil
cdef void service_accepted(worker *w, const hk_event *est, vtl_assoc *assoc) noexcept nogil
cdef void service_rejected(worker *w, const hk_event *est) noexcept nogil
