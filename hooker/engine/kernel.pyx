"""What the kernel programs say: connections that begin, are there, choose a route of their own, are gone."""

from libc.stdint cimport uint32_t, uint64_t
from hooker.engine.again cimport again_begins
from hooker.engine.ringbuf cimport ring_next, ring_release
from hooker.engine.actions cimport (
    flow_chosen, flow_cut_off, flow_early, flow_ends, flow_replaced, flow_steered, flow_wanted, has_fin,
)
from hooker.engine.flows cimport flow_at, flow_by_id, flow_left, flow_new, flow_report, slot_back, slot_strays
from hooker.engine.lane cimport is_blocked, lane_needed
from hooker.engine.peers cimport reach
from hooker.engine.remote cimport meet_early
from hooker.engine.worker cimport *
from hooker.flow.machine cimport ROLE_CLIENT, WHY_ENGINE_STOPS
from hooker.includes.hk cimport *
from hooker.includes.linux cimport hk_store32, write

cdef enum:
    EVENTS_A_ROUND = 4096


cdef void want_route(worker *w) noexcept nogil:
    """The first candidate is here. Nobody waits for the rule: without it marked segments go by the wire, and a flow whose
    segments do not come tries again."""
    cdef uint64_t one = 1
    if not w.routed:
        w.routed = True
        write(w.route_fd, &one, sizeof(one))


cdef void on_syn(worker *w, const hk_event *e) noexcept nogil:
    """A candidate connects: its peer's engine is looked for meanwhile."""
    cdef flow *before = flow_at(w, &e.key)
    if before != NULL and before.bits & F_ENGAGED:
        if not before.lingers_to or has_fin(before):
            again_begins(w, before)
        else:
            flow_replaced(w, before)
    reach(w, &w.rules[e.rule & (HK_RULES - 1)], e.transport, e.key.remote_ip, e.peer_port if e.peer_port else w.peer_port)


cdef void on_established(worker *w, const hk_event *e) noexcept nogil:
    cdef flow *f = flow_at(w, &e.key)
    if f != NULL and not f.bits & F_SOCKET_GONE:
        flow_ends(w, f)                         # its end waits in w.closing, and its addresses are another connection's already
    f = flow_new(w, e)
    if f == NULL:
        w.n.reasons[<int>WHY_MEMORY] += 1
        slot_strays(w, e.slot)
        hk_store32(&w.records[e.slot].want, HK_WANT_NEVER)
        hk_store32(&w.records[e.slot].hold, HK_HOLD_NONE)
        return
    lane_needed(w, f)
    if w.device_gone:
        flow_steered(w, f, WHY_DEVICE)
    elif is_blocked(w, f):
        flow_cut_off(w, f)              # it began before the kernel program could know
    elif w.leaving:
        flow_left(f)
        flow_report(w, f, WHY_ENGINE_STOPS)
    elif e.early:
        flow_early(w, f)
    elif f.f.role == ROLE_CLIENT:
        flow_wanted(w, f)
    else:
        meet_early(w, f)


cdef void on_closed(worker *w, const hk_event *e) noexcept nogil:
    """The event may overtake what the socket has sent last, which is in hk0."""
    cdef flow *f = flow_by_id(w, e.flow_id)
    if f == NULL:
        slot_back(w, e.flow_id)                 # it never became a flow of ours
    else:
        closes(w, f)


cdef void closes(worker *w, flow *f) noexcept nogil:
    if not f.bits & F_CLOSING:
        f.bits |= F_CLOSING
        f.closed_next = w.closing
        w.closing = f


cdef void take_kernel_events(worker *w) noexcept nogil:
    """At most so many in a round: what they lead to may put more there at once."""
    cdef const hk_event *e = <const hk_event *>ring_next(&w.ring)
    cdef uint32_t left = EVENTS_A_ROUND
    cdef flow *f
    while e != NULL and left > 0:
        left -= 1
        want_route(w)
        if e.type == HK_EVENT_ESTABLISHED:
            on_established(w, e)
        elif e.type == HK_EVENT_CLOSED:
            on_closed(w, e)
        elif e.type == HK_EVENT_SYN:
            on_syn(w, e)
        elif e.type == HK_EVENT_STEERED:
            f = flow_by_id(w, e.flow_id)
            if f != NULL:
                flow_chosen(w, f)
        ring_release(&w.ring)
        e = <const hk_event *>ring_next(&w.ring)
