"""The life of a flow.

    client                                           server
    ESTABLISHED: held, OPEN (or warm: see 3)         ESTABLISHED: held
                                                     OPEN: twin, OPEN_ACK (still held)
    OPEN_ACK: twin, engaged, CONFIRM                 CONFIRM: engaged

1. Who sends OPEN may still release until it is engaged; who has answered may not decide alone. The server
   leaves the held state only by CONFIRM, by CANCEL, by the client's word on TCP (RELEASED option), or when
   so much time has passed that a client that had engaged would have given up (its association is dead).
2. Release is lossless: nothing of the flow's data was on the wire or in VTL, TCP has it all in its queue.
3. Over an association that is up, to a service that has accepted before and whose SYN-ACK came from the same run of the
   same engine, the client engages at once (OPEN with COMMITTED) and data follows in the same flight.
4. After engagement there is no way back: what breaks is a reset on both sides. If the server's engine has not taken the
   flow yet, its socket is on TCP, or will be, and the reset goes there as a segment.
"""

from libc.stdint cimport UINT64_MAX, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from hooker.engine.collection cimport collect_twin, collection_start
from hooker.engine.delivery cimport twin_watch
from hooker.engine.destroy cimport socket_destroy
from hooker.engine.early cimport early_expire, early_forget, early_keep, early_take
from hooker.engine.ending cimport *
from hooker.engine.flowtable cimport *
from hooker.includes.bpf cimport BPF_MAP_UPDATE_ELEM, hk_bpf_elem
from hooker.includes.hk cimport *
from hooker.includes.linux cimport *
from hooker.engine.nudge cimport announce, nudge
from hooker.engine.polling cimport clock_ns
from hooker.engine.reach cimport twin_cut_off, twin_first_look, twin_reached
from hooker.engine.services cimport service_accepted, service_accepts, service_rejected
from hooker.engine.shortage cimport shortage_timer, twin_made
from hooker.includes.timers cimport timers_next
from hooker.engine.twin cimport twin_discard, twin_unsent
from hooker.vtl.api cimport VTL_DOWN_KEY, VTL_DOWN_VERSION, vtl_addr, vtl_assoc, vtl_open_info, vtl_stream
from hooker.vtl.endpoint cimport (
    vtl_accept, vtl_cancel, vtl_close, vtl_confirm, vtl_connect, vtl_is_up, vtl_open, vtl_reject, vtl_reset,
    vtl_stream_assoc, vtl_stream_set_user, vtl_stream_user,
)
from hooker.engine.worker cimport *

cdef enum:
    MILLISECOND = 1000000
    ORPHAN = 60000000000          # ns that TCP keeps a closed half-open connection (tcp_fin_timeout)
    ORPHAN_AGAIN = 1000000000     # ns
    REJECT_NO_FLOW = 1            # codes of OPEN_REJECT, docs/vtl.md
    REJECT_TWIN = 2
    ACK_MOMENT = 20000            # ns
    STRAYS = 16                   # segments without our mark from an engaged socket; an engagement makes one or two
    ACK_AGAIN = 5                 # ms beside the round trip before the handshake's last ACK is said again
    TWIN_AGAIN = 10               # ms before a twin is tried again
    TWIN_WAIT = 5000              # ms for which it is tried
    DOUBLINGS = 7                 # of either
    ROUTE_WAIT = 4000             # ms that a committed OPEN waits for the routing rule: less than dead_after
    HALF_OPEN = 75000             # ms that a server with a full backlog may keep a connection half-open (tcp_synack_retries)
    LATE_LISTENER_GRACE = 50      # ms beside three round trips, for a server that has not answered in its SYN-ACK


cdef inline flow *flow_of(vtl_stream *s) noexcept nogil:
    return <flow *>vtl_stream_user(s)


# ---- decisions ---------------------------------------------------------------------------------------

cdef uint32_t given(flow *f) noexcept nogil:
    """How far the twin has come: bytes it has sent to the application, and its FIN."""
    cdef int unsent = twin_unsent(f.twin) if f.twin >= 0 else 0
    return <uint32_t>(f.bytes_in + f.fin_done - unsent)


cdef bint nudge_if_held_back(worker *w, flow *f) noexcept nogil:
    hk_fence()                    # the state first, then the count: the egress program does it the other way round
    if not hk_load64(&f.rec.held_drops):
        return False
    w.n.nudges += 1
    nudge(&w.nudger, &f.est, given(f))
    return True


