"""The flow table: slots, deadlines, what a flow hangs on, and what Python is told.

A slot is the kernel program's from the stack of free ones until the connection is established, then a flow's, and goes back
with the next generation as soon as the kernel's socket is gone. The flow itself is remembered for longer, as TCP remembers a
TIME_WAIT, but no more than CLOSED_MOST of them: the oldest is then forgotten sooner, and its peer told so when it asks.
"""

from libc.stdint cimport UINT64_MAX, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from hooker.engine.destroy cimport socket_destroy
from hooker.engine.channel cimport channel_end
from hooker.engine.hold cimport hold_again, hold_begin, hold_deadline, hold_release
from hooker.engine.index cimport *
from hooker.engine.kept cimport kept_drop, kept_parts
from hooker.engine.notices cimport notice_next, notice_said
from hooker.engine.places cimport places_init, place_give, place_take
from hooker.engine.redirected cimport (
    redirected_deadline, redirected_drop, redirected_free, redirected_socket_gone,
)
from hooker.engine.starts cimport start_note, starts_free
from hooker.engine.stash cimport stash_drop
from hooker.engine.worker cimport *
from hooker.engine.slots cimport slot_give_back
from hooker.includes.timers cimport timer_clear, timer_set, timers_free
from hooker.flow.machine cimport (
    ROLE_CLIENT, ROLE_SERVER, ST_CLOSED, ST_ENGAGED, ST_TCP, flow_deadline, flow_init,
)
from hooker.flow.proof cimport Handshake, flow_key, flow_locator
from hooker.includes.hk cimport *
from hooker.includes.ip cimport is_v4, map_v4
from hooker.includes.linux cimport _SC_PAGESIZE, hk_load32, hk_store32, sysconf

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *buf, size_t n, unsigned int flags)

cdef enum:
    HOLES_TOLD = 100           # events of holes at once, and in a second
    OLD = 2 * CLOSED_MOST      # flows that have no slot any more, with those that are over

cdef extern from *:
    """
    #define HK_FIRST (((uint64_t)1 << 32) + 1)
    """
    const uint64_t FIRST "HK_FIRST"     # the position of a connection's first byte, as the twin counts (hk0.pyx)


cdef int flows_init(worker *w) noexcept nogil:
    cdef uint32_t page = <uint32_t>sysconf(_SC_PAGESIZE), most = w.max_flows + OLD
    w.flows = <flow **>calloc(w.max_flows, sizeof(flow *))
    w.given_back = <uint32_t *>calloc(w.max_flows, sizeof(uint32_t))
    w.strays = <uint8_t *>calloc(w.max_flows, 1)
    if w.flows == NULL or w.given_back == NULL or w.strays == NULL:
        return -1
    if places_init(&w.flow_room, most, sizeof(flow), page) < 0 or places_init(&w.active, most, sizeof(active), page) < 0:
        return -1
    return index_init(w)


cdef void let_go(worker *w, flow *f) noexcept nogil:
    """Of a list of those that are about to end."""
    cdef flow *following
    while f != NULL:
        following = f.closed_next
        f.bits &= ~<uint16_t>F_CLOSING
        if f.bits & F_FORGET:
            f.closed_next = w.over
            w.over = f
        f = following


cdef void flows_free(worker *w) noexcept nogil:
    cdef uint32_t i
    cdef flow *f
    let_go(w, w.closing)
    let_go(w, w.ending)
    w.closing = w.ending = NULL
    starts_free(w)
    while w.unmark_first != NULL:
        w.unmark_first.unmark = UNMARK_NOT
        w.unmark_first = w.unmark_first.active.unmark_next
    for i in range(w.max_flows if w.flows != NULL else 0):
        if w.flows[i] != NULL:
            flow_over(w, w.flows[i])
    while w.closed_first != NULL:
        flow_over(w, w.closed_first)
    while w.senders != NULL:
        f = w.senders
        w.senders = f.r.next_due
        f.r.bits &= ~<uint8_t>R_DUE
    flows_reap(w)
    free(w.flows)
    free(w.given_back)
    free(w.strays)
    w.strays = NULL
    w.flows = NULL
    w.given_back = NULL
    index_free(w)
    timers_free(&w.timers)


