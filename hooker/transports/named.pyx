"""A transport that a user's class makes, in a process of its own (child.pyx). The engine's part of it.

1. What the class carries are whole messages, each signed (CRC32C) here and looked at there: it may lose,
   repeat, reorder or damage them, and invent some. It is believed no more than a peer.
2. Who wants an association greets (a HELLO without an instance, with the name of the class as its option), up
   to GREETINGS times; who is greeted by the same name answers, and is a stranger until it hears something
   else. Another name is answered, too, so that nobody waits: then it is down (DOWN_NAME).
3. Whatever may be lost is said again: greetings, and the engines' HELLOs, until the other side's is here.
4. While flows are with it a peer is asked each second (PING, token 0), which also measures the round trip.
   Without any answer for dead_after it is down.
5. Another engine at a peer's address is asked for its instance before it is believed (DOWN_REPLACED).
6. When the child has failed all associations are down, now and later: DOWN_PROTOTYPE.
7. Some classes are not asked to carry messages, but decide something within VTL, which then runs in the child
   (`relays`). It has associations of its own, and tells when one is up or down: 2 to 5 are its business.
"""

from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset, strlen
from hooker.flow.messages cimport (
    CRC_SIZE, FLOW_VERSION, MAX_HEADER, MESSAGE_FINE, MSG_DATA, MSG_HELLO, MSG_PING, MSG_PONG, Message,
    read_message,
)
from hooker.includes.bytes cimport load32
from hooker.includes.clock cimport clock_ns
from hooker.includes.linux cimport EIO, EPOLLIN, EPOLLOUT, EPOLL_CTL_MOD, epoll_ctl, epoll_event, errno
from hooker.transports.child cimport *
from hooker.transports.contract cimport *
from hooker.transports.queues cimport *
from hooker.transports.sources cimport (
    FAIR_SOURCES, longest_unused, may_make_room, source_join, source_leave, sources_init,
)

from hooker.errors import ConfigurationError
from hooker.transports import children

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *buf, size_t n, unsigned int flags)

cdef enum:
    PACKETS = 32               # from the child, in one round
    BATCHES = 64               # to it
    MAX_INCOMING = NAMED_SLOTS // 4 * 3
    MAX_STRANGERS = 128
    SOURCE_STRANGERS = 16
    SOURCE_ASSOCS = 64
    MAX_JUNK = 50000           # in a second
    BUDGET = 64 << 20          # bytes that peers may make us hold, if the engine's own is not less
    LINK = 0                   # own tag of the child's socket
    MS = 1000000               # ns, as all times
    SECOND = 1000 * MS
    FIRST_GREETING = 100 * MS  # then twice as long each time
    GREETINGS = 5
    HELLOS = 6
    STRANGER_TIME = 3000000000 # not as a product: it would be an int's
    IDLE_AFTER = 120000000000
    MOST_HOLE = 64000          # bytes
    WELCOME = 1                # flag of a greeting that answers one
    HEARD = 2                  # flag of an engine's HELLO: the other side's is here


cdef struct NamedStats:        # as in a row
    uint64_t srtt_ns, rttvar_ns, min_rtt_ns, cwnd, bytes_in_flight, packets_lost
    uint64_t bytes_sent, bytes_received, messages_received, waiting
    uint32_t streams, up, channels
    char function[NAME_MOST + 1]


cdef inline NamedTransport *T(Transport *t) noexcept nogil:
    return <NamedTransport *>t

cdef inline NamedAssociation *A(const Association *a) noexcept nogil:
    return <NamedAssociation *>a

cdef inline NamedTransport *of(const NamedAssociation *a) noexcept nogil:
    return <NamedTransport *>a.base.t

cdef inline bint in_use(const NamedAssociation *a) noexcept nogil:
    return a.out.channels > 0 or a.holds > 0

cdef inline bint same_peer(const PeerAddress *x, const PeerAddress *y) noexcept nogil:
    return x.port == y.port and memcmp(x.ip, y.ip, 16) == 0

cdef inline void set_due(NamedAssociation *a, uint64_t at) noexcept nogil:
    a.due = min(a.due, at)
    of(a).next_due = min(of(a).next_due, a.due)


# ---- associations ------------------------------------------------------------------------------------

cdef NamedAssociation *association_to(NamedTransport *t, const PeerAddress *peer) noexcept nogil:
    cdef NamedAssociation *a
    cdef uint32_t i
    for i in range(t.top):
        a = t.slots[i]
        if a != NULL and a.state != NAMED_DEAD and same_peer(&a.peer, peer):
            return a
    return NULL


