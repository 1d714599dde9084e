# Whether marked segments reach a twin on this host.
from hooker.engine.worker cimport flow, worker

cdef bint twin_reached(worker *w, const flow *f) noexcept nogil
