"""A transport over QUIC (RFC 9000): one warm connection for a pair of hosts.

quic_conn.pyx has a connection, quic_doors.pyx who begins one, quic_core.pyx how long an association lasts,
quic_tls.pyx who is believed. Here is what the engine asks for. Its UDP port is the next one behind the
engine's.
"""

from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset
from hooker.carriers.contract cimport *
from hooker.flow.messages cimport Message
from hooker.includes.clock cimport clock_ns
from hooker.includes.linux cimport EADDRNOTAVAIL, EMSGSIZE, EPOLLERR, EPOLLIN, errno
from hooker.includes.ngtcp2 cimport *
from hooker.transports.contract cimport *
from hooker.transports.quic_conn cimport *
from hooker.transports.quic_core cimport *
from hooker.transports.quic_doors cimport QuicDoors, datagram_in, path_error
from hooker.transports.quic_lanes cimport LANES, lane_waits
from hooker.transports.quic_tls cimport SECRET_SIZE, tls_keys_free, tls_keys_init
from hooker.transports.queues cimport *
from hooker.transports.sources cimport FAIR_SOURCES, sources_init
from hooker.vtl.api cimport iovec, vtl_datagram

from hooker.carriers import Settings as CarrierSettings, udp
from hooker.transports import check_congestion
from hooker.transports.quic_tls import derived

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *buf, size_t n, unsigned int flags)

cdef enum:
    WIRE_ID = 10
    TURNS = 256                # of associations, in one round
    PATH_ERRORS = 16           # in one round
    LATE_BATCHES = 256         # of datagrams, after a silence
    FULL_PAUSE = 100000        # ns until a full socket is tried again
    BUDGET = 64 << 20          # bytes that peers may make us hold, if the engine's own is not less
    LAST_PORT = 65535

cdef struct QuicStats:         # as in a row
    uint64_t srtt_ns, rttvar_ns, min_rtt_ns, cwnd, bytes_in_flight
    uint64_t bytes_sent, bytes_received, messages_received, waiting
    uint32_t streams, up, channels, outgoing


# ---- datagrams ---------------------------------------------------------------------------------------

cdef int qu_open(Transport *base, uint16_t port, uint16_t *bound) noexcept nogil:
    cdef QuicTransport *t = T(base)
    cdef uint16_t ours = 0
    cdef int r, which, fd
    if port == LAST_PORT:
        return -EADDRNOTAVAIL
    r = t.carrier.ops.open(t.carrier, port + 1 if port else 0, &ours)
    if r < 0:
        bound[0] = port + 1 if port else 0      # what was tried
        return r
    for which in range(C_DESCRIPTORS):
        fd = t.carrier.ops.descriptor(t.carrier, which)
        if fd >= 0 and watch_file(base, fd, EPOLLIN, which) < 0:
            r = -errno
            t.carrier.ops.close(t.carrier)
            return r
    bound[0] = ours - 1
    return 0


cdef int take_datagrams(QuicTransport *t, int which) noexcept nogil:
    """A batch from the network; how many trains."""
    cdef Carrier *c = t.carrier
    cdef Datagram d
    cdef uint32_t offset
    cdef int i, trains = c.ops.receive(c, which)
    for i in range(trains):
        offset = 0
        while c.ops.split(c, i, &offset, &d):
            datagram_in(t, &d)
    settle(t)
    return trains


cdef void take_path_errors(QuicTransport *t, int which) noexcept nogil:
    cdef PathError e
    cdef int i, error
    for i in range(PATH_ERRORS):
        error = t.carrier.ops.error(t.carrier, which, &e)
        if error == 0:
            return
        path_error(t, &e, error)


cdef void set_now(QuicTransport *t, uint64_t now) noexcept nogil:
    t.now = max(t.now, now)                         # to the library time does not go back


cdef void qu_ready(Transport *base, uint32_t own, uint32_t events, uint64_t now) noexcept nogil:
    set_now(T(base), now)
    if events & EPOLLERR:
        take_path_errors(T(base), own)
    take_datagrams(T(base), own)


cdef void qu_catch_up(Transport *base, uint64_t now) noexcept nogil:
    cdef QuicTransport *t = T(base)
    cdef int which, i
    set_now(t, now)
    for which in range(C_DESCRIPTORS):
        for i in range(LATE_BATCHES):
            if t.carrier.ops.descriptor(t.carrier, which) < 0 or take_datagrams(t, which) <= 0:
                break


cdef void take_down(QuicTransport *t) noexcept nogil:
    cdef QuicAssociation *a
    while t.dead != NULL:
        a = t.dead
        t.dead = a.dead_next
        leave_ready(t, a)
        if a.farewell and a.tls.conn != NULL:
            conn_farewell(a)
        out_down(&a.out)
        if a.announced:
            t.base.sink.assoc_down(t.base.sink.ctx, &a.base, <down_reason>a.why)
        association_free(t, a)


