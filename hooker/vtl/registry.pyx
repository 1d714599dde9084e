"""Tables of associations: by our connection id, and by peer address."""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from hooker.includes.timers cimport timer_clear, timer_set
from hooker.vtl.api cimport same_addr, same_ends
from hooker.vtl.budget cimport (
    ASSOC_COST, KEYS_COST, budget_hold, budget_let_go, source_join, source_leave, source_move, sources_grow,
    stranger_known,
)
from hooker.vtl.channel cimport channels_free
from hooker.vtl.controllers.interface cimport congestion_free, congestion_init
from hooker.vtl.core cimport *
from hooker.vtl.ecn cimport Ecn
from hooker.vtl.fec cimport fec_free
from hooker.vtl.keys cimport keys_free
from hooker.vtl.pmtu cimport pmtu_first
from hooker.vtl.ranges cimport ranges_clear
from hooker.vtl.recovery cimport recovery_free, recovery_init
from hooker.vtl.reliability.interface cimport reliability_end, reliability_ops, reliability_use
from hooker.includes.siphash cimport siphash24
from hooker.vtl.stream cimport stream_destroy


cdef uint64_t random_cid(Endpoint *ep) noexcept nogil:
    cdef uint64_t cid = 0
    while cid == 0:
        ep.sink.random(ep.sink.ctx, <uint8_t *>&cid, sizeof(cid))
    return cid


cdef inline uint32_t cid_slot(const Endpoint *ep, uint64_t cid) noexcept nogil:
    # ours are random, but a peer can ask for many and use those that it likes
    return (cid * ep.scatter >> 40) & (ep.table_cap - 1)


cdef inline uint32_t addr_slot(const Endpoint *ep, const vtl_addr *peer) noexcept nogil:
    # keyed: a stranger who chooses his address must not choose the bucket
    return <uint32_t>siphash24(ep.secret, peer.ip, 18) & (ep.table_cap - 1)


cdef bint grow_tables(Endpoint *ep) noexcept nogil:
    cdef uint32_t cap = 16 if ep.table_cap == 0 else 2 * ep.table_cap, i
    cdef Assoc **by_cid = <Assoc **>calloc(cap, sizeof(Assoc *))
    cdef Assoc **by_addr = <Assoc **>calloc(cap, sizeof(Assoc *))
    cdef Assoc *a = ep.all
    if by_cid == NULL or by_addr == NULL:
        free(by_cid)
        free(by_addr)
        return False
    free(ep.cid_table)
    free(ep.addr_table)
    ep.cid_table = by_cid
    ep.addr_table = by_addr
    ep.table_cap = cap
    sources_grow(ep, cap)
    while a != NULL:
        link_tables(ep, a)
        a = a.next
    return True


cdef void link_tables(Endpoint *ep, Assoc *a) noexcept nogil:
    cdef uint32_t i = cid_slot(ep, a.cid), j = addr_slot(ep, &a.peer)
    a.by_cid = ep.cid_table[i]
    ep.cid_table[i] = a
    a.by_addr = ep.addr_table[j]
    ep.addr_table[j] = a


cdef Assoc *assoc_new(Endpoint *ep, const vtl_addr *peer, uint64_t cid, uint64_t now) noexcept nogil:
    cdef Assoc *a
    if ep.assocs >= MAX_ASSOCS or ep.held + ASSOC_COST > ep.budget or (ep.assocs >= ep.table_cap and not grow_tables(ep)):
        return NULL
    a = <Assoc *>calloc(1, sizeof(Assoc))
    if a == NULL:
        return NULL
    a.ep = ep
    a.peer = peer[0]
    a.peer.zero = 0
    a.cid = cid
    a.wanted = ep.reliability
    if not source_join(a):
        free(a)
        return NULL
    budget_hold(a, ASSOC_COST + (KEYS_COST if ep.cfg.keys > 0 else 0))
    path_forget(a)
    a.hs_started = a.last_recv = a.idle_since = now
    link_tables(ep, a)
    a.next = ep.all
    if ep.all != NULL:
        ep.all.prev = a
    ep.all = a
    ep.assocs += 1
    if ep.sink.named != NULL:
        ep.sink.named(ep.sink.ctx, cid, True)
    assoc_touch(a)
    return a