cdef NamedAssociation *association_new(NamedTransport *t, const PeerAddress *peer,
                                       named_state state) noexcept nogil:
    """NULL: no memory, or too many."""
    cdef NamedAssociation *a
    cdef uint32_t slot = 0
    while slot < NAMED_SLOTS and t.slots[slot] != NULL:
        slot += 1
    if slot == NAMED_SLOTS:
        return NULL
    a = <NamedAssociation *>calloc(1, sizeof(NamedAssociation))
    if a == NULL:
        return NULL
    a.source = source_join(&t.sources, peer)
    if a.source == NULL:
        free(a)
        return NULL
    a.base.ops, a.base.t, a.peer, a.slot, a.state = t.base.ops, &t.base, peer[0], slot, state
    a.due, a.began, a.heard = UINT64_MAX, t.now, t.now
    a.out.shared, a.out.source = &t.shared, a.source
    getrandom(&a.cookie, sizeof(a.cookie), 0)
    t.slots[slot] = a
    t.top = max(t.top, slot + 1)
    t.count += 1
    return a


cdef void association_free(NamedTransport *t, NamedAssociation *a) noexcept nogil:
    cdef int i
    out_end(&a.out)
    for i in range(TAKES):
        a.source.taken[i] -= a.taken[i]
    source_leave(&t.sources, a.source)
    t.slots[a.slot] = NULL
    while t.top and t.slots[t.top - 1] == NULL:
        t.top -= 1
    t.count -= 1
    free(a)


cdef void known(NamedAssociation *a) noexcept nogil:
    """No stranger any more."""
    if a.state == NAMED_STRANGER:
        of(a).strangers -= 1
        a.source.strangers -= 1


cdef void fail(NamedAssociation *a, down_reason why) noexcept nogil:
    """assoc_down() comes out of the next flush()."""
    cdef NamedTransport *t = of(a)
    if a.state == NAMED_DEAD:
        return
    known(a)
    if a.state == NAMED_ASKING:
        t.n.connects_failed += 1
    a.state, a.why, a.due = NAMED_DEAD, why, UINT64_MAX
    a.dead_next = t.dead
    t.dead = a


cdef void use_changed(NamedAssociation *a) noexcept nogil:
    if a.state != NAMED_UP:
        return
    if in_use(a):
        a.idle_since = 0
        if not of(a).relays:
            set_due(a, of(a).now + SECOND)
    elif a.idle_since == 0:
        a.idle_since = of(a).now
        set_due(a, of(a).now + <uint64_t>IDLE_AFTER)


cdef void up(NamedAssociation *a) noexcept nogil:
    cdef NamedTransport *t = of(a)
    known(a)
    a.state, a.announced, a.heard, a.tries, a.due = NAMED_UP, True, t.now, 0, UINT64_MAX
    t.base.sink.assoc_up(t.base.sink.ctx, &a.base)
    use_changed(a)


# ---- what may get lost -------------------------------------------------------------------------------

cdef void greeting(const NamedAssociation *a, Message *m, uint64_t cookie, uint8_t flags) noexcept nogil:
    memset(m, 0, sizeof(Message))
    m.type, m.flags, m.epoch, m.own_token = MSG_HELLO, flags, FLOW_VERSION, cookie
    m.position = <uint32_t>of(a).instance
    m.data, m.data_n = of(a).hello, of(a).base.options_n


cdef void greet(NamedAssociation *a) noexcept nogil:
    cdef Message m
    if a.tries == GREETINGS:
        fail(a, DOWN_UNREACHABLE)
        return
    greeting(a, &m, a.cookie, 0)
    out_say(&a.out, &m)
    set_due(a, of(a).now + (<uint64_t>FIRST_GREETING << a.tries))
    a.tries += 1


cdef void hello_again(NamedAssociation *a) noexcept nogil:
    """As long as the peer's has not come: it may not have heard ours."""
    if not a.has_said or a.has_heard or a.tries >= HELLOS:
        return
    out_say(&a.out, &a.hello)
    set_due(a, of(a).now + (<uint64_t>FIRST_GREETING << a.tries))
    a.tries += 1


cdef bint has_our_name(const NamedTransport *t, const Message *m) noexcept nogil:
    """HELLO's options are those of one of us."""
    return m.data_n == t.base.options_n and memcmp(m.data, t.hello, m.data_n) == 0


cdef bint runs_its_own(const NamedAssociation *a) noexcept nogil:
    """Its function of reliability is the user's class, whose name both ends' HELLOs must have then."""
    cdef const NamedTransport *t = of(a)
    cdef size_t n = strlen(a.function)
    return t.decides and n + 2 == t.base.options_n and memcmp(a.function, t.hello + 2, n) == 0


# ---- in ----------------------------------------------------------------------------------------------

cdef void blame(NamedTransport *t, const char *why) noexcept nogil:
    child_fail(&t.child, why, <uint32_t>strlen(why))


