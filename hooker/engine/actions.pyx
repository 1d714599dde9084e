"""From an Outcome of the flow protocol's machine to what is done: marks, messages, segments, reports.

The order matters. The mark first: what is said of it is true when the peer reads it. Then the twin, which begins with the
numbers that the machine has now, whenever a flow becomes engaged. Messages before bytes. The local TCP is given bytes before
the acknowledgement, which then goes with them. An acknowledgement alone waits for the end of the round (docs/twin.md, 6).
"""

from libc.stdint cimport UINT64_MAX, int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from hooker.engine.again cimport again_ends
from hooker.engine.cells cimport cell, cell_give
from hooker.engine.channel cimport channel_begin, channel_end, channel_of
from hooker.engine.cut cimport cut_learn, cut_note, cut_over, cut_try
from hooker.engine.flows cimport *
from hooker.engine.hold cimport (
    hold_ack_again, hold_again, hold_deadline, hold_engaged, hold_failed, hold_missed,
    hold_pin, hold_unanswered,
)
from hooker.engine.hk0 cimport give, give_probe, give_reset, is_due, twin_begin, twin_told
from hooker.engine.kept cimport keep, kept_acked, kept_drop
from hooker.engine.lane cimport blocked_until, is_blocked, lane_doubt
from hooker.engine.lent cimport lent_for, lent_not, lent_taken
from hooker.engine.peers cimport binding_of, peer_of, peer_say, reach, refuse
from hooker.engine.redirected cimport (
    redirected_deadline, redirected_drop, redirected_due, redirected_lives,
)
from hooker.engine.rest cimport awake, flow_rests
from hooker.engine.starts cimport start_note, start_waits
from hooker.engine.stash cimport stash_as_said, stash_drop, stash_fits, stash_keep, stash_rest, stash_take
from hooker.engine.translated cimport translated_ask
from hooker.engine.trail cimport trail_begin, trail_end, trail_ends, trail_expect, trail_note, trail_wanted
from hooker.engine.warm cimport service_cools, service_engaged, service_forget
from hooker.engine.wire cimport wire_bare, wire_kept, wire_newest, wire_probe, wire_segment
from hooker.engine.unread cimport is_read
from hooker.engine.worker cimport *
from hooker.engine.slab cimport slab
from hooker.flow.machine cimport *
from hooker.flow.machine cimport Segment as Numbers
from hooker.flow.messages cimport *
from hooker.flow.sender cimport DUE_END, DUE_PROBE, sender_due, sender_timer
from hooker.flow.proof cimport MAX_BINDING, PROOF_ACCEPT, PROOF_OPEN, prove
from hooker.includes.bpf cimport BPF_MAP_UPDATE_ELEM, hk_bpf_elem
from hooker.includes.hk cimport *
from hooker.includes.linux cimport hk_load32, hk_store32
from hooker.tcp.numbers cimport NOWHERE
from hooker.tcp.segment cimport FLAG_ACK, FLAG_FIN, FLAG_PSH, FLAG_RST, FLAG_URG, Segment
from hooker.tcp.twin cimport twin_expired
from hooker.transports.contract cimport T_QUEUED, Association, Channel

cdef enum:
    SECOND = 1000000000
    FIRST_PAUSE = SECOND       # ns before a client tries again; doubles
    PAUSES = 7                 # so often
    PAUSES_STUCK = 5           # as if it had tried so often
    WANTED = 6000000000        # ns for which its peer's engine is waited for: more than a handshake may take
    LAST_WORDS = 3000000000    # ns for which a closed flow keeps its channel
    LINGER = 60000000000       # ns for which Linux waits for a FIN without a socket (TCP_TIMEWAIT_LEN)
    OUTDATED = 128             # of Linux's timestamps, which are ms: less than its least timer
    SETTLED = 10               # s: a flow that was engaged for so long begins with the first pause again
    DO_WIRE = DO_WIRE_OLDEST | DO_WIRE_EARLY | DO_WIRE_ACK | DO_WIRE_RST
    DO_SAY = (DO_SEND_OPEN | DO_SEND_ACCEPT | DO_SEND_ENGAGED | DO_SEND_ACKED | DO_SEND_PROBE | DO_SEND_PING
              | DO_SEND_PONG | DO_SEND_RESET | DO_SEND_LEAVE)


cdef void act_alone(worker *w, flow *f, const Outcome *out) noexcept nogil:
    cdef cause c
    memset(&c, 0, sizeof(c))
    act(w, f, out, &c)


cdef uint32_t control_of(worker *w, const flow *f) noexcept nogil:
    """HK_CONTROL_*"""
    if not config_of(w, f).repairs:
        return HK_CONTROL_OWN
    return HK_CONTROL_QUEUE if f.p == NULL or f.p.a == NULL or f.p.a.t.properties & T_QUEUED else HK_CONTROL_NONE


