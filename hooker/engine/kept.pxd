# One segment of a flow's, that the peer's TCP has not acknowledged.
from libc.stdint cimport uint8_t, uint32_t
from hooker.engine.worker cimport flow, worker
from hooker.tcp.segment cimport Segment

cdef void keep(worker *w, flow *f, uint32_t position, const uint8_t *data, uint32_t n, uint8_t flags) noexcept nogil
cdef void keep_repeated(worker *w, flow *f, const Segment *s) noexcept nogil  # by its TCP, not sent again by the transport
cdef void kept_acked(worker *w, flow *f) noexcept nogil       # perhaps it is
cdef void kept_drop(worker *w, flow *f) noexcept nogil
cdef void kept_parts(flow *f) noexcept nogil                  # it leaves its association