cdef void unwanted(NamedTransport *t) noexcept nogil:
    t.n.unwanted += 1
    if t.now - t.second >= SECOND:
        t.second, t.junk = t.now, 0
    t.junk += 1
    if t.junk > MAX_JUNK:
        blame(t, b"it floods the engine with what is no message")


cdef void evict(NamedTransport *t) noexcept nogil:
    """The oldest stranger makes room."""
    cdef NamedAssociation *oldest = NULL
    cdef uint32_t i
    for i in range(t.top):
        if t.slots[i] != NULL and t.slots[i].state == NAMED_STRANGER:
            if oldest == NULL or t.slots[i].began < oldest.began:
                oldest = t.slots[i]
    if oldest != NULL:
        t.n.evicted += 1
        fail(oldest, DOWN_CLOSED)


cdef uint64_t unused(const Association *base) noexcept nogil:
    cdef const NamedAssociation *a = A(base)
    return a.idle_since if a.state == NAMED_UP and not a.outgoing and not in_use(a) else 0


cdef bint make_room(NamedTransport *t) noexcept nogil:
    """For one more, which is counted already. False: all are of use, or too many come at once."""
    cdef NamedAssociation *a
    if t.count > MAX_INCOMING and not may_make_room(&t.sources, t.now):
        return False
    if t.strangers >= MAX_STRANGERS:
        evict(t)
        return True
    if t.count <= MAX_INCOMING:
        return True
    a = <NamedAssociation *>longest_unused(<Association **>t.slots, t.top, unused)
    if a == NULL:
        return False
    t.n.evicted += 1
    fail(a, DOWN_CLOSED)
    return True


cdef NamedAssociation *stranger(NamedTransport *t, const PeerAddress *peer) noexcept nogil:
    """NULL: there is no room for one more."""
    cdef NamedAssociation *a = association_new(t, peer, NAMED_ASKING)
    if a != NULL and (a.source.strangers >= SOURCE_STRANGERS or a.source.assocs > SOURCE_ASSOCS
                      or not make_room(t)):
        association_free(t, a)
        a = NULL
    if a == NULL:
        t.n.refused += 1
        return NULL
    a.state = NAMED_STRANGER
    t.n.greeted += 1
    t.strangers += 1
    a.source.strangers += 1
    set_due(a, t.now + <uint64_t>STRANGER_TIME)
    return a


cdef void on_greeting(NamedTransport *t, NamedAssociation *a, const PeerAddress *peer,
                      const Message *m) noexcept nogil:
    """Answered by our name, whichever the peer's is; who has another one is soon forgotten."""
    cdef Message answer
    if a == NULL:
        a = stranger(t, peer)
    if a == NULL:
        return
    if not has_our_name(t, m):
        t.n.other_names += 1
    greeting(a, &answer, m.own_token, WELCOME)
    out_say(&a.out, &answer)


cdef void on_welcome(NamedAssociation *a, const Message *m) noexcept nogil:
    cdef NamedTransport *t = of(a)
    if m.own_token != a.cookie:
        return
    if a.state == NAMED_UP and a.doubted and m.position and m.position != <uint32_t>a.instance:
        fail(a, DOWN_REPLACED)
        stranger(t, &a.peer)                            # it says its HELLO again, and believes to be up
    if a.state != NAMED_ASKING:
        return
    if not has_our_name(t, m):
        t.n.other_names += 1
        fail(a, DOWN_NAME)
        return
    if a.tries == 1:
        measured(a, t.now - a.began)
    up(a)


cdef void measured(NamedAssociation *a, uint64_t rtt) noexcept nogil:
    """RFC 6298, 2."""
    cdef uint64_t away
    rtt = max(rtt, <uint64_t>1)
    if a.srtt == 0:
        a.srtt, a.rttvar, a.min_rtt = rtt, rtt // 2, rtt
        return
    away = a.srtt - rtt if a.srtt > rtt else rtt - a.srtt
    a.rttvar = (3 * a.rttvar + away) // 4
    a.srtt = (7 * a.srtt + rtt) // 8
    a.min_rtt = min(a.min_rtt, rtt)


cdef void on_ping(NamedAssociation *a, const Message *m) noexcept nogil:
    """About no flow. An answer to one of several measures nothing."""
    cdef Message pong
    if m.type == MSG_PONG:
        if a.pings == 1:
            measured(a, of(a).now - a.asked)
        a.pings = 0
        return
    memset(&pong, 0, sizeof(pong))
    pong.type = MSG_PONG
    out_say(&a.out, &pong)


cdef void doubt(NamedAssociation *a) noexcept nogil:
    """Another engine is there now, or somebody says so: who answers our greeting says which."""
    cdef Message m
    if a.doubted and of(a).now - a.doubted < SECOND:
        return
    a.doubted = of(a).now
    getrandom(&a.cookie, sizeof(a.cookie), 0)
    greeting(a, &m, a.cookie, 0)
    out_say(&a.out, &m)