cdef void act(worker *w, flow *f, const Outcome *out, cause *c) noexcept nogil:
    cdef uint32_t todo = out.actions
    # before it is unmarked, which may be at once
    cdef bint missed = (out.was == ST_ARMED and f.f.state == ST_LEFT and f.rec != NULL
                        and hk_load32(&f.rec.marked) and f.f.reason != WHY_ENGINE_STOPS)
    cdef bint asked = out.was == ST_ENGAGED and f.f.state == ST_LEFT and f.bits & (F_ASKED | F_STEERED) == F_ASKED
    if todo & DO_MARK and f.rec != NULL and f.f.role == ROLE_SERVER and f.f.flags & FL_EARLY:
        hk_store32(&f.rec.burst, BURST)         # first: the mark may be set at once
    if todo & DO_MARK and f.rec != NULL:
        f.unmark = min(f.unmark, <uint8_t>UNMARK_LISTED)
        hk_store32(&f.rec.control, control_of(w, f))
        hk_store32(&f.rec.want, HK_WANT_MARK)
    elif todo & DO_UNMARK and f.rec != NULL:
        unmark_later(w, f)
    if f.f.state != out.was:
        start_note(w, f)
        entered(w, f, out)
    if todo & DO_SAY:
        say_all(w, f, out)
    if c.s != NULL and todo & (DO_SEND_DATA | DO_BRIDGE):
        pass_on(w, f, todo, c)
    if todo & DO_WIRE:
        on_wire(w, f, todo)
    if asked:
        wire_probe(w, f)                        # its TCP says so only once, or thinks this was the last time
    if todo & DO_WIRE_EARLY:
        w.n.early_on_wire += 1
        service_cools(w, f)
    if f.bits & F_HELD and f.f.state == ST_ARMED and out.was != ST_ARMED:
        give_probe(w, f, True)                  # nothing of its own comes through hk0
    if todo & DO_ABORT:
        abort_socket(w, f)
    if todo & (DO_INJECT | DO_KEEP | DO_INJECT_ACK | DO_INJECT_PROBE | DO_INJECT_RST):
        inject(w, f, todo, c)
    if f.active.stash != NULL and f.f.state == ST_ENGAGED and stash_fits(f):
        give_stashed(w, f)
    if todo & DO_REPORT and not f.bits & F_SOCKET_GONE:
        if missed and cut_note(w, f):
            flow_report(w, f, WHY_LANE)
            f.f.reason = WHY_NOT_THROUGH_HK0
        else:
            flow_report(w, f, f.f.reason)
        try_again(w, f)
    if f.f.state == ST_LEFT or f.f.state == ST_TCP:
        kept_drop(w, f)                         # it has been on the wire
        channel_end(f)                          # what was said still goes out
    if f.bits & F_TRAIL:
        trail_note(w, f, todo & (DO_SEND_PROBE | DO_INJECT_PROBE | DO_WIRE_ACK))
    if todo & DO_FORGET:
        flow_over(w, f)
    if f.bits & (F_SOCKET_GONE | F_FORGET) == F_SOCKET_GONE and f.f.state != ST_ENGAGED and f.f.state < ST_CLOSED:
        flow_lingered(w, f)
    flow_touch(w, f)


# ---- states ------------------------------------------------------------------------------------------

cdef void unmark_later(worker *w, flow *f) noexcept nogil:
    """What it has sent through hk0 goes to the wire before what it sends there itself. Overtaken, bytes are dropped as old
    (PAWS), and an old acknowledgement beside them keeps the far TCP from taking over their timestamp (as Linux does it)."""
    if f.unmark == UNMARK_WAITS or hk_load32(&f.rec.want) == HK_WANT_LEFT:
        return
    if not hk_load32(&f.rec.marked) or f.bits & F_STEERED:
        hk_store32(&f.rec.want, HK_WANT_LEFT)
        return
    if not f.unmark:
        f.active.unmark_at, f.active.unmark_next = w.now + 1, NULL     # read to the end once more
        if w.unmark_last != NULL:
            w.unmark_last.active.unmark_next = f
        else:
            w.unmark_first = f
        w.unmark_last = f
    f.unmark = UNMARK_WAITS


cdef void unmark_due(worker *w) noexcept nogil:
    cdef flow *f = w.unmark_first
    while f != NULL and is_read(w, f.active.unmark_at):
        w.unmark_first = f.active.unmark_next
        if w.unmark_first == NULL:
            w.unmark_last = NULL
        if f.unmark == UNMARK_WAITS and f.rec != NULL:
            hk_store32(&f.rec.want, HK_WANT_LEFT)
        f.unmark = UNMARK_NOT
        if f.rec != NULL:
            give_probe(w, f, True)              # a socket at rest is unmarked when it answers
        f = w.unmark_first


cdef void entered(worker *w, flow *f, const Outcome *out) noexcept nogil:
    if f.f.state == ST_ARMED or f.f.state == ST_EARLY:
        translated_ask(w, f)
    if f.f.state == ST_ARMED:
        f.active.armed_ns = w.now
    elif out.was == ST_ARMED and f.f.state < ST_LEFT and w.n.services_cut:
        cut_over(w, f)
    if out.was == ST_ENGAGED:
        f.bits &= ~<uint16_t>(F_TWIN | F_ASKED)
        w.n.left += 1
        if f.again_at != UINT64_MAX and w.now - f.again_at > SETTLED * <uint64_t>SECOND:
            f.pauses = 0
        f.again_at = UINT64_MAX
    if f.f.state == ST_BRIDGE or f.f.state == ST_ENGAGED:
        hold_pin(w, f)
    if f.f.state == ST_ENGAGED:
        measure(f)
        twin_begin(w, f)
        hold_engaged(w, f)
        f.bits |= F_ENGAGED
        f.why = 0
        f.again_at = w.now
        service_engaged(w, f)
        w.n.engaged += 1
        tell(w, f, N_ENGAGED)
    elif f.f.state == ST_ARMED and out.was > ST_EARLY:
        stash_drop(w, f)                        # that, and what its channel still holds, is of an older epoch
        channel_end(f)
    elif f.f.state == ST_LEFT or f.f.state == ST_CLOSED:
        stash_drop(w, f)
        if f.f.flags & FL_WAS_RESET:
            redirected_drop(w, f)
        if out.was == ST_EARLY and f.f.reason <= WHY_REJECTED:
            service_cools(w, f)
        if f.bits & F_SOCKET_GONE:
            f.again_at = w.now + LAST_WORDS