cdef void engage(worker *w, flow *f) noexcept nogil:
    if f.accepted or f.est.role == HK_ROLE_SERVER:
        held_remove(w, f)
    else:
        f.deadline = UINT64_MAX          # only the ACK may have to be said again
    f.state = HK_STATE_ENGAGED
    f.engaged_ns = w.now
    f.look_at = twin_first_look(w)
    flow_arm(w, f)
    w.n.engaged += 1
    collection_start(w, f)
    hk_store32(&f.rec.state, HK_STATE_ENGAGED)
    tell(w, f, N_ENGAGED)
    if nudge_if_held_back(w, f):
        collect_twin(w, f)            # what was held back is there already, and can go with the OPEN
    twin_watch(w, f, EPOLL_CTL_ADD)


cdef void release(worker *w, flow *f, int why, bint tell_peer) noexcept nogil:
    held_remove(w, f)
    f.state = HK_STATE_RELEASED
    f.why = why
    w.n.released += 1
    w.n.reasons[why] += 1
    if f.twin >= 0:
        twin_discard(f.twin)
        f.twin = -1
    hk_store32(&f.rec.state, HK_STATE_RELEASED)
    nudge_if_held_back(w, f)
    if tell_peer and f.est.role == HK_ROLE_CLIENT:
        announce(&w.nudger, &f.est, HK_ROLE_RELEASED, w.transport, w.port)
    tell(w, f, N_RELEASED)
    maybe_done(w, f)


cdef void avoid(worker *w, flow *f, uint64_t ns, bint whole_host) noexcept nogil:
    """Leave the next connections to TCP without a hold."""
    cdef hk_peer p
    cdef uint64_t until = w.now + ns
    memset(&p, 0, sizeof(p))
    memcpy(p.ip, f.est.key.remote_ip, 16)
    p.port = 0 if whole_host else f.est.key.remote_port
    hk_bpf_elem(BPF_MAP_UPDATE_ELEM, w.avoid_fd, &p, &until, 0)


# ---- from the kernel ---------------------------------------------------------------------------------

cdef void peer_address(worker *w, const hk_event *e, vtl_addr *out) noexcept nogil:
    memset(out, 0, sizeof(vtl_addr))
    memcpy(out.ip, e.key.remote_ip, 16)
    out.port = e.peer_port if e.peer_port else w.peer_port


cdef void want_route(worker *w) noexcept nogil:
    cdef uint64_t one = 1
    if w.route == ROUTE_NONE:
        hk_store32(&w.route, ROUTE_WANTED)
        write(w.route_fd, &one, sizeof(one))


cdef inline bint routed(worker *w) noexcept nogil:
    return hk_load32(&w.route) == ROUTE_READY


cdef inline bint unroutable(worker *w) noexcept nogil:
    return hk_load32(&w.route) == ROUTE_FAILED


cdef void on_syn(worker *w, const hk_event *e) noexcept nogil:
    cdef vtl_addr a
    want_route(w)
    peer_address(w, e, &a)
    vtl_connect(w.vtl, &a, w.now)


cdef void on_established(worker *w, const hk_event *e) noexcept nogil:
    cdef flow *f = new_flow(w, e)
    if f == NULL:
        w.n.reasons[<int>R_MEMORY] += 1
        hk_store32(&w.records[e.slot].state, HK_STATE_RELEASED)
        return
    want_route(w)
    if e.role == HK_ROLE_CLIENT:
        start_client(w, f)
    else:
        start_server(w, f)


cdef uint64_t client_hold(worker *w, flow *f) noexcept nogil:
    cdef uint64_t paced = 3 * <uint64_t>f.est.rtt_us * 1000 + LATE_LISTENER_GRACE * MILLISECOND
    if f.est.server_nonce:
        return paced if paced > w.hold_client else w.hold_client
    return paced if paced < w.hold_client else w.hold_client


cdef void try_again(worker *w, flow *f, uint64_t interval) noexcept nogil:
    f.again_at = w.now + (interval << (f.tries if f.tries < DOUBLINGS else DOUBLINGS))
    f.tries += 1
    flow_arm(w, f)


