"""What is kept for an association: the greetings, its flows, and OPENs that came before the event of their flow.

1. HELLO is the first message of each side. A client opens nothing before it has the server's, which its proofs name. It is said
   again, GREETINGS times in growing intervals, as long as the transport has not taken it or the peer has said none: one of the
   two may have had no memory for the other's.
2. An OPEN overtakes the handshake's last ACK now and then. It is kept for a moment, in a table of fixed size, of which
   one peer has a quarter at most; without room the answer is REJECT 1, and the client repeats it.
3. Answers about flows that nobody knows cost their sender as much as us, and are limited in rate.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy, memset
from hooker.engine.segments.lent cimport lent_end
from hooker.engine.segments.turns cimport peer_turn
from hooker.engine.segments.worker cimport *
from hooker.flow.messages cimport *
from hooker.flow.machine cimport unknown_flow
from hooker.includes.bpf cimport BPF_MAP_DELETE_ELEM, hk_bpf_elem
from hooker.includes.bytes cimport store64
from hooker.includes.hk cimport hk_peer
from hooker.includes.linux cimport hk_load64, hk_store64
from hooker.transports.vtl cimport say_message
from hooker.vtl.api cimport VTL_DOWN_KEY, VTL_DOWN_VERSION, vtl_assoc
from hooker.vtl.endpoint cimport vtl_is_up, vtl_peer, vtl_set_user, vtl_user
from hooker.vtl.siphash cimport siphash24

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *buf, size_t n, unsigned int flags)

cdef enum:
    LARGEST = 65535            # bytes of a message that we take
    TRANSPORT_VTL = 1          # bit in HELLO
    EARLY_MOMENT = 250000000   # ns: then the client has repeated its OPEN
    EARLY_SHARE = EARLY // 4
    EARLY_WAYS = 8             # places that an OPEN may have
    ANSWERS = 64               # at once, and ANSWER_RATE in a second
    ANSWER_RATE = 256
    GREETINGS = 8
    GREET_AGAIN = 1000000000   # ns; doubles

cdef const uint8_t *OPTIONS = b"\x01\x03vtl\x02\x03udp"
cdef enum:
    OPTIONS_SIZE = 10


cdef peer *peer_of(worker *w, vtl_assoc *a) noexcept nogil:
    cdef peer *p = <peer *>vtl_user(a)
    if p != NULL:
        return p
    p = <peer *>calloc(1, sizeof(peer))
    if p == NULL:
        return NULL
    p.a = a
    p.answers = ANSWERS
    getrandom(&p.own_random, sizeof(p.own_random), 0)
    vtl_set_user(a, p)
    return p


cdef void tell_peer(worker *w, const peer *p, notice_kind kind) noexcept nogil:
    cdef notice *n
    if w.notice_head - hk_load64(&w.notice_tail) >= NOTICES:
        w.n.notices_lost += 1
        return
    n = &w.notices[w.notice_head & (NOTICES - 1)]
    memset(n, 0, sizeof(notice))
    n.kind = kind
    memcpy(n.key.remote_ip, vtl_peer(p.a).ip, 16)
    n.key.remote_port = vtl_peer(p.a).port
    n.at_ns = w.now
    hk_store64(&w.notice_head, w.notice_head + 1)


cdef inline bint is_greeted(const peer *p) noexcept nogil:
    return (p.greeted and p.instance) or p.greetings == GREETINGS


cdef void greet(worker *w, peer *p) noexcept nogil:
    cdef Message m
    p.greet_at = w.now + (<uint64_t>GREET_AGAIN << p.greetings)
    p.greetings += 1
    memset(&m, 0, sizeof(m))
    m.type, m.epoch = MSG_HELLO, FLOW_VERSION
    m.position, m.token, m.own_token = LARGEST, w.instance, p.own_random
    m.edge = TRANSPORT_VTL
    m.data, m.data_n = OPTIONS, OPTIONS_SIZE
    if say_message(p.a, &m) == 0:
        p.greeted = True
    w.greeting = True


cdef void greet_again(worker *w) noexcept nogil:
    cdef uint32_t i
    w.greeting = False
    for i in range(w.peer_count):
        if is_greeted(w.peers[i]):
            continue
        w.greeting = True
        if w.peers[i].greet_at <= w.now:
            greet(w, w.peers[i])


cdef void ask_again(worker *w, const vtl_assoc *a) noexcept nogil:
    """There is an engine now, whatever is remembered of that host."""
    cdef hk_peer host
    memset(&host, 0, sizeof(host))
    memcpy(host.ip, vtl_peer(a).ip, 16)
    hk_bpf_elem(BPF_MAP_DELETE_ELEM, w.avoid_fd, &host, NULL, 0)


cdef void peer_up(worker *w, vtl_assoc *a) noexcept nogil:
    cdef peer *p = peer_of(w, a)
    if p == NULL:
        return
    p.up = True
    ask_again(w, a)
    if w.peer_count < PEERS:
        w.peers[w.peer_count] = p
        w.peer_count += 1
    greet(w, p)
    tell_peer(w, p, N_PEER_UP)
    if p.instance:
        start_waiting(w, p)


cdef void start_waiting(worker *w, peer *p) noexcept nogil:
    """Its clients that have waited for it: once in an association's life."""
    p.at = p.flows
    peer_turn(w, p)


cdef void peer_hello(worker *w, peer *p, const Message *m) noexcept nogil:
    if p.instance or m.token == 0 or m.epoch == 0:
        return
    p.instance, p.random = m.token, m.own_token
    if vtl_is_up(p.a):
        start_waiting(w, p)


cdef int why_down(const peer *p, uint32_t reason) noexcept nogil:
    """Why there has never been an association."""
    if reason == VTL_DOWN_KEY:
        return WHY_KEY
    return WHY_VERSION if reason == VTL_DOWN_VERSION else WHY_NO_ENGINE


cdef void peer_down(worker *w, vtl_assoc *a, uint32_t reason) noexcept nogil:
    cdef peer *p = <peer *>vtl_user(a)
    cdef uint32_t i
    if p == NULL:
        return
    vtl_set_user(a, NULL)
    for i in range(w.peer_count):
        if w.peers[i] == p:
            w.peer_count -= 1
            w.peers[i] = w.peers[w.peer_count]
            break
    if p.up:
        tell_peer(w, p, N_PEER_DOWN)
    while p.early != NULL:
        early_free(p.early)
    p.why = 0 if p.up else why_down(p, reason)
    lent_end(p)
    p.a = NULL
    peer_turn(w, p)             # its flows hear of it there, and it is freed


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
    say_message(p.a, m)


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
    cdef early_open *o = room_for(w, p, m)
    if o == NULL:
        peer_unknown(w, p, m)
        return
    w.n.early_opens += 1
    if o.until:
        early_free(o)
    o.locator, o.token, o.epoch = m.token, m.own_token, m.epoch
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
        m.type, m.epoch, m.token, m.own_token = MSG_OPEN, o[i].epoch, locator, o[i].token
        memcpy(m.proof, o[i].proof, sizeof(m.proof))
        m.position = o[i].ends
        p[0] = o[i].p
        early_free(&o[i])
        return True
    return False
