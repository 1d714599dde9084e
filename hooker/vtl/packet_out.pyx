"""Building datagrams: headers and control frames in the batch's scratch memory, payload borrowed.

A bulk stream gives datagrams of exactly ``max_datagram`` bytes, one STREAM frame each, so the
carrier can hand a whole batch to UDP GSO.
"""

from libc.stdint cimport UINT32_MAX, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memmove, memset
from hooker.vtl.api cimport *
from hooker.vtl.budget cimport budget_hold, budget_room
from hooker.vtl.builder cimport *
from hooker.vtl.channel cimport first_of
from hooker.vtl.channel_out cimport add_blocks, add_messages
from hooker.vtl.core cimport *
from hooker.vtl.ecn cimport ECN_CE, ECN_ECT0, ecn_mark
from hooker.vtl.fec cimport (
    fec_cover, fec_covering, fec_covers_again, fec_dry, fec_forget, fec_full, fec_repair_size, fec_write,
)
from hooker.vtl.keys cimport keys_overhead, keys_ready, keys_seal
from hooker.vtl.outcome cimport packets_forget
from hooker.vtl.pacing cimport PACING_MIN_RTT, pacing_ready, pacing_spend
from hooker.vtl.pmtu cimport packet_limit, pmtu_room
from hooker.vtl.proof cimport PROOF_OPEN, PROOF_OPEN_ACK, proof_of
from hooker.vtl.recovery cimport (
    LEAST_RECORD, SENT_ECT, SENT_ORDERED, SENT_PROBE, Recovery, recovery_add_frame, recovery_has_room,
    recovery_limited, recovery_memory, recovery_room, recovery_sent,
)
from hooker.vtl.reliability.interface cimport reliability_may_send
from hooker.vtl.sendbuf cimport Segment, sendbuf_at, sendbuf_commit, sendbuf_has_lost, sendbuf_peek
from hooker.vtl.stream cimport QUANTUM, active_add, active_remove, ctrl_remove, stream_sendable
from hooker.vtl.wire cimport *

cdef enum:
    ROOM = 3                   # a path with less than that part of its window in flight has room: bbr's is two products
    BARE_PROBE = 2             # probe timeouts in a row, from when on one of the two probes has no data
    PRUNE_RANGES = 16           # an ACK with more asks to be acknowledged, RFC 9000 13.2.4
    UNKNOWN_RTT = 60000000      # ns between ACKs that do so to learn the round-trip time
    PULSE = 20000000            # ns, at least, between PINGs that go along where nothing else is acknowledged
    MAX_BEHIND = 16384          # packets that may leave meanwhile


cdef bint seal(Builder *d) noexcept nogil:
    """The datagram encrypted, in one piece; its plain parts make room for the next one's."""
    cdef vtl_batch *b = d.b
    cdef uint8_t *out = b.sealed + b.sealed_len
    if not keys_seal(d.a, d.a.rec.next_pn, &b.iov[d.iov0], b.iov_len - d.iov0, DATA_HEADER, out):
        abandon(d)
        assoc_fail(d.a, VTL_DOWN_AEAD_LIMIT)
        return False
    b.iov_len = d.iov0 + 1
    b.scratch_len = d.scratch0
    d.size += TAG_SIZE
    b.sealed_len += d.size
    b.iov[d.iov0].iov_base = out
    b.iov[d.iov0].iov_len = d.size
    return True


# --- frames

cdef void add_ping(Builder *d) noexcept nogil:
    cdef uint8_t *p = put(d, 1)
    if p != NULL:
        p[0] = FR_PING
        record(d, FR_PING, 0, 0, 0, 0)


cdef inline uint32_t clamp32(uint64_t x) noexcept nogil:
    return <uint32_t>x if x < UINT32_MAX else UINT32_MAX


cdef bint wants_answer(const Assoc *a, uint32_t ranges, uint64_t now) noexcept nogil:
    """An ACK that is acknowledged lets us forget ranges, and gives a receiver without an RTT sample, whose probe
    timeout for a window update would be a second, one."""
    if not a.rec.has_rtt:
        return now - a.rec.last_eliciting >= UNKNOWN_RTT
    return ranges >= PRUNE_RANGES and now - a.rec.last_eliciting >= a.rec.srtt


