"""What a DATA packet does to its association: duplicates, frames, ACK bookkeeping.

Every frame may be processed twice without harm. So a packet that turns out bad half way is dropped
without being acknowledged, and nothing needs to be undone.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memmove, memset
from hooker.vtl.api cimport *
from hooker.vtl.budget cimport budget_hold, budget_let_go, budget_room
from hooker.vtl.controllers.interface cimport (
    CongestionAck, congestion_on_ack, congestion_on_loss, congestion_on_spurious,
)
from hooker.vtl.core cimport *
from hooker.vtl.ecn cimport ECN_CE, ecn_on_ack
from hooker.vtl.fec cimport fec_keep, fec_memory, fec_note, fec_on_repair, fec_rebuilt
from hooker.vtl.keys cimport keys_open, keys_overhead
from hooker.vtl.outcome cimport frame_acked, frame_again, frame_forgotten, frame_lost, packet_lost
from hooker.vtl.pacing cimport PACING_MIN_RTT
from hooker.vtl.path cimport largest_received, path_on_challenge, path_on_response, path_seen
from hooker.vtl.pmtu cimport pmtu_on_result
from hooker.vtl.ranges cimport Range, ranges_add, ranges_contains
from hooker.vtl.recovery cimport AckResult, Listener, recovery_detect_lost, recovery_on_ack, recovery_rewind
from hooker.vtl.reliability.interface cimport Rewind
from hooker.vtl.stream cimport *
from hooker.vtl.wire cimport *

cdef enum:
    PLAUSIBLE = 1 << 16        # packets that may be lost before the first one from a new address


# --- our packets, acknowledged or lost

cdef inline Listener listener(Assoc *a) noexcept nogil:
    cdef Listener who
    who.acked = frame_acked
    who.lost = frame_lost
    who.again = frame_again
    who.forgotten = frame_forgotten
    who.packet_lost = packet_lost
    who.ctx = a
    return who


cdef void react(Assoc *a, const AckResult *r, uint64_t marked, bint limited, uint64_t now) noexcept nogil:
    cdef CongestionAck ack
    fec_note(&a.fec, r.acked_bytes, r.lost_bytes)
    if r.spurious > 0:
        a.fec.lost -= min(a.fec.lost, r.spurious * a.cc.mss)
        congestion_on_spurious(&a.cc, r.spurious)
    if r.lost_bytes > 0 and r.newest_lost_at >= a.up_at:    # before, nobody was there to lose it for
        congestion_on_loss(&a.cc, r.lost_packets, r.newest_lost_at, now, r.persistent)
    pmtu_on_result(a, r, now)
    if r.acked_bytes == 0:
        return
    ack.now = now
    ack.bytes = r.acked_bytes
    ack.marked = marked
    ack.sent_at = r.newest_acked_at
    ack.srtt = a.rec.srtt
    ack.latest_rtt = a.rec.latest_rtt
    ack.min_rtt = a.rec.min_rtt
    ack.in_flight = a.rec.in_flight
    ack.delivered = a.rec.delivered
    ack.rate = r.rate
    ack.sampled = r.sampled
    ack.prior_delivered = r.prior_delivered
    ack.tx_in_flight = r.tx_in_flight
    ack.lost_since = r.lost_since
    ack.rtt_sample = r.rtt_sample
    ack.app_limited = r.app_limited
    ack.outran = r.outran
    ack.round_start = r.round_start
    ack.limited = limited
    congestion_on_ack(&a.cc, &ack)


cdef void go_back(Assoc *a, const Listener *who, AckResult *r) noexcept nogil:
    """Packets were lost: perhaps others are of no use any more."""
    cdef uint64_t first
    if r.lost_ordered > 0 and a.rel.ops.on_lost != NULL:
        first = a.rel.ops.on_lost(&a.rel, r.lost_ordered)
        if first > 0:
            recovery_rewind(&a.rec, first, first, who, r)


cdef void packets_lost_by_time(Assoc *a, uint64_t now) noexcept nogil:
    cdef AckResult r
    cdef Listener who = listener(a)
    memset(&r, 0, sizeof(r))
    recovery_detect_lost(&a.rec, now, &who, &r)
    go_back(a, &who, &r)
    react(a, &r, 0, True, now)
    assoc_ready(a)


# --- frames of the peer

cdef int on_ack(Assoc *a, const uint8_t *p, Cursor *c, uint64_t now) noexcept nogil:
    cdef Range ranges[256]
    cdef uint32_t n = p[1], i = 255, k
    cdef uint64_t high = load64(p + 8), low = load32(p + 16)
    cdef uint64_t delay = <uint64_t>load32(p + 4) * 1000, gap, length
    cdef const uint8_t *counts = p + ACK_HEADER if p[0] == FR_ACK_ECN else NULL
    cdef const uint8_t *more = take(c, n * ACK_RANGE)
    cdef uint64_t marked = 0
    cdef AckResult r
    cdef Listener who = listener(a)
    # limited: the window was not in use when this ACK came (RFC 9002 7.8)
    cdef bint limited
    if more == NULL:
        return VTL_DROP_SHORT
    if high >= a.rec.next_pn or low > high:
        return VTL_DROP_PROTOCOL
    low = high - low
    ranges[i].start = low
    ranges[i].end = high + 1
    for k in range(n):
        gap = <uint64_t>load32(more + ACK_RANGE * k) + 2
        length = load32(more + ACK_RANGE * k + 4)
        if low < gap + length:
            return VTL_DROP_PROTOCOL
        high = low - gap
        low = high - length
        i -= 1
        ranges[i].start = low
        ranges[i].end = high + 1
    limited = a.rec.in_flight * (2 if a.cc.w.cwnd < a.cc.w.ssthresh else 1) + 3 * a.cc.mss < a.cc.w.cwnd
    if recovery_on_ack(&a.rec, &ranges[i], n + 1, delay, now, &who, &r) < 0:
        return VTL_DROP_PROTOCOL
    go_back(a, &who, &r)
    if r.advanced:
        marked = ecn_on_ack(&a.ecn, counts != NULL, load64(counts) if counts != NULL else 0,
                            load64(counts + 16) if counts != NULL else 0, r.acked_ect)
    react(a, &r, marked, limited, now)
    stream_flush_acked(a)
    if r.acked_bytes > 0:
        assoc_ready(a)
    return VTL_OK


cdef Stream *peer_stream(Assoc *a, uint32_t id, int *rc) noexcept nogil:
    """The stream a frame names; made if the peer opened it just now. NULL with VTL_OK: it is history."""
    cdef Stream *s = stream_find(a, id)
    rc[0] = VTL_OK
    if s != NULL:
        return s
    if (id & 1) == (0 if a.initiator else 1):       # ours
        if id >> 1 >= a.next_id:
            rc[0] = VTL_DROP_PROTOCOL
        return NULL
    if ranges_contains(&a.used_ids, id >> 1):
        return NULL
    s = stream_new(a, id)                           # first: an id noted as used would be history when it comes again
    if s == NULL:
        rc[0] = VTL_DROP_MEMORY
    elif ranges_add(&a.used_ids, id >> 1, (id >> 1) + 1, MAX_ID_RANGES) < 0:
        a.used_ids.v[0].end = a.used_ids.v[1].start # a gap that old is not filled any more
        ranges_add(&a.used_ids, a.used_ids.v[0].end, a.used_ids.v[1].end, MAX_ID_RANGES)
        stream_destroy(s)
        rc[0] = VTL_DROP_MEMORY
        return NULL
    return s


cdef int on_stream_frame(Assoc *a, Stream *s, const uint8_t *p, uint8_t type) noexcept nogil:
    """Control frames of one stream, fixed part already checked."""
    if type == FR_OPEN:
        stream_on_open(s, load64(p + 8), load64(p + 16), p[1] & OPEN_COMMITTED)
    elif type == FR_OPEN_ACK:
        stream_on_open_ack(s, load64(p + 8))
    elif type == FR_OPEN_REJECT:
        stream_on_reject(s, load32(p + 8))
    elif type == FR_CONFIRM:
        stream_on_confirm(s)
    elif type == FR_CANCEL:
        return stream_on_reset(s, 0, load64(p + 8), True)
    elif type == FR_RESET_STREAM:
        return stream_on_reset(s, load32(p + 8), load64(p + 12), False)
    elif load64(p + 8) > s.send_max:                # MAX_STREAM_DATA
        s.send_max = load64(p + 8)
        stream_activate(s)
    return VTL_OK


cdef void on_max_data(Assoc *a, uint64_t limit) noexcept nogil:
    cdef Stream *s = a.blocked.first
    cdef Stream *next
    if limit <= a.send_max:
        return
    a.send_max = limit
    a.blocked.first = a.blocked.last = NULL
    while s != NULL:
        next = s.next_active
        s.in_active = s.in_blocked = False
        stream_activate(s)
        s = next


cdef bint may_keep_bodies(Assoc *a) noexcept nogil:
    """The last packets' bodies, from the peer's first REPAIR on: only if there is room for them."""
    cdef uint64_t n = fec_memory(a.ep.cfg.max_datagram)
    if a.fec_held == 0:
        if budget_room(a) < n:
            return False
        a.fec_held = n
        budget_hold(a, n)
    return True


cdef int on_block(Assoc *a, const uint8_t *p, Cursor *c) noexcept nogil:
    """Whatever it says is for the engine to judge: there is no window, and nothing is kept."""
    cdef vtl_sink *k = &a.ep.sink
    cdef vtl_block b
    b.n = load16(p + BLOCK_HEADER) if p[0] & BLOCK_LEN else <uint32_t>c.n
    b.data = take(c, b.n)
    if b.data == NULL:
        return VTL_DROP_SHORT
    if k.block == NULL:
        return VTL_DROP_TYPE
    b.flags = p[0] & VTL_BLOCK_FLAGS
    b.id = load32(p + 1)
    b.position = load32(p + 5)
    b.epoch = p[9]
    a.stream_received += b.n
    if a.state != A_DEAD:                           # closed in a callback of this packet
        k.block(k.ctx, <vtl_assoc *>a, &b, not a.fec.rebuilding)
    return VTL_OK


cdef int on_hole(Assoc *a, const uint8_t *p) noexcept nogil:
    """As a block: for the engine to judge."""
    cdef vtl_sink *k = &a.ep.sink
    cdef vtl_block b
    if a.rel.ops.gives_up == NULL or k.hole == NULL:
        return VTL_DROP_TYPE
    b.flags = p[1] & VTL_BLOCK_FLAGS
    b.n = load16(p + 2)
    b.id = load32(p + 4)
    b.position = load32(p + 8)
    b.epoch = p[12]
    b.data = NULL
    if b.n == 0:
        return VTL_DROP_PROTOCOL
    a.missing += b.n
    if a.state != A_DEAD:
        k.hole(k.ctx, <vtl_assoc *>a, &b)
    return VTL_OK


cdef int on_message(Assoc *a, uint8_t n, Cursor *c) noexcept nogil:
    cdef vtl_sink *k = &a.ep.sink
    cdef const uint8_t *p = take(c, n)
    if p == NULL:
        return VTL_DROP_SHORT
    if k.message == NULL:
        return VTL_DROP_TYPE
    if not 0 < n <= VTL_MAX_MESSAGE:
        return VTL_DROP_PROTOCOL
    if a.state != A_DEAD:
        k.message(k.ctx, <vtl_assoc *>a, p, n)
    return VTL_OK


cdef inline void heard(Assoc *a, uint64_t now) noexcept nogil:
    a.last_recv = now
    a.unanswered = a.prove_by = 0
    assoc_touch(a)


cdef int on_order(Assoc *a, const uint8_t *p, uint64_t now) noexcept nogil:
    """Whether the packet is taken now; ACKs before this frame count in any case."""
    if a.rel.ops.accepts == NULL:
        return VTL_DROP_TYPE
    if a.rel.ops.accepts(&a.rel, p, a.arriving):
        return VTL_OK
    heard(a, now)
    if a.rel.answer_due:
        a.ack_now = True
        assoc_ready(a)
    return VTL_DROP_ORDER


cdef int on_answer(Assoc *a, const uint8_t *p, uint64_t now) noexcept nogil:
    """What the receiver did not take goes again."""
    cdef Rewind w
    cdef AckResult r
    cdef Listener who = listener(a)
    if a.rel.ops.on_answer == NULL:
        return VTL_DROP_TYPE
    if not a.rel.ops.on_answer(&a.rel, p, a.rec.next_pn, &w):
        return VTL_DROP_PROTOCOL
    if w.first > 0:
        memset(&r, 0, sizeof(r))
        recovery_rewind(&a.rec, w.first, w.arrived, &who, &r)
        recovery_detect_lost(&a.rec, now, &who, &r)
        react(a, &r, 0, True, now)
        assoc_ready(a)
    return VTL_OK


cdef int on_frame(Assoc *a, Cursor *c, uint64_t now) noexcept nogil:
    cdef uint8_t type = c.p[0]
    cdef uint32_t size = frame_size(type)
    cdef const uint8_t *p
    cdef const uint8_t *body
    cdef Stream *s
    cdef uint32_t n
    cdef int rc = VTL_OK
    if size == 0:
        return VTL_DROP_TYPE
    p = take(c, size)
    if p == NULL:
        return VTL_DROP_SHORT
    if type & FR_BLOCK:
        return on_block(a, p, c)
    if type & ~(STREAM_FIN | STREAM_LEN) == FR_STREAM:
        n = load16(p + STREAM_HEADER) if type & STREAM_LEN else <uint32_t>c.n
        body = take(c, n)
        if body == NULL:
            return VTL_DROP_SHORT
        s = peer_stream(a, load32(p + 1), &rc)
        if s == NULL:
            return rc
        return stream_on_data(s, expand(load32(p + 5), s.recv_high), body, n, type & STREAM_FIN)
    if type == FR_ACK or type == FR_ACK_ECN:
        return on_ack(a, p, c, now)
    if type == FR_MESSAGE:
        return on_message(a, p[1], c)
    if type == FR_ORDER:
        return on_order(a, p, now)
    if type == FR_GO_BACK:
        return on_answer(a, p, now)
    if type == FR_HOLE:
        return on_hole(a, p)
    if type == FR_MAX_DATA:
        on_max_data(a, load64(p + 8))
    elif type == FR_REPAIR:
        body = take(c, load16(p + 2))
        if body == NULL:
            return VTL_DROP_SHORT
        if not a.rel.ops.fec or not may_keep_bodies(a):
            return VTL_OK
        fec_on_repair(&a.fec, p, body, load16(p + 2), a.ep.cfg.max_datagram, &a.received, a.received_floor)
    elif type == FR_PATH_CHALLENGE:
        path_on_challenge(a, load64(p + 8))
    elif type == FR_PATH_RESPONSE:
        path_on_response(a, load64(p + 8), now)
    elif type >= FR_OPEN:
        s = peer_stream(a, load32(p + 4), &rc)
        return on_stream_frame(a, s, p, type) if s != NULL else rc
    return VTL_OK


# --- received packet numbers

cdef void note_received(Assoc *a, uint64_t pn, uint32_t seen, uint64_t now) noexcept nogil:
    """seen: the types of its frames but for those that elicit nothing, a bit each."""
    cdef RangeSet *r = &a.received
    cdef bint in_order = r.n == 0 or r.v[r.n - 1].end == pn
    if r.n == MAX_ACK_RANGES and not in_order:
        a.received_floor = r.v[0].end               # forget the oldest; what lies below is a duplicate
        r.n -= 1
        memmove(&r.v[0], &r.v[1], r.n * sizeof(Range))
    ranges_add(r, pn, pn + 1, MAX_ACK_RANGES)
    if r.v[r.n - 1].end == pn + 1:
        a.largest_at = now
    if not seen:
        return
    a.unacked += 1
    # messages alone can wait, as they come by the thousand where the peer only says what it has taken
    a.urgent += seen != 1 << FR_MESSAGE or not a.rel.plain or a.rec.srtt < PACING_MIN_RTT
    if a.urgent >= a.rel.ops.ack_every or not in_order or a.ep.source_ecn == ECN_CE:     # RFC 9000 13.2.1, 13.2.2
        if not a.ack_now:
            a.ack_now = True
            assoc_ready(a)
    elif a.ack_deadline == 0:
        a.ack_deadline = now + a.ep.cfg.max_ack_delay


cdef void repaired(Assoc *a, uint64_t now) noexcept nogil:
    """The frames of a packet brought back count; its number stays a lost one's."""
    cdef Cursor c
    c.n = fec_rebuilt(&a.fec, &c.p)
    if c.n == 0:
        return
    a.ep.count.packets_repaired += 1
    a.fec.rebuilding = True
    packet_receive(a, &c, NULL, 0, now)
    a.fec.rebuilding = False


