"""Associations of a bare transport.

1. Who asks has to bring back a cookie, a MAC over its address, token and instance and the time (RFC 9000
   8.1.2 does the same with tokens): until then nothing is kept of it, and no answer is larger than its
   question.
2. In every datagram is a token of 64 bits that its receiver has chosen. So who cannot see the path cannot
   speak for the peer, and a datagram with a token that nobody has chosen is answered by UNKNOWN, which quotes
   it: so a peer's restart is noticed. Its next ASK, of another instance, ends what was there before.
3. Nothing is repeated but what only the transport knows of: HELLO, until the peer says that it has it.
4. REACH asks whether the peer is there; the answer says how large a datagram has come, too. A size is used
   once the path has carried it, and asked for again while it is used (RFC 8899). Where answers come, but
   no more what each path has to carry, the association ends: TCP finds its way there.
5. An ICMP error is believed about an association that has begun only when the peer does not contradict it.
"""

from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset
from hooker.flow.messages cimport MESSAGE_FINE, MSG_HELLO, Message, read_message
from hooker.includes.bytes cimport load32, load64, store16, store32, store64
from hooker.includes.ip cimport is_v4
from hooker.includes.links cimport Link, link_append, link_prepend, link_remove
from hooker.includes.siphash cimport siphash24
from hooker.includes.timers cimport timer, timer_clear, timer_set, timers_next
from hooker.transports.bare_state cimport *
from hooker.transports.bare_wire cimport *
from hooker.transports.contract cimport *
from hooker.transports.queues cimport out_down, out_end
from hooker.transports.sources cimport source_join, source_leave
from hooker.vtl.api cimport same_addr, vtl_addr

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *buf, size_t n, unsigned int flags)

cdef enum:
    MS = 1000000               # ns, as all times
    SECOND_BITS = 30           # of a time, that are left out of a cookie's
    COOKIE_LIFETIME = 8        # of these
    FIRST_TRY = 100 * MS       # doubles
    KEEPALIVE = 1000 * MS
    CONNECT_TIME = 3000000000  # not as a product: it would be an int's
    GREET_TIME = 10000000000
    IDLE_AFTER = 120000000000
    PROBE_PAUSE = 10000000000
    PROBES = 3                 # of a size, unanswered: the path does not carry it
    BASE_PROBES = 5            # of the least, which ends the association
    MAX_INCOMING = MAX_ASSOCS // 4 * 3
    SOURCE_ASSOCS = 64
    UNKNOWNS = ANSWERS // 4    # in one round
    V6_MORE = 20               # bytes of its header


cdef inline BareAssociation *owner_of(const timer *due) noexcept nogil:
    cdef size_t before = <size_t>&(<BareAssociation *>NULL).due
    return <BareAssociation *>(<uint8_t *>due - before)


# ---- tables ------------------------------------------------------------------------------------------

cdef inline uint32_t chain_of_peer(const Bare *t, const vtl_addr *to) noexcept nogil:
    return siphash24(t.scatter, to.ip, 18) & (CHAINS - 1)


cdef inline BareAssociation *with_token(const Bare *t, uint64_t token) noexcept nogil:
    cdef BareAssociation *a = t.by_token[token & (CHAINS - 1)]
    while a != NULL and a.own != token:
        a = a.next_by_token
    return a


cdef void remember(Bare *t, BareAssociation *a) noexcept nogil:
    cdef uint32_t chain = chain_of_peer(t, &a.to)
    a.next_by_peer = t.by_peer[chain]
    t.by_peer[chain] = a
    a.next_by_token = t.by_token[a.own & (CHAINS - 1)]
    t.by_token[a.own & (CHAINS - 1)] = a


cdef void forget(Bare *t, BareAssociation *a) noexcept nogil:
    cdef BareAssociation **at = &t.by_peer[chain_of_peer(t, &a.to)]
    while at[0] != a:
        at = &at[0].next_by_peer
    at[0] = a.next_by_peer
    at = &t.by_token[a.own & (CHAINS - 1)]
    while at[0] != a:
        at = &at[0].next_by_token
    at[0] = a.next_by_token


# ---- timers ------------------------------------------------------------------------------------------

cdef inline void set_due(BareAssociation *a, uint64_t at) noexcept nogil:
    timer_set(&bare_of(a).timers, &a.due, at)   # there is room for all


