"""A transport over QUIC: how an association begins, waits and ends.

What the library allocates for one is counted as its source's, and refused when that has its share: then the
association ends. What TLS holds is counted as SESSION_COST.
"""

from libc.stdint cimport UINT64_MAX, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from hooker.flow.messages cimport MSG_PING, Message
from hooker.includes.ngtcp2 cimport (
    ngtcp2_conn_del, ngtcp2_conn_get_conn_stat, ngtcp2_conn_get_expiry, ngtcp2_conn_stat,
)
from hooker.transports.contract cimport *
from hooker.transports.quic_lanes cimport STREAMS, lane_free_all, lane_moves
from hooker.transports.quic_tls cimport tls_end
from hooker.transports.queues cimport out_end, out_say
from hooker.transports.sources cimport source_give, source_hold, source_join, source_leave

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *buf, size_t n, unsigned int flags)

cdef enum:
    PREFIX = 16                # bytes before what was allocated: how much
    MS = 1000000               # ns, as all times
    HELLO_TIME = 3000000000
    IDLE_AFTER = 120000000000
    KEEPALIVE = 1000 * MS
    DOUBT_TIME = 500 * MS      # if the path's round trip does not need more
    MOST_DOUBT = 1000 * MS
    STARVED_PAUSE = 5 * MS
    HOLE_TIME = 2000 * MS
    HOLE_AGAIN = 10000 * MS


# ---- memory ------------------------------------------------------------------------------------------

cdef void *mem_malloc(size_t n, void *user) noexcept nogil:
    cdef QuicAssociation *a = <QuicAssociation *>user
    cdef QuicTransport *t = of(a)
    cdef uint8_t *p
    if not source_hold(&t.sources, a.source, n + PREFIX):
        t.n.over_budget += 1
        return NULL
    p = <uint8_t *>malloc(n + PREFIX)
    if p == NULL:
        source_give(&t.sources, a.source, n + PREFIX)
        return NULL
    (<size_t *>p)[0] = n
    t.held_peak = max(t.held_peak, t.sources.held)
    return p + PREFIX


cdef void mem_free(void *p, void *user) noexcept nogil:
    cdef QuicAssociation *a = <QuicAssociation *>user
    cdef uint8_t *block = <uint8_t *>p - PREFIX
    if p == NULL:
        return
    source_give(&of(a).sources, a.source, (<size_t *>block)[0] + PREFIX)
    free(block)


cdef void *mem_calloc(size_t n, size_t size, void *user) noexcept nogil:
    cdef void *p
    if size and n > <size_t>UINT64_MAX // size:
        return NULL
    p = mem_malloc(n * size, user)
    if p != NULL:
        memset(p, 0, n * size)
    return p


cdef void *mem_realloc(void *old, size_t n, void *user) noexcept nogil:
    cdef void *p = mem_malloc(n, user)
    cdef size_t before
    if p != NULL and old != NULL:
        before = (<size_t *>(<uint8_t *>old - PREFIX))[0]
        memcpy(p, old, min(n, before))
        mem_free(old, user)
    return p


# ---- the beginning and the end -----------------------------------------------------------------------

cdef QuicAssociation *association_new(QuicTransport *t, const PeerAddress *peer) noexcept nogil:
    cdef QuicAssociation *a
    cdef uint32_t slot = 0
    cdef int i
    while slot < SLOTS and t.slots[slot] != NULL:
        slot += 1
    if slot == SLOTS:
        return NULL
    a = <QuicAssociation *>calloc(1, sizeof(QuicAssociation))
    if a == NULL:
        return NULL
    a.source = source_join(&t.sources, peer)
    if a.source == NULL:
        free(a)
        return NULL
    if not source_hold(&t.sources, a.source, SESSION_COST + sizeof(QuicAssociation)):
        t.n.over_budget += 1
        source_leave(&t.sources, a.source)
        free(a)
        return NULL
    a.base.ops, a.base.t = t.base.ops, &t.base
    a.peer, a.slot, a.due, a.expiry, a.began, a.heard = peer[0], slot, UINT64_MAX, UINT64_MAX, t.now, t.now
    getrandom(&a.mark, sizeof(a.mark), 0)
    a.memory.user_data = a
    a.memory.malloc, a.memory.free = mem_malloc, mem_free
    a.memory.calloc, a.memory.realloc = mem_calloc, mem_realloc
    a.out.shared, a.out.source = &t.shared, a.source
    for i in range(STREAMS):
        a.lanes[i].id = -1
    t.slots[slot] = a
    t.top = max(t.top, slot + 1)
    t.count += 1
    t.held_peak = max(t.held_peak, t.sources.held)
    return a


