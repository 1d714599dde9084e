"""What is kept for an association: its flows, what names it in proofs, and OPENs that came before the event of their flow.

1. An OPEN overtakes the handshake's last ACK now and then. It is kept for a moment, in a table of fixed size, of which
   one peer has a quarter at most; without room the answer is REJECT 1, and the client repeats it.
2. Answers about flows that nobody knows cost their sender as much as us, and are limited in rate.
3. So are associations that connections of this host begin: each costs memory for as long as nobody answers, and any of
   its users may connect to as many addresses as it likes. What is up is not affected.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memcmp, memcpy, memset
from hooker.engine.channel cimport channel_of
from hooker.engine.worker cimport *
from hooker.flow.messages cimport *
from hooker.flow.machine cimport flow_compose, unknown_flow
from hooker.includes.bytes cimport store64
from hooker.transports.contract cimport Association, Channel, PeerAddress, Transport
from hooker.includes.siphash cimport siphash24

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *buf, size_t n, unsigned int flags)

cdef enum:
    EARLY_MOMENT = 250000000   # ns: then the client has repeated its OPEN
    EARLY_SHARE = EARLY // 4
    EARLY_WAYS = 8             # places that an OPEN may have
    ANSWERS = 64               # at once, and ANSWER_RATE in a second
    ANSWER_RATE = 256
    REACHES = 1024             # the same of associations that begin
    REACH_RATE = 256


cdef Transport *transport_with(const worker *w, uint8_t wire_id) noexcept nogil:
    cdef uint32_t i
    for i in range(w.transport_n):
        if wire_id == 0 or w.transports[i].wire_id == wire_id:
            return w.transports[i]
    return NULL


cdef bint may_reach(worker *w) noexcept nogil:
    w.reaches = min(<double>REACHES, w.reaches + (w.now - w.reach_at) * 1e-9 * REACH_RATE)
    w.reach_at = w.now
    return w.reaches >= 1


cdef bint is_up_there(const worker *w, const Transport *t, const PeerAddress *to) noexcept nogil:
    cdef const PeerAddress *there
    cdef uint32_t i
    for i in range(w.peer_count):
        there = w.peers[i].a.ops.peer(w.peers[i].a)
        if w.peers[i].a.t == t and there.port == to.port and memcmp(there.ip, to.ip, sizeof(to.ip)) == 0:
            return True
    return False


cdef Association *reach(worker *w, const rule_way *way, uint8_t wire_id, const uint8_t *ip, uint16_t port) noexcept nogil:
    """wire_id 0: the server has said nothing, so the first choice."""
    cdef Transport *t = transport_with(w, wire_id if wire_id else way.first)
    cdef Association *a
    cdef PeerAddress to
    if t == NULL:
        return NULL
    memcpy(to.ip, ip, 16)
    to.port = port
    if not may_reach(w) and not is_up_there(w, t, &to):
        w.n.peers_not_reached += 1
        return NULL
    if t.ops.connect_as != NULL:
        a = t.ops.connect_as(t, &to, way.function, w.now)
    else:
        a = t.ops.connect(t, &to, w.now)
    if a != NULL and a.user == NULL and peer_of(w, a) != NULL:
        w.reaches -= 1
    return a


cdef peer *peer_of(worker *w, Association *a) noexcept nogil:
    cdef peer *p = <peer *>a.user
    if p != NULL:
        return p
    p = <peer *>calloc(1, sizeof(peer))
    if p == NULL:
        return NULL
    p.a = a
    p.answers = ANSWERS
    getrandom(&p.own_random, sizeof(p.own_random), 0)
    a.user = p
    return p


cdef uint32_t binding_of(const worker *w, const peer *p, bint opener_is_here, uint8_t *out) noexcept nogil:
    """The opener's HELLO, then the acceptor's (docs/flow.md, 6)."""
    cdef uint8_t *here = out if opener_is_here else out + 16
    cdef uint8_t *there = out + 16 if opener_is_here else out
    store64(here, w.instance)
    store64(here + 8, p.own_random)
    store64(there, p.instance)
    store64(there + 8, p.random)
    return 32


cdef void peer_answer(worker *w, peer *p, const Message *m) noexcept nogil:
    p.answers = min(<double>ANSWERS, p.answers + (w.now - p.answers_at) * 1e-9 * ANSWER_RATE)
    p.answers_at = w.now
    if p.answers < 1:
        return
    p.answers -= 1
    p.a.ops.say(p.a, m)


cdef void peer_say(worker *w, flow *f, const Message *m) noexcept nogil:
    """By the flow's channel; answers of a flow that has none are limited in rate. What does not go, a timer repeats."""
    cdef Channel *channel = channel_of(f)
    if channel != NULL:
        channel.ops.send(channel, m, NULL)
    elif f.p != NULL and f.p.a != NULL:
        peer_answer(w, f.p, m)


