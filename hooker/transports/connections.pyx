"""A transport over connections of the kernel's: what the engine's calls come to, for all associations of one.

How bytes are sent and received is the kind's (connection.pxd): stream.pyx, sctp.pyx.
"""

from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from hooker.flow.messages cimport Message
from hooker.includes.clock cimport clock_ns
from hooker.includes.linux cimport *
from hooker.transports.connection cimport *
from hooker.transports.contract cimport *
from hooker.transports.failed cimport failed_init, failed_until, same_peer
from hooker.transports.listeners cimport LISTENERS, accept_some, listen_for, listeners_close, listeners_open
from hooker.transports.queues cimport *
from hooker.transports.sources cimport FAIR_SOURCES, sources_init

from hooker.errors import ConfigurationError

cdef enum:
    BATCHES = 256              # in one round
    READS = 64                 # of all associations, after a silence
    BUDGET = 64 << 20          # bytes that peers may make us hold, if the engine's own is not less
    PATIENCE_LASTS = 100000000 # ns


cdef inline ConnectionTransport *T(Transport *t) noexcept nogil:
    return <ConnectionTransport *>t

cdef inline Connection *A(const Association *a) noexcept nogil:
    return <Connection *>a


# ---- in and out --------------------------------------------------------------------------------------

cdef int cn_open(Transport *base, uint16_t port, uint16_t *bound) noexcept nogil:
    T(base).now = clock_ns()
    return listeners_open(T(base), port, bound)


cdef void cn_ready(Transport *base, uint32_t own, uint32_t events, uint64_t now) noexcept nogil:
    cdef ConnectionTransport *t = T(base)
    cdef Connection *a
    t.now = now
    if own >= LISTENERS:
        accept_some(t, own - LISTENERS)
        return
    a = t.slots[own] if own < SLOTS else NULL
    if a == NULL or a.fd < 0:
        return
    if a.state == CONN_CONNECTING:
        connected(a)
        return
    if events & EPOLLOUT and a.blocked:
        unblock(a)
    if events & (EPOLLIN | EPOLLERR | EPOLLHUP):
        t.kind.receive(a)


cdef void cn_catch_up(Transport *base, uint64_t now) noexcept nogil:
    cdef ConnectionTransport *t = T(base)
    cdef uint32_t i, left = READS
    t.now = now
    for i in range(t.top):
        while left and t.slots[i] != NULL and t.slots[i].state == CONN_UP and t.kind.receive(t.slots[i]):
            left -= 1


cdef void send_all(ConnectionTransport *t) noexcept nogil:
    cdef Connection *a
    cdef int left = BATCHES
    while t.ready_first != NULL and left > 0:
        left -= 1
        a = t.ready_first
        t.ready_first = a.ready_next
        if t.ready_first == NULL:
            t.ready_last = NULL
        a.in_ready = False
        if a.state != CONN_UP:
            continue
        t.kind.send(a)
        shared_release(&t.shared)
        if a.unsent_n or out_wants(&a.out):
            make_ready(a)


cdef void take_down(ConnectionTransport *t) noexcept nogil:
    cdef Connection *a
    while t.dead != NULL:
        a = t.dead
        t.dead = a.dead_next
        leave_ready(a)
        out_down(&a.out)
        if a.announced:
            t.base.sink.assoc_down(t.base.sink.ctx, &a.base, <down_reason>a.why)
        connection_free(t, a)


cdef void cn_flush(Transport *base, uint64_t now) noexcept nogil:
    cdef ConnectionTransport *t = T(base)
    t.now = now
    shared_release(&t.shared)
    take_down(t)
    send_all(t)
    take_down(t)
    shared_release(&t.shared)


# ---- time --------------------------------------------------------------------------------------------

cdef void cn_on_time(Transport *base, uint64_t now) noexcept nogil:
    cdef ConnectionTransport *t = T(base)
    cdef uint32_t i
    if t.next_due > now:
        return
    t.now = now
    t.next_due = UINT64_MAX
    if not t.listening and t.listen_again <= now:
        listen_for(t, EPOLLIN)
    for i in range(t.top):
        if t.slots[i] != NULL and t.slots[i].due <= now:
            is_due(t.slots[i])
        if t.slots[i] != NULL:
            t.next_due = min(t.next_due, t.slots[i].due)
    if not t.listening:
        t.next_due = min(t.next_due, t.listen_again)


cdef uint64_t cn_deadline(Transport *t) noexcept nogil:
    return 0 if T(t).ready_first != NULL or T(t).dead != NULL else T(t).next_due


# ---- memory, and the end -----------------------------------------------------------------------------

