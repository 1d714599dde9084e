"""A flow at rest: neither end has said anything for a while.

Most flows of a busy host are, for as long as they like. Such a one has given its channel back
(channel.pyx), has no timer, and all that its twin knows stands in the machine's numbers, too. So it
gives back what belongs to a flow that moves, more than a third of it, and its twin begins again where it
stood. So does a closed flow that is remembered, when its last words have gone.

Which flows rest is found by the sweep over all slots. It may find one between two requests: to rest and
to move again takes no system call.
"""

from libc.stdint cimport uint32_t
from hooker.engine.hk0 cimport twin_resume
from hooker.engine.places cimport place_give, place_take
from hooker.engine.stamp cimport stamp_told
from hooker.engine.worker cimport *
from hooker.flow.machine cimport ST_CLOSED, ST_ENGAGED, Flow
from hooker.tcp.twin cimport twin, twin_rests

cdef enum:
    LISTED = F_DIRTY | F_TRAIL_DUE | F_CLOSING | F_FORGET | F_HELD


cdef inline bint agree(const twin *t, const Flow *f) noexcept nogil:
    """What has come by the wire may be known to one of them only."""
    return (<uint32_t>t.up_acked == f.snd_una and <uint32_t>t.up_seen == f.snd_nxt
            and <uint32_t>t.down_acked == f.rcv_ack and <uint32_t>t.down_edge == f.rcv_edge)


cdef inline bint is_wanted(const flow *f) noexcept nogil:
    """Others look for what it would give back."""
    return (f.bits & LISTED or f.unmark or f.starts & START_WAITS or f.r != NULL or f.active.gather != NULL
            or f.active.kept != NULL or f.active.stash != NULL)


cdef inline bint is_quiet(const worker *w, flow *f) noexcept nogil:
    return (f.f.state == ST_ENGAGED and f.rests and f.bits & (F_TWIN | F_ASKED) == F_TWIN
            and twin_rests(&f.active.t, w.now) and agree(&f.active.t, &f.f))


cdef void flow_rests(worker *w, flow *f) noexcept nogil:
    cdef bint quiet
    if f.active == NULL or is_wanted(f):
        return
    quiet = is_quiet(w, f)
    if not quiet and (f.f.state != ST_CLOSED or f.channel != NULL):
        return
    if quiet:
        f.shown_edge = <uint32_t>f.active.t.up_edge
        f.bits &= ~<uint16_t>F_TWIN
        stamp_told(f, f.active.t.ts_said)
        w.n.twins_rested += 1
    place_give(&w.active, f.active)
    f.active = NULL


cdef void flow_resumes(worker *w, flow *f) noexcept nogil:
    f.active = <active *>place_take(&w.active)      # there is one for each flow
    if f.f.state == ST_ENGAGED:
        twin_resume(f)
