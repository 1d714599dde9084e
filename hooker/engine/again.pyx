"""A port that is used again while the other end of its last connection is still in LAST_ACK.

Who closes first may connect again from the same port at once. The SYN goes by the wire and overtakes the
last ACK, which goes by the transport. LAST_ACK answers it with an ACK that nobody is told of here, and the
kernel would send it again after 1 s (RFC 6298 2.1). So the engine of that host says PROBE for its closed
flow, the other one says PROBE when its socket is gone, and then the local socket is probed: in SYN-SENT it
answers by a RST (RFC 9293 3.10.7.3), and Linux sends its SYN again after two ticks, but only once, which is
why the probe must not come too early. Each engine says it at most once for a flow. Who closes later has had
that last ACK, and asks nobody.
"""

from hooker.engine.hk0 cimport give_probe
from hooker.engine.peers cimport peer_say
from hooker.engine.worker cimport *
from hooker.flow.machine cimport ST_CLOSED, ST_ENGAGED, flow_compose
from hooker.flow.messages cimport MSG_PROBE, Message


cdef void say_probe(worker *w, flow *f, again_state said) noexcept nogil:
    cdef Message m
    f.again = said
    flow_compose(&f.f, MSG_PROBE, w.now, &m)
    peer_say(w, f, &m)


cdef inline bint in_last_ack(const flow *f) noexcept nogil:
    """As far as its segments show it: both FINs are there, and the remote one is acknowledged."""
    return (f.f.state == ST_ENGAGED and f.bits & F_TWIN and f.active.t.up_fin < f.active.t.up_seen
            and f.active.t.down_fin < f.active.t.down_acked)


cdef void again_begins(worker *w, flow *f) noexcept nogil:
    if f.f.state == ST_CLOSED and not f.again:
        say_probe(w, f, AGAIN_HERE)


cdef void again_asked(worker *w, flow *f) noexcept nogil:
    if f.again == AGAIN_HERE:
        give_probe(w, f, False)
    elif f.again != AGAIN_THERE and f.f.state == ST_CLOSED:
        say_probe(w, f, AGAIN_THERE)
    elif in_last_ack(f):
        f.again = AGAIN_THERE


cdef void again_ends(worker *w, flow *f, bint is_gone) noexcept nogil:
    if f.again == AGAIN_THERE:
        say_probe(w, f, AGAIN_THERE)
    elif is_gone and f.again == AGAIN_NOT and in_last_ack(f):
        f.again = AGAIN_OVER
