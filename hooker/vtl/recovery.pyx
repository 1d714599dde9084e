"""Loss recovery after RFC 9002, with one packet number space.

Packets and the frames in them are recorded in two rings that grow by doubling and then stay: no
allocation per packet. A packet number is used once; what was lost travels again in a new packet.
"""

from libc.stdint cimport UINT32_MAX, UINT64_MAX, int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from hooker.includes.cache cimport fetch_ahead
from hooker.vtl.blackhole cimport hole_acked, hole_lost, hole_reset

cdef enum:
    AHEAD = 8                           # frames: what they carry is fetched before it is asked for
    PACKET_THRESHOLD = 3                # packets, RFC 9002 6.1.1
    MAX_THRESHOLD = 300                 # packets; Linux tcp_max_reordering
    PATIENCE = 1                        # eighths of an RTT, RFC 9002 6.1.2
    MAX_PATIENCE = 8                    # RFC 8985 6.2: at most one RTT
    CALM_ROUNDS = 16                    # RFC 8985 6.2: recoveries that a learned tolerance outlives
    GRANULARITY = 1000000               # ns, RFC 9002 6.1.2
    INITIAL_RTT = 333000000             # ns, RFC 9002 6.2.2
    PERSISTENT_THRESHOLD = 3            # PTOs, RFC 9002 7.6.1
    MAX_PTO_BACKOFF = 10                # doublings; max_pto caps earlier


cdef inline SentPacket *packet_at(const Recovery *r, uint64_t pn) noexcept nogil:
    return &r.packet[pn & (r.cap - 1)]


cdef void recovery_init(Recovery *r) noexcept nogil:
    memset(r, 0, sizeof(Recovery))
    r.tail = r.next_pn = 1
    r.srtt = INITIAL_RTT
    r.rttvar = INITIAL_RTT // 2
    r.max_pto = UINT64_MAX
    r.threshold = PACKET_THRESHOLD
    r.patience = PATIENCE
    hole_reset(&r.hole, r.next_pn)


cdef void recovery_free(Recovery *r) noexcept nogil:
    free(r.packet)
    free(r.frame)
    r.packet = NULL
    r.frame = NULL


cdef bint grow_packets(Recovery *r) noexcept nogil:
    cdef uint32_t cap = 32 if r.cap == 0 else 2 * r.cap
    cdef SentPacket *ring
    cdef uint64_t pn
    if cap > MAX_PACKETS:
        return False
    ring = <SentPacket *>malloc(cap * sizeof(SentPacket))
    if ring == NULL:
        return False
    for pn in range(r.tail, r.next_pn):
        ring[pn & (cap - 1)] = packet_at(r, pn)[0]
    free(r.packet)
    r.packet = ring
    r.cap = cap
    return True


cdef bint grow_frames(Recovery *r) noexcept nogil:
    cdef uint32_t cap = 2 * MAX_PACKET_FRAMES if r.frame_cap == 0 else 2 * r.frame_cap, i
    cdef SentFrame *ring
    if cap > 4 * MAX_PACKETS:
        return False
    ring = <SentFrame *>malloc(cap * sizeof(SentFrame))
    if ring == NULL:
        return False
    for i in range(r.frame_tail - r.frame_head):
        ring[(r.frame_head + i) & (cap - 1)] = r.frame[(r.frame_head + i) & (r.frame_cap - 1)]
    free(r.frame)
    r.frame = ring
    r.frame_cap = cap
    return True


cdef bint recovery_room(Recovery *r) noexcept nogil:
    if r.next_pn - r.tail == r.cap and not grow_packets(r):
        return False
    return r.frame_tail - r.frame_head + MAX_PACKET_FRAMES <= r.frame_cap or grow_frames(r)


cdef void recovery_add_frame(Recovery *r, uint8_t type, uint8_t flags, uint32_t id, uint64_t offset,
                             uint16_t len) noexcept nogil:
    cdef SentFrame *f = &r.frame[r.frame_tail & (r.frame_cap - 1)]
    f.offset = offset
    f.id = id
    f.len = len
    f.type = type
    f.flags = flags
    r.frame_tail += 1