cdef inline void due_before(BareAssociation *a, uint64_t at) noexcept nogil:
    if a.due.place == 0 or at < a.due.at:
        set_due(a, at)


cdef void bare_use_changed(BareAssociation *a) noexcept nogil:
    cdef Bare *t = bare_of(a)
    if a.state != BARE_UP or is_in_use(a) != a.idle.inside:
        return
    if a.idle.inside:
        link_remove(&t.idle, &a.idle)
        due_before(a, t.now + KEEPALIVE)
    else:
        link_append(&t.idle, &a.idle, a)
        a.idle_since = t.now
        due_before(a, t.now + IDLE_AFTER)


cdef void bare_ready(BareAssociation *a) noexcept nogil:
    if not a.ready.inside and a.state != BARE_DEAD:
        link_append(&bare_of(a).ready, &a.ready, a)


# ---- beginning and end -------------------------------------------------------------------------------

cdef uint64_t new_token(const Bare *t) noexcept nogil:
    cdef uint64_t token = 0
    while token == 0 or with_token(t, token) != NULL:
        if getrandom(&token, sizeof(token), 0) != sizeof(token):
            return 0
    return token


cdef inline uint32_t base_for(const Bare *t, const vtl_addr *to) noexcept nogil:
    """Bytes of a datagram that each path has to carry."""
    return t.least - (0 if is_v4(to.ip) else V6_MORE)


cdef BareAssociation *association_new(Bare *t, const vtl_addr *to) noexcept nogil:
    """NULL: no memory, or too many."""
    cdef BareAssociation *a
    if t.count >= MAX_ASSOCS:
        return NULL
    a = <BareAssociation *>calloc(1, sizeof(BareAssociation))
    if a == NULL:
        return NULL
    a.own = new_token(t)
    # a vtl_addr begins like a PeerAddress
    a.source = source_join(&t.sources, <const PeerAddress *>to) if a.own else NULL
    if a.source == NULL:
        free(a)
        return NULL
    a.base.ops, a.base.t = t.shared.ops, t.base
    a.to, a.began, a.heard, a.state = to[0], t.now, t.now, BARE_ASKING
    a.base_size = a.size = base_for(t, to)
    a.most = a.base_size + t.first - t.least
    a.out.shared, a.out.source = &t.shared, a.source
    link_prepend(&t.all, &a.one, a)
    t.count += 1
    remember(t, a)
    return a


cdef void association_free(Bare *t, BareAssociation *a) noexcept nogil:
    cdef int i
    out_end(&a.out)
    for i in range(TAKES):
        a.source.taken[i] -= a.taken[i]
    source_leave(&t.sources, a.source)
    link_remove(&t.all, &a.one)
    t.count -= 1
    free(a)


cdef void bare_fail(BareAssociation *a, down_reason why) noexcept nogil:
    cdef Bare *t = bare_of(a)
    if a.state == BARE_DEAD:
        return
    if a.state == BARE_ASKING and why == DOWN_UNREACHABLE:
        t.n.connects_failed += 1
    forget(t, a)
    timer_clear(&t.timers, &a.due)
    if a.ready.inside:
        link_remove(&t.ready, &a.ready)
    if a.idle.inside:
        link_remove(&t.idle, &a.idle)
    a.state, a.why = BARE_DEAD, why
    link_append(&t.dead, &a.dead, a)


cdef void bare_end(BareAssociation *a, down_reason why) noexcept nogil:
    cdef bint was_up = a.state == BARE_UP
    bare_fail(a, why)
    if was_up:
        a.last_words = a.end_due = True
        link_append(&bare_of(a).ready, &a.ready, a)


cdef void bare_buried(Bare *t) noexcept nogil:
    cdef Link *at = t.dead.first
    cdef Link *following
    cdef BareAssociation *a
    while at != NULL:
        a, following = <BareAssociation *>at.owner, at.next
        if not a.last_words:
            link_remove(&t.dead, at)
            out_down(&a.out)
            if a.announced:
                t.base.sink.assoc_down(t.base.sink.ctx, &a.base, <down_reason>a.why)
            association_free(t, a)
        at = following


