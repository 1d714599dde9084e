"""``stop-and-wait``: one packet on its way. The next leaves when it is acknowledged."""

from libc.stdint cimport uint32_t
from libc.string cimport memset
from hooker.vtl.reliability.interface cimport Reliability, reliability_fill, reliability_ops


cdef bint may_send(const Reliability *r, uint32_t outstanding) noexcept nogil:
    return outstanding == 0


cdef reliability_ops OPS
memset(&OPS, 0, sizeof(OPS))
OPS.repairs = True
OPS.probes = 1
OPS.ack_every = 1              # nothing follows that could make the receiver answer
OPS.may_send = may_send
reliability_fill(&OPS, b"stop-and-wait", 2)
