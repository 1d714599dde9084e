"""``newreno``: RFC 9002 7.3 and appendix B."""

from libc.stdint cimport uint64_t
from libc.string cimport memset
from hooker.vtl.controllers.interface cimport (
    MIN_PACKETS, Congestion, CongestionAck, congestion_collapse, congestion_fill, congestion_ops,
)


cdef void newreno_init(Congestion *c) noexcept nogil:
    pass


cdef void newreno_on_ack(Congestion *c, const CongestionAck *a) noexcept nogil:
    if a.limited:
        return
    if c.w.cwnd < c.w.ssthresh:
        c.w.cwnd += a.bytes
    else:
        c.w.cwnd += max(c.mss * a.bytes // c.w.cwnd, 1)


cdef void newreno_on_loss(Congestion *c, uint64_t now) noexcept nogil:
    c.w.ssthresh = c.w.cwnd = max(c.w.cwnd // 2, MIN_PACKETS * c.mss)


cdef congestion_ops OPS
memset(&OPS, 0, sizeof(OPS))
OPS.init = newreno_init
OPS.on_ack = newreno_on_ack
OPS.on_loss = newreno_on_loss
OPS.on_persistent = congestion_collapse
congestion_fill(&OPS, b"newreno")
