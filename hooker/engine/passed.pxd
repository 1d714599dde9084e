# What the local TCP of an adopted flow says, and what it is told.
from hooker.engine.worker cimport flow, worker
from hooker.engine.slab cimport slab
from hooker.tcp.segment cimport Segment

# Whether `memory` has the segment's bytes for longer now.
cdef bint hear_passed(worker *w, flow *f, const Segment *s, slab *memory) noexcept nogil
cdef void adopt_later(worker *w, flow *f) noexcept nogil    # it has sent one more segment with bytes
cdef void flush_senders(worker *w) noexcept nogil
