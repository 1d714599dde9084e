"""What the local TCP is given: bytes as they were gathered, and acknowledgements, windows, probes, resets.

The machine counts positions modulo 2^32, the twin in 64 bits. Only differences mean anything, so a twin begins one turn up:
nothing it subtracts goes below zero, however near the beginning the connection stands.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from hooker.engine.peers cimport refuse
from hooker.engine.record cimport record_numbers, record_read
from hooker.engine.stamp cimport stamp_seen
from hooker.engine.worker cimport *
from hooker.flow.machine cimport flow_injected
from hooker.flow.messages cimport DATA_FIN, DATA_PSH, DATA_URG, Message
from hooker.includes.hk cimport HK_APP_LINGERS, HK_TCP_SACK, HK_TCP_TIMESTAMPS
from hooker.includes.linux cimport hk_load32, iovec
from hooker.tcp.numbers cimport FAR
from hooker.tcp.segment cimport MAX_HEADERS
from hooker.tcp.twin cimport *
from hooker.engine.tun cimport tun_gather, tun_put, tun_write

cdef enum:
    SMALL = 1460               # bytes that are copied: a packet of Ethernet's size
    QUEUE = 2 << 20            # bytes of a flow that the transport may have unsent: some batches of datagrams
    QUEUES = 4 << 20           # of all flows of an association
    SHORT_QUEUES = 256 << 10   # the same, where the network is slow
    LEAST_QUEUE = 128 << 10    # of a flow, whatever the others have
    CROWD = 64                 # flows have their least part of all ...
    LEAST_OF_CROWD = 8 << 10   # ... but for that
    SMALLEST_MSS = 48          # that a twin begins with
    LEAST_MSS = 536            # RFC 9293 3.7.1, where nothing is known
    ROOMY = 8                  # segments: a window that has been as wide opens again for more than one
    ROOMY_FOR = 16             # acknowledgements that show a narrower one, until that is forgotten

cdef extern from * nogil:
    """
    #define HK_TURN ((uint64_t)1 << 32)
    """
    const uint64_t TURN "HK_TURN"


cdef inline uint64_t widen(uint32_t position, uint64_t near) noexcept nogil:
    return near + <int32_t>(position - <uint32_t>near)

cdef inline uint32_t ahead(uint32_t edge, uint32_t position) noexcept nogil:
    """How far; 0 if it is behind."""
    return edge - position if <int32_t>(edge - position) > 0 else 0


# ---- the twin ----------------------------------------------------------------------------------------

cdef void addresses(const flow *f, twin_start *s) noexcept nogil:
    cdef uint32_t mss = hk_load32(&f.rec.mss) if f.rec != NULL else 0     # the kernel program may write it meanwhile
    memset(s, 0, sizeof(twin_start))
    s.version = f.ends.version
    memcpy(s.local, f.ends.local, 16)
    memcpy(s.remote, f.ends.remote, 16)
    s.local_port, s.remote_port = f.ends.local_port, f.ends.remote_port
    s.local_isn, s.remote_isn = f.local_isn, f.remote_isn
    s.local_wscale, s.remote_wscale = f.local_wscale, f.remote_wscale
    s.timestamps, s.sack = f.tcp_options & HK_TCP_TIMESTAMPS, f.tcp_options & HK_TCP_SACK
    s.mss = f.mss if f.mss else LEAST_MSS
    if 0 < mss < 0xFFFF:
        s.mss = <uint16_t>mss
    s.mss = max(s.mss, <uint16_t>SMALLEST_MSS)      # no wire is behind the device
    s.ts_local, s.ts_remote = f.f.tsval, f.ts_recent
    s.away_us = f.f.rtt_us


cdef inline uint32_t a_segment(const flow *f) noexcept nogil:
    return max(f.longest, f.active.t.mss)


cdef inline void note_room(flow *f, uint32_t window, bint progress) noexcept nogil:
    if window >= ROOMY * a_segment(f):
        f.roomy = ROOMY_FOR
    elif progress and f.roomy:
        f.roomy -= 1


cdef inline void note_edge(flow *f, uint32_t window) noexcept nogil:
    """A TCP that moves its edge says what its rounding makes of its buffer. What is left of a window below an edge that stays
    is less than a segment by wire, too, and the edge moves when its application reads."""
    if widen(f.f.peer_edge, f.active.t.up_edge) > f.active.t.up_edge:
        f.narrow = window < a_segment(f)


cdef uint32_t at_least_a_segment(const flow *f, uint32_t window) noexcept nogil:
    """A window that is open, but for less than one of its segments, the local TCP leaves alone for each persist timer anew.

    By the wire it would not come to this: the other TCP opens its window by the size of the segments that come (RFC 9293
    3.8.6.2.2), which are others here. What exceeds the window the other engine keeps (DO_KEEP).

    Not where the window has been wide: it is about to close, and a TCP that has sent beyond it waits for its retransmission
    timer, which has doubled and doubled when the reader goes on, and not for the window's update. Nor where its edge has not
    moved: the pieces into which a segment is cut there are all that the other TCP sees, so it would round by those, and in time
    open its window for less than this TCP's segment, on the wire, too, where nobody shows it more.
    """
    cdef uint32_t least = a_segment(f)
    if window == 0 or window >= least or f.roomy or not f.narrow:
        return window
    return least + (<uint32_t>1 << f.remote_wscale) - 1       # as it is said, it is rounded down


cdef uint32_t granted(const flow *f) noexcept nogil:
    """Bytes beyond snd_una that the remote TCP takes, as far as anybody here knows."""
    cdef uint32_t window = max(ahead(f.f.peer_edge, f.f.snd_una), f.f.snd_nxt - f.f.snd_una), since
    cdef record_numbers n
    if f.rec != NULL and f.marks and record_read(f.rec, &n):                # what it said on the wire
        since = f.f.snd_una - (n.snd_una - f.local_isn)                   # gigabytes, perhaps
        if since < n.snd_wnd:
            window = max(window, n.snd_wnd - since)
    return at_least_a_segment(f, min(window, <uint32_t>FAR))


cdef void twin_begin(worker *w, flow *f) noexcept nogil:
    cdef twin_start s
    addresses(f, &s)
    s.acked = TURN + f.f.snd_una
    s.sent = s.acked + (f.f.snd_nxt - f.f.snd_una)
    s.edge = s.acked + granted(f)
    s.received, s.window = TURN + f.f.rcv_ack, f.f.rcv_edge - f.f.rcv_ack
    if twin_init(&f.active.t, &s):
        f.bits |= F_TWIN
        note_room(f, max(<uint32_t>(s.edge - s.acked), <uint32_t>f.granted << f.remote_wscale), False)


cdef void twin_resume(flow *f) noexcept nogil:
    """Of a flow that was at rest: all was acknowledged."""
    cdef twin_start s
    addresses(f, &s)
    s.acked = s.sent = TURN + f.f.snd_una
    s.edge = s.acked + ahead(f.shown_edge, f.f.snd_una)
    s.received, s.window = TURN + f.f.rcv_ack, f.f.rcv_edge - f.f.rcv_ack
    s.rested = True
    if twin_init(&f.active.t, &s):
        f.bits |= F_TWIN


cdef inline uint64_t less(uint64_t limit, uint64_t taken) noexcept nogil:
    return limit - taken if taken < limit else 0


cdef inline uint64_t busy(const Channel *c) noexcept nogil:
    """Bytes that may wait for the network, of all flows beside this one."""
    cdef uint64_t enough = c.ops.enough(c) if c.ops.enough != NULL else 0
    return min(max(enough, <uint64_t>SHORT_QUEUES), <uint64_t>QUEUES) if enough else QUEUES


cdef uint64_t shown(const flow *f, uint64_t edge) noexcept nogil:
    """The local TCP sees no loss here, so its congestion window only grows, and all that the remote one's window takes would wait
    in the channel: long round trips for everybody, and too much memory for any cache. So it is shown no more of that window than
    keeps the transport busy. Never less than it was shown before (RFC 9293 3.8.6)."""
    cdef uint64_t waiting, all, room, queues, least
    if f.channel == NULL:
        return edge
    waiting, all = f.channel.ops.waiting(f.channel), f.channel.ops.all_waiting(f.channel)
    queues = busy(f.channel)
    least = min(<uint64_t>LEAST_QUEUE, max(queues // CROWD, <uint64_t>LEAST_OF_CROWD))
    room = min(less(QUEUE, waiting), max(less(queues, all), less(least, waiting)))
    return min(edge, max(widen(f.f.snd_nxt, f.active.t.up_edge) + room, f.active.t.up_edge))


cdef void twin_told(worker *w, flow *f) noexcept nogil:
    cdef uint32_t window = ahead(f.f.peer_edge, f.f.snd_una)
    cdef uint64_t acked = widen(f.f.snd_una, f.active.t.up_acked), edge
    note_room(f, window, acked > f.active.t.up_acked)
    note_edge(f, window)
    edge = widen(f.f.snd_una + at_least_a_segment(f, window), f.active.t.up_edge)
    twin_acked(&f.active.t, acked, shown(f, edge))
    if edge + (<uint64_t>1 << f.remote_wscale) <= f.active.t.up_edge:     # not what only the shift has rounded
        twin_withdraw(&f.active.t, edge)
    if f.bits & F_ASKED:
        f.bits &= ~<uint16_t>F_ASKED
        f.active.t.flags |= TWIN_PROMPT
    is_due(w, f)


cdef void is_due(worker *w, flow *f) noexcept nogil:
    if f.bits & F_DIRTY or not f.bits & F_TWIN or not twin_wants_ack(&f.active.t):
        return
    f.bits |= F_DIRTY
    f.active.dirty_next = w.dirty
    w.dirty = f


cdef inline bint is_reached(const flow *f) noexcept nogil:
    """Its own segments come this way, and it is there: else the kernel would answer what is injected with a RST."""
    cdef uint32_t closed
    if f.bits & F_STEERED or f.rec == NULL:
        return not f.bits & F_STEERED
    closed = hk_load32(&f.rec.app_closed)
    return not hk_load32(&f.rec.steered) and (closed == 0 or closed == HK_APP_LINGERS)


cdef void flush_acks(worker *w) noexcept nogil:
    cdef flow *f
    cdef twin_segment out
    while w.dirty != NULL:
        f = w.dirty
        w.dirty = f.active.dirty_next
        f.bits &= ~<uint16_t>F_DIRTY
        if f.bits & F_TWIN and twin_wants_ack(&f.active.t) and is_reached(f):
            stamp_seen(f)
            twin_ack(&f.active.t, NULL, &out)
            tun_write(w.tun_fd, &out, &w.tun)
            w.n.acks += 1


cdef void give_sack(worker *w, flow *f, const Message *m) noexcept nogil:
    """What the remote TCP has behind a hole: the local one repeats what is missing, as if the wire had told it."""
    cdef twin_segment out
    cdef ack_extra x
    cdef uint64_t start
    cdef uint32_t i
    memset(&x, 0, sizeof(x))
    for i in range(m.blocks):
        start = widen(m.sack[2 * i], f.active.t.up_acked)
        if start > f.active.t.up_acked:                # below it would say that something came twice
            x.sack[x.sacks][0], x.sack[x.sacks][1] = start, widen(m.sack[2 * i + 1], f.active.t.up_acked)
            x.sacks += 1
    if not x.sacks or not is_reached(f):
        return
    stamp_seen(f)
    twin_ack(&f.active.t, &x, &out)
    w.n.acks += 1
    tun_write(w.tun_fd, &out, &w.tun)


# ---- probes and resets -------------------------------------------------------------------------------

cdef bint before_the_twin(const flow *f, twin *t) noexcept nogil:
    """One for a probe or a nudge only: what is known of where the socket stands.

    Never a window of nothing: the socket would believe it, and wait for its persist timer. Where none is known
    it is the smallest, which the socket has heard better of with that number (RFC 9293 3.10.7.4, SND.WL1).
    """
    cdef twin_start s
    cdef record_numbers n
    cdef uint32_t window = <uint32_t>f.granted << f.remote_wscale
    addresses(f, &s)
    s.acked = s.sent = TURN + f.f.snd_una
    s.received = TURN + f.f.rcv_ack
    if not f.bits & F_ENGAGED and f.rec != NULL and record_read(f.rec, &n) and n.marks:
        s.acked = s.sent = TURN + (n.snd_una - f.local_isn)
        s.received = TURN + (n.rcv_nxt - f.remote_isn)
        window = n.snd_wnd
    s.edge = s.acked + min(max(window, <uint32_t>1 << f.remote_wscale), <uint32_t>FAR)
    return twin_init(t, &s)


cdef void give_probe(worker *w, flow *f, bint byte) noexcept nogil:
    cdef twin early
    cdef twin_segment out
    if not is_reached(f):
        return
    if f.bits & F_TWIN:
        twin_probe(&f.active.t, byte, &out)
    elif before_the_twin(f, &early):
        twin_probe(&early, byte, &out)
    else:
        return
    w.n.probes += 1
    tun_write(w.tun_fd, &out, &w.tun)


cdef void give_nudge(worker *w, flow *f) noexcept nogil:
    cdef twin early
    cdef twin_segment out
    if not is_reached(f) or not before_the_twin(f, &early):
        return
    twin_ack(&early, NULL, &out)
    w.n.acks += 1
    tun_write(w.tun_fd, &out, &w.tun)


cdef void give_reset(worker *w, flow *f) noexcept nogil:
    cdef twin early
    cdef twin_segment out
    if not is_reached(f):
        return
    if f.bits & F_TWIN:
        twin_reset(&f.active.t, &out)
    elif before_the_twin(f, &early):
        twin_reset(&early, &out)                # nobody answers a RST, so it need not have been seen at hk0
    else:
        return
    w.n.resets += 1
    tun_write(w.tun_fd, &out, &w.tun)


# ---- bytes -------------------------------------------------------------------------------------------

cdef bint write_small(worker *w, const stretch *r, const twin_segment *s) noexcept nogil:
    """In one piece: to copy a small packet costs less than the kernel's looking for its parts."""
    cdef uint8_t packet[MAX_HEADERS + SMALL]
    cdef uint8_t *at = packet + s.header
    cdef size_t skip = <size_t>s.data, left = s.length, n
    cdef uint32_t i
    memcpy(packet, s.head, s.header)
    for i in range(1, r.count + 1):
        if skip >= r.part[i].iov_len:
            skip -= r.part[i].iov_len
            continue
        n = min(r.part[i].iov_len - skip, left)
        memcpy(at, <const uint8_t *>r.part[i].iov_base + skip, n)
        at += n
        left -= n
        skip = 0
        if left == 0:
            break
    return tun_put(w.tun_fd, packet, at - packet, &w.tun)