cdef void qu_flush(Transport *base, uint64_t now) noexcept nogil:
    cdef QuicTransport *t = T(base)
    cdef QuicAssociation *a
    cdef int i
    set_now(t, now)
    t.begun = 0
    take_down(t)
    for i in range(TURNS):
        if t.ready_first == NULL or (t.batch.dgram_len == TX_PACKETS and not datagrams_out(t)):
            break
        a = next_ready(t)
        if a.state != QUIC_DEAD:
            conn_write(a)
    datagrams_out(t)
    take_down(t)
    shared_release(&t.shared)


# ---- time --------------------------------------------------------------------------------------------

cdef void qu_on_time(Transport *base, uint64_t now) noexcept nogil:
    cdef QuicTransport *t = T(base)
    cdef QuicAssociation *a
    cdef uint32_t i
    set_now(t, now)
    if t.next_due > now:
        return
    t.next_due = UINT64_MAX
    for i in range(t.top):
        a = t.slots[i]
        if a == NULL or a.state == QUIC_DEAD:
            continue
        if a.due <= now:
            is_due(a)
        if a.state != QUIC_DEAD and a.expiry <= now:
            conn_expired(a)
        t.next_due = min(t.next_due, min(a.due, a.expiry))


cdef uint64_t qu_deadline(Transport *base) noexcept nogil:
    cdef QuicTransport *t = T(base)
    if t.batch_at < t.batch.dgram_len:
        return clock_ns() + FULL_PAUSE
    return 0 if t.ready_first != NULL or t.dead != NULL else t.next_due


# ---- memory, and the end -----------------------------------------------------------------------------

cdef uint64_t qu_held_less(const Transport *t) noexcept nogil:
    return (<const QuicTransport *>t).held_peak - (<const QuicTransport *>t).sources.held


cdef void qu_held_noted(Transport *t) noexcept nogil:
    T(t).held_peak = T(t).sources.held


cdef void qu_note(Transport *base) noexcept nogil:
    cdef QuicTransport *t = T(base)
    cdef Carrier *c = t.carrier
    t.n.sent, t.n.received, t.n.send_errors = c.sent, c.received, c.send_errors
    t.n.send_calls, t.n.recv_calls = c.send_calls, c.recv_calls
    t.noted = t.n
    t.noted.associations, t.noted.strangers_now, t.noted.held = t.count, t.strangers, t.sources.held


cdef void qu_close_files(Transport *t) noexcept nogil:
    T(t).carrier.ops.close(T(t).carrier)


cdef void qu_shut(Transport *base) noexcept nogil:
    cdef QuicTransport *t = T(base)
    qu_close_files(base)
    while t.top:
        if t.slots[t.top - 1] == NULL:
            t.top -= 1
        else:
            association_free(t, t.slots[t.top - 1])
    t.dead = t.ready_first = t.ready_last = NULL
    t.batch.dgram_len = t.batch.iov_len = t.batch_at = 0
    shared_end(&t.shared)


cdef void qu_free(Transport *base) noexcept nogil:
    cdef QuicTransport *t = T(base)
    qu_shut(base)
    t.carrier.ops.free(t.carrier)
    tls_keys_free(&t.tls)
    free(t.batch.iov)
    free(t.batch.dgram)
    free(t.tx)
    free(t.rx)
    free(t)


# ---- associations ------------------------------------------------------------------------------------

cdef Association *qu_connect(Transport *base, const PeerAddress *to, uint64_t now) noexcept nogil:
    """Of several the one that was heard last."""
    cdef QuicTransport *t = T(base)
    cdef QuicAssociation *found = NULL
    cdef QuicAssociation *a
    cdef uint32_t i
    set_now(t, now)
    for i in range(t.top):
        a = t.slots[i]
        if (a != NULL and (a.state == QUIC_CONNECTING or a.state == QUIC_UP) and a.peer.port == to.port
                and memcmp(a.peer.ip, to.ip, 16) == 0 and (found == NULL or a.heard > found.heard)):
            found = a
    if found != NULL:
        return &found.base
    a = association_new(t, to)
    if a == NULL:
        return NULL
    t.n.connects += 1
    a.outgoing = a.announced = True
    a.state = QUIC_CONNECTING
    memcpy(a.remote.ip, to.ip, 16)
    a.remote.port = to.port + 1
    if to.port == LAST_PORT or not conn_begin(a):
        fail(a, DOWN_UNREACHABLE)
    return &a.base