cdef void on_hello(NamedAssociation *a, const Message *m) noexcept nogil:
    """Its engine's. Once more: ours has not come there. One that says it has is not answered: else two, that
    a path has made of one, would be answered for ever."""
    cdef Message again
    if not has_our_name(of(a), m):
        of(a).n.other_names += 1
        fail(a, DOWN_NAME)
        return
    if not a.has_heard:
        a.has_heard, a.instance = True, m.token
    elif a.instance != m.token:
        doubt(a)
    elif a.has_said and not m.flags & HEARD:
        again = a.hello
        again.flags |= HEARD
        out_say(&a.out, &again)


cdef void take_signed(NamedTransport *t, const PeerAddress *peer, const uint8_t *p,
                      uint32_t n) noexcept nogil:
    """One message of a class that carries them."""
    cdef NamedAssociation *a
    cdef Message m
    if read_message(p, n, True, &m) != MESSAGE_FINE:
        t.base.bad_messages += 1
        t.n.damaged += 1
        unwanted(t)
        return
    a = association_to(t, peer)
    if m.type == MSG_HELLO and m.token == 0 and not m.flags & WELCOME:
        on_greeting(t, a, peer, &m)
        return
    if a == NULL:
        unwanted(t)
        return
    if m.type == MSG_HELLO and m.token == 0:
        on_welcome(a, &m)
        return
    if a.state == NAMED_STRANGER and m.type == MSG_HELLO and has_our_name(t, &m):
        up(a)
    if a.state != NAMED_UP:
        unwanted(t)
        return
    if m.type == MSG_HELLO:
        on_hello(a, &m)
    if a.state == NAMED_UP:
        heard(a, &m, n)


cdef void heard(NamedAssociation *a, const Message *m, uint32_t n) noexcept nogil:
    cdef NamedTransport *t = of(a)
    a.heard = t.now
    a.messages_received += 1
    a.bytes_received += n
    if not t.relays and m.token == 0 and (m.type == MSG_PING or m.type == MSG_PONG):
        on_ping(a, m)
        return
    t.base.sink.message(t.base.sink.ctx, &a.base, m, True)


cdef void take_plain(NamedTransport *t, const PeerAddress *peer, const uint8_t *p, uint32_t n) noexcept nogil:
    """One message that VTL has brought."""
    cdef NamedAssociation *a = association_to(t, peer)
    cdef Message m
    if a == NULL or a.state != NAMED_UP:
        unwanted(t)
    elif read_message(p, n, False, &m) != MESSAGE_FINE:
        t.base.bad_messages += 1
        unwanted(t)
    elif m.type == MSG_HELLO and runs_its_own(a) and not has_our_name(t, &m):
        t.n.other_names += 1            # its number in VTL's handshake is that of another one, too
        fail(a, DOWN_NAME)
    else:
        heard(a, &m, n)


cdef void take_frames(NamedTransport *t, const PeerAddress *peer, const uint8_t *p,
                      uint32_t n) noexcept nogil:
    cdef uint32_t size
    while n >= LENGTH_SIZE and t.child.fd >= 0:
        size = load32(p)
        if size > n - LENGTH_SIZE:
            break
        if t.relays:
            take_plain(t, peer, p + LENGTH_SIZE, size)
        else:
            take_signed(t, peer, p + LENGTH_SIZE, size)
        p += LENGTH_SIZE + size
        n -= LENGTH_SIZE + size
    if n and t.child.fd >= 0:
        blame(t, b"what its process says is no packet of the link")


cdef void on_up(NamedTransport *t, const PeerAddress *peer, bint repairs, const uint8_t *name,
                uint32_t n) noexcept nogil:
    cdef NamedAssociation *a = association_to(t, peer)
    if a == NULL:
        a = association_new(t, peer, NAMED_ASKING)
        if a != NULL and not make_room(t):
            association_free(t, a)
            a = NULL
    if a == NULL or a.state == NAMED_UP:
        return
    a.base.lacks = 0 if repairs else T_REPAIRS | T_CONGESTION
    memset(a.function, 0, sizeof(a.function))
    memcpy(a.function, name, n)
    up(a)


cdef void on_down(NamedTransport *t, const PeerAddress *peer, uint8_t why) noexcept nogil:
    cdef NamedAssociation *a = association_to(t, peer)
    if a != NULL:
        fail(a, <down_reason>why if why < DOWN_PROTOTYPE else DOWN_PROTOCOL)


