"""A flow's channel, for as long as something of it is queued or on its way.

Most flows of a busy host rest. A channel says nothing to the peer when it is closed and opened again,
so one at rest is given back; the flow *holds* its association meanwhile, which lives as long as
somebody relies on it.
"""

from hooker.engine.worker cimport *
from hooker.flow.machine cimport ST_ENGAGED
from hooker.transports.contract cimport Channel


cdef inline bint is_up(const flow *f) noexcept nogil:
    return f.p != NULL and f.p.a != NULL


cdef inline void let_go(flow *f) noexcept nogil:
    if f.rests and is_up(f):
        f.p.a.ops.let_go(f.p.a)
    f.rests = False


cdef Channel *channel_of(flow *f) noexcept nogil:
    if f.channel == NULL and f.rests:
        channel_begin(f)
    return f.channel


cdef void channel_begin(flow *f) noexcept nogil:
    if f.channel != NULL or not is_up(f):
        return
    f.channel = f.p.a.ops.channel(f.p.a, f)
    if f.channel != NULL:
        let_go(f)


cdef void channel_end(flow *f) noexcept nogil:
    cdef Channel *c = f.channel
    f.channel = NULL
    let_go(f)
    if c != NULL:
        c.ops.channel_close(c)


cdef bint has_arrived(const flow *f) noexcept nogil:
    if f.channel == NULL:
        return f.rests
    return f.channel.ops.arrived != NULL and f.channel.ops.arrived(f.channel)


cdef void channel_rest(worker *w, flow *f) noexcept nogil:
    if f.f.state != ST_ENGAGED or f.channel == NULL or not is_up(f) or not f.channel.ops.at_rest(f.channel):
        return
    f.p.a.ops.hold(f.p.a)
    f.channel.ops.channel_close(f.channel)
    f.channel = NULL
    f.rests = True
    w.n.channels_rested += 1