cdef void schedule_ack(worker *w, flow *f) noexcept nogil:
    try_again(w, f, 2 * <uint64_t>f.est.rtt_us * 1000 + 2 * w.accept_ns + ACK_AGAIN * MILLISECOND)


cdef bint ack_has_left(const flow *f) noexcept nogil:
    """The event comes a moment before TCP sends the handshake's last ACK, and a worker that is awake reads it at once."""
    cdef uint64_t until = 0
    while not hk_load32(&f.rec.acked):
        if until == 0:
            until = clock_ns() + ACK_MOMENT
        elif clock_ns() > until:
            return False
    return True


cdef inline bint may_commit(worker *w, flow *f, const vtl_assoc *assoc) noexcept nogil:
    return (f.est.server_nonce and vtl_is_up(assoc) and service_accepts(w, &f.est, assoc) and routed(w)
            and ack_has_left(f))


cdef void start_client(worker *w, flow *f) noexcept nogil:
    cdef vtl_addr a
    cdef vtl_assoc *assoc
    cdef vtl_open_info info
    if unroutable(w):
        release(w, f, R_NO_ROUTE, True)
        return
    peer_address(w, &f.est, &a)
    assoc = vtl_connect(w.vtl, &a, w.now)
    if assoc == NULL:
        release(w, f, R_MEMORY, True)
        return
    info.locator = f.locator
    memcpy(info.key, f.key, sizeof(f.key))
    info.committed = False
    schedule_ack(w, f)
    if may_commit(w, f, assoc):
        f.twin = twin_made(w, &f.est)
        if f.twin < 0:
            release(w, f, R_TWIN, True)
            return
        if not twin_reached(w, f):
            avoid(w, f, w.avoid_for, False)
            release(w, f, R_PATH, True)
            return
        info.committed = True
        w.n.committed += 1
    f.stream = vtl_open(assoc, &info, f, w.now)
    if f.stream == NULL:
        release(w, f, R_MEMORY, True)
    elif info.committed:
        engage(w, f)
    else:
        f.deadline = w.now + client_hold(w, f)
        flow_arm(w, f)


cdef void start_server(worker *w, flow *f) noexcept nogil:
    f.deadline = w.now + w.hold_server
    flow_arm(w, f)
    meet_early(w, f)


cdef void meet_early(worker *w, flow *f) noexcept nogil:
    """Who only guessed, or repeats what he saw, may have come before the client: he is refused, and the next one heard."""
    cdef vtl_open_info info
    cdef vtl_stream *s = early_take(w, f.locator, &info)
    while s != NULL:
        if not flow_proven(f, s, &info):
            refuse(w, s)
        else:
            answer(w, f, s, &info)
            if f.stream == NULL:
                return            # it waits again, or the flow is not ours any more
        s = early_take(w, f.locator, &info)


cdef void on_wire_released(worker *w, const hk_event *e) noexcept nogil:
    cdef flow *f = flow_by_id(w, e.flow_id)
    if f != NULL:
        peer_released(w, f)


cdef void peer_released(worker *w, flow *f) noexcept nogil:
    if f.state != HK_STATE_HELD:
        return
    if f.stream != NULL:
        drop_stream(f)
    release(w, f, R_PEER_RELEASED, False)


cdef void on_stray(worker *w, const hk_event *e) noexcept nogil:
    cdef flow *f = flow_by_id(w, e.flow_id)
    if f == NULL or f.state != HK_STATE_ENGAGED or f.ended:
        return
    f.strays += 1
    if f.strays > STRAYS:                # somebody else's mark is on its segments: they will never come to the twin
        flow_abort(w, f, R_PATH)
        return
    w.n.nudges += 1
    nudge(&w.nudger, &f.est, given(f))


cdef void drop_stream(flow *f) noexcept nogil:
    vtl_stream_set_user(f.stream, NULL)
    vtl_reset(f.stream, RESET_ENGINE)
    f.stream = NULL


cdef void on_app_closed(worker *w, const hk_event *e) noexcept nogil:
    cdef flow *f = flow_by_id(w, e.flow_id)
    if f == NULL:
        give_slot_back(w, e.flow_id)     # it never became a flow of ours
    elif not f.app_closed:
        app_closed(w, f)