cdef flow *flow_by_id(worker *w, uint64_t id) noexcept nogil:
    cdef uint32_t slot = <uint32_t>id
    cdef flow *f = w.flows[slot] if slot < w.max_flows else NULL
    return f if f != NULL and f.id == id else NULL


# ---- made --------------------------------------------------------------------------------------------

cdef uint64_t new_token(worker *w) noexcept nogil:
    """Never used twice, for it is random; its low half names one flow only, for that is all a block says. 0: none to be had."""
    cdef uint64_t token = 0
    cdef int i
    for i in range(64):
        getrandom(&token, sizeof(token), 0)
        if <uint32_t>token != 0 and flow_by_token(w, <uint32_t>token) == NULL:
            return token
    return 0


cdef void set_key(flow *f, const hk_event *e) noexcept nogil:
    cdef Handshake h
    cdef bint client = e.role == HK_ROLE_CLIENT
    h.client_nonce, h.server_nonce = e.client_nonce, e.server_nonce
    h.client_isn = f.local_isn if client else f.remote_isn
    h.server_isn = f.remote_isn if client else f.local_isn
    flow_key(&h, f.proof_key)
    f.locator = flow_locator(f.proof_key)


cdef void ends_of(const hk_key *key, ends *out) noexcept nogil:
    """The programs say IPv4 as ::ffff:a.b.c.d, packets and twins do not."""
    cdef uint32_t skip = 12 if is_v4(key.local_ip) else 0
    memset(out, 0, sizeof(ends))
    memcpy(out.local, key.local_ip + skip, 16 - skip)
    memcpy(out.remote, key.remote_ip + skip, 16 - skip)
    out.local_port, out.remote_port = key.local_port, key.remote_port
    out.version = 4 if skip else 6


cdef void put_ip(const flow *f, const uint8_t *address, uint8_t *out) noexcept nogil:
    if f.ends.version == 4:
        map_v4(address, out)
    else:
        memcpy(out, address, 16)


cdef void remote_ip(const flow *f, uint8_t *out) noexcept nogil:
    put_ip(f, f.ends.remote, out)


cdef void flow_key_of(const flow *f, hk_key *out) noexcept nogil:
    put_ip(f, f.ends.local, out.local_ip)
    put_ip(f, f.ends.remote, out.remote_ip)
    out.local_port, out.remote_port, out.zero = f.ends.local_port, f.ends.remote_port, 0


cdef void abort_socket(worker *w, const flow *f) noexcept nogil:
    """ECONNABORTED for its application, whatever the firewall does with segments from hk0."""
    cdef hk_event e
    memset(&e, 0, sizeof(e))
    flow_key_of(f, &e.key)
    e.cookie = f.cookie
    if not socket_destroy(w.destroy_fd, &e):
        w.n.aborts_failed += 1


cdef void fill(worker *w, flow *f, const hk_event *e) noexcept nogil:
    ends_of(&e.key, &f.ends)
    f.id = e.flow_id
    f.rec = &w.records[e.slot]
    f.opened_ns = w.now
    f.again_at = UINT64_MAX
    f.local_isn, f.remote_isn = e.snd_nxt - 1, e.rcv_nxt - 1
    f.mss = e.mss
    f.ts_recent = e.ts_recent
    f.tcp_options = e.tcp_options
    f.peer_port = e.peer_port
    f.unproven = e.server_nonce == 0
    memcpy(&f.speaks, &e.server_nonce, sizeof(f.speaks))
    f.cooled = e.cooled
    f.cookie = e.cookie
    if e.tcp_options & HK_TCP_WSCALE:
        f.local_wscale, f.remote_wscale = e.rcv_wscale, e.snd_wscale
    f.granted = <uint16_t>min(e.snd_wnd >> f.remote_wscale, <uint32_t>0xFFFF)
    set_key(f, e)