cdef void association_free(QuicTransport *t, QuicAssociation *a) noexcept nogil:
    cdef int i
    known(a)
    out_end(&a.out)
    if a.tls.conn != NULL:
        ngtcp2_conn_del(a.tls.conn)
    tls_end(&a.tls)
    for i in range(STREAMS):
        source_give(&t.sources, a.source, lane_free_all(&a.lanes[i]))
    for i in range(TAKES):
        a.source.taken[i] -= a.taken[i]
    source_give(&t.sources, a.source, SESSION_COST + sizeof(QuicAssociation))
    source_leave(&t.sources, a.source)
    t.slots[a.slot] = NULL
    while t.top and t.slots[t.top - 1] == NULL:
        t.top -= 1
    t.count -= 1
    free(a)


cdef void known(QuicAssociation *a) noexcept nogil:
    if a.state == QUIC_STRANGER:
        of(a).strangers -= 1
        a.source.strangers -= 1
        a.state = QUIC_UP


cdef void up(QuicAssociation *a) noexcept nogil:
    cdef QuicTransport *t = of(a)
    cdef uint32_t i
    known(a)
    for i in range(STREAMS):
        a.lanes[i].moved = t.now
    a.state, a.announced, a.heard, a.idle_since = QUIC_UP, True, t.now, t.now
    a.due = UINT64_MAX
    if in_use(a):
        a.idle_since = 0
        set_due(a, t.now + KEEPALIVE)
    else:
        set_due(a, t.now + IDLE_AFTER)
    make_ready(a)
    t.base.sink.assoc_up(t.base.sink.ctx, &a.base)


cdef void fail(QuicAssociation *a, down_reason why) noexcept nogil:
    cdef QuicTransport *t = of(a)
    if a.state == QUIC_DEAD:
        return
    if a.state == QUIC_CONNECTING:
        t.n.connects_failed += 1
    known(a)
    if why == DOWN_PROTOCOL:
        t.n.broken += 1
    a.state, a.why, a.due, a.expiry = QUIC_DEAD, why, UINT64_MAX, UINT64_MAX
    a.dead_next = t.dead
    t.dead = a


# ---- who has something to send -----------------------------------------------------------------------

cdef void make_ready(QuicAssociation *a) noexcept nogil:
    cdef QuicTransport *t = of(a)
    if a.in_ready or a.state == QUIC_DEAD:
        return
    a.in_ready, a.ready_next = True, NULL
    if t.ready_last != NULL:
        t.ready_last.ready_next = a
    else:
        t.ready_first = a
    t.ready_last = a


cdef QuicAssociation *next_ready(QuicTransport *t) noexcept nogil:
    cdef QuicAssociation *a = t.ready_first
    if a == NULL:
        return NULL
    t.ready_first = a.ready_next
    if t.ready_first == NULL:
        t.ready_last = NULL
    a.in_ready = False
    return a


cdef void leave_ready(QuicTransport *t, QuicAssociation *a) noexcept nogil:
    cdef QuicAssociation *at = t.ready_first
    cdef QuicAssociation *before = NULL
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


# ---- time --------------------------------------------------------------------------------------------

cdef void set_due(QuicAssociation *a, uint64_t at) noexcept nogil:
    a.due = at
    of(a).next_due = min(of(a).next_due, at)