cdef bint qu_is_up(const Association *a) noexcept nogil:
    return A(a).state == QUIC_UP


cdef const PeerAddress *qu_peer(const Association *a) noexcept nogil:
    return &A(a).peer


cdef uint64_t qu_patience(const Association *base) noexcept nogil:
    return patience(A(base)) if A(base).state == QUIC_UP else 0


cdef int qu_say(Association *base, const Message *m) noexcept nogil:
    cdef QuicAssociation *a = A(base)
    if a.state == QUIC_DEAD or out_say(&a.out, m) < 0:
        return -1
    make_ready(a)
    return 0


cdef void qu_hold(Association *a) noexcept nogil:
    A(a).holds += 1
    use_changed(A(a))


cdef void qu_let_go(Association *a) noexcept nogil:
    A(a).holds -= 1
    use_changed(A(a))


cdef void qu_close(Association *base, uint64_t now) noexcept nogil:
    cdef QuicAssociation *a = A(base)
    set_now(of(a), now)
    a.farewell = True
    fail(a, DOWN_CLOSED)


cdef void qu_stats(const Association *base, uint8_t *row) noexcept nogil:
    cdef QuicAssociation *a = A(base)
    cdef QuicStats *s = <QuicStats *>row
    cdef ngtcp2_conn_stat c
    cdef uint32_t i
    memset(s, 0, sizeof(QuicStats))
    if a.tls.conn != NULL:
        ngtcp2_conn_get_conn_stat(a.tls.conn, &c)
        s.srtt_ns, s.rttvar_ns, s.min_rtt_ns = c.smoothed_rtt, c.rttvar, c.min_rtt
        s.cwnd, s.bytes_in_flight = c.cwnd, c.bytes_in_flight
    s.bytes_sent, s.bytes_received, s.messages_received = a.bytes_sent, a.bytes_received, a.messages_received
    s.waiting = a.out.waiting
    for i in range(LANES + 1):
        s.waiting += lane_waits(&a.lanes[i])
    s.up, s.channels, s.outgoing = a.state == QUIC_UP, a.out.channels, a.outgoing


cdef void qu_take(Association *a, take_kind what, int64_t n) noexcept nogil:
    A(a).taken[<int>what] += <uint64_t>n
    A(a).source.taken[<int>what] += <uint64_t>n


cdef uint64_t qu_taken(const Association *a, take_kind what) noexcept nogil:
    return A(a).source.taken[<int>what]


cdef uint32_t qu_sources(const Association *a) noexcept nogil:
    return max(of(A(a)).sources.n, <uint32_t>FAIR_SOURCES)


# ---- channels ----------------------------------------------------------------------------------------

cdef inline QuicAssociation *owner_of(const Channel *c) noexcept nogil:
    """NULL: it is down."""
    cdef Outgoing *o = (<QueueChannel *>c).out
    cdef size_t before = <size_t>&(<QuicAssociation *>NULL).out
    return <QuicAssociation *>(<uint8_t *>o - before) if o != NULL else NULL


cdef Channel *qu_channel(Association *base, void *user) noexcept nogil:
    """On the lane that has the fewest."""
    cdef QuicAssociation *a = A(base)
    cdef QueueChannel *q
    cdef uint32_t i, best = 0
    if a.state == QUIC_DEAD:
        return NULL
    q = <QueueChannel *>channel_new(&a.out, user)
    if q == NULL:
        return NULL
    for i in range(LANES):
        if a.lanes[1 + i].channels < a.lanes[1 + best].channels:
            best = i
    q.lane, q.lane_end = best, a.lanes[1 + best].acked
    a.lanes[1 + best].channels += 1
    use_changed(a)
    return &q.base


cdef void qu_channel_close(Channel *c) noexcept nogil:
    cdef QuicAssociation *a = owner_of(c)
    if a != NULL:
        a.lanes[1 + (<QueueChannel *>c).lane].channels -= 1
    channel_free(c)
    if a == NULL:
        return
    use_changed(a)
    make_ready(a)


cdef int qu_send(Channel *c, const Message *m, void *owner) noexcept nogil:
    cdef QuicAssociation *a = owner_of(c)
    if a == NULL or a.state == QUIC_DEAD or channel_send(c, m, owner) < 0:
        return -1
    make_ready(a)
    return 0


cdef void qu_report(Channel *c) noexcept nogil:
    cdef QuicAssociation *a = owner_of(c)
    if a != NULL and a.state != QUIC_DEAD:
        channel_report(c)
        make_ready(a)


cdef bint qu_at_rest(const Channel *c) noexcept nogil:
    """Behind DATA that is under way on one lane, more on another one would overtake it."""
    cdef QuicAssociation *a = owner_of(c)
    cdef const QueueChannel *q = <const QueueChannel *>c
    return channel_at_rest(c) and (a == NULL or a.lanes[1 + q.lane].acked >= q.lane_end)