cdef void recovery_sent(Recovery *r, uint32_t frame0, uint32_t size, bint eliciting,
                        uint8_t flags, uint64_t now) noexcept nogil:
    cdef SentPacket *p = packet_at(r, r.next_pn)
    p.sent_at = now
    p.size = size
    p.frame0 = frame0
    p.frames = r.frame_tail - frame0
    p.outstanding = eliciting
    r.next_pn += 1
    r.sent += 1
    if eliciting:
        if r.in_flight == 0:
            r.first_sent_at = r.delivered_at = now
        r.in_flight += size
        p.in_flight = <uint32_t>min(r.in_flight, <uint64_t>UINT32_MAX)
        p.delivered = r.delivered
        p.delivered_at = r.delivered_at
        p.first_sent_at = r.first_sent_at
        p.lost_bytes = r.lost_bytes
        p.flags = flags | (SENT_LIMITED if r.limited_until > 0 else 0)
        r.outstanding += 1
        r.last_eliciting = now
    else:
        retire(r)


cdef void retire(Recovery *r) noexcept nogil:
    """Drops the records of resolved packets at the old end."""
    cdef SentPacket *p
    while r.tail < r.next_pn:
        p = packet_at(r, r.tail)
        if p.outstanding:
            r.frame_head = p.frame0
            return
        r.tail += 1
    r.frame_head = r.frame_tail


cdef inline void resolve(Recovery *r, SentPacket *p, frame_fn fn, void *ctx) noexcept nogil:
    cdef uint32_t i
    # the item of a channel, in most of them
    fetch_ahead(<const void *>r.frame[(p.frame0 + AHEAD) & (r.frame_cap - 1)].offset)
    p.outstanding = 0
    if not p.flags & SENT_VAIN:
        r.in_flight -= p.size
        r.outstanding -= 1
    for i in range(p.frames):
        fn(ctx, &r.frame[(p.frame0 + i) & (r.frame_cap - 1)])


cdef void recovery_limited(Recovery *r) noexcept nogil:
    r.limited_until = max(r.delivered + r.in_flight, 1)