cdef void flow_is_stuck(flow *f) noexcept nogil:
    """A path that carries no segments does not soon carry them. Sooner than TCP's own timer, which has doubled, it would only be
    in TCP's way."""
    f.pauses = max(f.pauses, <uint8_t>PAUSES_STUCK)


cdef void try_again(worker *w, flow *f) noexcept nogil:
    """A client, after a while, unless nothing would be different."""
    cdef int why = f.f.reason
    if f.f.role != ROLE_CLIENT or f.f.state == ST_CLOSED or f.bits & (F_STEERED | F_NEVER) or f.pauses >= PAUSES:
        return
    if why == WHY_REJECTED or why == WHY_ENGINE_STOPS or why == WHY_EPOCHS_USED_UP:
        return
    if why == WHY_NO_PROGRESS:
        flow_is_stuck(f)
    f.again_at = w.now + (<uint64_t>FIRST_PAUSE << f.pauses)
    f.pauses += 1


cdef void flow_cut_off(worker *w, flow *f) noexcept nogil:
    """Back to TCP, as long as nothing gets through hk0. A pinned flow has no way back: it waits as TCP waits for a dead path."""
    cdef Outcome out
    if f.f.flags & FL_PINNED or f.f.state >= ST_LEFT:
        return
    awake(w, f)
    f.bits &= ~<uint16_t>F_WANTED
    flow_local(&f.f, config_of(w, f), EV_STOP, w.now, &out)
    out.actions &= ~<uint32_t>DO_REPORT
    flow_report(w, f, WHY_LANE)
    f.f.reason = WHY_NOT_THROUGH_HK0
    act_alone(w, f, &out)
    try_again(w, f)
    flow_touch(w, f)


cdef void flow_translated(worker *w, flow *f) noexcept nogil:
    """Its segments have another address than the socket: none will ever be its own."""
    w.n.services_translated += 1
    cut_learn(w, f)
    flow_cut_off(w, f)


cdef bint waits_for_lane(worker *w, flow *f) noexcept nogil:
    """Whether it is put off. Its peer's engine is not asked for what could not be kept."""
    if not is_blocked(w, f):
        return False
    f.bits &= ~<uint16_t>F_WANTED
    f.again_at = blocked_until(w, f)
    flow_touch(w, f)
    return True


cdef void flow_wanted(worker *w, flow *f) noexcept nogil:
    cdef uint8_t ip[16]
    cdef Association *a
    cdef peer *p
    f.again_at = UINT64_MAX
    if w.leaving or waits_for_lane(w, f):
        return
    if w.n.services_cut:
        cut_try(w, f)
    f.bits |= F_WANTED
    f.again_at = w.now + WANTED
    remote_ip(f, ip)
    a = reach(w, flow_rule(w, f), flow_transport(f), ip, f.peer_port if f.peer_port else w.peer_port)
    p = peer_of(w, a) if a != NULL else NULL
    if p == NULL:
        f.bits &= ~<uint16_t>F_WANTED
        flow_report(w, f, WHY_MEMORY)
        f.f.reason = WHY_TRANSPORT_DOWN
        f.again_at = UINT64_MAX
        try_again(w, f)
        flow_touch(w, f)
        return
    flow_join(w, f, p)
    flow_start(w, f)
    flow_touch(w, f)


cdef void flow_early(worker *w, flow *f) noexcept nogil:
    """The kernel program marks it behind its handshake, or has. Does its peer's engine know us, too?"""
    cdef Outcome out
    cdef uint8_t ip[16]
    cdef Association *a
    cdef peer *p
    remote_ip(f, ip)
    a = reach(w, flow_rule(w, f), flow_transport(f), ip, f.peer_port)
    p = peer_of(w, a) if a != NULL else NULL
    if p == NULL or not p.instance or p.speaks != f.speaks or not p.a.ops.is_up(p.a):
        hk_store32(&f.rec.want, HK_WANT_TCP)
        service_forget(w, f)
        flow_wanted(w, f)
        return
    w.n.early += 1
    f.bits |= F_EARLY
    flow_join(w, f, p)
    flow_local(&f.f, config_of(w, f), EV_START_EARLY, w.now, &out)
    trail_expect(w, f)
    act_alone(w, f, &out)


cdef void flow_start(worker *w, flow *f) noexcept nogil:
    if not may_start(w, f):
        return
    f.again_at = UINT64_MAX
    if not start_waits(w, f):
        begin(w, f)