cdef void app_closed(worker *w, flow *f) noexcept nogil:
    f.app_closed = True
    if f.state == HK_STATE_HELD:
        if f.stream != NULL:
            if f.est.role == HK_ROLE_CLIENT:
                vtl_stream_set_user(f.stream, NULL)
                vtl_cancel(f.stream)
                f.stream = NULL
            else:
                drop_stream(f)
        release(w, f, R_APP_CLOSED, False)
    elif f.state == HK_STATE_ENGAGED and not f.ended:
        f.hup = True                    # its FIN is at the twin already
        f.orphan_at = w.now + ORPHAN
        flow_arm(w, f)
        collect_twin(w, f)
        if hk_load32(&f.rec.app_closed) == HK_APP_ABORTED and not f.ended:
            flow_app_reset(w, f)
    end_time_wait(w, f)
    maybe_done(w, f)


# ---- from VTL ----------------------------------------------------------------------------------------

cdef void answer(worker *w, flow *f, vtl_stream *s, const vtl_open_info *info) noexcept nogil:
    """OPEN, with its proof, for a flow of ours: a twin, then OPEN_ACK."""
    if f.state != HK_STATE_HELD or f.stream != NULL:
        vtl_reject(s, REJECT_NO_FLOW)
        return
    if not routed(w):
        wait_for_route(w, f, s, info)
        return
    f.twin = twin_made(w, &f.est)
    if f.twin >= 0 and not twin_reached(w, f):
        vtl_reject(s, REJECT_TWIN)
        release(w, f, R_PATH, False)
    elif f.twin >= 0:
        f.stream = s
        vtl_accept(s, f)
    elif not info.committed or wait_for_twin(w, f, s, info) < 0:
        vtl_reject(s, REJECT_TWIN)
        release(w, f, R_TWIN, False)


cdef void wait_for_route(worker *w, flow *f, vtl_stream *s, const vtl_open_info *info) noexcept nogil:
    """Once we have answered, the client may engage and has no way back: so not before the twin can be reached."""
    if f.route_by == 0:
        f.route_by = w.now + (<uint64_t>ROUTE_WAIT * MILLISECOND if info.committed else w.hold_open)
    if w.now < f.route_by and (info.committed or not unroutable(w)) and early_keep(w, s, info, f.route_by) == 0:
        f.again_at = f.route_by
        flow_arm(w, f)
        return
    vtl_reject(s, REJECT_TWIN)
    release(w, f, R_NO_ROUTE, False)


cdef void refuse(worker *w, vtl_stream *s) noexcept nogil:
    """Who opened it has not seen the handshake: nothing of the flow changes."""
    w.n.unproven += 1
    vtl_reject(s, REJECT_NO_FLOW)


cdef int wait_for_twin(worker *w, flow *f, vtl_stream *s, const vtl_open_info *info) noexcept nogil:
    """The client has no way back, and what is in the way (descriptors, memory, TIME_WAIT) may go away."""
    if f.tries == 0:
        f.deadline = w.now + <uint64_t>TWIN_WAIT * MILLISECOND
    if f.deadline <= w.now or early_keep(w, s, info, f.deadline) < 0:
        return -1
    w.n.twins_retried += 1
    try_again(w, f, TWIN_AGAIN * MILLISECOND)
    return 0


cdef void on_opened(worker *w, vtl_stream *s, const vtl_open_info *info) noexcept nogil:
    cdef flow *f = flow_by_locator(w, info.locator)
    vtl_stream_set_user(s, NULL)
    if f != NULL:
        if flow_proven(f, s, info):
            answer(w, f, s, info)
        else:
            refuse(w, s)
        return
    # The handshake's last ACK may be behind us, or the backlog full: who is committed waits as long as TCP would.
    if early_keep(w, s, info, w.now + (<uint64_t>HALF_OPEN * MILLISECOND if info.committed else w.hold_open)) < 0:
        vtl_reject(s, REJECT_NO_FLOW)


cdef void on_accepted(worker *w, vtl_stream *s) noexcept nogil:
    cdef flow *f = flow_of(s)
    if f == NULL:
        return
    f.accepted = True
    w.accept_ns = (7 * w.accept_ns + w.now - f.opened_ns) // 8
    service_accepted(w, &f.est, vtl_stream_assoc(s))
    if f.state != HK_STATE_HELD:
        held_remove(w, f)
    elif routed(w):
        confirm(w, f)


