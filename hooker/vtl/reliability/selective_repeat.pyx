"""``selective-repeat``: what is lost goes again, and that alone (RFC 9002). The default."""

from libc.string cimport memset
from hooker.vtl.reliability.interface cimport reliability_fill, reliability_ops

cdef reliability_ops OPS
memset(&OPS, 0, sizeof(OPS))
OPS.repairs = True
OPS.fec = True
reliability_fill(&OPS, b"selective-repeat", 0)
