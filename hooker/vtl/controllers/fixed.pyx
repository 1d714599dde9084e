"""``fixed``: a window that does not move; for tests and for paths whose capacity is known."""

from libc.stdint cimport uint64_t
from libc.string cimport memset
from hooker.vtl.controllers.interface cimport Congestion, CongestionAck, congestion_fill, congestion_ops

cdef enum:
    WINDOW = 16 << 20          # bytes; enough for 10 Gbit/s over 13 ms


cdef void fixed_init(Congestion *c) noexcept nogil:
    c.w.cwnd = WINDOW


cdef void fixed_on_ack(Congestion *c, const CongestionAck *a) noexcept nogil:
    pass


cdef void fixed_on_loss(Congestion *c, uint64_t now) noexcept nogil:
    pass


cdef void fixed_on_persistent(Congestion *c) noexcept nogil:
    pass


cdef congestion_ops OPS
memset(&OPS, 0, sizeof(OPS))
OPS.init = fixed_init
OPS.on_ack = fixed_on_ack
OPS.on_loss = fixed_on_loss
OPS.on_persistent = fixed_on_persistent
congestion_fill(&OPS, b"fixed")