cdef void set_expiry(QuicAssociation *a) noexcept nogil:
    """Of the connection, which has changed; and when a share that is used up is looked at again."""
    a.expiry = ngtcp2_conn_get_expiry(a.tls.conn)
    if a.starved:
        a.expiry = min(a.expiry, of(a).now + STARVED_PAUSE)
    of(a).next_due = min(of(a).next_due, a.expiry)


cdef void use_changed(QuicAssociation *a) noexcept nogil:
    cdef uint64_t now = of(a).now
    if a.state != QUIC_UP or (in_use(a) and a.idle_since == 0):
        return
    if in_use(a):
        a.idle_since = 0
        set_due(a, min(a.due, now + KEEPALIVE))
    elif a.idle_since == 0:
        a.idle_since = now
        set_due(a, min(a.due, now + IDLE_AFTER))


cdef uint64_t patience(const QuicAssociation *a) noexcept nogil:
    cdef ngtcp2_conn_stat s
    ngtcp2_conn_get_conn_stat(a.tls.conn, &s)
    return 2 * s.smoothed_rtt + 4 * s.rttvar


cdef void answered(QuicAssociation *a) noexcept nogil:
    a.asked = a.doubted = 0


cdef void hear(QuicAssociation *a) noexcept nogil:
    """The peer's engine has spoken. What it sent before somebody said that nobody is there proves nothing."""
    a.heard = of(a).now
    if not a.doubted or a.heard >= a.doubted + patience(a):
        answered(a)


cdef bint looked_for_holes(QuicAssociation *a) noexcept nogil:
    """The peer is heard, and what we send is not acknowledged: a path that has become narrower swallows what
    is large (RFC 8899 3, "black hole"), and the library looks for its size at the beginning only. Or it is
    not heard, answers what is small, and soon is not heard again (ask). False: all is acknowledged.
    """
    cdef bint waits = False
    cdef uint32_t i
    for i in range(STREAMS):
        if not lane_moves(&a.lanes[i], of(a).now) and a.heard > a.lanes[i].moved + HOLE_TIME:
            a.narrow = True
        waits = waits or a.lanes[i].acked < a.lanes[i].written
    return waits


cdef void ask(QuicAssociation *a) noexcept nogil:
    """Whether it is still there."""
    cdef QuicTransport *t = of(a)
    cdef Message ping
    cdef uint64_t end
    if not a.asked:
        a.asked = t.now
        if looked_for_holes(a):
            a.narrow |= t.now < a.hole_at + HOLE_AGAIN
            a.hole_at = t.now
    end = a.asked + t.dead_after
    if a.doubted:
        end = min(end, a.doubted + min(max(2 * patience(a), <uint64_t>DOUBT_TIME), MOST_DOUBT))
    if t.now >= end:
        fail(a, DOWN_SILENT)
        return
    memset(&ping, 0, sizeof(ping))
    ping.type = MSG_PING
    out_say(&a.out, &ping)
    make_ready(a)
    set_due(a, min(t.now + KEEPALIVE, end))


cdef void doubt(QuicAssociation *a) noexcept nogil:
    """It is asked now, and has a moment to answer. What costs nothing to forge ends nothing."""
    if a.state == QUIC_UP and not a.doubted:
        a.doubted = of(a).now
        ask(a)


cdef void is_due(QuicAssociation *a) noexcept nogil:
    cdef QuicTransport *t = of(a)
    cdef bint waits = a.state == QUIC_UP and looked_for_holes(a)
    a.due = UINT64_MAX
    if a.state == QUIC_STRANGER:
        fail(a, DOWN_CLOSED)
    elif a.state != QUIC_UP:
        return
    elif a.doubted or a.asked:                    # who was asked answers, also when nobody needs it any more
        ask(a)
    elif not in_use(a):
        if t.now - a.idle_since >= IDLE_AFTER:
            a.farewell = True
            fail(a, DOWN_CLOSED)
        else:
            set_due(a, min(a.idle_since + IDLE_AFTER, t.now + KEEPALIVE if waits else UINT64_MAX))
    elif t.now - a.heard >= KEEPALIVE:
        ask(a)
    else:
        set_due(a, a.heard + KEEPALIVE)