cdef void bare_free(Bare *t) noexcept nogil:
    while t.all.first != NULL:
        association_free(t, <BareAssociation *>t.all.first.owner)
    memset(t.by_token, 0, sizeof(t.by_token))
    memset(t.by_peer, 0, sizeof(t.by_peer))
    memset(&t.ready, 0, sizeof(t.ready))
    memset(&t.dead, 0, sizeof(t.dead))
    memset(&t.idle, 0, sizeof(t.idle))
    t.timers.n = t.answers_n = 0


cdef void up(BareAssociation *a) noexcept nogil:
    cdef Bare *t = bare_of(a)
    a.state, a.announced, a.heard, a.tries = BARE_UP, True, t.now, 0
    a.reach_due = True
    look_at_size(a)
    set_due(a, t.now + FIRST_TRY)
    bare_use_changed(a)
    bare_ready(a)
    t.base.sink.assoc_up(t.base.sink.ctx, &a.base)


cdef BareAssociation *bare_connect(Bare *t, const PeerAddress *peer, uint64_t now) noexcept nogil:
    cdef vtl_addr to
    cdef BareAssociation *a
    t.now = now
    memset(&to, 0, sizeof(to))
    memcpy(to.ip, peer.ip, 16)
    to.port = peer.port if t.ports else 0
    a = t.by_peer[chain_of_peer(t, &to)]
    while a != NULL:
        if same_addr(&a.to, &to):
            a.announced = True
            return a
        a = a.next_by_peer
    a = association_new(t, &to)
    if a == NULL:
        return NULL
    t.n.connects += 1
    a.outgoing = a.announced = a.ask_due = True
    set_due(a, now + FIRST_TRY)
    bare_ready(a)
    return a


# ---- who asks ----------------------------------------------------------------------------------------

cdef void answer(Bare *t, const vtl_addr *to, const Shake *s, uint32_t most) noexcept nogil:
    """To a stranger; nothing is kept."""
    cdef Answer *one
    if t.answers_n >= most:
        t.n.unanswered += 1
        return
    one = &t.answers[t.answers_n]
    t.answers_n += 1
    one.to = to[0]
    one.n = write_shake(one.bytes, s)


cdef uint64_t cookie_of(const Bare *t, const vtl_addr *from_, const Shake *s, uint32_t time) noexcept nogil:
    cdef uint8_t m[48]
    cdef uint64_t mac
    memset(m, 0, sizeof(m))
    memcpy(m, from_.ip, 16)
    store16(m + 16, from_.port)
    store32(m + 20, time)
    store64(m + 24, s.token)
    store64(m + 32, s.instance)
    mac = siphash24(t.secret, m, sizeof(m))
    return mac if mac else 1


cdef void give_cookie(Bare *t, const vtl_addr *from_, Shake *s) noexcept nogil:
    t.n.asked += 1
    s.kind, s.time = SHAKE_COOKIE, <uint32_t>(t.now >> SECOND_BITS)
    s.cookie = cookie_of(t, from_, s, s.time)
    s.instance = t.instance
    answer(t, from_, s, ANSWERS)


cdef bint is_fresh(const Bare *t, const vtl_addr *from_, const Shake *s) noexcept nogil:
    cdef uint32_t age = <uint32_t>(t.now >> SECOND_BITS) - s.time
    return s.cookie != 0 and age <= COOKIE_LIFETIME and s.cookie == cookie_of(t, from_, s, s.time)


cdef BareAssociation *outdated(const Bare *t, const vtl_addr *from_, const Shake *s) noexcept nogil:
    """One with that address whose peer is another now, or has begun anew."""
    cdef BareAssociation *a = t.by_peer[chain_of_peer(t, from_)]
    while a != NULL:
        if same_addr(&a.to, from_) and ((a.instance and a.instance != s.instance) or not a.outgoing):
            return a
        a = a.next_by_peer
    return NULL


cdef bint make_room(Bare *t, const BareAssociation *a) noexcept nogil:
    """For one that a peer has begun: the one that has been unused for longest ends."""
    if a.source.assocs > SOURCE_ASSOCS:
        return False
    if t.count <= MAX_INCOMING:
        return True
    if t.idle.first == NULL:
        return False
    t.n.evicted += 1
    bare_end(<BareAssociation *>t.idle.first.owner, DOWN_CLOSED)
    return True


