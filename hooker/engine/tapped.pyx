"""A tap sees what applications send, each byte once: frames (collected.pyx), and here segments.

What a tap is given stands in a slab, which it may hold. Bytes that do not (there was no slab, or they were
copied) are not shown, and counted.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from hooker.engine.frames cimport FRAME_FIRST, FRAME_LAST, frame_entry
from hooker.engine.worker cimport *
from hooker.engine.slab cimport slab
from hooker.engine.tap cimport tap_frames
from hooker.tcp.segment cimport Segment


cdef void tap_bytes(worker *w, flow *f, slab *memory, const uint8_t *data, uint32_t n) noexcept nogil:
    cdef frame_entry e
    if memory == NULL:
        w.n.tap_missed += n
        return
    e.flow_id, e.offset, e.length, e.flags = f.id, 0, n, FRAME_FIRST | FRAME_LAST
    tap_frames(w.tap, w.owner, memory, <uint8_t *>data, &e, 1, &w.n.tap_errors)


cdef void tap_segment(worker *w, flow *f, slab *memory, const Segment *s, uint32_t start) noexcept nogil:
    cdef uint32_t at = s.seq - f.local_isn
    cdef uint32_t skip = start - at if <int32_t>(start - at) > 0 else 0
    if skip < s.length:
        tap_bytes(w, f, memory, s.data + skip, s.length - skip)
