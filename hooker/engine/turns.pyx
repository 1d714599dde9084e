"""What many flows hear of at once: their association is up or down, hk0 is gone, the lane blocked, the redirect socket's framing
lost, the engine stops.

Each flow costs some microseconds (segments for its TCP, a timer, a map of the kernel program), so all flows of a peer would
hold everything up for a second. In each round of the loop STEPS flows have their turn, of one peer after another, BATCH of
each; in between the loop does all that it does else. A flow that ends meanwhile is off the list, and one that comes is
told when it comes.

A peer whose association is down has no `a` any more: its flows say nothing to anybody until their turn. It is freed
when the last one has gone.
"""

from libc.stdlib cimport free
from hooker.engine.actions cimport (
    act_alone, flow_cut_off, flow_gives_up, flow_lost, flow_start, flow_steered, flow_turn,
)
from hooker.engine.flows cimport flow_report
from hooker.engine.lane cimport is_blocked
from hooker.engine.rest cimport awake
from hooker.engine.starts cimport start_next, starts_due
from hooker.engine.worker cimport *
from hooker.flow.joined cimport J_OVER
from hooker.flow.machine cimport EV_STOP, Outcome, ST_ENGAGED, ST_OPENING, ST_TCP, WHY_ENGINE_STOPS, flow_local

cdef enum:
    STEPS = 256                # flows in a round
    BATCH = 64                 # of one peer
    SLOTS = 4096               # that are looked at in a round, of which most are empty perhaps


cdef void peer_turn(worker *w, peer *p) noexcept nogil:
    if p.queued:
        return
    p.queued = True
    p.turn_next = NULL
    if w.turn_last != NULL:
        w.turn_last.turn_next = p
    else:
        w.turn_first = p
    w.turn_last = p


cdef peer *next_peer(worker *w) noexcept nogil:
    cdef peer *p = w.turn_first
    w.turn_first = p.turn_next
    if w.turn_first == NULL:
        w.turn_last = NULL
    p.queued = False
    return p


cdef bint serve(worker *w, peer *p, int *left) noexcept nogil:
    """Whether that was all."""
    cdef flow *f
    cdef int n = min(left[0], <int>BATCH)
    left[0] -= n
    while p.a == NULL and p.flows != NULL and n > 0:
        flow_lost(w, p.flows, p.why)
        n -= 1
    while p.a != NULL and p.at != NULL and n > 0:
        f = p.at
        p.at = f.peer_next
        flow_start(w, f)
        n -= 1
    left[0] += n
    return p.flows == NULL if p.a == NULL else p.at == NULL


cdef bint turns_due(const worker *w) noexcept nogil:
    return w.turn_first != NULL or w.walking or starts_due(w)


cdef void turns_take(worker *w) noexcept nogil:
    cdef int left = STEPS
    cdef peer *p
    if not turns_due(w):
        return
    w.n.turns += 1
    while w.turn_first != NULL and left > 0:
        p = next_peer(w)
        if not serve(w, p, &left):
            peer_turn(w, p)
        elif p.a == NULL:
            left -= 1
            free(p)
    if w.walking:
        walk(w)
    start_some(w)


cdef void start_some(worker *w) noexcept nogil:
    cdef int left = STEPS
    cdef flow *f
    while left > 0:
        f = start_next(w)
        if f == NULL:
            return
        left -= 1
        flow_turn(w, f)


# ---- all flows ---------------------------------------------------------------------------------------

cdef void walk_begin(worker *w) noexcept nogil:
    w.walking = True
    w.walk_at = 0


cdef void stop(worker *w, flow *f) noexcept nogil:
    cdef Outcome out
    awake(w, f)
    flow_local(&f.f, config_of(w, f), EV_STOP, w.now, &out)
    act_alone(w, f, &out)
    if not f.why and f.f.state == ST_TCP:
        flow_report(w, f, WHY_ENGINE_STOPS)     # it was about to ask, or to be asked


cdef void walk(worker *w) noexcept nogil:
    cdef int left = STEPS, i
    cdef flow *f
    for i in range(SLOTS):
        if w.walk_at >= w.max_flows or left == 0:
            break
        f = w.flows[w.walk_at]
        w.walk_at += 1
        if f == NULL:
            continue
        left -= 1
        if w.leaving:
            stop(w, f)
        elif w.device_gone:
            flow_steered(w, f, WHY_DEVICE)
        elif is_blocked(w, f) and (f.bits & F_WANTED or ST_OPENING <= f.f.state <= ST_ENGAGED):
            flow_cut_off(w, f)
        elif f.r != NULL and not f.r.j.bits & J_OVER:
            flow_gives_up(w, f, WHY_FRAMES)
    w.walking = w.walk_at < w.max_flows


cdef void turns_free(worker *w) noexcept nogil:
    cdef peer *p
    while w.turn_first != NULL:
        p = next_peer(w)
        if p.a == NULL:
            free(p)