cdef bint write_part(worker *w, const stretch *r, const twin_segment *s) noexcept nogil:
    """Headers and `length` bytes of the run, of which `data` is the offset."""
    cdef iovec v[1 + PARTS]
    cdef size_t skip = <size_t>s.data, left = s.length
    cdef uint32_t i
    cdef int n = 1
    if s.length <= SMALL:
        return write_small(w, r, s)
    v[0].iov_base, v[0].iov_len = <void *>s.head, s.header
    for i in range(1, r.count + 1):
        if left == 0:
            break
        if skip >= r.part[i].iov_len:
            skip -= r.part[i].iov_len
            continue
        v[n].iov_base = <uint8_t *>r.part[i].iov_base + skip
        v[n].iov_len = min(r.part[i].iov_len - skip, left)
        left -= v[n].iov_len
        skip = 0
        n += 1
    return tun_gather(w.tun_fd, v, n, &w.tun)


cdef uint32_t delivery_flags(uint8_t flags) noexcept nogil:
    return ((DELIVER_FIN if flags & DATA_FIN else 0) | (DELIVER_PUSH if flags & DATA_PSH else 0)
            | (DELIVER_URGENT if flags & DATA_URG else 0))


cdef inline uint16_t segments_of(const flow *f) noexcept nogil:
    """Bytes in which the remote TCP sends, where that counts: a TCP without a window scale opens its window by the size of the
    segments that come (RFC 9293 3.8.6.2.2). The local one's are others, and a window that is rounded by those is less than a
    segment for the remote one, which then waits for its persist timer each time, on the wire, too. 0: it does not count."""
    return 0 if f.local_wscale else max(f.theirs, <uint16_t>SMALLEST_MSS)


cdef void give(worker *w, flow *f, const stretch *r) noexcept nogil:
    cdef delivery d
    cdef twin_segment out
    memset(&d, 0, sizeof(d))
    d.position, d.length = widen(r.position, f.active.t.down_acked), r.n
    d.flags, d.urgent, d.segment = delivery_flags(r.flags), d.position + r.n, segments_of(f)
    stamp_seen(f)
    while is_reached(f) and twin_deliver(&f.active.t, &d, w.now, &out):
        w.n.injected += 1
        w.n.injected_bytes += out.length
        f.bytes_in += out.length
        if not write_part(w, r, &out):
            refuse(w, f, d.position - out.length)
    flow_injected(&f.f, <uint32_t>d.position, w.now)    # a window that was larger holds: no wire has brought these
    is_due(w, f)