cdef void add_ack(Builder *d, uint64_t now) noexcept nogil:
    cdef Assoc *a = d.a
    cdef RangeSet *r = &a.received
    cdef uint32_t i = r.n - 1, n = 0
    cdef uint64_t gap, length
    cdef bint counts = (a.ecn.received[1] | a.ecn.received[ECN_ECT0] | a.ecn.received[ECN_CE]) > 0
    cdef uint8_t *p = put(d, ACK_HEADER + ACK_ECN_COUNTS if counts else ACK_HEADER)
    cdef uint8_t *q
    if p == NULL:
        return
    memset(p, 0, ACK_HEADER)
    p[0] = FR_ACK
    if counts:
        p[0] = FR_ACK_ECN
        store64(p + ACK_HEADER, a.ecn.received[ECN_ECT0])
        store64(p + ACK_HEADER + 8, a.ecn.received[1])
        store64(p + ACK_HEADER + 16, a.ecn.received[ECN_CE])
    store32(p + 4, clamp32((now - a.largest_at) // 1000))
    store64(p + 8, r.v[i].end - 1)
    store32(p + 16, clamp32(r.v[i].end - 1 - r.v[i].start))
    while i > 0 and r.v[i].end - r.v[i].start <= UINT32_MAX:
        gap = r.v[i].start - r.v[i - 1].end - 1
        length = r.v[i - 1].end - r.v[i - 1].start - 1
        if gap > UINT32_MAX or length > UINT32_MAX:
            break
        q = put(d, ACK_RANGE)
        if q == NULL:
            break
        store32(q, <uint32_t>gap)
        store32(q + 4, <uint32_t>length)
        n += 1
        i -= 1
    p[1] = n
    recovery_add_frame(&a.rec, FR_ACK, 0, 0, r.v[r.n - 1].end - 1, 0)
    if wants_answer(a, n, now):
        add_ping(d)
    a.ack_now = False
    a.unacked = a.urgent = 0
    a.ack_deadline = 0


cdef void add_answer(Builder *d) noexcept nogil:
    """Of the reliability function: what was not taken."""
    cdef Assoc *a = d.a
    cdef uint8_t *p = put(d, a.rel.ops.answer)
    if p == NULL:
        return
    a.rel.ops.write_answer(&a.rel, p)
    if a.unacked == 0:
        a.ack_now = False


cdef void add_pulse(Builder *d, uint64_t now) noexcept nogil:
    """Blocks and messages alone elicit no ACK: now and then something does, and with all that is to be acknowledged."""
    cdef Recovery *r = &d.a.rec
    if d.eliciting or (r.outstanding == 0 and now - r.last_eliciting >= max(r.srtt, <uint64_t>PULSE)):
        d.limit += 1                            # kept free for it, so that a block has the same room in every packet
        add_ping(d)


cdef void put_in_order(Builder *d, uint8_t *head, bint used) noexcept nogil:
    """The reliability function's frame, if something followed it."""
    cdef Assoc *a = d.a
    d.ordered = used
    if used:
        a.rel.ops.write_head(&a.rel, a.rec.next_pn, head)
    else:
        take_back(d, a.rel.ops.head)


cdef bint add_fixed(Builder *d, uint8_t type, Stream *s) noexcept nogil:
    """One control frame of a stream with its current values."""
    cdef uint8_t *p = put(d, frame_size(type))
    if p == NULL:
        return False
    write_prefix(p, type, 0, 0, s.id)
    if type == FR_OPEN:
        p[1] = OPEN_COMMITTED if s.flags & S_COMMITTED else 0
        store64(p + 8, s.locator)
        store64(p + 16, proof_of(d.a, s.key, PROOF_OPEN, p[1], s.id))
        s.flags |= S_OPEN_SENT
    elif type == FR_OPEN_ACK:
        store64(p + 8, proof_of(d.a, s.key, PROOF_OPEN_ACK, 0, s.id))
    elif type == FR_OPEN_REJECT:
        store32(p + 8, s.code)
    elif type == FR_CANCEL:
        store64(p + 8, s.out.next)
    elif type == FR_RESET_STREAM:
        store32(p + 8, s.code)
        store64(p + 12, s.out.next)
    elif type == FR_MAX_STREAM_DATA:
        store64(p + 8, s.recv_max)
    record(d, type, 0, s.id, 0, 0)
    return True


cdef bint add_if(Builder *d, Stream *s, uint32_t what, uint8_t type) noexcept nogil:
    if s.pending & what:
        if not add_fixed(d, type, s):
            return False
        s.pending &= ~what
    return True


cdef void add_control(Builder *d) noexcept nogil:
    """Control frames, oldest request first, as many as fit."""
    cdef Assoc *a = d.a
    cdef Stream *s
    cdef uint8_t *p
    if a.window_due:
        p = put(d, 16)
        if p != NULL:
            write_prefix(p, FR_MAX_DATA, 0, 0, 0)
            store64(p + 8, a.recv_max)
            record(d, FR_MAX_DATA, 0, 0, 0, 0)
            a.window_due = False
    if a.ping_due:
        a.ping_due = False
        add_ping(d)
    while a.ctrl.first != NULL and has_frame_room(d):
        s = a.ctrl.first
        if not (add_if(d, s, P_OPEN, FR_OPEN) and add_if(d, s, P_OPEN_ACK, FR_OPEN_ACK)
                and add_if(d, s, P_REJECT, FR_OPEN_REJECT) and add_if(d, s, P_CONFIRM, FR_CONFIRM)
                and add_if(d, s, P_CANCEL, FR_CANCEL) and add_if(d, s, P_RESET, FR_RESET_STREAM)
                and add_if(d, s, P_WINDOW, FR_MAX_STREAM_DATA)):
            return
        ctrl_remove(&a.ctrl, s)


cdef uint32_t gather(Builder *d, Stream *s, const Segment *g) noexcept nogil:
    """Payload of a segment; less than asked for when the batch runs out of iovecs."""
    cdef uint32_t got = 0
    cdef size_t n = 0
    cdef const uint8_t *p
    while got < g.len:
        p = sendbuf_at(&s.out, g.offset + got, g.again, &n)
        n = min(n, g.len - got)
        if not carry(d, p, n):
            break
        got += n
    return got


cdef inline bint splits_message(const Builder *d, const Stream *s, uint64_t limit) noexcept nogil:
    """A few bytes that TCP would not cut: better at the front of the next packet than in two."""
    cdef uint64_t waiting = min(s.out.end, limit) - s.out.next
    cdef uint64_t room = d.limit - d.size - STREAM_HEADER
    return (room < waiting and waiting <= min(SHORT_MESSAGE, d.limit // 4) and d.size > d.limit // 2
            and not sendbuf_has_lost(&s.out))


cdef bint add_stream(Builder *d, Stream *s) noexcept nogil:
    """One STREAM frame; False: no room for one. One that fills the packet needs no length, and is the last."""
    cdef Assoc *a = d.a
    cdef Segment g
    cdef uint64_t limit = min(s.send_max, s.out.next + (a.send_max - a.send_total))
    cdef bint fin, last
    cdef uint8_t *p
    cdef uint32_t n, head
    if d.limit - d.size <= STREAM_HEADER or splits_message(d, s, limit):
        return False
    if not sendbuf_peek(&s.out, limit, min(d.limit - d.size - STREAM_HEADER, 0xffff), &g):
        g.offset = s.out.next
        g.len = 0
        g.again = False
    last = d.size + STREAM_HEADER + STREAM_LENGTH + g.len > d.limit
    head = STREAM_HEADER if last else STREAM_HEADER + STREAM_LENGTH
    p = put(d, head)
    if p == NULL:
        return False
    n = gather(d, s, &g)
    if n == 0 and g.len > 0:
        take_back(d, head)
        return False
    if last:
        d.limit = d.size
    g.len = n
    sendbuf_commit(&s.out, &g)
    fin = s.flags & (S_FIN_QUEUED | S_FIN_SENT) == S_FIN_QUEUED and g.offset + n == s.out.end
    if fin:
        s.flags |= S_FIN_SENT
    p[0] = FR_STREAM | (STREAM_FIN if fin else 0) | (0 if last else STREAM_LEN)
    store32(p + 1, s.id)
    store32(p + 5, <uint32_t>g.offset)
    if not last:
        store16(p + STREAM_HEADER, n)
    record(d, FR_STREAM, STREAM_FIN if fin else 0, s.id, g.offset, n)
    if g.again:
        a.stream_again += n
    else:
        a.send_total += n
    a.stream_sent += n
    return True


cdef inline bint needs_credit(const Assoc *a, const Stream *s) noexcept nogil:
    """It has only new bytes, and the association has no credit for them."""
    return a.send_total >= a.send_max and not sendbuf_has_lost(&s.out) and s.out.next < s.out.end


cdef void add_streams(Builder *d) noexcept nogil:
    """STREAM frames round robin, a turn being QUANTUM frames."""
    cdef Assoc *a = d.a
    cdef Stream *s
    while a.active.first != NULL and has_frame_room(d):
        s = a.active.first
        if not stream_sendable(s):
            active_remove(&a.active, s)
        elif needs_credit(a, s):
            active_remove(&a.active, s)
            active_add(&a.blocked, s)
            s.in_blocked = True
        else:
            if not add_stream(d, s):
                return
            s.quantum -= 1
            if s.quantum == 0:
                s.quantum = QUANTUM
                active_remove(&a.active, s)
                active_add(&a.active, s)


cdef inline void add_data(Builder *d) noexcept nogil:
    """Streams and channels, each first in every other packet."""
    if d.a.rec.next_pn & 1:
        add_streams(d)
    add_blocks(d)
    if not d.a.rec.next_pn & 1:
        add_streams(d)


# --- packets

cdef bint grow_record(Assoc *a) noexcept nogil:
    """The rings double: a peer that acknowledges nothing makes them long, as far as the budget goes."""
    cdef Recovery *r = &a.rec
    if budget_room(a) < max(2 * recovery_memory(r), LEAST_RECORD) - recovery_memory(r):
        a.ep.count.over_budget += 1
        return False
    recovery_room(r)
    if recovery_memory(r) > a.rings_held:
        budget_hold(a, recovery_memory(r) - a.rings_held)
        a.rings_held = recovery_memory(r)
    return recovery_has_room(r)


cdef inline bint record_room(Assoc *a) noexcept nogil:
    """One more packet can be recorded."""
    return recovery_has_room(&a.rec) or grow_record(a)


cdef bint window_open(Assoc *a, uint64_t now) noexcept nogil:
    if a.probes > 0:
        return True
    if not a.rel.plain:
        if a.rel.ops.once and a.active.first == NULL:   # whoever gave us the blocks sees to it
            return True
        if not reliability_may_send(&a.rel, a.rec.outstanding):
            return False
    return a.rec.in_flight + a.max_datagram + pmtu_room(a) <= a.cc.w.cwnd and pacing_ready(a, now)


cdef inline bint has_data(const Assoc *a) noexcept nogil:
    return a.active.first != NULL or a.busy.first != NULL


cdef inline bint has_lost_blocks(const Assoc *a) noexcept nogil:
    """Of the channel whose turn it is: they come before all that is new."""
    return a.busy.first != NULL and first_of(&a.busy).again != NULL


cdef bint has_frames(const Assoc *a) noexcept nogil:
    return (a.probes > 0 or a.window_due or a.ping_due or a.ctrl.first != NULL or a.words != NULL
            or a.talking.first != NULL or has_data(a))


cdef bint depart(Builder *d, uint64_t now) noexcept nogil:
    """The packet is complete: sealed, recorded, and paid for."""
    cdef Assoc *a = d.a
    cdef vtl_batch *b = d.b
    if a.keys != NULL and not seal(d):
        return False
    finish(d, &a.peer)
    if d.eliciting and a.rec.in_flight == 0 and a.cc.ops.on_restart != NULL:
        a.cc.ops.on_restart(&a.cc, now)
    if d.eliciting:
        b.dgram[b.dgram_len - 1].ecn = ecn_mark(&a.ecn)
    recovery_sent(&a.rec, d.frame0, d.size, d.eliciting, (SENT_ECT if b.dgram[b.dgram_len - 1].ecn else 0)
                  | (SENT_ORDERED if d.ordered else 0), now)
    a.bytes_sent += d.size
    if d.eliciting:
        pacing_spend(a, d.size)
        a.probes -= 1 if a.probes > 0 else 0
        if a.unanswered == 0:
            a.unanswered = now
    return True


cdef inline bint ack_goes_along(const Assoc *a, uint64_t now) noexcept nogil:
    """Packets that are full have one in the last half of its delay only: in each of them it would be 3 % of what they carry."""
    return a.unacked > 0 and (a.ack_now or not a.rel.plain or a.rec.srtt < PACING_MIN_RTT or a.waiting < a.max_datagram
                              or now + a.ep.cfg.max_ack_delay // 2 >= a.ack_deadline)


cdef bint build_packet(Assoc *a, vtl_batch *b, uint64_t now) noexcept nogil:
    """One DATA packet; False: nothing (more) to send now."""
    cdef Builder d
    cdef uint8_t *p
    cdef uint8_t *head = NULL
    cdef uint32_t before
    cdef bint may, covered, again, plain = a.rel.plain, once = not plain and a.rel.ops.once
    if not a.ack_now and not has_frames(a):
        return False
    if once and a.rec.next_pn - a.rec.tail >= MAX_BEHIND:
        packets_forget(a)
    may = has_frames(a) and record_room(a) and window_open(a, now)
    if not may and not (a.ack_now and record_room(a)):
        return False
    if a.keys != NULL and not keys_ready(a):
        return False
    begin(&d, b, a, packet_limit(a) - keys_overhead(a))
    again = has_lost_blocks(a)
    covered = fec_covering(&a.fec) or (again and fec_covers_again(&a.fec, now, a.rec.srtt))
    d.limit -= REPAIR_HEADER if covered else 0      # its repair is to fit, too
    d.limit -= once                     # of the PING
    p = put(&d, DATA_HEADER)
    write_short_header(p, PKT_DATA, a.peer_cid, a.rec.next_pn)
    if ack_goes_along(a, now) or (not plain and a.rel.answer_due and a.received.n > 0):
        add_ack(&d, now)
    if not plain and a.rel.answer_due:
        add_answer(&d)
    if may:
        if not plain and a.rel.ops.head > 0:
            head = put(&d, a.rel.ops.head)
        before = d.size
        add_control(&d)
        add_messages(&d)
        if once:
            add_pulse(&d, now)
        # a peer that has no room for data answers a PING, and so learns what it misses
        if (a.probes != 1 or a.rec.pto_count < BARE_PROBE) and not (once and a.probes > 0):
            add_data(&d)
        if a.probes > 0 and not d.eliciting:
            add_ping(&d)
        if head != NULL:
            put_in_order(&d, head, d.size > before)
    if d.size == DATA_HEADER:
        abandon(&d)
        return False
    if d.eliciting and covered:
        fec_cover(&a.fec, a.rec.next_pn, &b.iov[d.iov0], b.iov_len - d.iov0, DATA_HEADER, a.ep.cfg.max_datagram, again)
    return depart(&d, now)


cdef bint build_repair(Assoc *a, vtl_batch *b, uint64_t now) noexcept nogil:
    """One REPAIR for the packets since the last; False: not now."""
    cdef Builder d
    cdef uint8_t *p
    cdef uint32_t n = fec_repair_size(&a.fec, a.rec.next_pn)
    if (n == 0 or a.probes > 0 or not record_room(a) or not window_open(a, now)
            or (a.keys != NULL and not keys_ready(a))):
        return False
    begin(&d, b, a, a.max_datagram - keys_overhead(a))
    p = put(&d, DATA_HEADER + n)
    if p == NULL:                                   # datagrams became smaller
        fec_forget(&a.fec)
        return False
    write_short_header(p, PKT_DATA, a.peer_cid, a.rec.next_pn)
    fec_write(&a.fec, p + DATA_HEADER)
    record(&d, FR_REPAIR, 0, 0, 0, 0)
    a.ep.count.repairs_sent += 1
    return depart(&d, now)


cdef uint32_t build_path_frame(Assoc *a, vtl_batch *b, const vtl_addr *to, uint8_t type, uint64_t data,
                               uint32_t size, bint ping, uint64_t now) noexcept nogil:
    cdef Builder d
    cdef uint8_t *p
    if not record_room(a) or (a.keys != NULL and not keys_ready(a)):
        return 0
    size -= keys_overhead(a)
    begin(&d, b, a, size)
    p = put(&d, DATA_HEADER + PATH_FRAME)
    write_short_header(p, PKT_DATA, a.peer_cid, a.rec.next_pn)
    write_prefix(p + DATA_HEADER, type, 0, 0, 0)
    store64(p + DATA_HEADER + 8, data)
    if ping:
        put(&d, 1)[0] = FR_PING
    if d.size < size:
        lend(&d, a.ep.zeros, size - d.size)
    if a.keys != NULL and not seal(&d):
        return 0
    finish(&d, to)
    recovery_sent(&a.rec, d.frame0, d.size, False, 0, now)  # its loss says nothing of the path in use
    a.bytes_sent += d.size
    return d.size


cdef bint build_mtu_probe(Assoc *a, vtl_batch *b, uint32_t size, uint64_t now) noexcept nogil:
    cdef Builder d
    if not record_room(a) or (a.keys != NULL and not keys_ready(a)):
        return False
    begin(&d, b, a, size - keys_overhead(a))
    write_short_header(put(&d, DATA_HEADER), PKT_DATA, a.peer_cid, a.rec.next_pn)
    add_ping(&d)
    lend(&d, a.ep.zeros, d.limit - d.size)
    if a.keys != NULL and not seal(&d):
        return False
    finish(&d, &a.peer)
    b.dgram[b.dgram_len - 1].alone = True
    recovery_sent(&a.rec, d.frame0, d.size, True, SENT_PROBE, now)
    a.bytes_sent += d.size
    pacing_spend(a, d.size)
    if a.unanswered == 0:
        a.unanswered = now
    return True


cdef void build_init(Assoc *a, vtl_batch *b) noexcept nogil:
    """INIT, or the INIT_ACK that answers one, padded so that the path's size is proven."""
    cdef Builder d
    cdef Init i
    cdef uint8_t *p
    cdef uint32_t n
    begin(&d, b, NULL, a.hs_size)
    n = a.ep.cfg.n_versions
    p = put(&d, HEADER_SIZE + 4 * n + (INIT_FIXED if a.initiator else INIT_ACK_FIXED))
    if a.initiator:
        i.scid = a.cid
        i.max_ack_delay_us = <uint32_t>(a.ep.cfg.max_ack_delay // 1000)
        i.max_data = a.recv_max
        i.max_stream_data = a.ep.cfg.stream_window
        i.cookie_cid = a.cookie_cid
        i.cookie_time = a.cookie_time
        i.cookie_mac = a.cookie_mac
        i.reliability = a.wanted.code
        i.versions.n = n
        write_init(p, &i)
        p += HEADER_SIZE + INIT_FIXED
    else:
        write_header(p, PKT_INIT_ACK, a.peer_cid, a.cid)
        p += HEADER_SIZE
        store32(p, a.version)
        store32(p + 4, <uint32_t>(a.ep.cfg.max_ack_delay // 1000))
        store64(p + INIT_ACK_WINDOWS, a.recv_max)
        store64(p + INIT_ACK_WINDOWS + 8, a.ep.cfg.stream_window)
        store32(p + 24, n << 24)
        p[INIT_ACK_FUNCTION] = a.rel.ops.code
        p += INIT_ACK_FIXED
    write_versions(p, a.ep.cfg.versions, n)
    if a.ep.cfg.keys > 0:
        sign(&d, &a.ep.psk[a.psk])
    if d.size < a.hs_size:
        lend(&d, a.ep.zeros, a.hs_size - d.size)
    finish(&d, &a.peer)
    b.dgram[b.dgram_len - 1].alone = True
    a.bytes_sent += d.size
    a.hs_send = False


cdef bint packets_build(Assoc *a, vtl_batch *b, uint64_t now) noexcept nogil:
    while a.state >= A_COOKIE:
        if not batch_room(b) or not sealed_room(a, b):
            return False
        if a.fec.n > 0 and fec_full(&a.fec, a.rec.next_pn) and build_repair(a, b, now):
            continue
        if not build_packet(a, b, now):
            if not has_data(a) and a.ep.cfg.fec and a.rel.ops.fec:
                fec_dry(&a.fec, a.rec.in_flight > 0, a.cc.w.cwnd // 2)
                if a.rec.in_flight < a.cc.w.cwnd // ROOM:
                    a.fec.room_at = now
                if a.fec.n > 0:
                    build_repair(a, b, now)
            if (a.rec.in_flight + a.max_datagram <= a.cc.w.cwnd
                    and (not has_data(a) or not reliability_may_send(&a.rel, a.rec.outstanding))):
                recovery_limited(&a.rec)
            return True
    return True