cdef uint64_t cn_held_less(const Transport *base) noexcept nogil:
    cdef const ConnectionTransport *t = <const ConnectionTransport *>base
    return t.held_peak - t.sources.held


cdef void cn_held_noted(Transport *t) noexcept nogil:
    T(t).held_peak = T(t).sources.held


cdef void cn_note(Transport *base) noexcept nogil:
    cdef ConnectionTransport *t = T(base)
    t.noted = t.n
    t.noted.associations, t.noted.held = t.count, t.sources.held


cdef void cn_close_files(Transport *base) noexcept nogil:
    cdef ConnectionTransport *t = T(base)
    cdef uint32_t i
    listeners_close(t)
    for i in range(t.top):
        if t.slots[i] != NULL:
            close_fd(t.slots[i])


cdef void cn_shut(Transport *base) noexcept nogil:
    cdef ConnectionTransport *t = T(base)
    cn_close_files(base)
    while t.top:
        if t.slots[t.top - 1] == NULL:
            t.top -= 1
        else:
            connection_free(t, t.slots[t.top - 1])
    t.dead = t.ready_first = t.ready_last = NULL
    shared_end(&t.shared)


cdef void cn_free(Transport *base) noexcept nogil:
    cn_shut(base)
    free(T(base).rx)
    free(base)


# ---- associations ------------------------------------------------------------------------------------

cdef Association *cn_connect(Transport *base, const PeerAddress *to, uint64_t now) noexcept nogil:
    cdef ConnectionTransport *t = T(base)
    cdef Connection *a
    cdef uint64_t until = failed_until(&t.failed, to)
    cdef uint32_t i
    t.now = now
    for i in range(t.top):
        a = t.slots[i]
        if a != NULL and a.outgoing and a.state != CONN_DEAD and same_peer(&a.peer, to):
            return &a.base
    a = connection_new(t, to)
    if a == NULL:
        return NULL
    a.outgoing = a.announced = True
    if until > now:
        a.state = CONN_PAUSING
        set_due(a, until)
    else:
        start(a)
    return &a.base


cdef bint cn_is_up(const Association *a) noexcept nogil:
    return A(a).state == CONN_UP


cdef const PeerAddress *cn_peer(const Association *a) noexcept nogil:
    return &A(a).peer


cdef uint64_t cn_patience(const Association *base) noexcept nogil:
    """As the kernel measures it; asked now and then only."""
    cdef Connection *a = A(base)
    if a.state == CONN_UP and (not a.patience_at or of(a).now - a.patience_at > PATIENCE_LASTS):
        a.patience_at = of(a).now
        a.patience = of(a).kind.patience(a)
    return a.patience


cdef int cn_say(Association *base, const Message *m) noexcept nogil:
    cdef Connection *a = A(base)
    if a.state == CONN_DEAD or out_say(&a.out, m) < 0:
        return -1
    make_ready(a)
    return 0


cdef void cn_hold(Association *a) noexcept nogil:
    A(a).holds += 1
    use_changed(A(a))


cdef void cn_let_go(Association *a) noexcept nogil:
    A(a).holds -= 1
    use_changed(A(a))


cdef void cn_close(Association *base, uint64_t now) noexcept nogil:
    """What was said goes to the kernel yet, as far as it takes it."""
    cdef Connection *a = A(base)
    of(a).now = now
    if a.state == CONN_UP and not a.blocked:
        of(a).kind.send(a)
    if a.fd >= 0 and a.state == CONN_UP:
        shutdown(a.fd, SHUT_WR)
    fail(a, DOWN_CLOSED)


cdef void cn_stats(const Association *base, uint8_t *row) noexcept nogil:
    cdef Connection *a = A(base)
    cdef ConnectionRow *s = <ConnectionRow *>row
    memset(s, 0, sizeof(ConnectionRow))
    if a.fd >= 0:
        of(a).kind.measure(a, s)
    s.bytes_sent, s.bytes_received, s.messages_received = a.bytes_sent, a.bytes_received, a.messages_received
    s.waiting = a.out.waiting + a.unsent_n
    s.up, s.channels, s.outgoing = a.state == CONN_UP, a.out.channels, a.outgoing


cdef void cn_take(Association *a, take_kind what, int64_t n) noexcept nogil:
    A(a).taken[<int>what] += <uint64_t>n
    A(a).source.taken[<int>what] += <uint64_t>n


cdef uint64_t cn_taken(const Association *a, take_kind what) noexcept nogil:
    return A(a).source.taken[<int>what]


cdef uint32_t cn_sources(const Association *a) noexcept nogil:
    return max(of(A(a)).sources.n, <uint32_t>FAIR_SOURCES)