cdef void on_hole(NamedTransport *t, const PeerAddress *peer, const uint8_t *p, uint32_t n) noexcept nogil:
    cdef NamedAssociation *a = association_to(t, peer)
    cdef Message m
    if (a == NULL or a.state != NAMED_UP
            or read_message(p + LENGTH_SIZE, n - LENGTH_SIZE, False, &m) != MESSAGE_FINE
            or m.type != MSG_DATA or m.data_n or not 0 < load32(p) <= MOST_HOLE):
        unwanted(t)
        return
    m.data, m.data_n = NULL, load32(p)
    t.base.sink.hole(t.base.sink.ctx, &a.base, &m)


cdef void take_packet(NamedTransport *t, uint32_t n) noexcept nogil:
    cdef const uint8_t *p = t.child.rx
    cdef PeerAddress peer
    child_about(&t.child, &peer)
    if p[0] == TOLD_FRAMES:
        take_frames(t, &peer, p + HEAD, n - HEAD)
    elif p[0] == TOLD_HOLE and t.relays and n > HEAD + LENGTH_SIZE:
        on_hole(t, &peer, p + HEAD, n - HEAD)
    elif p[0] == TOLD_UP and t.relays and HEAD < n <= HEAD + 1 + NAME_MOST:
        on_up(t, &peer, p[HEAD], p + HEAD + 1, n - HEAD - 1)
    elif p[0] == TOLD_DOWN and t.relays and n == HEAD + 1:
        on_down(t, &peer, p[HEAD])
    elif p[0] != TOLD_BEAT:
        blame(t, b"what its process says is no packet of the link")


cdef void read_some(NamedTransport *t) noexcept nogil:
    cdef uint32_t n
    cdef int i
    for i in range(PACKETS):
        n = child_hear(&t.child, t.now)
        if n == 0:
            return
        take_packet(t, n)
        t.base.sink.settle(t.base.sink.ctx)     # messages point into the packet


cdef void watch_for(NamedTransport *t, uint32_t events) noexcept nogil:
    cdef epoll_event ev
    ev.events = events
    ev.data.u64 = <uint64_t>t.base.tag << 32 | <uint64_t>t.base.index << 24 | LINK
    if t.child.fd >= 0:
        epoll_ctl(t.base.epoll_fd, EPOLL_CTL_MOD, t.child.fd, &ev)


cdef void nt_ready(Transport *base, uint32_t own, uint32_t events, uint64_t now) noexcept nogil:
    cdef NamedTransport *t = T(base)
    t.now = now
    if events & EPOLLOUT and child_say_rest(&t.child):
        watch_for(t, EPOLLIN)
    read_some(t)


cdef void nt_catch_up(Transport *base, uint64_t now) noexcept nogil:
    T(base).now = now
    read_some(T(base))


# ---- out ---------------------------------------------------------------------------------------------

cdef bint send_batch(NamedAssociation *a) noexcept nogil:
    """Whether more may be sent."""
    cdef NamedTransport *t = of(a)
    cdef Batch *b = &t.shared.batch
    b.n = b.bytes = b.used = 0
    out_fill(&a.out, b, BATCH_BYTES)
    if b.n == 0:
        return True
    a.bytes_sent += b.bytes
    child_say(&t.child, SAY_SEND, &a.peer, b.iov, b.n)
    shared_release(&t.shared)
    if t.child.blocked:
        watch_for(t, EPOLLIN | EPOLLOUT)
    return t.child.fd >= 0 and not t.child.blocked


cdef inline bint may_send(const NamedAssociation *a) noexcept nogil:
    """Where VTL greets nothing is said before it is up."""
    if a == NULL or a.state == NAMED_DEAD or not out_wants(&a.out):
        return False
    return a.state == NAMED_UP or not of(a).relays


cdef void send_all(NamedTransport *t) noexcept nogil:
    """One batch of each, by turns."""
    cdef int left = BATCHES
    cdef uint32_t seen = 0
    while left > 0 and seen < t.top and t.child.fd >= 0 and not t.child.blocked:
        t.turn = t.turn + 1 if t.turn + 1 < t.top else 0
        seen += 1
        if may_send(t.slots[t.turn]):
            left -= 1
            seen = 0
            if not send_batch(t.slots[t.turn]):
                return


cdef bint wants(const NamedTransport *t) noexcept nogil:
    cdef uint32_t i
    if t.child.fd < 0 or t.child.blocked:
        return False
    for i in range(t.top):
        if may_send(t.slots[i]):
            return True
    return False


cdef void take_down(NamedTransport *t) noexcept nogil:
    cdef NamedAssociation *a
    while t.dead != NULL:
        a = t.dead
        t.dead = a.dead_next
        if t.relays and a.why != DOWN_PROTOTYPE:
            child_say(&t.child, SAY_CLOSE, &a.peer, NULL, 0)
        out_down(&a.out)
        if a.announced:
            t.base.sink.assoc_down(t.base.sink.ctx, &a.base, <down_reason>a.why)
        association_free(t, a)


