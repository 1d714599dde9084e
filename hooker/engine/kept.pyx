"""A copy of one segment that is under way, for the wire when its flow leaves the transport.

The local TCP believes its bytes to be on the wire and would wait for its timeout, which has doubled perhaps. One segment is
enough: where it is the oldest, its acknowledgement brings the next; where older ones are missing, the far TCP's SACK tells the
local one to send those at once (RFC 8985). So what is copied is the first segment after the last copy has been acknowledged:
one of each window, or a small request itself. An older one takes its place when TCP repeats that: it is lost once more, and
the SACK of what was sent before the repeat does not tell TCP so, which would wait for its next timeout. All flows share KEPT
copies, and the flows of one source of peers may have twice as many as are left; who gets none waits for the timeout.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy
from hooker.engine.cells cimport CELL_BYTES, cell, cell_give, cell_take
from hooker.engine.worker cimport *
from hooker.tcp.segment cimport FLAG_FIN, FLAG_PSH, FLAG_URG, Segment
from hooker.transports.contract cimport TAKE_KEPT

cdef enum:
    LEFT_SHARE = 2             # times what is left


cdef cell *cell_for(worker *w, peer *p) noexcept nogil:
    cdef cell *k
    if p.a.ops.taken(p.a, TAKE_KEPT) >= LEFT_SHARE * <uint64_t>(KEPT - w.kept.used):
        return NULL
    k = cell_take(&w.kept)
    if k != NULL:
        k.owner = p
        p.a.ops.take(p.a, TAKE_KEPT, 1)
    return k


cdef void keep(worker *w, flow *f, uint32_t position, const uint8_t *data, uint32_t n, uint8_t flags) noexcept nogil:
    kept_acked(w, f)
    if f.p == NULL or f.p.a == NULL:
        return
    if f.active.kept == NULL:
        f.active.kept = cell_for(w, f.p)
        if f.active.kept == NULL:
            return
    elif <int32_t>(position - f.active.kept.position) >= 0:
        return
    if n > CELL_BYTES:
        n = CELL_BYTES
        flags &= ~<uint8_t>(FLAG_FIN | FLAG_PSH)
    f.active.kept.position, f.active.kept.n, f.active.kept.flags = position, <uint16_t>n, flags
    memcpy(f.active.kept.data, data, n)


cdef void keep_repeated(worker *w, flow *f, const Segment *s) noexcept nogil:
    cdef uint32_t position = s.seq - f.local_isn
    if not s.flags & FLAG_URG and <int32_t>(position + s.length - f.f.snd_una) >= 0:
        keep(w, f, position, s.data, s.length, s.flags & (FLAG_FIN | FLAG_PSH))


cdef void kept_acked(worker *w, flow *f) noexcept nogil:
    cdef cell *k = f.active.kept
    if k != NULL and <int32_t>(f.f.snd_una - k.position - k.n - (1 if k.flags & FLAG_FIN else 0)) >= 0:
        kept_drop(w, f)


cdef void kept_parts(flow *f) noexcept nogil:
    """From its association: the copy is wanted for a moment yet."""
    cdef cell *k = f.active.kept if f.active != NULL else NULL
    cdef peer *p = <peer *>k.owner if k != NULL else NULL
    if p != NULL:
        if p.a != NULL:
            p.a.ops.take(p.a, TAKE_KEPT, -1)
        k.owner = NULL


cdef void kept_drop(worker *w, flow *f) noexcept nogil:
    kept_parts(f)
    if f.active != NULL and f.active.kept != NULL:
        cell_give(&w.kept, f.active.kept)
        f.active.kept = NULL
