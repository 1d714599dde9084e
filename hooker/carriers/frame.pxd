# A packet as the NIC gave it: what the headers of Ethernet and IP say of it.

from libc.stdint cimport uint8_t, uint32_t
from hooker.carriers.contract cimport Datagram

# What is behind them, into data, size, ECN bits and both ends of `out`; False: it is none of that protocol,
# or is damaged.
cdef bint read_frame(const uint8_t *p, uint32_t n, uint8_t protocol, Datagram *out) noexcept nogil