cdef void note_failure(NamedTransport *t) noexcept nogil:
    """Once it is seen: all that it carried."""
    cdef uint32_t i
    if t.child.fd >= 0 or not t.child.failed:
        return
    for i in range(t.top):
        if t.slots[i] != NULL:
            fail(t.slots[i], DOWN_PROTOTYPE)
    if not t.told:
        t.told = True
        t.n.failed += 1
        t.base.sink.failed(t.base.sink.ctx, &t.base)


cdef void nt_flush(Transport *base, uint64_t now) noexcept nogil:
    cdef NamedTransport *t = T(base)
    t.now = now
    shared_release(&t.shared)
    note_failure(t)
    take_down(t)
    send_all(t)
    note_failure(t)
    take_down(t)
    shared_release(&t.shared)


# ---- time --------------------------------------------------------------------------------------------

cdef void ask(NamedAssociation *a) noexcept nogil:
    """Whether it is still there, and how far away."""
    cdef NamedTransport *t = of(a)
    cdef Message ping
    if a.pings and t.now - a.heard >= t.dead_after:
        t.n.silent += 1
        fail(a, DOWN_SILENT)
        return
    a.asked = t.now
    a.pings += 1
    memset(&ping, 0, sizeof(ping))
    ping.type = MSG_PING
    out_say(&a.out, &ping)
    set_due(a, t.now + SECOND)


cdef void is_due(NamedAssociation *a) noexcept nogil:
    cdef NamedTransport *t = of(a)
    a.due = UINT64_MAX
    if a.state == NAMED_ASKING:
        greet(a)
    elif a.state == NAMED_STRANGER:
        fail(a, DOWN_CLOSED)
    elif a.state == NAMED_UP and a.has_said and not a.has_heard and a.tries < HELLOS:
        hello_again(a)
    elif a.state == NAMED_UP and in_use(a):
        if not t.relays:
            ask(a)
    elif a.state == NAMED_UP and t.now - a.idle_since >= <uint64_t>IDLE_AFTER:
        fail(a, DOWN_CLOSED)
    elif a.state == NAMED_UP:
        set_due(a, a.idle_since + <uint64_t>IDLE_AFTER)


cdef void nt_on_time(Transport *base, uint64_t now) noexcept nogil:
    cdef NamedTransport *t = T(base)
    cdef uint32_t i
    child_judge(&t.child, now)
    if t.next_due > now:
        return
    t.now, t.next_due = now, UINT64_MAX
    for i in range(t.top):
        if t.slots[i] != NULL and t.slots[i].due <= now:
            is_due(t.slots[i])
        if t.slots[i] != NULL:
            t.next_due = min(t.next_due, t.slots[i].due)


cdef uint64_t nt_deadline(Transport *base) noexcept nogil:
    cdef NamedTransport *t = T(base)
    if t.dead != NULL or wants(t) or (t.child.failed and not t.told):
        return 0
    return min(t.next_due, child_due(&t.child))


# ---- the beginning, and the end ----------------------------------------------------------------------

cdef bint start_again(NamedTransport *t) noexcept with gil:
    """Its descriptors were closed. False: it has failed."""
    try:
        (<NamedHandle>t.handle).start()
    except ConfigurationError as error:
        (<NamedHandle>t.handle).fault = error.message
        return False
    return True


cdef int nt_open(Transport *base, uint16_t port, uint16_t *bound) noexcept nogil:
    cdef NamedTransport *t = T(base)
    cdef int r
    t.now = clock_ns()
    if t.child.fd < 0 and not start_again(t):
        return -EIO
    r = child_open(&t.child, port, bound)
    if r == 0 and watch_file(base, t.child.fd, EPOLLIN, LINK) < 0:
        r = -errno
    return r


cdef uint64_t nt_held_less(const Transport *t) noexcept nogil:
    return (<const NamedTransport *>t).held_peak - (<const NamedTransport *>t).sources.held


cdef void nt_held_noted(Transport *t) noexcept nogil:
    T(t).held_peak = T(t).sources.held


cdef void nt_note(Transport *base) noexcept nogil:
    cdef NamedTransport *t = T(base)
    t.noted = t.n
    t.noted.packets_sent, t.noted.packets_received = t.child.sent, t.child.received
    t.noted.bytes_sent, t.noted.bytes_received = t.child.bytes_sent, t.child.bytes_received
    t.noted.associations, t.noted.held = t.count, t.sources.held


cdef void nt_close_files(Transport *base) noexcept nogil:
    child_end(&T(base).child)


cdef void nt_shut(Transport *base) noexcept nogil:
    cdef NamedTransport *t = T(base)
    child_end(&t.child)
    while t.top:
        if t.slots[t.top - 1] == NULL:
            t.top -= 1
        else:
            association_free(t, t.slots[t.top - 1])
    t.dead = NULL
    shared_end(&t.shared)