cdef TransportOps OPS
OPS.open = qu_open
OPS.ready = qu_ready
OPS.catch_up = qu_catch_up
OPS.deadline = qu_deadline
OPS.on_time = qu_on_time
OPS.flush = qu_flush
OPS.held_less = qu_held_less
OPS.held_noted = qu_held_noted
OPS.note = qu_note
OPS.close_files = qu_close_files
OPS.shut = qu_shut
OPS.free = qu_free
OPS.connect = qu_connect
OPS.is_up = qu_is_up
OPS.peer = qu_peer
OPS.patience = qu_patience
OPS.say = qu_say
OPS.hold = qu_hold
OPS.let_go = qu_let_go
OPS.close = qu_close
OPS.stats = qu_stats
OPS.take = qu_take
OPS.taken = qu_taken
OPS.sources = qu_sources
OPS.channel = qu_channel
OPS.channel_close = qu_channel_close
OPS.send = qu_send
OPS.report = qu_report
OPS.waiting = channel_waiting
OPS.all_waiting = channel_all_waiting
OPS.unacked = channel_waiting
OPS.newest = channel_newest
OPS.at_rest = qu_at_rest


# ---- made --------------------------------------------------------------------------------------------

cdef class QuicHandle(Handle):
    """See contract.pyx."""

    cdef dict counted(self):
        return {f"{self.name}.{name}": count for name, count in (<dict>T(self.t).noted).items()}

    cdef dict row(self, const uint8_t *row):
        return (<const QuicStats *>row)[0]


cdef int allocate(QuicTransport *t) except -1:
    t.batch.iov = <iovec *>malloc(TX_PACKETS * sizeof(iovec))
    t.batch.dgram = <vtl_datagram *>malloc(TX_PACKETS * sizeof(vtl_datagram))
    t.tx = <uint8_t *>malloc(TX_PACKETS * TX_SIZE)
    t.rx = <uint8_t *>malloc(RX_KEPT)
    if t.batch.iov == NULL or t.batch.dgram == NULL or t.tx == NULL or t.rx == NULL:
        raise MemoryError("transport quic")
    t.batch.iov_cap = t.batch.dgram_cap = TX_PACKETS
    return 0


cdef int make_secrets(QuicTransport *t, keys) except -1:
    """With a key resets are known to be this host's also when its engine is another one."""
    cdef bytes text
    getrandom(t.token_secret, SECRET_SIZE, 0)
    getrandom(t.reset_secret, SECRET_SIZE, 0)
    if keys:
        text = derived(keys[0], "reset")
        memcpy(t.reset_secret, <const char *>text, SECRET_SIZE)
    tls_keys_init(&t.tls, keys)
    return 0


def make(settings):
    """Of no worker yet. Raises MemoryError; ConfigurationError for an unknown congestion controller."""
    cdef QuicHandle handle = QuicHandle.__new__(QuicHandle)
    cdef CarrierHandle carrier = udp.make(CarrierSettings())
    cdef bytes text = b"quic"
    cdef QuicTransport *t
    congestion = check_congestion(settings.congestion)
    t = <QuicTransport *>calloc(1, sizeof(QuicDoors))
    if t == NULL:
        raise MemoryError("transport quic")
    t.base.ops = &OPS
    t.carrier, carrier.used = carrier.c, True
    t.next_due = UINT64_MAX
    handle.t = &t.base                              # which frees it
    handle.name = "quic"
    t.base.properties = T_REPAIRS | T_ORDERED | T_INTEGRITY | T_PATH_BOUND | T_CONGESTION | T_WHOLE
    t.base.wire_id = WIRE_ID
    t.hello[0], t.hello[1] = 1, <uint8_t>len(text)
    memcpy(t.hello + 2, <const char *>text, len(text))
    t.base.options, t.base.options_n = t.hello, 2 + <uint32_t>len(text)
    # as VTL's: a window that halves with each loss is a tenth of the rate where 1 % is lost
    t.congestion = {"cubic": NGTCP2_CC_ALGO_CUBIC, "newreno": NGTCP2_CC_ALGO_RENO}.get(congestion,
                                                                                       NGTCP2_CC_ALGO_BBR2)
    t.dead_after = <uint64_t>(settings.dead_after * 1e9)
    t.shared.sink, t.shared.ops, t.shared.sources, t.shared.cut = &t.base.sink, &OPS, &t.sources, CUT
    sources_init(&t.sources, min(<uint64_t>BUDGET, <uint64_t>settings.budget))
    make_secrets(t, settings.keys)
    allocate(t)
    return handle