cdef flow *flow_at(worker *w, const hk_key *key) noexcept nogil:
    cdef ends both
    ends_of(key, &both)
    return flow_by_tuple(w, &both)


cdef flow *flow_made(worker *w) noexcept nogil:
    """No more than there are places for, also if none of them is at rest."""
    cdef flow *f = <flow *>place_take(&w.flow_room) if w.flow_n < w.max_flows + OLD else NULL
    if f == NULL:
        return NULL
    f.active = <active *>place_take(&w.active)
    w.flow_n += 1
    return f


cdef void flow_free(worker *w, flow *f) noexcept nogil:
    if f.active != NULL:
        place_give(&w.active, f.active)
    w.flow_n -= 1
    place_give(&w.flow_room, f)


cdef flow *flow_new(worker *w, const hk_event *e) noexcept nogil:
    cdef flow *f
    cdef uint64_t token
    if e.slot >= w.max_flows or w.flows[e.slot] != NULL:
        return NULL
    f = flow_at(w, &e.key)
    if f != NULL:                       # its addresses are another connection's now, so it has ended at both hosts
        flow_over(w, f)
    token = new_token(w)
    f = flow_made(w) if token else NULL
    if f == NULL:
        return NULL
    fill(w, f, e)
    flow_init(&f.f, ROLE_CLIENT if e.role == HK_ROLE_CLIENT else ROLE_SERVER, token, 1, 1, e.rtt_us)
    if not add(w, f):
        flow_free(w, f)
        return NULL
    w.flows[e.slot] = f
    hold_begin(w, f)
    w.live += 1
    w.n.opened += 1
    flow_touch(w, f)
    tell(w, f, N_OPENED)
    return f


cdef bint add(worker *w, flow *f) noexcept nogil:
    if not index_add(w, f, BY_TUPLE):
        return False
    if not index_add(w, f, BY_TOKEN):
        index_remove(w, f, BY_TUPLE)
        return False
    if f.f.role == ROLE_SERVER and not index_add(w, f, BY_LOCATOR):
        index_remove(w, f, BY_TOKEN)
        index_remove(w, f, BY_TUPLE)
        return False
    return True


# ---- its peer's engine -------------------------------------------------------------------------------

cdef const rule_way *flow_rule(const worker *w, const flow *f) noexcept nogil:
    return &w.rules[hk_load32(&f.rec.rule) & (HK_RULES - 1) if f.rec != NULL else 0]


cdef uint8_t flow_transport(const flow *f) noexcept nogil:
    return <uint8_t>hk_load32(&f.rec.transport) if f.rec != NULL else 0


cdef void flow_join(worker *w, flow *f, peer *p) noexcept nogil:
    if f.p == p:
        return
    flow_part(w, f)
    f.p, f.on = p, <uint8_t>p.a.t.index
    f.peer_prev = NULL
    f.peer_next = p.flows
    if p.flows != NULL:
        p.flows.peer_prev = f
    p.flows = f
    p.n += 1
    flow_reindex(w, f, 0)


cdef void flow_part(worker *w, flow *f) noexcept nogil:
    stash_drop(w, f)                    # it counts as its peer's
    channel_end(f)
    if f.p == NULL:
        return
    kept_parts(f)
    if f.p.at == f:
        f.p.at = f.peer_next
    if f.bits & F_PEER_INDEXED:
        index_remove(w, f, BY_PEER_TOKEN)
        f.bits &= ~<uint16_t>F_PEER_INDEXED
    if f.peer_prev != NULL:
        f.peer_prev.peer_next = f.peer_next
    else:
        f.p.flows = f.peer_next
    if f.peer_next != NULL:
        f.peer_next.peer_prev = f.peer_prev
    f.p.n -= 1
    f.p = NULL


cdef void flow_reindex(worker *w, flow *f, uint64_t before) noexcept nogil:
    cdef uint64_t token = f.f.peer_token
    if f.bits & F_PEER_INDEXED:
        if token == before:
            return
        f.f.peer_token = before
        index_remove(w, f, BY_PEER_TOKEN)
        f.f.peer_token = token
        f.bits &= ~<uint16_t>F_PEER_INDEXED
    if token != 0 and f.p != NULL and index_add(w, f, BY_PEER_TOKEN):
        f.bits |= F_PEER_INDEXED


