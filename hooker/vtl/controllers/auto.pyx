"""``auto``: ``bbr`` where there is a path to model, ``cubic`` where the path is shorter than timers are fine.

It begins as ``bbr``. Once a round trip took less than 2 ms it is ``cubic`` for the rest of the association.
"""

from libc.stdint cimport uint64_t
from hooker.vtl.controllers.interface cimport (
    Congestion, CongestionAck, congestion_fill, congestion_find, congestion_ops, congestion_use,
)

from hooker.vtl.controllers import bbr, cubic  # noqa: F401  they must be known before

cdef enum:
    SHORT = 2000000            # ns

cdef const congestion_ops *BBR = congestion_find(b"bbr")
cdef const congestion_ops *CUBIC = congestion_find(b"cubic")


cdef void auto_on_ack(Congestion *c, const CongestionAck *a) noexcept nogil:
    cdef uint64_t cwnd = c.w.cwnd
    if a.min_rtt >= SHORT:
        BBR.on_ack(c, a)
        return
    congestion_use(c, CUBIC)
    c.w.cwnd = max(c.w.cwnd, cwnd)
    c.pacing_rate = 0
    c.ops.on_ack(c, a)


cdef congestion_ops OPS
OPS = BBR[0]
OPS.on_ack = auto_on_ack
congestion_fill(&OPS, b"auto")
