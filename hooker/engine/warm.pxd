# Services whose connections are engaged from their first byte.
from hooker.engine.worker cimport flow, worker

cdef void service_engaged(worker *w, flow *f) noexcept nogil  # a client's flow is
cdef void service_cools(worker *w, flow *f) noexcept nogil    # what was sent early had no answer in time
cdef void service_forget(worker *w, flow *f) noexcept nogil   # its engine is not the one we know
