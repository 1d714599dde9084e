"""A flow's channel, for as long as something of it is queued or on its way.

Most flows of a busy host rest. A channel says nothing to the peer when it is closed and opened again,
so one at rest is given back; the flow *holds* its association meanwhile, which lives as long as
somebody relies on it.
"""

from hooker.engine.worker cimport *
from hooker.flow.machine cimport ST_ENGAGED
from hooker.vtl.api cimport vtl_channel
from hooker.vtl.endpoint cimport (
    vtl_channel_at_rest, vtl_channel_close, vtl_channel_open, vtl_hold, vtl_let_go,
)


cdef inline bint is_up(const flow *f) noexcept nogil:
    return f.p != NULL and f.p.a != NULL


cdef inline void let_go(flow *f) noexcept nogil:
    if f.rests and is_up(f):
        vtl_let_go(f.p.a)
    f.rests = False


cdef vtl_channel *channel_of(flow *f) noexcept nogil:
    if f.channel == NULL and f.rests:
        channel_begin(f)
    return f.channel


cdef void channel_begin(flow *f) noexcept nogil:
    if f.channel != NULL or not is_up(f):
        return
    f.channel = vtl_channel_open(f.p.a, f)
    if f.channel != NULL:
        let_go(f)


cdef void channel_end(flow *f) noexcept nogil:
    cdef vtl_channel *c = f.channel
    f.channel = NULL
    let_go(f)
    if c != NULL:
        vtl_channel_close(c)


cdef void channel_rest(worker *w, flow *f) noexcept nogil:
    if f.f.state != ST_ENGAGED or f.channel == NULL or not is_up(f) or not vtl_channel_at_rest(f.channel):
        return
    vtl_hold(f.p.a)
    vtl_channel_close(f.channel)
    f.channel = NULL
    f.rests = True
    w.n.channels_rested += 1