cdef void welcome(Bare *t, const vtl_addr *from_, const Shake *s) noexcept nogil:
    cdef BareAssociation *a = outdated(t, from_, s)
    while a != NULL:
        bare_fail(a, DOWN_REPLACED if a.instance != s.instance else DOWN_CLOSED)
        a = outdated(t, from_, s)
    a = association_new(t, from_)
    if a == NULL or not make_room(t, a):
        t.n.refused += 1
        if a != NULL:
            forget(t, a)
            association_free(t, a)
        return
    t.n.welcomed += 1
    a.other, a.instance, a.welcome_due = s.token, s.instance, True
    up(a)


cdef void hear_ask(Bare *t, const vtl_addr *from_, Shake *s, uint32_t n) noexcept nogil:
    cdef BareAssociation *a
    if not is_fresh(t, from_, s):
        give_cookie(t, from_, s)
        return
    if n < base_for(t, from_):
        t.n.malformed += 1
        return
    a = t.by_peer[chain_of_peer(t, from_)]
    while a != NULL:
        if same_addr(&a.to, from_) and not a.outgoing and a.other == s.token:
            a.welcome_due = True                # the first one was lost
            bare_ready(a)
            return
        a = a.next_by_peer
    welcome(t, from_, s)


cdef void hear_unknown(Bare *t, const vtl_addr *from_, uint64_t token) noexcept nogil:
    cdef BareAssociation *a = with_other(t, from_, token)
    if a != NULL:
        bare_fail(a, DOWN_REPLACED)


cdef BareAssociation *with_other(const Bare *t, const vtl_addr *there, uint64_t token) noexcept nogil:
    """That is up with that address, where the peer has chosen this token."""
    cdef BareAssociation *a = t.by_peer[chain_of_peer(t, there)]
    while a != NULL and not (a.state == BARE_UP and a.other == token and same_addr(&a.to, there)):
        a = a.next_by_peer
    return a


cdef void hear_answer(Bare *t, const vtl_addr *from_, const Shake *s, uint32_t n) noexcept nogil:
    """To our ASK. Who has not seen it does not know its token."""
    cdef BareAssociation *a = with_token(t, s.token)
    if a == NULL or a.state != BARE_ASKING or not same_addr(&a.to, from_) or s.cookie == 0:
        return
    if s.kind == SHAKE_COOKIE:
        a.ask_due = a.ask_due or a.cookie == 0          # once more at once; a newer one waits for the timer
        a.cookie, a.cookie_time = s.cookie, s.time
        bare_ready(a)
        return
    if n < a.base_size:
        t.n.malformed += 1
        return
    a.to, a.other, a.instance = from_[0], s.cookie, s.instance
    up(a)


cdef void hear_shake(Bare *t, const vtl_addr *from_, const uint8_t *p, uint32_t n) noexcept nogil:
    cdef Shake s
    if not read_shake(p, n, &s):
        t.n.malformed += 1
    elif s.kind == SHAKE_ASK:
        hear_ask(t, from_, &s, n)
    elif s.kind == SHAKE_UNKNOWN:
        hear_unknown(t, from_, s.token)
    else:
        hear_answer(t, from_, &s, n)


# ---- what arrives ------------------------------------------------------------------------------------

cdef void measure(BareAssociation *a, uint64_t rtt) noexcept nogil:
    """RFC 6298, 2."""
    cdef int64_t off
    if a.srtt == 0:
        a.srtt, a.rttvar, a.min_rtt = rtt, rtt // 2, rtt
        return
    off = <int64_t>(a.srtt - rtt)
    a.rttvar = (3 * a.rttvar + <uint64_t>(off if off > 0 else -off)) // 4
    a.srtt = (7 * a.srtt + rtt) // 8
    a.min_rtt = min(a.min_rtt, rtt)


cdef void reached(BareAssociation *a, const Own *m) noexcept nogil:
    cdef Reach *r = &a.reaches[m.number & (REACHES - 1)]
    if r.at == 0 or r.number != m.number:
        return
    measure(a, max(bare_of(a).now - r.at, <uint64_t>1))
    r.at = 0
    if m.size != r.size or m.size < a.base_size:
        return
    a.base_asked, a.base_unanswered = 0, 0
    if m.size == a.most:
        a.unanswered = 0
        a.size = a.most