cdef void confirm(worker *w, flow *f) noexcept nogil:
    """The client's last step: from here on it has no way back."""
    f.twin = twin_made(w, &f.est)
    if f.twin < 0:
        f.twin = -1
        cancel(w, f, R_TWIN)
        return
    if not twin_reached(w, f):
        avoid(w, f, w.avoid_for, False)
        cancel(w, f, R_PATH)
        return
    vtl_confirm(f.stream)
    engage(w, f)


cdef void cancel(worker *w, flow *f, int why) noexcept nogil:
    """The client leaves the flow to TCP, and says so."""
    if f.stream != NULL:
        vtl_stream_set_user(f.stream, NULL)
        vtl_cancel(f.stream)
        f.stream = NULL
    release(w, f, why, True)


cdef void on_rejected(worker *w, vtl_stream *s) noexcept nogil:
    cdef flow *f = flow_of(s)
    if f == NULL:
        return
    vtl_stream_set_user(s, NULL)
    f.stream = NULL
    service_rejected(w, &f.est)
    if f.state == HK_STATE_HELD:
        avoid(w, f, w.avoid_for, False)
        release(w, f, R_REJECTED, True)
    else:
        reset_application(w, f, R_REJECTED)


cdef void on_confirmed(worker *w, vtl_stream *s) noexcept nogil:
    cdef flow *f = flow_of(s)
    if f != NULL and f.state == HK_STATE_HELD:
        engage(w, f)


cdef void meet_route(worker *w, flow *f) noexcept nogil:
    if f.est.role == HK_ROLE_SERVER:
        if f.route_by:
            meet_early(w, f)
    elif not routed(w):
        cancel(w, f, R_NO_ROUTE)
    elif f.accepted and f.stream != NULL:
        confirm(w, f)


cdef void flows_routed(worker *w) noexcept nogil:
    """The routing rule is there, or could not be had: flows that wait for it go on, or back to TCP."""
    cdef flow *f = w.held
    cdef flow *following
    while f != NULL and (routed(w) or unroutable(w)):
        following = f.held_next
        if f.state == HK_STATE_HELD:
            meet_route(w, f)
        f = following


cdef void on_cancelled(worker *w, vtl_stream *s) noexcept nogil:
    cdef flow *f = flow_of(s)
    if f == NULL:
        early_forget(w, s)
        return
    vtl_stream_set_user(s, NULL)
    f.stream = NULL
    if f.state == HK_STATE_HELD:
        release(w, f, R_PEER_RELEASED, False)


cdef int why_lost(uint32_t code) noexcept nogil:
    """Why there is no association."""
    if code == VTL_DOWN_KEY:
        return R_KEY
    return R_VERSION if code == VTL_DOWN_VERSION else R_NO_ENGINE


cdef void on_stream_reset(worker *w, vtl_stream *s, uint32_t code) noexcept nogil:
    """By the peer, or because the association is gone."""
    cdef flow *f = flow_of(s)
    cdef bint peer_lost = not vtl_is_up(vtl_stream_assoc(s))
    if f == NULL:
        early_forget(w, s)
        return
    vtl_stream_set_user(s, NULL)
    f.stream = NULL
    if f.state == HK_STATE_HELD:
        if f.est.role == HK_ROLE_CLIENT and peer_lost:
            avoid(w, f, w.avoid_for, True)
        release(w, f, why_lost(code) if peer_lost else R_PEER_RELEASED, f.est.server_nonce != 0)
    else:
        if f.est.role == HK_ROLE_CLIENT and code == RESET_ENGINE:
            service_rejected(w, &f.est)  # the next one asks before it commits itself
        reset_application(w, f, R_PEER_LOST if peer_lost else R_PEER_RESET)


cdef void on_stream_closed(worker *w, vtl_stream *s) noexcept nogil:
    cdef flow *f = flow_of(s)
    if f == NULL:
        early_forget(w, s)
        return
    f.stream = NULL
    if f.state == HK_STATE_HELD:
        release(w, f, R_REJECTED, True)
    else:
        flow_check_end(w, f)
    maybe_done(w, f)


# ---- time --------------------------------------------------------------------------------------------

cdef uint64_t flows_deadline(worker *w) noexcept nogil:
    cdef uint64_t at = timers_next(&w.flow_timers), opens = timers_next(&w.open_timers)
    if opens < at:
        at = opens
    return w.look_again if w.look_again and w.look_again < at else at


