# DATA that came before its flow could take it.
from hooker.engine.worker cimport flow, stretch, worker

cdef bint stash_keep(worker *w, flow *f, const stretch *r) noexcept nogil     # all of it, or False
cdef void stash_give(worker *w, flow *f) noexcept nogil       # the flow is engaged
cdef void stash_drop(worker *w, flow *f) noexcept nogil