cdef void nt_free(Transport *base) noexcept nogil:
    nt_shut(base)
    child_free(&T(base).child)
    free(base)


# ---- what the engine asks of associations ------------------------------------------------------------

cdef Association *nt_connect(Transport *base, const PeerAddress *to, uint64_t now) noexcept nogil:
    """Of a class that has failed one that is down already: its flows hear why."""
    cdef NamedTransport *t = T(base)
    cdef NamedAssociation *a = association_to(t, to)
    t.now = now
    if a != NULL and (a.state == NAMED_UP or a.announced):
        a.outgoing = True
        return &a.base
    if a == NULL:
        a = association_new(t, to, NAMED_ASKING)
        if a == NULL:
            return NULL
    known(a)
    a.state, a.announced, a.outgoing, a.began = NAMED_ASKING, True, True, now
    t.n.connects += 1
    if t.child.fd < 0:
        fail(a, DOWN_PROTOTYPE)
    elif t.relays:
        child_say(&t.child, SAY_CONNECT, to, NULL, 0)
        set_due(a, now + <uint64_t>STRANGER_TIME)
        a.tries = GREETINGS
    else:
        greet(a)
    return &a.base


cdef bint nt_is_up(const Association *a) noexcept nogil:
    return A(a).state == NAMED_UP


cdef const PeerAddress *nt_peer(const Association *a) noexcept nogil:
    return &A(a).peer


cdef uint64_t nt_patience(const Association *a) noexcept nogil:
    return 2 * A(a).srtt + 4 * A(a).rttvar


cdef int nt_say(Association *base, const Message *m) noexcept nogil:
    cdef NamedAssociation *a = A(base)
    if a.state == NAMED_DEAD or out_say(&a.out, m) < 0:
        return -1
    if m.type == MSG_HELLO and not of(a).relays:
        a.hello, a.has_said, of(a).instance = m[0], True, m.token
        set_due(a, of(a).now + FIRST_GREETING)
    return 0


cdef void nt_hold(Association *a) noexcept nogil:
    A(a).holds += 1
    use_changed(A(a))


cdef void nt_let_go(Association *a) noexcept nogil:
    A(a).holds -= 1
    use_changed(A(a))


cdef void nt_close(Association *base, uint64_t now) noexcept nogil:
    """What was said goes to the child yet, as far as it takes it."""
    cdef NamedAssociation *a = A(base)
    of(a).now = now
    if may_send(a) and not of(a).child.blocked:
        send_batch(a)
    fail(a, DOWN_CLOSED)


cdef void nt_stats(const Association *base, uint8_t *row) noexcept nogil:
    cdef const NamedAssociation *a = A(base)
    cdef NamedStats *s = <NamedStats *>row
    memset(s, 0, sizeof(NamedStats))
    s.srtt_ns, s.rttvar_ns, s.min_rtt_ns = a.srtt, a.rttvar, a.min_rtt
    s.bytes_sent, s.bytes_received, s.messages_received = a.bytes_sent, a.bytes_received, a.messages_received
    s.waiting, s.up, s.channels = a.out.waiting, a.state == NAMED_UP, a.out.channels
    memcpy(s.function, a.function, sizeof(a.function))


cdef void nt_take(Association *a, take_kind what, int64_t n) noexcept nogil:
    A(a).taken[<int>what] += <uint64_t>n
    A(a).source.taken[<int>what] += <uint64_t>n


cdef uint64_t nt_taken(const Association *a, take_kind what) noexcept nogil:
    return A(a).source.taken[<int>what]


cdef uint32_t nt_sources(const Association *a) noexcept nogil:
    return max(of(A(a)).sources.n, <uint32_t>FAIR_SOURCES)


# ---- channels ----------------------------------------------------------------------------------------

cdef inline NamedAssociation *owner_of(const Channel *c) noexcept nogil:
    """NULL: it is down."""
    cdef Outgoing *o = (<QueueChannel *>c).out
    cdef size_t before = <size_t>&(<NamedAssociation *>NULL).out
    return <NamedAssociation *>(<uint8_t *>o - before) if o != NULL else NULL


cdef Channel *nt_channel(Association *base, void *user) noexcept nogil:
    cdef NamedAssociation *a = A(base)
    cdef Channel *c = channel_new(&a.out, user) if a.state != NAMED_DEAD else NULL
    if c != NULL:
        use_changed(a)
    return c


cdef void nt_channel_close(Channel *c) noexcept nogil:
    cdef NamedAssociation *a = owner_of(c)
    channel_free(c)
    if a != NULL:
        use_changed(a)


cdef int nt_send(Channel *c, const Message *m, void *owner) noexcept nogil:
    cdef NamedAssociation *a = owner_of(c)
    return -1 if a == NULL or a.state == NAMED_DEAD or channel_send(c, m, owner) < 0 else 0


