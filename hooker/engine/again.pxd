# A port that is used again while the other end of its last connection is still in LAST_ACK.
from hooker.engine.worker cimport flow, worker

cdef void again_begins(worker *w, flow *f) noexcept nogil              # a connection from its port does
cdef void again_asked(worker *w, flow *f) noexcept nogil               # the peer has said PROBE
# Its connection does; is_gone: it leaves no TIME_WAIT.
cdef void again_ends(worker *w, flow *f, bint is_gone) noexcept nogil
