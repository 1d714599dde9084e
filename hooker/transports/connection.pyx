"""An association that is one connection of the kernel's, from the first try to its end.

One warm connection for a pair of hosts carries all flows that one of them is client of.

1. Who connects is up when the connection is there, who is connected to when HELLO has come, the first
   message. Until then it is a stranger (listeners.pyx).
2. A peer that says nothing for KEEPALIVE while flows are with it is asked (PING, token 0), each second;
   without any answer for dead_after it is down. An unused association ends after IDLE_AFTER.
3. Where nobody answers the next try waits (failed.pxd).
"""

from libc.stdint cimport UINT64_MAX, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from hooker.flow.messages cimport MESSAGE_FINE, MSG_HELLO, MSG_PING, MSG_PONG, Message, read_message
from hooker.includes.addresses cimport fill_address
from hooker.includes.linux cimport *
from hooker.transports.contract cimport *
from hooker.transports.failed cimport failed_note
from hooker.transports.queues cimport out_end, out_say
from hooker.transports.sources cimport source_give, source_join, source_leave

cdef enum:
    MS = 1000000               # ns, as all times
    CONNECT_TIME = 3000000000  # not as a product: it would be an int's
    IDLE_AFTER = 120000000000
    KEEPALIVE = 1000 * MS
    QUEUE_TIME = 500 * MS      # at most: four times that is waited for an answer (docs/flow.md, 8.4)


# ---- the beginning -----------------------------------------------------------------------------------

cdef Connection *connection_new(ConnectionTransport *t, const PeerAddress *peer) noexcept nogil:
    cdef Connection *a
    cdef uint32_t slot = 0
    while slot < SLOTS and t.slots[slot] != NULL:
        slot += 1
    if slot == SLOTS:
        return NULL
    a = <Connection *>calloc(1, sizeof(Connection))
    if a == NULL:
        return NULL
    a.source = source_join(&t.sources, peer)
    if a.source == NULL:
        free(a)
        return NULL
    a.base.ops, a.base.t = t.base.ops, &t.base
    a.peer, a.fd, a.slot, a.due, a.began, a.heard = peer[0], -1, slot, UINT64_MAX, t.now, t.now
    a.out.shared, a.out.source = &t.shared, a.source
    t.slots[slot] = a
    t.top = max(t.top, slot + 1)
    t.count += 1
    return a


cdef void connection_free(ConnectionTransport *t, Connection *a) noexcept nogil:
    cdef int i
    out_end(&a.out)
    for i in range(TAKES):
        a.source.taken[i] -= a.taken[i]
    source_give(&t.sources, a.source, a.partial_room)
    source_leave(&t.sources, a.source)
    t.slots[a.slot] = NULL
    while t.top and t.slots[t.top - 1] == NULL:
        t.top -= 1
    t.count -= 1
    free(a.partial)
    free(a.unsent)
    free(a)


cdef void start(Connection *a) noexcept nogil:
    cdef ConnectionTransport *t = of(a)
    cdef sockaddr_storage to
    cdef socklen_t size = fill_address(&to, a.peer.ip, a.peer.port)
    a.state = CONN_CONNECTING
    t.n.connects += 1
    a.fd = socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, t.protocol)
    if a.fd < 0:
        fail(a, DOWN_UNREACHABLE)
        return
    t.kind.set_up(t, a.fd)
    if not t.kind.choose_source(a) or (connect(a.fd, <sockaddr *>&to, size) < 0 and errno != EINPROGRESS):
        fail(a, DOWN_UNREACHABLE)
    elif watch_file(&t.base, a.fd, EPOLLIN | EPOLLOUT, a.slot) < 0:
        fail(a, DOWN_MEMORY)
    else:
        set_due(a, t.now + CONNECT_TIME)


cdef void connected(Connection *a) noexcept nogil:
    cdef int error = 0
    cdef socklen_t n = sizeof(error)
    if getsockopt(a.fd, SOL_SOCKET, SO_ERROR, &error, &n) < 0 or error:
        fail(a, DOWN_UNREACHABLE)
        return
    failed_note(&of(a).failed, &a.peer, False, of(a).now)
    watch_for(a, EPOLLIN)
    up(a)
    make_ready(a)


cdef void up(Connection *a) noexcept nogil:
    cdef ConnectionTransport *t = of(a)
    known(a)
    a.state, a.announced, a.heard, a.idle_since = CONN_UP, True, t.now, t.now
    a.due = UINT64_MAX
    if in_use(a):
        a.idle_since = 0
        set_due(a, t.now + KEEPALIVE)
    else:
        set_due(a, t.now + IDLE_AFTER)
    t.kind.came_up(a)
    t.base.sink.assoc_up(t.base.sink.ctx, &a.base)


cdef void known(Connection *a) noexcept nogil:
    """No stranger any more."""
    if a.state == CONN_STRANGER:
        of(a).strangers -= 1
        a.source.strangers -= 1


# ---- the end -----------------------------------------------------------------------------------------

cdef void close_fd(Connection *a) noexcept nogil:
    if a.fd >= 0:
        close(a.fd)
    a.fd = -1


cdef void will_abort(Connection *a) noexcept nogil:
    cdef linger now
    now.l_onoff, now.l_linger = 1, 0
    setsockopt(a.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now))


cdef void fail(Connection *a, down_reason why) noexcept nogil:
    cdef ConnectionTransport *t = of(a)
    if a.state == CONN_DEAD:
        return
    known(a)
    if a.state == CONN_CONNECTING and why == DOWN_UNREACHABLE:
        t.n.connects_failed += 1
        failed_note(&t.failed, &a.peer, True, t.now)
    if why == DOWN_PROTOCOL:
        t.n.broken += 1
    if why != DOWN_CLOSED and a.fd >= 0:
        t.kind.give_up(a)
    a.state, a.why, a.due = CONN_DEAD, why, UINT64_MAX
    close_fd(a)
    a.dead_next = t.dead
    t.dead = a


