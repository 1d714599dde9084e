# Services of peers whose engine has accepted a flow of ours.
from hooker.includes.hk cimport hk_event
from hooker.worker cimport worker

cdef bint service_accepts(const worker *w, const hk_event *est) noexcept nogil
cdef void service_accepted(worker *w, const hk_event *est) noexcept nogil
cdef void service_rejected(worker *w, const hk_event *est) noexcept nogil