cdef void hear_own(BareAssociation *a, const Own *m, uint32_t size) noexcept nogil:
    cdef Own *reply
    if m.type == OWN_END:
        bare_fail(a, DOWN_CLOSED)
        return
    a.greeted = a.greeted or m.flags & OWN_GREETED
    if m.type == OWN_REACHED:
        reached(a, m)
    elif a.reached_n < 4:
        reply = &a.reached[a.reached_n]
        a.reached_n += 1
        reply.type, reply.size, reply.number = OWN_REACHED, <uint16_t>size, m.number
        bare_ready(a)


cdef void hear_messages(Bare *t, BareAssociation *a, const uint8_t *p, uint32_t n) noexcept nogil:
    cdef uint32_t at = TOKEN_SIZE, size
    cdef Message m
    cdef Own own
    while at < n and a.state == BARE_UP and p[at] != OWN_ZERO:
        if OWN_REACH <= p[at] <= OWN_END and n - at >= OWN_SIZE:
            read_own(p + at, &own)
            hear_own(a, &own, n)
            at += OWN_SIZE
            continue
        size = message_size(p + at, n - at)
        if size == 0 or size > n - at or read_message(p + at, size, False, &m) != MESSAGE_FINE:
            t.base.bad_messages += 1            # nobody knows where the next one begins
            return
        at += size
        a.messages_received += 1
        a.hello_heard = a.hello_heard or m.type == MSG_HELLO
        t.base.sink.message(t.base.sink.ctx, &a.base, &m, True)


cdef void hear_stray(Bare *t, const vtl_addr *from_, uint64_t token, uint32_t n) noexcept nogil:
    """For an association that is over, or of an engine that was here before."""
    cdef Shake s
    t.n.unknown += 1
    if n < UNKNOWN_SIZE:
        return
    memset(&s, 0, sizeof(s))
    s.kind, s.token = SHAKE_UNKNOWN, token
    answer(t, from_, &s, UNKNOWNS)


cdef void bare_hear(Bare *t, const vtl_addr *from_, const uint8_t *p, uint32_t n,
                    uint64_t now) noexcept nogil:
    cdef BareAssociation *a
    cdef uint64_t token
    t.now = now
    if n < TOKEN_SIZE:
        t.n.malformed += 1
        return
    token = load64(p)
    if token == 0:
        hear_shake(t, from_, p, n)
        return
    a = with_token(t, token)
    if a == NULL:
        hear_stray(t, from_, token, n)
    elif not same_addr(&a.to, from_):
        t.n.elsewhere += 1
    elif a.state == BARE_UP:                    # else it has overtaken WELCOME
        a.heard, a.asked, a.refused = now, 0, 0
        a.datagrams_received += 1
        a.bytes_received += n
        hear_messages(t, a, p, n)


cdef BareAssociation *quoted(Bare *t, const vtl_addr *to, const uint8_t *p, uint32_t n) noexcept nogil:
    """Whose datagram an ICMP error quotes; NULL: nobody's whom it could have seen."""
    cdef BareAssociation *a = NULL
    cdef uint64_t token = load64(p) if n >= TOKEN_SIZE else 0
    if token:
        a = with_other(t, to, token)
    elif n >= UNKNOWN_SIZE and load32(p + 8) == MAGIC and p[12] == SHAKE_ASK:
        a = with_token(t, load64(p + 16))
    if a != NULL and same_addr(&a.to, to):
        return a
    t.n.unproven_errors += 1
    return NULL


cdef void bare_refused(Bare *t, const vtl_addr *to, const uint8_t *p, uint32_t n,
                       uint64_t now) noexcept nogil:
    cdef BareAssociation *a
    t.now = now
    a = quoted(t, to, p, n)
    if a == NULL:
        return
    if a.state == BARE_ASKING:
        bare_fail(a, DOWN_UNREACHABLE)
    elif a.refused == 0:
        a.refused = now
        ask(a)
        due_before(a, now + FIRST_TRY)
    elif now - a.refused >= patience(a):
        bare_fail(a, DOWN_UNREACHABLE)


cdef void narrowed(BareAssociation *a, uint32_t mtu) noexcept nogil:
    """``mtu`` 0: to what is not said."""
    if mtu == 0 or mtu >= LEAST_MTU:
        fall_back(a)
    elif a.state == BARE_UP:
        bare_end(a, DOWN_UNREACHABLE)
    else:
        bare_fail(a, DOWN_UNREACHABLE)