cdef void flow_turn(worker *w, flow *f) noexcept nogil:
    if may_start(w, f):
        begin(w, f)


cdef bint may_start(worker *w, flow *f) noexcept nogil:
    if not f.bits & F_WANTED or f.p == NULL or f.p.a == NULL or not f.p.instance or not f.p.a.ops.is_up(f.p.a) or w.leaving:
        return False
    if f.f.state == ST_LEFT:                # a segment came marked though it was not asked to be: once it is TCP's again
        f.bits &= ~<uint16_t>F_WANTED
        f.again_at = w.now
        return False
    return not waits_for_lane(w, f)


cdef void begin(worker *w, flow *f) noexcept nogil:
    cdef Outcome out
    f.bits &= ~<uint16_t>F_WANTED
    f.again_at = UINT64_MAX
    flow_local(&f.f, config_of(w, f), EV_START, w.now, &out)
    act_alone(w, f, &out)


cdef void avoid(worker *w, flow *f, bint whole_host, uint64_t until) noexcept nogil:
    """The next connections to that service, or host, are not asked. An association with that host ends the latter."""
    cdef hk_peer p
    memset(&p, 0, sizeof(p))
    remote_ip(f, p.ip)
    p.port = 0 if whole_host else f.ends.remote_port
    hk_bpf_elem(BPF_MAP_UPDATE_ELEM, w.avoid_fd, &p, &until, 0)


cdef bint has_engine(const worker *w, const flow *f) noexcept nogil:
    """That host has, by whatever transport: the one that this flow has asked for may be none of its."""
    cdef uint8_t ip[16]
    cdef uint32_t i
    remote_ip(f, ip)
    for i in range(w.peer_count):
        if w.peers[i].up and memcmp(w.peers[i].a.ops.peer(w.peers[i].a).ip, ip, 16) == 0:
            return True
    return False


cdef inline bint nothing_changes(int why) noexcept nogil:
    """Another try would come to the same."""
    return why == WHY_KEY or why == WHY_VERSION or why == WHY_PROTOTYPE or why == WHY_NAME


cdef void never_found(worker *w, flow *f, int why) noexcept nogil:
    """Nobody answers for its peer, or does not greet. Where an engine has spoken in the SYN-ACK, it may be there another time;
    but who is held would wait for that."""
    if why == WHY_NO_ENGINE and has_engine(w, f):
        why = WHY_NO_ANSWER                     # not at this transport's port
    f.bits &= ~<uint16_t>F_WANTED
    f.again_at = UINT64_MAX
    flow_left(f)
    if why and not f.why:
        flow_report(w, f, why)
    if why and why != WHY_PROTOTYPE and (f.unproven or w.hold_for):   # nothing is asked with that one any more
        avoid(w, f, not has_engine(w, f), w.now + w.avoid_for)
    if not (why and f.unproven) and not nothing_changes(why):
        f.f.reason = WHY_TRANSPORT_DOWN
        try_again(w, f)
        flow_touch(w, f)


cdef void flow_lost(worker *w, flow *f, int why) noexcept nogil:
    cdef Outcome out
    cdef bint known
    awake(w, f)
    flow_part(w, f)
    redirected_drop(w, f)                       # nobody else can acknowledge it
    if f.bits & F_WANTED:
        never_found(w, f, why)
        return
    # the next association would know nothing of it, and so a pinned flow has come to its end
    flow_local(&f.f, config_of(w, f), EV_PEER_DEAD if f.f.flags & FL_PINNED else EV_DOWN, w.now, &out)
    known = why == WHY_PROTOTYPE and out.actions & DO_REPORT != 0   # more than that it is down
    if known:
        out.actions &= ~<uint32_t>DO_REPORT
    act_alone(w, f, &out)
    if known:                                   # then: its mark goes when hk0 has been read
        flow_report(w, f, why)


cdef void flow_gives_up(worker *w, flow *f, int why) noexcept nogil:
    cdef Outcome out
    awake(w, f)
    w.n.given_up += 1
    flow_local(&f.f, config_of(w, f), EV_PEER_DEAD, w.now, &out)
    f.f.reason = <uint8_t>why
    if out.was == ST_CLOSED:                    # its application has gone in peace
        out.actions |= DO_SEND_RESET
        f.f.flags |= FL_WAS_RESET
        redirected_drop(w, f)
    act_alone(w, f, &out)


cdef void flow_steered(worker *w, flow *f, int why) noexcept nogil:
    cdef Outcome out
    awake(w, f)
    f.bits |= F_STEERED
    f.bits &= ~<uint16_t>F_WANTED
    f.again_at = UINT64_MAX
    flow_local(&f.f, config_of(w, f), EV_STOP, w.now, &out)
    if why == WHY_STOOD:
        out.actions &= ~<uint32_t>DO_WIRE       # its TCP has said more since
    if out.actions & DO_REPORT:
        out.actions &= ~<uint32_t>DO_REPORT
        flow_report(w, f, why)
    elif f.bits & F_HELD or why == WHY_DEVICE:
        flow_report(w, f, why)
    act_alone(w, f, &out)


