# Timestamps of the remote TCP (RFC 7323): of two, the newer counts. A segment that is made here with an
# older one than the local TCP has seen would be dropped (PAWS).

from libc.stdint cimport uint32_t
from hooker.engine.worker cimport F_TWIN, flow
from hooker.includes.linux cimport hk_load32
from hooker.tcp.numbers cimport is_newer
from hooker.tcp.segment cimport HAS_TIMESTAMPS, Segment
from hooker.tcp.twin cimport TWIN_TIMESTAMPS, twin_stamp


cdef inline void stamp_echoed(flow *f, const Segment *s) noexcept nogil:
    """By the local TCP: it knows that one."""
    if s.options & HAS_TIMESTAMPS and is_newer(s.ts_echo, f.ts_recent):
        f.ts_recent = s.ts_echo


cdef inline void stamp_told(flow *f, uint32_t ts) noexcept nogil:
    """By the peer's engine, of a segment that may have come by the wire."""
    if f.bits & F_TWIN:
        twin_stamp(&f.active.t, ts)
    elif is_newer(ts, f.ts_recent):
        f.ts_recent = ts


cdef inline void stamp_seen(flow *f) noexcept nogil:
    """By the kernel program, of what comes by the wire. The twin has begun."""
    cdef uint32_t ts = hk_load32(&f.rec.ts_recent) if f.rec != NULL else 0
    if ts and f.active.t.flags & TWIN_TIMESTAMPS:
        twin_stamp(&f.active.t, ts)
