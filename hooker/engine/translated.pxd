# A service whose address this host translates shows itself by its first segment.
from hooker.engine.worker cimport flow, worker
from hooker.tcp.segment cimport Segment

cdef void translated_ask(worker *w, const flow *f) noexcept nogil            # a segment of it is awaited
cdef flow *translated_of(worker *w, const Segment *s) noexcept nogil         # NULL: of no such socket