cdef void flow_chosen(worker *w, flow *f) noexcept nogil:
    cdef uint32_t wants = hk_load32(&f.rec.steered) if f.rec != NULL else 0
    flow_steered(w, f, WHY_SIGNED if wants == HK_STEERED_SIGNED else WHY_REPAIR if wants == HK_STEERED_REPAIR
                 else WHY_STOOD if wants == HK_STEERED_STALLED else WHY_STEERED)


cdef void flow_doubt(worker *w, flow *f) noexcept nogil:
    """Its peer may repeat on the wire what the transport does not bring, or not acknowledge: it is asked, unless it has been."""
    cdef Outcome out
    if f.f.state == ST_ENGAGED and f.f.wait_at > w.now + w.config.first_try:
        flow_local(&f.f, config_of(w, f), EV_DOUBT, w.now, &out)
        act_alone(w, f, &out)


cdef void flow_sends_rest(worker *w, flow *f) noexcept nogil:
    """Its TCP has sent these bytes, then a RST: what is said of that goes behind them, as far as the path takes them now.
    Never from within a transport, which would be entered twice."""
    if f.f.state == ST_ENGAGED and f.channel != NULL and f.channel.ops.waiting(f.channel):
        w.transports[f.on].ops.flush(w.transports[f.on], w.now)


cdef void aborted(worker *w, flow *f) noexcept nogil:
    """Its RST may go by the wire, where what is under way in the transport is not: the peer is told here, too."""
    cdef Numbers s
    cdef Outcome out
    flow_sends_rest(w, f)
    memset(&s, 0, sizeof(s))
    s.position, s.ack, s.window = f.f.snd_nxt, f.f.rcv_ack, f.f.rcv_edge - f.f.rcv_ack
    s.tsval, s.rst = f.f.tsval, True
    flow_segment(&f.f, config_of(w, f), &s, w.now, &out)
    act_alone(w, f, &out)


cdef bint has_fin(const flow *f) noexcept nogil:
    """Whether its kernel has acknowledged the peer's, by whichever way that came."""
    return <int32_t>(f.f.rcv_ack - f.lingers_to) >= 0


cdef bint lingers(flow *f) noexcept nogil:
    """Closed by its application, its FIN acknowledged: the kernel waits for the other one without a socket, in FIN_WAIT2, and
    answers it through hk0. Or it has the other one, and we have not yet read that it says so."""
    if f.f.state != ST_ENGAGED or f.rec == NULL or not f.bits & F_TWIN or redirected_lives(f):
        return False
    if hk_load32(&f.rec.app_closed) != HK_APP_LINGERS:
        return False
    f.lingers_to = hk_load32(&f.rec.closed_at) - f.remote_isn
    return not has_fin(f)


cdef void stays(worker *w, flow *f) noexcept nogil:
    """Until its kernel has answered the peer's FIN."""
    flow_socket_gone(w, f)
    f.again_at = w.now + LINGER
    flow_report(w, f, WHY_CLOSED)
    flow_touch(w, f)


cdef void flow_lingered(worker *w, flow *f) noexcept nogil:
    cdef Outcome out
    trail_end(w, f)
    flow_local(&f.f, config_of(w, f), EV_CLOSE, w.now, &out)
    act_alone(w, f, &out)


cdef void flow_replaced(worker *w, flow *f) noexcept nogil:
    """A connection begins from its port, so its kernel has forgotten this one, and the other end has not closed it. That one's
    answer to the SYN would be reset by the wire (RFC 9293 3.5.1), and where it does not come by, the peer is told."""
    if not f.bits & F_SOCKET_GONE or redirected_lives(f) or f.f.flags & FL_WAS_RESET:
        return
    awake(w, f)
    if f.f.state == ST_ENGAGED:
        aborted(w, f)
    elif f.f.state == ST_CLOSED:
        f.f.flags |= FL_WAS_RESET
        say(w, f, MSG_RESET, f.f.epoch)
        flow_touch(w, f)


cdef inline bint has_died(const flow *f, uint32_t how) noexcept nogil:
    """Gone without FIN or RST: its TCP has given up. By the wire whoever still speaks to it is answered by a RST."""
    return how == HK_APP_CLOSED and f.f.state == ST_ENGAGED and f.bits & F_TWIN and f.r == NULL and f.active.t.up_fin == NOWHERE


cdef void flow_ends(worker *w, flow *f) noexcept nogil:
    cdef Outcome out
    cdef uint32_t how = hk_load32(&f.rec.app_closed) if f.rec != NULL else 0
    cdef bint died
    awake(w, f)
    died = has_died(f, how)
    if ST_EARLY <= f.f.state <= ST_ENGAGED and how == HK_APP_ABORTED:
        aborted(w, f)
    trail_end(w, f)
    again_ends(w, f, how == HK_APP_CLOSED)
    flow_local(&f.f, config_of(w, f), EV_CLOSE, w.now, &out)
    act_alone(w, f, &out)
    if died:
        f.f.flags |= FL_WAS_RESET
    if out.was == ST_ENGAGED:
        flow_report(w, f, WHY_RESET_THERE if f.f.flags & FL_RST_TOLD or how == HK_APP_RESET else WHY_CLOSED)
        if how == HK_APP_RESET:
            redirected_drop(w, f)
    elif f.bits & F_ENGAGED and how == HK_APP_RESET:
        flow_report(w, f, WHY_RESET_THERE)      # by the wire: its engine had only left
    elif not f.bits & F_ENGAGED and not f.why:
        flow_report(w, f, WHY_ENDED)
    f.bits &= ~<uint16_t>F_WANTED
    f.again_at = w.now + LAST_WORDS


