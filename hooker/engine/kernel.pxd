# What the kernel programs say.
from hooker.engine.worker cimport flow, worker

cdef void take_kernel_events(worker *w) noexcept nogil
cdef void closes(worker *w, flow *f) noexcept nogil           # its socket is gone; what it has said may still be in hk0