# ---- channels ----------------------------------------------------------------------------------------

cdef inline Connection *owner_of(const Channel *c) noexcept nogil:
    """NULL: it is down."""
    cdef Outgoing *o = (<QueueChannel *>c).out
    cdef size_t before = <size_t>&(<Connection *>NULL).out
    return <Connection *>(<uint8_t *>o - before) if o != NULL else NULL


cdef Channel *cn_channel(Association *base, void *user) noexcept nogil:
    cdef Connection *a = A(base)
    cdef Channel *c = channel_new(&a.out, user) if a.state != CONN_DEAD else NULL
    if c != NULL:
        use_changed(a)
    return c


cdef void cn_channel_close(Channel *c) noexcept nogil:
    cdef Connection *a = owner_of(c)
    channel_free(c)
    if a == NULL:
        return
    use_changed(a)
    if out_wants(&a.out):
        make_ready(a)


cdef int cn_send(Channel *c, const Message *m, void *owner) noexcept nogil:
    cdef Connection *a = owner_of(c)
    if a == NULL or a.state == CONN_DEAD or channel_send(c, m, owner) < 0:
        return -1
    make_ready(a)
    return 0


cdef void cn_report(Channel *c) noexcept nogil:
    cdef Connection *a = owner_of(c)
    if a != NULL and a.state != CONN_DEAD:
        channel_report(c)
        make_ready(a)


cdef TransportOps OPS
OPS.open = cn_open
OPS.ready = cn_ready
OPS.catch_up = cn_catch_up
OPS.deadline = cn_deadline
OPS.on_time = cn_on_time
OPS.flush = cn_flush
OPS.held_less = cn_held_less
OPS.held_noted = cn_held_noted
OPS.note = cn_note
OPS.close_files = cn_close_files
OPS.shut = cn_shut
OPS.free = cn_free
OPS.connect = cn_connect
OPS.is_up = cn_is_up
OPS.peer = cn_peer
OPS.patience = cn_patience
OPS.say = cn_say
OPS.hold = cn_hold
OPS.let_go = cn_let_go
OPS.close = cn_close
OPS.stats = cn_stats
OPS.take = cn_take
OPS.taken = cn_taken
OPS.sources = cn_sources
OPS.channel = cn_channel
OPS.channel_close = cn_channel_close
OPS.send = cn_send
OPS.report = cn_report
OPS.waiting = channel_waiting
OPS.all_waiting = channel_all_waiting
OPS.unacked = channel_waiting
OPS.newest = channel_newest
OPS.at_rest = channel_at_rest


# ---- made --------------------------------------------------------------------------------------------

cdef class ConnectionHandle(Handle):
    """See contract.pyx."""

    cdef dict counted(self):
        return {f"{self.name}.{name}": count for name, count in (<dict>T(self.t).noted).items()}

    cdef dict row(self, const uint8_t *row):
        return (<const ConnectionRow *>row)[0]


cdef ConnectionHandle connections_make(str name, uint8_t wire_id, int protocol, const ConnectionKind *kind,
                                       uint32_t properties, size_t rx_size, settings):
    cdef ConnectionHandle handle = ConnectionHandle.__new__(ConnectionHandle)
    cdef bytes text = name.encode()
    cdef ConnectionTransport *t
    if settings.keys:
        raise ConfigurationError(f"transport {name} does not encrypt, so a key does not go with it")
    t = <ConnectionTransport *>calloc(1, sizeof(ConnectionTransport))
    if t == NULL:
        raise MemoryError(f"transport {name}")
    t.base.ops = &OPS
    t.listener[0] = t.listener[1] = -1
    handle.t = &t.base                              # which frees it
    handle.name = name
    t.base.properties = properties
    t.base.wire_id = wire_id
    t.hello[0], t.hello[1] = 1, <uint8_t>len(text)
    memcpy(t.hello + 2, <const char *>text, min(len(text), 32))
    t.base.options, t.base.options_n = t.hello, 2 + <uint32_t>len(text)
    t.kind, t.protocol = kind, protocol
    t.dead_after = <uint64_t>(settings.dead_after * 1e9)
    t.next_due = t.listen_again = UINT64_MAX
    t.shared.sink, t.shared.ops, t.shared.sources = &t.base.sink, &OPS, &t.sources
    t.shared.cut = CUT
    sources_init(&t.sources, min(<uint64_t>BUDGET, <uint64_t>settings.budget))
    failed_init(&t.failed)
    t.rx = <uint8_t *>malloc(rx_size)
    if t.rx == NULL:
        raise MemoryError(f"transport {name}")
    return handle