cdef int packet_receive(Assoc *a, Cursor *c, const Header *h, uint64_t pn, uint64_t now) noexcept nogil:
    cdef uint32_t seen = 0      # frame types, a bit each
    cdef size_t size = c.n + DATA_HEADER
    cdef int rc
    if not a.fec.rebuilding:
        if pn < a.received_floor or ranges_contains(&a.received, pn):
            return VTL_DROP_DUPLICATE
        if a.keys != NULL:
            rc = keys_open(a, c, h, pn, now)
            if rc != VTL_OK:
                return rc
    if c.n == 0:
        return VTL_DROP_SHORT                       # RFC 9000 12.4
    a.arriving = pn
    while c.n > 0:
        seen |= frame_bit(c.p[0])
        rc = on_frame(a, c, now)
        if rc != VTL_OK:
            if seen & frame_bit(FR_PATH_CHALLENGE):     # else it would be answered, and not count for what may be said there
                a.answer.due = False
            return rc
    if a.fec.rebuilding:
        return VTL_OK
    if seen & 1 << FR_ORDER:
        a.rel.ops.accepted(&a.rel, pn)
    a.frames_seen = seen
    a.ecn.received[a.ep.source_ecn] += 1
    note_received(a, pn, seen & ~(ACK_ONLY | a.rel.ops.quiet), now)
    a.packets_received += 1
    a.bytes_received += size
    heard(a, now)
    if a.fec.kept != NULL:
        size -= keys_overhead(a) + DATA_HEADER
        fec_keep(&a.fec, pn, c.p - size, size)
        repaired(a, now)
        if a.fec.kept == NULL:                      # long without a REPAIR
            budget_let_go(a, a.fec_held)
            a.fec_held = 0
    return VTL_OK


cdef int packet_from_elsewhere(Assoc *a, Cursor *c, const Header *h, const vtl_addr *src,
                               uint64_t now) noexcept nogil:
    cdef uint64_t largest = largest_received(a), pn = expand(<uint32_t>h.number, largest)
    cdef size_t n = c.n + h.size
    cdef int rc
    if not same_addr(&a.other.to, src) and not largest < pn <= largest + PLAUSIBLE:
        return VTL_DROP_NO_ASSOC
    rc = packet_receive(a, c, h, pn, now)
    if rc == VTL_OK and a.state == A_UP and not same_addr(&a.peer, src):
        path_seen(a, src, pn, n, pn > largest and a.frames_seen & ~<uint32_t>PROBING, now)
    return rc