cdef void flow_closed(worker *w, flow *f) noexcept nogil:
    awake(w, f)
    if lingers(f):
        stays(w, f)
        return
    flow_ends(w, f)
    flow_socket_gone(w, f)
    if not f.bits & F_ENGAGED and f.f.epoch == 0:
        flow_over(w, f)                         # nothing of it was ever said to anybody


cdef inline void measure(flow *f) noexcept nogil:
    """Twice that is what the transport itself waits for an answer: a path or a peer that is slow, or not even, gets more time."""
    cdef uint64_t most = f.p.a.ops.patience(f.p.a) if f.p != NULL and f.p.a != NULL and f.f.state == ST_ENGAGED else 0
    if most:
        f.f.rtt_us = f.active.t.away_us = <uint32_t>min(most // 2000, <uint64_t>SECOND // 1000)


cdef void hold_due(worker *w, flow *f) noexcept nogil:
    cdef Outcome out
    cdef bint unheard = f.unproven or f.p == NULL or f.p.a == NULL or not f.p.a.ops.is_up(f.p.a)
    cdef bint unanswered = hold_unanswered(w, f)
    if not f.bits & F_HELD:
        return
    f.bits &= ~<uint16_t>F_WANTED
    f.again_at = UINT64_MAX
    flow_local(&f.f, config_of(w, f), EV_STOP, w.now, &out)
    out.actions &= ~<uint32_t>DO_REPORT
    act_alone(w, f, &out)
    flow_report(w, f, WHY_LANE if unanswered or hold_missed(w, f) else WHY_HOLD)     # which releases it
    if f.f.role == ROLE_CLIENT:             # the next one does not wait in vain, too
        avoid(w, f, unheard and not has_engine(w, f), w.now + w.avoid_for if unheard else hold_failed(w, f))


cdef void sender_is_due(worker *w, flow *f) noexcept nogil:
    cdef sender_due due = sender_timer(&f.r.j.s, &w.pool.c, w.now)
    redirected_due(w, f)
    if due == DUE_PROBE:
        say(w, f, MSG_PROBE, f.f.epoch)
    elif due == DUE_END:
        flow_gives_up(w, f, WHY_NO_PROGRESS)


cdef void closed_due(worker *w, flow *f) noexcept nogil:
    """Its channel ends, unless there are bytes that its application has left to us."""
    if redirected_lives(f):
        f.again_at = w.now + LAST_WORDS
        f.f.wait_at = w.now + w.config.closed
        return
    f.again_at = UINT64_MAX
    channel_end(f)
    flow_rests(w, f)


cdef void flow_due(worker *w, flow *f) noexcept nogil:
    cdef Outcome out
    cdef uint64_t start, end
    awake(w, f)
    if redirected_deadline(f) <= w.now:
        sender_is_due(w, f)
    if f.f.state == ST_LEFT and f.rec != NULL and not hk_load32(&f.rec.marked):
        flow_local(&f.f, config_of(w, f), EV_UNMARKED, w.now, &out)
        act_alone(w, f, &out)
    if hold_deadline(w, f) <= w.now:
        hold_due(w, f)
    if hold_again(w, f) <= w.now:
        hold_ack_again(w, f)
    if flow_deadline(&f.f) <= w.now:
        measure(f)
        if f.f.state == ST_ARMED and not is_read(w, f.f.wait_at):
            w.n.hk0_behind += 1
            flow_put_off(&f.f, w.now + w.config.local_probe)
        else:
            flow_timer(&f.f, config_of(w, f), w.now, &out)
            act_alone(w, f, &out)
        if f.f.state == ST_ARMED or (f.f.state == ST_EARLY and not f.f.flags & FL_SEEN):
            lane_doubt(w, f)
    if f.bits & F_TWIN and f.active.t.deadline <= w.now and twin_expired(&f.active.t, w.now, &start, &end):
        refuse(w, f, start)
    if f.f.state == ST_TCP and f.again_at <= w.now and f.bits & F_WANTED:
        flow_part(w, f)
        never_found(w, f, WHY_NO_ANSWER)
    elif f.f.state == ST_TCP and f.again_at <= w.now:
        flow_wanted(w, f)
    if f.f.state == ST_ENGAGED and f.bits & F_SOCKET_GONE and f.again_at <= w.now:
        flow_lingered(w, f)
    if f.f.state == ST_CLOSED and f.again_at <= w.now:
        closed_due(w, f)
    flow_touch(w, f)


# ---- messages ----------------------------------------------------------------------------------------

cdef void say_all(worker *w, flow *f, const Outcome *out) noexcept nogil:
    cdef uint32_t todo = out.actions
    if todo & DO_SEND_OPEN:
        say_proof(w, f, MSG_OPEN)
    if todo & DO_SEND_ACCEPT:
        say_proof(w, f, MSG_ACCEPT)
    if todo & DO_SEND_ENGAGED:
        say(w, f, MSG_ENGAGED, f.f.epoch)
    if todo & DO_SEND_ACKED:
        say(w, f, MSG_ACKED, f.f.epoch)
    if todo & DO_SEND_PROBE:
        f.bits |= F_ASKED
        say(w, f, MSG_PROBE, f.f.epoch)
    if todo & DO_SEND_PING:
        say(w, f, MSG_PING, f.f.epoch)
    if todo & DO_SEND_PONG:
        say(w, f, MSG_PONG, f.f.epoch)
    if todo & DO_SEND_RESET:
        say(w, f, MSG_RESET, f.f.epoch)
    if todo & DO_SEND_LEAVE:
        say(w, f, MSG_LEAVE, out.epoch)


cdef void say(worker *w, flow *f, message_type kind, uint8_t epoch) noexcept nogil:
    cdef Message m
    cdef Channel *channel = channel_of(f) if kind == MSG_ACKED else NULL
    if channel != NULL:
        channel.ops.report(channel)             # composed when it goes: its serial is that of what was sent
        return
    flow_compose(&f.f, kind, w.now, &m)
    m.epoch = epoch
    if kind == MSG_ENGAGED:
        trail_begin(f)
        m.flags |= TRAIL if f.bits & F_TRAIL else 0
    peer_say(w, f, &m)


cdef void say_proof(worker *w, flow *f, message_type kind) noexcept nogil:
    cdef Message m
    cdef uint8_t binding[MAX_BINDING]
    cdef uint32_t n
    if f.p == NULL or f.p.a == NULL:
        return
    channel_begin(f)
    n = binding_of(w, f.p, kind == MSG_OPEN, binding)
    flow_compose(&f.f, kind, w.now, &m)
    if kind == MSG_OPEN:
        m.token = f.locator
    m.position = trail_ends(f)
    if f.bits & F_TRAIL or (kind == MSG_OPEN and trail_wanted(w)):
        m.flags = TRAIL
    prove(f.proof_key, PROOF_OPEN if kind == MSG_OPEN else PROOF_ACCEPT, binding, n, &m)
    peer_say(w, f, &m)


# ---- the local TCP's bytes ---------------------------------------------------------------------------

cdef inline bint is_outdated(const flow *f, const Segment *s) noexcept nogil:
    """It says what had arrived when it was made, and a newer ACK follows: the answer to the probe at the end of hk0's queue. One
    after the other they would tell the far TCP the history of our silence: what it has repeated since, it would take for needless
    (RFC 3522), and take back that anything is lost."""
    return f.unmark and s.length == 0 and s.flags == FLAG_ACK


cdef inline bint is_stale(const flow *f, const Segment *s) noexcept nogil:
    """It has waited in hk0 while we stood still, and its TCP has gone on by the wire: there it is old (PAWS), or comes twice.
    But a TCP says only once that it is reset."""
    return (f.bits & F_STEERED and f.rec != NULL and not s.flags & FLAG_RST
            and hk_load32(&f.rec.steered) == HK_STEERED_STALLED)


cdef void pass_on(worker *w, flow *f, uint32_t todo, cause *c) noexcept nogil:
    if todo & DO_BRIDGE and is_stale(f, c.s):
        w.n.segments_stale += 1
    elif todo & DO_BRIDGE and not is_outdated(f, c.s):
        w.n.segments_bridged += 1
        wire_segment(w, f, c.s)
    if todo & DO_SEND_DATA:
        send_segment(w, f, c)


cdef uint8_t flags_of(const Segment *s, bint last) noexcept nogil:
    cdef uint8_t flags = 0
    if last and s.flags & FLAG_FIN:
        flags |= DATA_FIN
    if last and s.flags & FLAG_PSH:
        flags |= DATA_PSH
    return flags


cdef void send_segment(worker *w, flow *f, cause *c) noexcept nogil:
    """What is acknowledged stays out; an urgent pointer cuts it."""
    cdef const Segment *s = c.s
    cdef uint32_t position = s.seq - f.local_isn, skip = 0, cut = s.length
    if <int32_t>(f.f.snd_una - position) > 0:
        skip = min(f.f.snd_una - position, s.length)
    if s.flags & FLAG_URG and skip < s.urgent < s.length:
        cut = s.urgent
        send_range(w, f, c, position, skip, cut, flags_of(s, False) | DATA_URG)
        skip = cut
        send_range(w, f, c, position, skip, s.length, flags_of(s, True))
    else:
        send_range(w, f, c, position, skip, s.length,
                   flags_of(s, True) | (DATA_URG if s.flags & FLAG_URG and s.urgent == s.length else 0))


cdef void send_range(worker *w, flow *f, cause *c, uint32_t position, uint32_t start, uint32_t end,
                     uint8_t flags) noexcept nogil:
    """Segment by segment where the remote TCP opens its window by their size (hk0.pyx, segments_of). A transport joins none
    with PSH and what follows."""
    cdef uint32_t size = c.s.gso_size, at
    if f.remote_wscale:
        send_bytes(w, f, c, position, start, end, flags)
        return
    at = start + size - start % size if size else end
    while at < end:
        send_bytes(w, f, c, position, start, at, DATA_PSH)
        start, at = at, at + size
    send_bytes(w, f, c, position, start, end, flags | DATA_PSH)


cdef inline bint tells_time(const worker *w, const flow *f) noexcept nogil:
    return (f.f.state == ST_ENGAGED and f.f.flags & (FL_FINAL_HERE | FL_PINNED) == FL_FINAL_HERE
            and f.tcp_options & HK_TCP_TIMESTAMPS and config_of(w, f).repairs)


cdef inline void tell_time(worker *w, flow *f) noexcept nogil:
    """A newer timestamp of the local TCP, before bytes that were sent with it. The remote TCP would go on echoing the last one
    that it was given; by the wire, where engines are gone, and for bytes that were repeated in vain, that is a round trip as
    long as the connection has been engaged, and a retransmission timer of twice that. Not of a flow that is shown on the wire:
    what is said there has an older one (trail.pyx, 3). A transport that repairs nothing brings one with all bytes."""
    if <uint32_t>(f.f.tsval - f.told_ts) > OUTDATED and not f.bits & F_TRAIL and tells_time(w, f):
        f.told_ts = f.f.tsval
        say(w, f, MSG_ENGAGED, f.f.epoch)


cdef void flow_tells_day(worker *w, flow *f) noexcept nogil:
    """Also where nothing is sent, and of a flow that is shown on the wire when nothing of it is under way: after 24.8 days
    the one that was told would be the newer one (RFC 7323 5.2), and all that came by the wire old."""
    if tells_time(w, f) and (f.f.snd_una == f.f.snd_nxt or not f.bits & F_TRAIL):
        f.told_ts = f.f.tsval
        say(w, f, MSG_ENGAGED, f.f.epoch)


cdef void send_bytes(worker *w, flow *f, cause *c, uint32_t position, uint32_t start, uint32_t end,
                     uint8_t flags) noexcept nogil:
    cdef Message m
    cdef lot *l = NULL
    cdef Channel *channel
    cdef uint32_t n = end - start
    if n == 0 and not flags & DATA_FIN:
        return
    tell_time(w, f)
    flow_compose(&f.f, MSG_DATA, w.now, &m)
    m.flags |= flags
    m.position, m.data, m.data_n, m.segment = position + start, c.s.data + start, n, c.s.gso_size
    channel = channel_of(f)
    if n and channel != NULL:
        l = lent_for(w, f, c.memory, &m.data, n)
    if channel == NULL or (n and l == NULL) or channel.ops.send(channel, &m, l) < 0:
        if l != NULL:
            lent_not(w, l)
        w.n.data_not_taken += 1
        flow_not_taken(&f.f, m.position)
        return
    if not flags & DATA_URG:                    # the copy would not say which byte is urgent
        keep(w, f, m.position, m.data, n, (FLAG_FIN if flags & DATA_FIN else 0) | (FLAG_PSH if flags & DATA_PSH else 0))
    f.bytes_out += n
    if n and lent_taken(l, n):
        c.lent = True


# ---- the wire ----------------------------------------------------------------------------------------

cdef void on_wire(worker *w, flow *f, uint32_t todo) noexcept nogil:
    if todo & DO_WIRE_ACK and (f.f.state != ST_ENGAGED or not (f.bits & F_TRAIL or f.translated)):
        wire_bare(w, f, 0)                      # else a NAT would take it for its own, and answer with a RST
    if todo & DO_WIRE_RST:
        wire_bare(w, f, FLAG_RST)
    if todo & (DO_WIRE_OLDEST | DO_WIRE_EARLY):
        kept_acked(w, f)
        wire_kept(w, f)
        if todo & DO_WIRE_OLDEST:
            wire_newest(w, f)


# ---- towards the local TCP ---------------------------------------------------------------------------

cdef void inject(worker *w, flow *f, uint32_t todo, cause *c) noexcept nogil:
    if not f.bits & F_TWIN:
        if todo & DO_INJECT_PROBE and (f.rec != NULL or f.f.state == ST_CLOSED) and not f.bits & F_STEERED:
            give_probe(w, f, False)
        if todo & DO_INJECT_RST and f.rec != NULL and not f.bits & F_STEERED:
            give_reset(w, f)
        if todo & DO_KEEP and c.r != NULL and not stash_keep(w, f, c.r, c.r.position) and f.channel != NULL:
            refuse(w, f, c.r.position)
        return
    if todo & DO_INJECT_ACK and f.r == NULL:
        twin_told(w, f)
        kept_acked(w, f)
    if todo & DO_INJECT and c.r != NULL:
        give(w, f, c.r)
    if todo & DO_KEEP and c.r != NULL and not stash_rest(w, f, c.r) and not todo & DO_INJECT_PROBE:
        refuse(w, f, f.f.rcv_edge)              # it is repeated when there is room
    if todo & DO_INJECT_PROBE:
        give_probe(w, f, False)
    if todo & DO_INJECT_RST:
        give_reset(w, f)


cdef void give_stashed(worker *w, flow *f) noexcept nogil:
    cdef cell *k = stash_take(w, f)
    cdef cell *following
    cdef Message m
    cdef stretch r
    cdef Outcome out
    cdef cause c
    while k != NULL:
        following = k.next
        if f.f.state == ST_ENGAGED:
            stash_as_said(f, k, &m, &r)
            flow_message(&f.f, config_of(w, f), &m, w.now, &out)
            memset(&c, 0, sizeof(c))
            c.r = &r
            act(w, f, &out, &c)
        cell_give(&w.stash, k)
        k = following
