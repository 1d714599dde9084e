"""An association comes up, is greeted, and goes down, with what that means for its flows.

HELLO is the first message of each side. A client opens nothing before it has the server's, which its proofs name. It is
said again, GREETINGS times in growing intervals, as long as the transport has not taken it or the peer has said none:
one of the two may have had no memory for the other's.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from hooker.engine.lent cimport lent_end
from hooker.engine.notices cimport notice_next, notice_said
from hooker.engine.peers cimport early_free, peer_of
from hooker.engine.turns cimport peer_turn
from hooker.engine.worker cimport *
from hooker.flow.messages cimport *
from hooker.includes.bpf cimport BPF_MAP_DELETE_ELEM, hk_bpf_elem
from hooker.includes.hk cimport hk_peer
from hooker.includes.linux cimport write
from hooker.transports.contract cimport (
    DOWN_KEY, DOWN_NAME, DOWN_PROTOTYPE, DOWN_VERSION, T_REPAIRS, Association, PeerAddress, Transport, down_reason,
)

cdef enum:
    LARGEST = 65535            # bytes of a message that we take
    GREETINGS = 8
    GREET_AGAIN = 1000000000   # ns; doubles


cdef void tell_peer(worker *w, const peer *p, notice_kind kind) noexcept nogil:
    cdef const PeerAddress *at = p.a.ops.peer(p.a)
    cdef notice *n = notice_next(w)
    if n == NULL:
        return
    memset(n, 0, sizeof(notice))
    n.kind = kind
    memcpy(n.key.remote_ip, at.ip, 16)
    n.key.remote_port = at.port
    n.at_ns = w.now
    notice_said(w)


cdef void tell_transport(worker *w, const Transport *t) noexcept nogil:
    cdef uint64_t one = 1
    cdef notice *n = notice_next(w)
    if n == NULL:
        return
    memset(n, 0, sizeof(notice))
    n.kind, n.state, n.at_ns = N_TRANSPORT_FAILED, <uint8_t>t.index, w.now
    notice_said(w)
    write(w.notice_fd, &one, sizeof(one))       # whoever listens: it is offered no more


cdef inline bint is_greeted(const peer *p) noexcept nogil:
    return (p.greeted and p.instance) or p.greetings == GREETINGS


cdef uint32_t reachable_by(const worker *w) noexcept nogil:
    """HELLO's bitmap."""
    cdef uint32_t bits = 0, i
    for i in range(w.transport_n):
        bits |= <uint32_t>1 << w.transports[i].wire_id
    return bits


cdef void greet(worker *w, peer *p) noexcept nogil:
    cdef Message m
    cdef const Transport *t = p.a.t
    p.greet_at = w.now + (<uint64_t>GREET_AGAIN << p.greetings)
    p.greetings += 1
    memset(&m, 0, sizeof(m))
    m.type, m.epoch = MSG_HELLO, FLOW_VERSION
    m.position, m.token, m.own_token = LARGEST, w.instance, p.own_random
    m.edge = reachable_by(w)
    m.data, m.data_n = t.options, t.options_n
    if p.a.ops.say(p.a, &m) == 0:
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


cdef void ask_again(worker *w, const Association *a) noexcept nogil:
    """There is an engine now, whatever is remembered of that host."""
    cdef hk_peer host
    memset(&host, 0, sizeof(host))
    memcpy(host.ip, a.ops.peer(a).ip, 16)
    hk_bpf_elem(BPF_MAP_DELETE_ELEM, w.avoid_fd, &host, NULL, 0)


cdef void peer_up(worker *w, Association *a) noexcept nogil:
    cdef peer *p = peer_of(w, a)
    if p == NULL:
        return
    p.up, p.unrepaired = True, a.lacks & T_REPAIRS != 0
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
    if p.a.ops.is_up(p.a):
        start_waiting(w, p)


cdef int why_down(down_reason reason) noexcept nogil:
    """Why there has never been an association."""
    if reason == DOWN_KEY:
        return WHY_KEY
    return WHY_VERSION if reason == DOWN_VERSION else WHY_NO_ENGINE


cdef void peer_down(worker *w, Association *a, down_reason reason) noexcept nogil:
    cdef peer *p = <peer *>a.user
    cdef uint32_t i
    if p == NULL:
        return
    a.user = NULL
    for i in range(w.peer_count):
        if w.peers[i] == p:
            w.peer_count -= 1
            w.peers[i] = w.peers[w.peer_count]
            break
    if p.up:
        tell_peer(w, p, N_PEER_DOWN)
    while p.early != NULL:
        early_free(p.early)
    if reason == DOWN_PROTOTYPE:
        p.why = WHY_PROTOTYPE
    elif reason == DOWN_NAME:
        p.why = WHY_NAME        # found out by HELLO, so it was up
    else:
        p.why = 0 if p.up else why_down(reason)
    lent_end(p)
    p.a = NULL
    peer_turn(w, p)             # its flows hear of it there, and it is freed