cdef void refuse(worker *w, flow *f, uint64_t position) noexcept nogil:
    """The peer's TCP repeats it; with this its engine lets the first repetition pass."""
    cdef Message m
    w.n.refused += 1
    flow_compose(&f.f, MSG_REFUSED, w.now, &m)
    m.position = <uint32_t>position
    peer_say(w, f, &m)


cdef void peer_unknown(worker *w, peer *p, const Message *m) noexcept nogil:
    cdef Message answer
    w.n.unknown_messages += 1
    if unknown_flow(m, &answer):
        peer_answer(w, p, &answer)


# ---- OPENs that came before their flow ---------------------------------------------------------------

cdef inline early_open *place(worker *w, uint64_t locator) noexcept nogil:
    """Of EARLY_WAYS in a row."""
    return &w.early[siphash24(w.scatter, <const uint8_t *>&locator, sizeof(locator)) & (EARLY - 1) & ~(EARLY_WAYS - 1)]


cdef void early_free(early_open *o) noexcept nogil:
    if o.prev != NULL:
        o.prev.next = o.next
    else:
        o.p.early = o.next
    if o.next != NULL:
        o.next.prev = o.prev
    o.p.early_n -= 1
    o.p = NULL
    o.until = 0


cdef early_open *room_for(worker *w, const peer *p, const Message *m) noexcept nogil:
    """Its own place, if it repeats itself; else one that is free or over. NULL: none."""
    cdef early_open *o = place(w, m.token)
    cdef early_open *found = NULL
    cdef int i
    for i in range(EARLY_WAYS):
        if o[i].until and o[i].locator == m.token and o[i].p == p:
            return &o[i]
        if o[i].until <= w.now and (found == NULL or o[i].p == p):
            found = &o[i]               # if one is over, its own: places that are over count, too
    return found if found != NULL and (found.p == p or p.early_n < EARLY_SHARE) else NULL


cdef void early_keep(worker *w, peer *p, const Message *m) noexcept nogil:
    """Not one that has early data behind it: that is dropped now, so its client has to notice, and send it by the wire."""
    cdef early_open *o = room_for(w, p, m) if not m.flags & OPEN_EARLY else NULL
    if o == NULL:
        peer_unknown(w, p, m)
        return
    w.n.early_opens += 1
    if o.until:
        early_free(o)
    o.locator, o.token, o.epoch, o.flags = m.token, m.own_token, m.epoch, m.flags
    memcpy(o.proof, m.proof, sizeof(o.proof))
    o.until = w.now + EARLY_MOMENT
    o.ends = m.position
    o.p = p
    o.prev = NULL
    o.next = p.early
    if p.early != NULL:
        p.early.prev = o
    p.early = o
    p.early_n += 1


cdef bint early_take(worker *w, uint64_t locator, Message *m, peer **p) noexcept nogil:
    """The next OPEN for this flow, as it came."""
    cdef early_open *o = place(w, locator)
    cdef int i
    for i in range(EARLY_WAYS):
        if o[i].until <= w.now or o[i].locator != locator:
            continue
        memset(m, 0, sizeof(Message))
        m.type, m.flags, m.epoch, m.token, m.own_token = MSG_OPEN, o[i].flags, o[i].epoch, locator, o[i].token
        memcpy(m.proof, o[i].proof, sizeof(m.proof))
        m.position = o[i].ends
        p[0] = o[i].p
        early_free(&o[i])
        return True
    return False
