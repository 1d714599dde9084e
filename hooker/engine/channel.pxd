# A flow's channel of its association: opened when there is something to say; a flow at rest has none.
from hooker.engine.worker cimport flow, worker
from hooker.transports.contract cimport Channel

cdef Channel *channel_of(flow *f) noexcept nogil          # NULL: it has not begun, or there is no memory
cdef void channel_begin(flow *f) noexcept nogil
cdef void channel_end(flow *f) noexcept nogil                 # what was said still goes out
cdef bint has_arrived(const flow *f) noexcept nogil       # what it was given; False: nobody knows
cdef void channel_rest(worker *w, flow *f) noexcept nogil     # if it does: its memory goes back