# ---- time --------------------------------------------------------------------------------------------

cdef uint64_t deadline(const worker *w, const flow *f) noexcept nogil:
    cdef uint64_t at = min(min(flow_deadline(&f.f), hold_deadline(w, f)), redirected_deadline(f))
    at = min(at, hold_again(w, f))
    if f.bits & F_TWIN and f.active.t.deadline < at:
        at = f.active.t.deadline
    if (f.f.state == ST_TCP or f.f.state == ST_CLOSED or f.bits & F_SOCKET_GONE) and f.again_at < at:
        at = f.again_at
    return at


cdef void flow_touch(worker *w, flow *f) noexcept nogil:
    """The timer may be early, which costs one look, but never late: so most packets do not move it."""
    cdef uint64_t at
    if f.bits & F_FORGET:
        return
    at = deadline(w, f)
    if at != UINT64_MAX and (f.due.place == 0 or at < f.due.at):
        timer_set(&w.timers, &f.due, at)


# ---- the end -----------------------------------------------------------------------------------------

cdef void slot_strays(worker *w, uint32_t slot) noexcept nogil:
    """No flow could be made of its connection. The event of its end may be lost, so the sweep looks."""
    if slot < w.max_flows and not w.strays[slot] and w.flows[slot] == NULL:
        w.strays[slot] = True
        w.stray_n += 1


cdef void slot_back(worker *w, uint64_t id) noexcept nogil:
    cdef uint32_t slot = <uint32_t>id
    if slot < w.max_flows and w.strays[slot]:
        w.strays[slot] = False
        w.stray_n -= 1
    slot_give_back(w.free_fd, w.given_back, w.max_flows, id)


cdef void leave_slot(worker *w, flow *f) noexcept nogil:
    if f.bits & F_SOCKET_GONE:
        return
    f.bits |= F_SOCKET_GONE
    f.rec = NULL
    redirected_socket_gone(w, f)
    w.flows[<uint32_t>f.id] = NULL
    w.live -= 1
    slot_back(w, f.id)


cdef void closed_remove(worker *w, flow *f) noexcept nogil:
    if not f.bits & F_CLOSED:
        return
    f.bits &= ~<uint16_t>F_CLOSED
    w.closed_n -= 1
    if f.closed_prev != NULL:
        f.closed_prev.closed_next = f.closed_next
    else:
        w.closed_first = f.closed_next
    if f.closed_next != NULL:
        f.closed_next.closed_prev = f.closed_prev
    else:
        w.closed_last = f.closed_prev


cdef void flow_socket_gone(worker *w, flow *f) noexcept nogil:
    leave_slot(w, f)
    if f.bits & (F_CLOSED | F_FORGET):
        return
    f.bits |= F_CLOSED
    f.closed_next = NULL
    f.closed_prev = w.closed_last
    if w.closed_last != NULL:
        w.closed_last.closed_next = f
    else:
        w.closed_first = f
    w.closed_last = f
    w.closed_n += 1
    if w.closed_n > CLOSED_MOST:
        flow_over(w, w.closed_first)


cdef void flow_over(worker *w, flow *f) noexcept nogil:
    """Found by nobody from now on."""
    if f.bits & F_FORGET:
        return
    closed_remove(w, f)
    f.bits |= F_FORGET
    start_note(w, f)
    flow_part(w, f)
    kept_drop(w, f)
    redirected_drop(w, f)
    index_remove(w, f, BY_TUPLE)
    index_remove(w, f, BY_TOKEN)
    if f.f.role == ROLE_SERVER:
        index_remove(w, f, BY_LOCATOR)
    timer_clear(&w.timers, &f.due)
    leave_slot(w, f)
    if w.last_local == f:
        w.last_local = NULL
    if f.bits & F_CLOSING:
        return                              # in that list, which hands it over
    f.closed_next = w.over
    w.over = f