cdef void hold_expired(worker *w, flow *f) noexcept nogil:
    if f.est.role == HK_ROLE_CLIENT and f.accepted:
        cancel(w, f, R_NO_ROUTE)         # the peer is not to blame
        return
    if f.est.role == HK_ROLE_CLIENT:
        avoid(w, f, w.avoid_for, not vtl_is_up(vtl_stream_assoc(f.stream)))
        cancel(w, f, R_HOLD_TIMEOUT)
        return
    if f.stream != NULL:
        drop_stream(f)
    release(w, f, R_TWIN if f.tries else R_HOLD_TIMEOUT, False)


cdef void again(worker *w, flow *f) noexcept nogil:
    f.again_at = UINT64_MAX
    if f.est.role == HK_ROLE_SERVER:
        meet_early(w, f)
    else:
        w.n.acks_again += 1
        announce(&w.nudger, &f.est, HK_ROLE_CLIENT, w.transport, w.port)
        schedule_ack(w, f)


cdef void look_again(worker *w, flow *f) noexcept nogil:
    """Does what the application sends arrive; and if it was reset, did that?"""
    if f.ended:
        f.look_at = UINT64_MAX
        if f.was_reset and not hk_load32(&f.rec.app_closed):
            w.n.destroyed += 1
            socket_destroy(&f.est)
    elif twin_cut_off(w, f):
        flow_abort(w, f, R_PATH)


cdef void orphaned(worker *w, flow *f) noexcept nogil:
    """Nobody is left to read what the peer may still send."""
    f.orphan_at = UINT64_MAX
    if f.ended or f.stream == NULL:
        return
    if f.eof:
        flow_app_reset(w, f)
    else:
        f.orphan_at = w.now + ORPHAN_AGAIN   # its own last bytes are not even read


cdef void flow_due(worker *w, flow *f) noexcept nogil:
    if f.deadline <= w.now:
        hold_expired(w, f)
    elif f.again_at <= w.now:
        again(w, f)
    elif f.look_at <= w.now:
        look_again(w, f)
    else:
        orphaned(w, f)
    flow_arm(w, f)


cdef void flows_on_timer(worker *w) noexcept nogil:
    while timers_next(&w.flow_timers) <= w.now:
        flow_due(w, <flow *>w.flow_timers.v[0])      # its timer is its first member
    shortage_timer(w)
    early_expire(w, REJECT_NO_FLOW)


cdef void flows_sweep(worker *w) noexcept nogil:
    """All of them are looked over only when the event ring was full: then one's end or release may have gone unheard."""
    cdef uint32_t i, lost = hk_load32(&w.ring.attention.lost)
    cdef flow *f
    w.swept = w.now
    if lost == w.lost:
        return
    w.lost = lost
    for i in range(w.max_flows if w.live else 0):
        f = w.flows[i]
        if f == NULL:
            continue
        if hk_load32(&f.rec.app_closed) and not f.app_closed:
            app_closed(w, f)
        if hk_load32(&f.rec.wire_released):
            peer_released(w, f)


cdef void flows_stop(worker *w) noexcept nogil:
    """The engine ends: what is held goes back to TCP, what is engaged is reset on both sides."""
    cdef uint32_t i
    cdef flow *f
    for i in range(w.max_flows):
        f = w.flows[i]
        if f == NULL:
            continue
        if f.state == HK_STATE_HELD:
            if f.est.role == HK_ROLE_CLIENT:
                cancel(w, f, R_ENGINE_STOPPED)
            else:
                if f.stream != NULL:
                    drop_stream(f)
                release(w, f, R_ENGINE_STOPPED, False)
        elif f.state == HK_STATE_ENGAGED and not f.ended:
            flow_abort(w, f, R_ENGINE_STOPPED)
    for i in range(w.peer_count, 0, -1):
        vtl_close(w.peers[i - 1], 0, w.now)      # assoc_down takes it off the list


cdef bint flows_settled(worker *w) noexcept nogil:
    """After flows_stop: the resets have arrived, so the programs have given all sockets back."""
    cdef uint32_t i
    for i in range(w.max_flows):
        if w.flows[i] != NULL and hk_load32(&w.flows[i].rec.marked) and not hk_load32(&w.flows[i].rec.app_closed):
            return False
    return True
