# What the local TCP sends, shown to a tap.
from libc.stdint cimport uint8_t, uint32_t
from hooker.engine.worker cimport flow, worker
from hooker.engine.slab cimport slab
from hooker.tcp.segment cimport Segment

cdef void tap_bytes(worker *w, flow *f, slab *memory, const uint8_t *data, uint32_t n) noexcept nogil
# `start`: the position from which on it is new.
cdef void tap_segment(worker *w, flow *f, slab *memory, const Segment *s, uint32_t start) noexcept nogil