cdef void path_forget(Assoc *a) noexcept nogil:
    cdef Endpoint *ep = a.ep
    budget_let_go(a, a.rings_held + a.fec_held)
    a.rings_held = a.fec_held = 0
    recovery_free(&a.rec)
    recovery_init(&a.rec)
    a.rec.peer_ack_delay = ep.cfg.max_ack_delay
    # several probes fit before the peer is given up
    a.rec.max_pto = max(ep.cfg.dead_after // 6, <uint64_t>1)
    reliability_use(&a.rel, ep.plain, &ep.limits)
    congestion_free(&a.cc)
    memset(&a.pmtu, 0, sizeof(Pmtu))
    a.max_datagram = pmtu_first(a)
    congestion_init(&a.cc, ep.congestion, a.max_datagram)
    ranges_clear(&a.received)
    ranges_clear(&a.used_ids)
    if a.credit.window > 0:
        ep.windows_grown -= a.credit.window - ep.cfg.assoc_window
    a.recv_max = a.credit.window = ep.cfg.assoc_window
    a.credit.since = ep.now
    a.credit.consumed = 0
    a.peer_cid = a.first_up_pn = a.hs_next = 0
    a.cookie_cid = a.cookie_time = a.cookie_mac = 0
    a.version = a.hs_refused = a.psk = 0
    keys_free(a)
    a.surplus = False
    a.hs_tries = a.hs_total = a.unacked = a.urgent = a.probes = a.next_id = 0
    a.received_floor = a.largest_at = a.ack_deadline = a.recv_total = a.consumed = 0
    a.send_total = a.send_max = a.peer_stream_window = a.tokens_at = a.pace_until = 0
    a.unanswered = a.prove_by = 0
    a.tokens = 0
    a.ack_now = a.window_due = a.ping_due = a.hs_send = False
    memset(&a.other, 0, sizeof(OtherPath))
    memset(&a.ecn, 0, sizeof(Ecn))
    fec_free(&a.fec)
    memset(&a.answer, 0, sizeof(PathAnswer))


cdef void unlink_cid(Assoc *a) noexcept nogil:
    cdef Assoc **p = &a.ep.cid_table[cid_slot(a.ep, a.cid)]
    while p[0] != a:
        p = &p[0].by_cid
    p[0] = a.by_cid
    if a.ep.last == a:
        a.ep.last = NULL


cdef void assoc_rekey(Assoc *a, uint64_t cid) noexcept nogil:
    cdef uint32_t i = cid_slot(a.ep, cid)
    unlink_cid(a)
    a.cid = cid
    a.by_cid = a.ep.cid_table[i]
    a.ep.cid_table[i] = a


cdef void unlink_addr(Assoc *a) noexcept nogil:
    cdef Assoc **p = &a.ep.addr_table[addr_slot(a.ep, &a.peer)]
    while p[0] != a:
        p = &p[0].by_addr
    p[0] = a.by_addr


cdef void assoc_readdress(Assoc *a, const vtl_addr *to) noexcept nogil:
    cdef Assoc **slot = &a.ep.addr_table[addr_slot(a.ep, to)]
    unlink_addr(a)
    a.peer = to[0]
    a.peer.zero = 0
    a.by_addr = slot[0]
    slot[0] = a
    source_move(a)


cdef void unlink_lists(Assoc *a) noexcept nogil:
    if a.in_dirty:
        a.dirty_at[0] = a.next_dirty
        if a.next_dirty != NULL:
            a.next_dirty.dirty_at = a.dirty_at
    if a.in_unfinished:
        a.unfinished_at[0] = a.next_unfinished
        if a.next_unfinished != NULL:
            a.next_unfinished.unfinished_at = a.unfinished_at
    if a.in_ready:
        unready(a)


cdef void assoc_free(Assoc *a) noexcept nogil:
    """Its streams and channels go too, without callbacks but release()."""
    cdef Endpoint *ep = a.ep
    channels_free(a)
    while a.all != NULL:
        stream_destroy(a.all)
    unlink_lists(a)
    timer_clear(&ep.timers, &a.due)
    unlink_cid(a)
    unlink_addr(a)
    if a.prev != NULL:
        a.prev.next = a.next
    else:
        ep.all = a.next
    if a.next != NULL:
        a.next.prev = a.prev
    ep.assocs -= 1
    if ep.sink.named != NULL:
        ep.sink.named(ep.sink.ctx, a.cid, False)
    ep.windows_grown -= a.credit.window - ep.cfg.assoc_window
    stranger_known(a)
    budget_let_go(a, a.held)
    source_leave(a)
    keys_free(a)
    recovery_free(&a.rec)
    congestion_free(&a.cc)
    reliability_end(&a.rel)
    fec_free(&a.fec)
    ranges_clear(&a.received)
    ranges_clear(&a.used_ids)
    free(a.table)
    free(a)


cdef Assoc *assoc_by_cid(Endpoint *ep, uint64_t cid) noexcept nogil:
    cdef Assoc *a
    if ep.table_cap == 0:
        return NULL
    a = ep.cid_table[cid_slot(ep, cid)]
    while a != NULL and a.cid != cid:
        a = a.by_cid
    return a


cdef inline bint better(const Assoc *x, const Assoc *y) noexcept nogil:
    if x.state != y.state:
        return x.state > y.state
    return y.surplus if x.surplus != y.surplus else x.last_recv > y.last_recv


cdef inline uint64_t initiator_cid(const Assoc *a) noexcept nogil:
    return a.cid if a.initiator else a.peer_cid


cdef void assoc_settle_rivals(Assoc *a, uint64_t now) noexcept nogil:
    """Of two begun at the same time from both sides, the one whose initiator's id is higher stays."""
    cdef Assoc *b = a.ep.addr_table[addr_slot(a.ep, &a.peer)]
    while b != NULL:
        if (b.state == A_UP and b.initiator != a.initiator and b.rel.ops == a.rel.ops and same_addr(&a.peer, &b.peer)
                and now - b.hs_started <= a.ep.cfg.handshake_timeout):
            if initiator_cid(a) < initiator_cid(b):
                a.surplus = True
            else:
                b.surplus = True
                assoc_touch(b)
        b = b.by_addr


cdef inline bint serves(const Assoc *a, const reliability_ops *function) noexcept nogil:
    """It was to have that function, or has it: a peer that does not take one has selective-repeat."""
    return function == NULL or a.wanted == function or (a.state == A_UP and a.rel.ops == function)


cdef Assoc *assoc_to(Endpoint *ep, const vtl_addr *peer, const reliability_ops *function) noexcept nogil:
    """One that is up and was heard of last, else one on its way."""
    cdef Assoc *a
    cdef Assoc *best = NULL
    if ep.table_cap == 0:
        return NULL
    a = ep.addr_table[addr_slot(ep, peer)]
    while a != NULL:
        if (a.state != A_DEAD and same_addr(&a.peer, peer) and serves(a, function)
                and (best == NULL or better(a, best))):
            best = a
        a = a.by_addr
    return best


cdef Assoc *assoc_with_peer_cid(Endpoint *ep, const vtl_addr *peer, uint64_t peer_cid,
                                bint initiator) noexcept nogil:
    cdef Assoc *a
    if ep.table_cap == 0:
        return NULL
    a = ep.addr_table[addr_slot(ep, peer)]
    while a != NULL:
        if (a.peer_cid == peer_cid and a.initiator == initiator and a.state != A_DEAD
                and same_addr(&a.peer, peer)):
            return a
        a = a.by_addr
    return NULL


cdef Assoc *assoc_to_evict(Endpoint *ep, const vtl_addr *peer) noexcept nogil:
    """Of too many begun by one peer, with one address of ours or with all, the one heard of least recently. That bounds
    each walk over a peer's associations, however many addresses are ours."""
    cdef Assoc *a
    cdef Assoc *here = NULL
    cdef Assoc *any_ = NULL
    cdef uint32_t n = 0, all_ = 0
    if ep.table_cap == 0:
        return NULL
    a = ep.addr_table[addr_slot(ep, peer)]
    while a != NULL:
        if not a.initiator and a.state != A_DEAD and same_addr(&a.peer, peer):
            all_ += 1
            if any_ == NULL or a.last_recv <= any_.last_recv:
                any_ = a
            if same_ends(&a.peer, peer):
                n += 1
                if here == NULL or a.last_recv <= here.last_recv:
                    here = a
        a = a.by_addr
    if n >= MAX_PER_PEER:
        return here
    return any_ if all_ >= MAX_OF_PEER else NULL


cdef void assoc_due(Assoc *a, uint64_t deadline) noexcept nogil:
    if timer_set(&a.ep.timers, &a.due, deadline) < 0:
        assoc_touch(a)                          # tried again next time