cdef void bare_too_large(Bare *t, const vtl_addr *to, const uint8_t *p, uint32_t n, uint32_t mtu,
                         uint64_t now) noexcept nogil:
    cdef BareAssociation *a
    cdef Link *at
    cdef Link *following
    t.now = now
    if n:
        a = quoted(t, to, p, n)
        if a != NULL:
            narrowed(a, mtu)
        return
    at = t.all.first                            # our own link says no port
    while at != NULL:
        a, following = <BareAssociation *>at.owner, at.next
        if a.state != BARE_DEAD and memcmp(a.to.ip, to.ip, sizeof(a.to.ip)) == 0:
            narrowed(a, mtu)
        at = following


# ---- time --------------------------------------------------------------------------------------------

cdef void ask(BareAssociation *a) noexcept nogil:
    """Whether the peer is there."""
    if a.asked == 0:
        a.asked = bare_of(a).now
    a.reach_due = True
    bare_ready(a)


cdef void fall_back(BareAssociation *a) noexcept nogil:
    """To the size that each path carries, for some time."""
    if a.size > a.base_size:
        a.size = a.base_size
        a.holes += 1
        a.base_used = True                      # or so it is said
    a.unanswered = 0
    a.probe_again = bare_of(a).now + PROBE_PAUSE


cdef void look_at_size(BareAssociation *a) noexcept nogil:
    cdef uint64_t now = bare_of(a).now
    if a.most <= a.base_size:
        return
    if a.unanswered >= PROBES:
        fall_back(a)
    elif (a.size < a.most and now >= a.probe_again) or a.large_used or a.unanswered:
        a.large_used = False
        a.probe_due = True
        bare_ready(a)


cdef inline uint64_t patience(const BareAssociation *a) noexcept nogil:
    """After which an answer is late."""
    return max(<uint64_t>FIRST_TRY, 2 * a.srtt + 4 * a.rttvar)


cdef bint look_at_base(BareAssociation *a) noexcept nogil:
    """False: it has ended. Where nothing else is heard, too, silence has its own time."""
    if a.base_due or (a.base_asked and bare_of(a).now - a.base_asked < patience(a)):
        return True                             # it has not left, or may be answered yet
    if a.base_asked and a.heard > a.base_asked:
        a.base_unanswered += 1
        if a.base_unanswered >= BASE_PROBES:
            bare_end(a, DOWN_UNREACHABLE)
            return False
    if a.size == a.base_size and (a.base_used or a.base_asked):
        a.base_due = True
        bare_ready(a)
    return True


cdef uint64_t until_probe(const BareAssociation *a) noexcept nogil:
    """After which the next one follows that is not answered."""
    cdef int n = max(a.unanswered, a.base_unanswered)
    return min(<uint64_t>KEEPALIVE, patience(a) << (n - 1)) if n else KEEPALIVE


cdef void is_due(BareAssociation *a) noexcept nogil:
    cdef uint64_t now = bare_of(a).now
    cdef uint64_t pause = min(<uint64_t>FIRST_TRY << a.tries, <uint64_t>KEEPALIVE)
    cdef bint greeting = not a.greeted and now - a.began < GREET_TIME
    a.tries = min(a.tries + 1, 5)
    if a.state == BARE_ASKING:
        if now - a.began >= CONNECT_TIME:
            bare_fail(a, DOWN_UNREACHABLE)
            return
        a.ask_due = True
        bare_ready(a)
        set_due(a, min(now + (<uint64_t>FIRST_TRY << a.tries), a.began + CONNECT_TIME))
    elif a.asked and now - a.asked >= bare_of(a).dead_after:
        bare_fail(a, DOWN_SILENT)
    elif a.idle.inside and not greeting and not a.asked:
        if now - a.idle_since >= IDLE_AFTER:
            bare_end(a, DOWN_CLOSED)
        else:
            set_due(a, a.idle_since + IDLE_AFTER)
    else:
        if greeting or a.refused or now - a.heard >= KEEPALIVE:
            ask(a)
        look_at_size(a)
        if not look_at_base(a):
            return
        if not greeting and a.refused == 0:
            pause = until_probe(a)
        set_due(a, min(now + pause, a.asked + bare_of(a).dead_after) if a.asked else now + pause)


cdef void bare_on_time(Bare *t, uint64_t now) noexcept nogil:
    t.now = now
    while timers_next(&t.timers) <= now:
        is_due(owner_of(t.timers.v[0]))