cdef void forget_reordering(Recovery *r) noexcept nogil:
    """Once a round. What was learned of reordering is halved when losses have long been real."""
    if r.lossy_round and r.threshold > PACKET_THRESHOLD:
        r.calm += 1
        if r.calm == CALM_ROUNDS:
            r.calm = 0
            r.threshold = max(r.threshold // 2, <uint32_t>PACKET_THRESHOLD)
            r.patience = max(r.patience // 2, <uint32_t>PATIENCE)
    r.lossy_round = False


cdef void sample_rate(Recovery *r, const SentPacket *p, uint64_t now, AckResult *out) noexcept nogil:
    """The delivery rate over the flight of the newest packet acknowledged.

    The longer of two spans counts, so neither a burst of packets nor one of ACKs looks like bandwidth."""
    cdef uint64_t sending = p.sent_at - p.first_sent_at, arriving = now - p.delivered_at
    cdef uint64_t span = max(sending, arriving)
    out.newest_acked_at = p.sent_at
    out.prior_delivered = p.delivered
    out.tx_in_flight = p.in_flight
    out.lost_since = r.lost_bytes - p.lost_bytes
    out.app_limited = p.flags & SENT_LIMITED
    # what began with nothing in flight has a round trip in its second span, which says nothing
    out.outran = p.first_sent_at < p.delivered_at and 4 * arriving > 5 * sending
    out.sampled = r.delivered - p.delivered
    if span > 0 and span >= r.min_rtt:
        out.rate = <uint64_t>(<double>out.sampled * 1e9 / <double>span)
    if p.delivered >= r.round_end:
        r.round_end = r.delivered
        out.round_start = True
        forget_reordering(r)
    r.first_sent_at = p.sent_at


cdef void recovery_rtt(Recovery *r, uint64_t latest, uint64_t ack_delay) noexcept nogil:
    cdef uint64_t adjusted, delta
    r.latest_rtt = latest
    if not r.has_rtt:
        r.has_rtt = True
        r.min_rtt = r.srtt = latest
        r.rttvar = latest // 2
        return
    r.min_rtt = min(r.min_rtt, latest)
    ack_delay = min(ack_delay, r.peer_ack_delay)
    adjusted = latest - ack_delay if latest >= r.min_rtt + ack_delay else latest   # RFC 9002 5.3
    delta = r.srtt - adjusted if r.srtt > adjusted else adjusted - r.srtt
    r.rttvar = (3 * r.rttvar + delta) // 4
    r.srtt = (7 * r.srtt + adjusted) // 8


cdef bint covered(const Range *acked, uint32_t n, uint64_t pn) noexcept nogil:
    cdef uint32_t lo = 0, hi = n, mid
    while lo < hi:
        mid = (lo + hi) // 2
        if acked[mid].end <= pn:
            lo = mid + 1
        else:
            hi = mid
    return lo < n and acked[lo].start <= pn


cdef void find_spurious(Recovery *r, const Range *acked, uint32_t n, AckResult *out) noexcept nogil:
    """Packets declared lost that were only late: wait longer from now on."""
    cdef uint64_t pn
    cdef int i
    for i in range(LOST_MEMORY):
        pn = r.lost_pn[i]
        if pn == 0 or not covered(acked, n, pn):
            continue
        r.lost_pn[i] = 0
        r.spurious += 1
        out.spurious += 1
        r.threshold = <uint32_t>max(r.threshold, min(r.largest_acked - pn + 1, <uint64_t>MAX_THRESHOLD))
        r.patience = min(2 * r.patience, <uint32_t>MAX_PATIENCE)
        r.calm = 0
        r.lossy_round = False


cdef int recovery_on_ack(Recovery *r, const Range *acked, uint32_t n, uint64_t ack_delay, uint64_t now,
                         const Listener *who, AckResult *out) noexcept nogil:
    """`acked` ascends. -1: it names a packet we never sent."""
    cdef uint64_t largest = acked[n - 1].end - 1, pn, newest_pn = 0, full_pn = 0
    cdef SentPacket *p
    cdef SentPacket newest
    cdef uint32_t i, full = 0
    memset(out, 0, sizeof(AckResult))
    if largest >= r.next_pn:
        return -1
    if r.lost > 0 and acked[0].start < r.tail:
        find_spurious(r, acked, n, out)
    for i in range(n):
        for pn in range(max(acked[i].start, r.tail), acked[i].end):
            p = packet_at(r, pn)
            if not p.outstanding:
                continue
            out.acked_bytes += p.size
            out.acked_ect += (p.flags & SENT_ECT) // SENT_ECT
            newest_pn = pn
            if p.size >= full:
                full = p.size
                full_pn = pn
            if p.flags & SENT_PROBE:
                out.probe_acked = p.size
            resolve(r, p, who.acked, who.ctx)
    hole_acked(&r.hole, full_pn, full, r.pto_count > 0)
    if largest > r.largest_acked:
        r.largest_acked = largest
        out.advanced = True
    if newest_pn == 0:
        recovery_detect_lost(r, now, who, out)
        return 0
    newest = packet_at(r, newest_pn)[0]
    if newest_pn == largest and now >= newest.sent_at:
        recovery_rtt(r, now - newest.sent_at, ack_delay)
        out.rtt_sample = True
    r.pto_count = 0
    r.delivered += out.acked_bytes
    r.delivered_at = now
    if r.delivered > r.limited_until:
        r.limited_until = 0
    recovery_detect_lost(r, now, who, out)
    sample_rate(r, &newest, now, out)
    return 0


cdef bint probe_lost(Recovery *r, SentPacket *p, const Listener *who, AckResult *out) noexcept nogil:
    """RFC 9000 14.4: a probe that was too large counts as no loss."""
    if not p.flags & SENT_PROBE:
        return False
    out.probe_lost = p.size
    resolve(r, p, who.lost, who.ctx)
    return True


cdef void count_lost(Recovery *r, uint64_t pn, SentPacket *p, const Listener *who, AckResult *out) noexcept nogil:
    if out.lost_bytes == 0:
        out.oldest_lost_at = p.sent_at
    out.newest_lost_at = p.sent_at
    out.lost_bytes += p.size
    out.lost_packets += 1
    if p.flags & SENT_ORDERED and out.lost_ordered == 0:
        out.lost_ordered = pn
    r.lost_pn[r.lost % LOST_MEMORY] = pn
    r.lost += 1
    r.lossy_round = True
    r.lost_bytes += p.size
    hole_lost(&r.hole, pn, p.size, r.next_pn)
    who.packet_lost(who.ctx, p)


cdef void mark_lost(Recovery *r, uint64_t pn, SentPacket *p, const Listener *who, AckResult *out) noexcept nogil:
    count_lost(r, pn, p, who, out)
    resolve(r, p, who.lost, who.ctx)


cdef void recovery_detect_lost(Recovery *r, uint64_t now, const Listener *who, AckResult *out) noexcept nogil:
    """RFC 9002 6.1. All but the last `threshold` packets get resolved, so the walk is short."""
    cdef uint64_t delay = max(r.srtt, r.latest_rtt), pn, run = 0, last_pn = 0
    cdef SentPacket *p
    cdef bint one_run = True
    delay = max(delay + r.patience * delay // 8, GRANULARITY)
    r.loss_time = 0
    for pn in range(r.tail, r.largest_acked + 1):
        p = packet_at(r, pn)
        if not p.outstanding:
            continue
        if p.flags & SENT_VAIN:
            if pn + r.threshold <= r.largest_acked or p.sent_at + delay <= now:
                resolve(r, p, who.forgotten, who.ctx)
        elif pn + r.threshold <= r.largest_acked or p.sent_at + delay <= now:
            one_run = one_run and (run == 0 or pn == last_pn + 1)
            last_pn = pn
            if not probe_lost(r, p, who, out):
                run += 1
                mark_lost(r, pn, p, who, out)
        elif r.loss_time == 0:
            r.loss_time = p.sent_at + delay
    if run > 1 and one_run and r.has_rtt:
        out.persistent = out.newest_lost_at - out.oldest_lost_at > PERSISTENT_THRESHOLD * recovery_pto(r)
    retire(r)


cdef void recovery_requeue_oldest(Recovery *r, frame_fn on_lost, void *ctx) noexcept nogil:
    """The oldest outstanding packet's frames go again; the packet itself stays outstanding."""
    cdef SentPacket *p
    cdef uint32_t i
    if r.outstanding == 0:
        return
    p = packet_at(r, r.tail)
    for i in range(p.frames):
        on_lost(ctx, &r.frame[(p.frame0 + i) & (r.frame_cap - 1)])


cdef void recovery_requeue_all(Recovery *r, frame_fn on_lost, void *ctx) noexcept nogil:
    """The same for all that are outstanding, the newest first: what goes in front of a queue is in order then."""
    cdef uint64_t pn = r.next_pn
    cdef SentPacket *p
    cdef uint32_t i
    while pn > r.tail:
        pn -= 1
        p = packet_at(r, pn)
        for i in range(p.frames if p.outstanding and not p.flags & SENT_VAIN else 0):
            on_lost(ctx, &r.frame[(p.frame0 + i) & (r.frame_cap - 1)])


cdef void recovery_forget(Recovery *r, uint64_t below, frame_fn on_lost, void *ctx) noexcept nogil:
    cdef uint64_t pn
    for pn in range(r.tail, below):
        if packet_at(r, pn).outstanding:
            resolve(r, packet_at(r, pn), on_lost, ctx)
    retire(r)


cdef void recovery_rewind(Recovery *r, uint64_t first, uint64_t arrived, const Listener *who,
                          AckResult *out) noexcept nogil:
    """Who says that they arrived in vain must not make us send them at once and without bound: one counts as lost."""
    cdef uint64_t pn
    cdef SentPacket *p
    cdef uint32_t i
    for pn in range(r.tail, r.next_pn):
        p = packet_at(r, pn)
        if not p.outstanding or not p.flags & SENT_ORDERED:
            continue
        if p.flags & SENT_VAIN:                 # of a run before this one: the record has an end
            resolve(r, p, who.forgotten, who.ctx)
        elif pn >= first:
            if pn < arrived or out.lost_packets == 0:
                count_lost(r, pn, p, who, out)
            p.flags |= SENT_VAIN
            r.in_flight -= p.size
            r.outstanding -= 1
            for i in range(p.frames):
                who.again(who.ctx, &r.frame[(p.frame0 + i) & (r.frame_cap - 1)])
    retire(r)


cdef uint64_t recovery_pto(const Recovery *r) noexcept nogil:
    return r.srtt + max(4 * r.rttvar, GRANULARITY) + r.peer_ack_delay   # RFC 9002 6.2.1


cdef uint64_t recovery_deadline(const Recovery *r) noexcept nogil:
    cdef uint64_t wait
    if r.loss_time != 0:
        return r.loss_time
    if r.outstanding == 0:
        return UINT64_MAX
    wait = recovery_pto(r) << min(r.pto_count, MAX_PTO_BACKOFF)
    return r.last_eliciting + max(min(wait, r.max_pto), GRANULARITY)
