# Segments of flows that are not engaged, or not any more, to the wire.
from libc.stdint cimport uint8_t, uint32_t
from hooker.engine.worker cimport flow, worker
from hooker.tcp.segment cimport Segment

cdef int wire_open(worker *w) noexcept nogil                  # 0, or -errno
cdef void wire_close(worker *w) noexcept nogil
cdef void wire_segment(worker *w, flow *f, const Segment *s) noexcept nogil   # as the local TCP made it, cut to packets
# what is no flow's, if it is a bare header
cdef void wire_alone(worker *w, const Segment *s) noexcept nogil
cdef void wire_bare(worker *w, flow *f, uint8_t flags) noexcept nogil         # an ACK, or a RST
cdef void wire_probe(worker *w, flow *f) noexcept nogil       # what its TCP has asked the far one
# with such a TSval, at that position
cdef void wire_trail(worker *w, flow *f, uint32_t position, uint8_t flags) noexcept nogil
cdef void wire_newest(worker *w, flow *f) noexcept nogil      # the end of what the transport still has, if it has anything
cdef void wire_kept(worker *w, flow *f) noexcept nogil        # the copy of what is under way, if there is one