cdef void nt_report(Channel *c) noexcept nogil:
    channel_report(c)


cdef TransportOps OPS
OPS.open = nt_open
OPS.ready = nt_ready
OPS.catch_up = nt_catch_up
OPS.deadline = nt_deadline
OPS.on_time = nt_on_time
OPS.flush = nt_flush
OPS.held_less = nt_held_less
OPS.held_noted = nt_held_noted
OPS.note = nt_note
OPS.close_files = nt_close_files
OPS.shut = nt_shut
OPS.free = nt_free
OPS.connect = nt_connect
OPS.is_up = nt_is_up
OPS.peer = nt_peer
OPS.patience = nt_patience
OPS.say = nt_say
OPS.hold = nt_hold
OPS.let_go = nt_let_go
OPS.close = nt_close
OPS.stats = nt_stats
OPS.take = nt_take
OPS.taken = nt_taken
OPS.sources = nt_sources
OPS.channel = nt_channel
OPS.channel_close = nt_channel_close
OPS.send = nt_send
OPS.report = nt_report
OPS.waiting = channel_waiting
OPS.all_waiting = channel_all_waiting
OPS.unacked = channel_waiting
OPS.newest = channel_newest
OPS.at_rest = channel_at_rest


# ---- made --------------------------------------------------------------------------------------------

cdef class NamedHandle(Handle):
    """See contract.pyx."""

    cdef object what                            # a children.Plan
    cdef object process                         # a children.Process, or None
    cdef str fault                              # why it could not be started again

    cdef int start(self) except -1:
        """Raises ConfigurationError: what the user's class lacks, or raises."""
        cdef NamedTransport *t = T(self.t)
        if self.process is not None:
            self.process.end()
        self.process = children.begin(self.what)
        t.child.failed = False
        child_begin(&t.child, self.process.detach(), clock_ns())
        t.shared.cut = self.process.max_message - MAX_HEADER - CRC_SIZE
        return 0

    cdef str failure(self):
        cdef NamedTransport *t = T(self.t)
        if self.fault:
            return self.fault
        if not t.child.failed:
            return ""
        return children.said(self.what, (<bytes>t.child.text).decode("utf-8", "replace"))

    cdef dict counted(self):
        return {f"{self.name}.{name}": count for name, count in (<dict>T(self.t).noted).items()}

    cdef dict row(self, const uint8_t *row):
        cdef dict found = (<const NamedStats *>row)[0]
        cdef bytes function = (<const NamedStats *>row).function
        del found["function"]
        if function:
            found["reliability"] = children.shown(function.decode("utf-8", "replace"))
        return found

    def __dealloc__(self):
        if self.t != NULL and not self.used:    # else it is freed already
            child_end(&T(self.t).child)
        if self.process is not None:
            self.process.end()


def make(str name, uint8_t wire_id, what, settings, bint relays=False):
    """One whose process is started with `what`, a children.Plan. `relays`: it has VTL in it.

    Raises MemoryError; ConfigurationError when there is a key, which users' classes must not see, or when the
    class cannot be had.
    """
    cdef NamedHandle handle = NamedHandle.__new__(NamedHandle)
    cdef bytes text = name.encode()
    cdef NamedTransport *t
    if settings.keys:
        raise ConfigurationError(f"{name} is a class of yours, so a key does not go with it")
    if not 0 < len(text) <= NAME_MOST:
        raise ConfigurationError(f"transport {name}: a name has at most {NAME_MOST} bytes")
    handle.fault = ""
    handle.what = what
    t = <NamedTransport *>calloc(1, sizeof(NamedTransport))
    if t == NULL or child_init(&t.child) < 0:
        free(t)
        raise MemoryError(f"transport {name}")
    t.base.ops = &OPS
    t.handle = <void *>handle
    handle.t = &t.base                              # which frees it
    handle.name = name
    t.relays = relays
    t.base.properties = T_REPAIRS | T_INTEGRITY | T_CONGESTION if relays else 0
    t.base.wire_id = wire_id
    t.decides = relays and "reliability" in what.job
    if t.decides:
        text = what.job["reliability"][0].encode()[:NAME_MOST]
    t.hello[0], t.hello[1] = 1, <uint8_t>len(text)
    memcpy(t.hello + 2, <const char *>text, len(text))
    t.base.options, t.base.options_n = t.hello, 2 + <uint32_t>len(text)
    t.dead_after = <uint64_t>(settings.dead_after * 1e9)
    t.next_due = UINT64_MAX
    t.shared.sink, t.shared.ops, t.shared.sources = &t.base.sink, &OPS, &t.sources
    t.shared.signed = not relays
    sources_init(&t.sources, min(<uint64_t>BUDGET, <uint64_t>settings.budget))
    handle.start()
    return handle
