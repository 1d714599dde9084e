"""What becomes of packets that we sent: acknowledged, lost, sent once more, or given up with their path."""

from libc.stdint cimport uint32_t, uint64_t
from hooker.vtl.channel cimport item_acked, item_lost, item_repeat
from hooker.vtl.controllers.interface cimport CongestionLoss, congestion_on_packet_lost
from hooker.vtl.core cimport *
from hooker.vtl.pmtu cimport pmtu_abandon
from hooker.vtl.ranges cimport ranges_trim
from hooker.vtl.recovery cimport (
    SENT_LIMITED, SENT_PROBE, Recovery, SentFrame, SentPacket, recovery_forget, recovery_requeue_all,
    recovery_requeue_oldest,
)
from hooker.vtl.stream cimport *
from hooker.vtl.wire cimport *


cdef void forget_received(Assoc *a, uint64_t largest) noexcept nogil:
    """The peer knows what we received up to `largest`: RFC 9000 13.2.4."""
    cdef uint64_t below = min(largest, a.received.v[a.received.n - 1].start)
    if below > a.received_floor:
        a.received_floor = below
        ranges_trim(&a.received, below)


cdef inline bint is_item(const SentFrame *f) noexcept nogil:
    """Of a channel: its `offset` is the Item."""
    return f.type == FR_BLOCK or f.type == FR_MESSAGE or f.type == FR_HOLE


cdef void frame_acked(void *ctx, const SentFrame *f) noexcept nogil:
    cdef Assoc *a = <Assoc *>ctx
    cdef Stream *s
    if f.type == FR_ACK:
        forget_received(a, f.offset)
    elif is_item(f):
        item_acked(a, <Item *>f.offset)
    elif f.type >= FR_OPEN:
        s = stream_find(a, f.id)
        if s != NULL:
            stream_frame_acked(s, f)


cdef void frame_lost(void *ctx, const SentFrame *f) noexcept nogil:
    cdef Assoc *a = <Assoc *>ctx
    cdef Stream *s
    if f.type == FR_MAX_DATA:
        a.window_due = True
    elif is_item(f):
        item_lost(a, <Item *>f.offset)
    elif f.type >= FR_OPEN:
        s = stream_find(a, f.id)
        if s != NULL:
            stream_frame_lost(s, f)


cdef void frame_again(void *ctx, const SentFrame *f) noexcept nogil:
    """The packet it was in may still arrive."""
    if is_item(f):
        item_repeat(<Assoc *>ctx, <Item *>f.offset)
    else:
        frame_lost(ctx, f)


cdef void frame_forgotten(void *ctx, const SentFrame *f) noexcept nogil:
    """It has gone again since."""
    if is_item(f):
        item_lost(<Assoc *>ctx, <Item *>f.offset)


cdef void packet_lost(void *ctx, const SentPacket *p) noexcept nogil:
    cdef Assoc *a = <Assoc *>ctx
    cdef CongestionLoss l
    l.now = a.ep.now
    l.bytes = p.size
    l.sent_at = p.sent_at
    l.tx_in_flight = p.in_flight
    l.lost_since = a.rec.lost_bytes - p.lost_bytes
    l.app_limited = p.flags & SENT_LIMITED
    congestion_on_packet_lost(&a.cc, &l)


cdef void packets_abandon(Assoc *a) noexcept nogil:
    """What is on its way went to where the peer is no more: all of it goes again, and proves nothing."""
    cdef Recovery *r = &a.rec
    cdef SentPacket *p
    cdef uint64_t pn
    cdef uint32_t i
    for pn in range(r.tail, r.next_pn):
        p = &r.packet[pn & (r.cap - 1)]
        if p.outstanding:
            for i in range(p.frames):
                frame_lost(a, &r.frame[(p.frame0 + i) & (r.frame_cap - 1)])
    r.tail = r.next_pn
    r.frame_head = r.frame_tail
    r.in_flight = r.loss_time = 0
    r.outstanding = r.pto_count = 0
    if a.rel.ops.rewind != NULL:
        a.rel.ops.rewind(&a.rel)
    pmtu_abandon(a)


cdef void requeue_for_probe(Assoc *a) noexcept nogil:
    if a.rel.ops.rewind == NULL:
        recovery_requeue_oldest(&a.rec, frame_again, a)
        return
    a.rel.ops.rewind(&a.rel)
    recovery_requeue_all(&a.rec, frame_again, a)


cdef void packets_forget(Assoc *a) noexcept nogil:
    cdef const SentPacket *oldest = &a.rec.packet[a.rec.tail & (a.rec.cap - 1)]
    if oldest.outstanding and oldest.flags & SENT_PROBE:
        pmtu_abandon(a)                         # its ACK or loss will not be heard
    recovery_forget(&a.rec, a.rec.tail + 1, frame_lost, a)
