"""From peers: blocks of bytes, and messages about flows.

Blocks of a flow that follow each other in a batch of datagrams become one delivery, and one segment of TSO for the local TCP.
A flow belongs to the association in which its OPEN was proven: what others say of it counts for nothing.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memset
from hooker.engine.actions cimport act, act_alone, cause, flow_is_stuck
from hooker.engine.again cimport again_asked
from hooker.engine.cut cimport cut_try
from hooker.engine.flows cimport flow_join, flow_reindex, flow_report, flow_rule, remote_ip
from hooker.engine.hk0 cimport give_sack
from hooker.engine.hold cimport hold_unpin
from hooker.engine.index cimport *
from hooker.engine.greeting cimport peer_hello
from hooker.engine.lane cimport is_blocked
from hooker.engine.peers cimport binding_of, early_keep, early_take, peer_answer, peer_of, peer_unknown
from hooker.engine.redirected cimport redirected_word
from hooker.engine.rest cimport awake
from hooker.engine.stamp cimport stamp_told
from hooker.engine.trail cimport trail_heard
from hooker.engine.worker cimport *
from hooker.flow.machine cimport FL_EARLY, FL_PINNED, Outcome, ROLE_SERVER, ST_CLOSED, ST_TCP, WHY_NO_PROGRESS, flow_message
from hooker.flow.messages cimport *
from hooker.flow.proof cimport MAX_BINDING, PROOF_ACCEPT, PROOF_OPEN, proven
from hooker.transports.contract cimport T_WHOLE, Association

cdef enum:
    REFUSED_HERE = 2           # REJECT's reason
    MOST = 64000               # bytes of a run: the twin makes one segment of it
    ENDS = DATA_FIN | DATA_URG


# ---- blocks ------------------------------------------------------------------------------------------

cdef int runs_init(worker *w) noexcept nogil:
    cdef uint32_t i
    w.run_memory = <stretch *>calloc(RUNS, sizeof(stretch))
    if w.run_memory == NULL:
        return -1
    for i in range(RUNS):
        w.run_memory[i].next_used = w.run_free
        w.run_free = &w.run_memory[i]
    return 0


cdef void runs_free(worker *w) noexcept nogil:
    free(w.run_memory)
    w.run_memory = NULL


cdef void flush_run(worker *w, stretch *r) noexcept nogil:
    cdef Message m
    cdef Outcome out
    cdef cause c
    cdef flow *f = r.owner
    r.owner = NULL
    if f == NULL:
        return
    f.active.gather = NULL
    if f.bits & F_FORGET:
        return
    memset(&m, 0, sizeof(m))
    m.type, m.flags, m.epoch, m.position = MSG_DATA, r.flags, r.epoch, r.position
    m.data_n = r.n
    flow_message(&f.f, config_of(w, f), &m, w.now, &out)
    memset(&c, 0, sizeof(c))
    c.r = r
    act(w, f, &out, &c)


cdef void flush_runs(worker *w) noexcept nogil:
    """In the order in which they began."""
    cdef stretch *r = w.run_used
    cdef stretch *following
    w.run_used = w.run_last = NULL
    while r != NULL:
        following = r.next_used
        flush_run(w, r)
        r.next_used = w.run_free
        w.run_free = r
        r = following


cdef stretch *run_for(worker *w, flow *f, const Message *b) noexcept nogil:
    """One that the block continues."""
    cdef stretch *r = f.active.gather
    if r != NULL:
        if (r.position + r.n == b.position and r.count < PARTS and r.n + b.data_n <= MOST and r.epoch == b.epoch
                and not r.flags & ENDS):
            return r
        flush_run(w, r)
    if w.run_free == NULL:
        flush_runs(w)
    r = w.run_free
    w.run_free = r.next_used
    r.next_used = NULL
    if w.run_last != NULL:
        w.run_last.next_used = r
    else:
        w.run_used = r
    w.run_last = r
    r.owner, r.position, r.epoch, r.n, r.count, r.flags = f, b.position, b.epoch, 0, 0, 0
    f.active.gather = r
    return r


cdef void on_block(worker *w, peer *p, const Message *b, bint stable) noexcept nogil:
    cdef flow *f
    cdef stretch *r
    w.n.blocks += 1
    w.n.block_bytes += b.data_n
    if b.flags & DATA_OPENERS:
        f = flow_by_peer_token(w, p, <uint32_t>b.token)
        if f == NULL or f.f.role != ROLE_SERVER or f.bits & F_TRAIL:
            return                      # its OPEN is not here, or not agreed to; its TCP sends it by the wire in a moment
    else:
        f = flow_by_token(w, <uint32_t>b.token)
    if f == NULL or f.p != p:
        peer_unknown(w, p, b)
        return
    if b.data_n > MOST:
        return                          # no transport's message is so large
    awake(w, f)
    f.theirs = max(f.theirs, <uint16_t>b.data_n)        # a transport cuts some to fill its packets, but not all
    r = run_for(w, f, b)
    if b.data_n:
        r.count += 1
        r.part[r.count].iov_base, r.part[r.count].iov_len = <void *>b.data, b.data_n
    r.n += b.data_n
    r.flags = b.flags
    if not stable:
        flush_run(w, r)


# ---- messages ----------------------------------------------------------------------------------------

cdef void on_message(worker *w, Association *a, const Message *m, bint stable) noexcept nogil:
    cdef peer *who = peer_of(w, a)
    if who == NULL:
        return
    if m.type == MSG_DATA:
        on_block(w, who, m, stable)
    elif m.type == MSG_HELLO:
        peer_hello(w, who, m)
    elif m.type == MSG_OPEN:
        on_open(w, who, m)
    else:
        about_a_flow(w, who, m)


cdef void about_a_flow(worker *w, peer *who, const Message *m) noexcept nogil:
    cdef Outcome out
    cdef uint64_t before
    cdef flow *f
    if m.type == MSG_LEAVE and m.flags & LEAVE_QUOTES:
        f = flow_by_peer_token(w, who, m.token)
    else:
        f = flow_by_token(w, <uint32_t>m.token)
        if f != NULL and f.f.token != m.token:
            f = NULL
    if f == NULL or f.p != who:
        peer_unknown(w, who, m)
        return
    awake(w, f)
    if m.type == MSG_ACCEPT and not (has_address(f, who) and has_seen(w, f, who, m)):
        w.n.unproven += 1
        return
    if m.type == MSG_ACCEPT or m.type == MSG_ENGAGED:
        trail_heard(w, f, m)
    if f.active.gather != NULL and m.type != MSG_ACKED:
        flush_run(w, f.active.gather)          # what was sent before it
    if m.type == MSG_LEAVE and m.epoch == f.f.epoch and not m.flags & LEAVE_QUOTES:
        hold_unpin(w, f)
        if m.position == WHY_NO_PROGRESS:
            flow_is_stuck(f)
    before = f.f.peer_token
    flow_message(&f.f, config_of(w, f), m, w.now, &out)
    flow_reindex(w, f, before)
    if f.r != NULL and m.epoch == f.f.epoch:
        redirected_word(w, f, m)
    if m.type == MSG_ENGAGED and m.tsval:
        stamp_told(f, m.tsval)          # what has come by the wire since our TCP said something was newer than it knew
    act_alone(w, f, &out)
    if m.type == MSG_PROBE and m.epoch == f.f.epoch:
        again_asked(w, f)
    if m.type == MSG_ACKED and m.blocks and m.epoch == f.f.epoch and f.bits & F_TWIN and f.r == NULL:
        give_sack(w, f, m)                      # also one that was overtaken: what is there stays there


cdef bint has_address(const flow *f, const peer *who) noexcept nogil:
    """That of the connection. Asked where the server has said no nonce: there a proof takes two initial numbers only."""
    cdef uint8_t ip[16]
    remote_ip(f, ip)
    return not f.unproven or memcmp(who.a.ops.peer(who.a).ip, ip, 16) == 0


cdef bint has_seen(worker *w, const flow *f, const peer *who, const Message *m) noexcept nogil:
    """The handshake: its proof is right."""
    cdef uint8_t binding[MAX_BINDING]
    cdef uint32_t n
    if who.instance == 0:
        return False
    n = binding_of(w, who, m.type == MSG_ACCEPT, binding)
    return proven(f.proof_key, PROOF_OPEN if m.type == MSG_OPEN else PROOF_ACCEPT, binding, n, m)


cdef void on_open(worker *w, peer *who, const Message *m) noexcept nogil:
    cdef flow *f = flow_by_locator(w, m.token)
    if f == NULL:
        early_keep(w, who, m)
    else:
        try_open(w, f, who, m)


cdef void try_open(worker *w, flow *f, peer *who, const Message *m) noexcept nogil:
    if not has_seen(w, f, who, m):
        w.n.unproven += 1
    elif not has_address(f, who):           # a host that has several, or a NAT on the way
        w.n.unproven += 1
        turn_away(w, f, who, m, WHY_ADDRESS)
    elif who.a.lacks & T_WHOLE and not flow_rule(w, f).gives_up:
        turn_away(w, f, who, m, WHY_FUNCTION)
    else:
        opened(w, f, who, m)


cdef void turn_away(worker *w, flow *f, peer *who, const Message *m, int why) noexcept nogil:
    """It would ask in the same way again, so nobody waits."""
    cdef Message answer
    memset(&answer, 0, sizeof(answer))
    answer.type, answer.epoch, answer.token, answer.position = MSG_REJECT, m.epoch, m.own_token, REFUSED_HERE
    peer_answer(w, who, &answer)
    if f.f.state == ST_TCP and not f.why:
        flow_report(w, f, why)


cdef void opened(worker *w, flow *f, peer *who, const Message *m) noexcept nogil:
    cdef Outcome out
    cdef uint64_t before
    awake(w, f)
    if f.bits & (F_STEERED | F_NEVER) or (is_blocked(w, f) and not f.f.flags & FL_PINNED):
        return                          # it stays on TCP; the client's tries end
    if w.n.services_cut and m.epoch > f.f.epoch:
        cut_try(w, f)
    if f.r != NULL and m.epoch != f.f.epoch:
        return                          # the kernel's TCP cannot go on where ours stands
    if f.active.gather != NULL:
        flush_run(w, f.active.gather)
    if m.epoch > f.f.epoch and f.f.state != ST_CLOSED:
        flow_join(w, f, who)            # its client speaks for it, and through this association now
    if f.p != who:
        return
    trail_heard(w, f, m)
    before = f.f.peer_token
    flow_message(&f.f, config_of(w, f), m, w.now, &out)
    if f.bits & F_TRAIL:
        f.f.flags &= ~FL_EARLY          # the wire would not see it
    flow_reindex(w, f, before)
    act_alone(w, f, &out)


cdef void meet_early(worker *w, flow *f) noexcept nogil:
    """Those who only guess may have come before the client: each is heard."""
    cdef Message m
    cdef peer *who = NULL
    while early_take(w, f.locator, &m, &who):
        try_open(w, f, who, &m)