cdef down_reason why_of(int error) noexcept nogil:
    return DOWN_SILENT if error == ETIMEDOUT else DOWN_CLOSED


# ---- in ----------------------------------------------------------------------------------------------

cdef void heard_of(Connection *a, uint64_t n) noexcept nogil:
    a.heard, a.asked = of(a).now, 0
    a.bytes_received += n
    of(a).n.bytes_received += n


cdef void answer(Connection *a, const Message *m) noexcept nogil:
    """PONG to a PING about no flow."""
    cdef Message pong
    if m.type != MSG_PING:
        return
    memset(&pong, 0, sizeof(pong))
    pong.type = MSG_PONG
    out_say(&a.out, &pong)
    make_ready(a)


cdef void take_message(Connection *a, const uint8_t *p, uint32_t n) noexcept nogil:
    cdef ConnectionTransport *t = of(a)
    cdef Message m
    cdef bint fine = read_message(p, n, False, &m) == MESSAGE_FINE
    a.messages_received += 1
    if not fine:
        t.base.bad_messages += 1
    if a.state == CONN_STRANGER:
        if not fine or m.type != MSG_HELLO:
            fail(a, DOWN_PROTOCOL)
            return
        up(a)
    if not fine:
        return
    if m.token == 0 and (m.type == MSG_PING or m.type == MSG_PONG):
        answer(a, &m)
    else:
        t.base.sink.message(t.base.sink.ctx, &a.base, &m, True)


# ---- out ---------------------------------------------------------------------------------------------

cdef void make_ready(Connection *a) noexcept nogil:
    cdef ConnectionTransport *t = of(a)
    if a.in_ready or a.blocked or a.state != CONN_UP:
        return
    a.in_ready, a.ready_next = True, NULL
    if t.ready_last != NULL:
        t.ready_last.ready_next = a
    else:
        t.ready_first = a
    t.ready_last = a


cdef void leave_ready(Connection *a) noexcept nogil:
    cdef ConnectionTransport *t = of(a)
    cdef Connection *at = t.ready_first
    cdef Connection *before = NULL
    if not a.in_ready:
        return
    while at != a:
        before = at
        at = at.ready_next
    if before != NULL:
        before.ready_next = a.ready_next
    else:
        t.ready_first = a.ready_next
    if t.ready_last == a:
        t.ready_last = before
    a.in_ready = False


cdef void watch_for(Connection *a, uint32_t events) noexcept nogil:
    cdef epoll_event ev
    ev.events = events
    ev.data.u64 = <uint64_t>a.base.t.tag << 32 | <uint64_t>a.base.t.index << 24 | a.slot
    epoll_ctl(a.base.t.epoll_fd, EPOLL_CTL_MOD, a.fd, &ev)


cdef void block(Connection *a) noexcept nogil:
    a.blocked = True
    watch_for(a, EPOLLIN | EPOLLOUT)


cdef void unblock(Connection *a) noexcept nogil:
    a.blocked = False
    watch_for(a, EPOLLIN)
    make_ready(a)


cdef void sent(Connection *a, uint64_t n) noexcept nogil:
    a.bytes_sent += n
    a.since_look += n
    of(a).n.bytes_sent += n


cdef uint64_t queue_time(uint64_t queued, uint64_t window, uint64_t srtt) noexcept nogil:
    if window == 0:
        return 0
    return <uint64_t>min(<double>queued / <double>window * <double>srtt, <double>QUEUE_TIME)


# ---- time --------------------------------------------------------------------------------------------

cdef void set_due(Connection *a, uint64_t at) noexcept nogil:
    a.due = at
    of(a).next_due = min(of(a).next_due, at)


cdef void use_changed(Connection *a) noexcept nogil:
    cdef uint64_t now = of(a).now
    if a.state != CONN_UP or (in_use(a) and a.idle_since == 0):
        return
    if in_use(a):
        a.idle_since = 0
        set_due(a, min(a.due, now + KEEPALIVE))
    elif a.idle_since == 0:
        a.idle_since = now
        set_due(a, min(a.due, now + IDLE_AFTER))


cdef void ask(Connection *a) noexcept nogil:
    """Whether it is still there."""
    cdef ConnectionTransport *t = of(a)
    cdef Message ping
    if a.asked and t.now - a.asked >= t.dead_after:
        fail(a, DOWN_SILENT)
        return
    if not a.asked:
        a.asked = t.now
    memset(&ping, 0, sizeof(ping))
    ping.type = MSG_PING
    out_say(&a.out, &ping)
    make_ready(a)
    set_due(a, min(t.now + KEEPALIVE, a.asked + t.dead_after))


cdef void is_due(Connection *a) noexcept nogil:
    cdef ConnectionTransport *t = of(a)
    a.due = UINT64_MAX
    if a.state == CONN_PAUSING:
        start(a)
    elif a.state == CONN_CONNECTING:
        fail(a, DOWN_UNREACHABLE)
    elif a.state == CONN_STRANGER:
        fail(a, DOWN_CLOSED)
    elif a.asked:                                 # who was asked answers, also when nobody needs it any more
        ask(a)
    elif not in_use(a):
        if t.now - a.idle_since >= IDLE_AFTER:
            fail(a, DOWN_CLOSED)
        else:
            set_due(a, a.idle_since + IDLE_AFTER)
    elif t.now - a.heard >= KEEPALIVE:
        ask(a)
    else:
        set_due(a, a.heard + KEEPALIVE)