cdef inline bint is_gathered(const flow *f) noexcept nogil:
    return f.active != NULL and f.active.gather != NULL


cdef void flows_reap(worker *w) noexcept nogil:
    """Called between rounds, when nothing else but the lists of a batch holds a pointer."""
    cdef flow *f = w.over
    cdef flow *following
    w.over = NULL
    while f != NULL:
        following = f.closed_next
        if (f.bits & (F_DIRTY | F_TRAIL_DUE) or f.starts & START_WAITS or f.unmark or is_gathered(f)
                or (f.r != NULL and f.r.bits & R_DUE)):
            f.closed_next = w.over
            w.over = f
        else:
            redirected_free(w, f)
            flow_free(w, f)
        f = following


# ---- what people are told ----------------------------------------------------------------------------

cdef void flow_left(flow *f) noexcept nogil:
    """On TCP, as far as anybody knows now: with all that its application had."""
    if f.rec != NULL and f.unmark != UNMARK_WAITS:
        hk_store32(&f.rec.want, HK_WANT_LEFT)


cdef void flow_report(worker *w, flow *f, int why) noexcept nogil:
    cdef bint ended = f.f.state == ST_CLOSED or f.bits & F_SOCKET_GONE
    f.why = why
    w.n.reasons[why] += 1
    if f.bits & F_ENGAGED:
        w.n.ended[why] += 1
    if ended:
        w.n.closed += 1
    else:
        flow_left(f)
    if not ended and f.bits & F_HELD:
        hold_release(w, f)
    tell(w, f, N_CLOSED if ended and f.bits & F_ENGAGED else N_RELEASED)


cdef shown_as shown_state(const flow *f) noexcept nogil:
    if f.f.state == ST_ENGAGED and not f.bits & F_SOCKET_GONE:
        return SHOWN_ENGAGED
    return SHOWN_RELEASED if f.why else SHOWN_HELD


cdef void tell_lane(worker *w, uint8_t version, int kind) noexcept nogil:
    """Which family's it is, the address without a host says."""
    cdef uint8_t nobody[4]
    cdef notice *n = notice_next(w)
    if n == NULL:
        return
    memset(nobody, 0, sizeof(nobody))
    memset(n, 0, sizeof(notice))
    n.kind = kind
    n.why = WHY_LANE if kind == N_LANE_BLOCKED else 0
    if version == 4:
        map_v4(nobody, n.key.remote_ip)
    n.at_ns = w.now
    notice_said(w)


cdef void tell_hole(worker *w, flow *f, uint64_t position, uint64_t n) noexcept nogil:
    """Limited in rate: a path that loses much must not push other events out."""
    cdef notice *said
    if not w.listening:
        return
    w.hole_tokens = min(<double>HOLES_TOLD, w.hole_tokens + (w.now - w.hole_at) * 1e-9 * HOLES_TOLD)
    w.hole_at = w.now
    said = notice_next(w) if w.hole_tokens >= 1 else NULL
    if said == NULL:
        w.n.holes_untold += 1
        return
    w.hole_tokens -= 1
    fill_notice(w, f, N_HOLE, said)
    said.bytes_out, said.bytes_in = position - FIRST, n
    notice_said(w)


cdef void tell(worker *w, flow *f, int kind) noexcept nogil:
    cdef notice *n
    if not w.listening and (kind == N_OPENED or kind == N_ENGAGED):
        return
    n = notice_next(w)
    if n == NULL:
        return
    fill_notice(w, f, kind, n)
    notice_said(w)


cdef void fill_notice(worker *w, flow *f, int kind, notice *n) noexcept nogil:
    n.kind = kind
    n.why = f.why
    n.role = HK_ROLE_CLIENT if f.f.role == ROLE_CLIENT else HK_ROLE_SERVER
    n.state = shown_state(f)
    n.flow_id = f.id
    flow_key_of(f, &n.key)
    n.bytes_out = f.bytes_out
    n.bytes_in = f.bytes_in
    n.at_ns = w.now
    n.waited_ns = w.now - f.opened_ns
