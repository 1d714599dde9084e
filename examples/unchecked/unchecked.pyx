"""A carrier in a package of its own: UDP without the kernel's checksum, so with a CRC32C (RFC 3720, B.4).

`hooker run --transport vtl+unchecked`, when this package is installed; see docs/transports.md, 2.
"""

from libc.stdint cimport uint16_t
from hooker.carriers.contract cimport *
from hooker.carriers.datagrams cimport *
from hooker.includes.addresses cimport set_int
from hooker.includes.linux cimport AF_INET, IPPROTO_UDP, SOCK_DGRAM, SOL_SOCKET

cdef enum:
    HEADER = 8                 # bytes
    SO_NO_CHECK = 11           # of IPv4 only

CONTRACT = CARRIER_CONTRACT


cdef int open_family(Carrier *c, int family, uint16_t port) noexcept nogil:
    cdef int fd = open_socket(SOCK_DGRAM, IPPROTO_UDP, family)
    if fd >= 0 and family == AF_INET:
        set_int(fd, SOL_SOCKET, SO_NO_CHECK, 1)
    return bind_socket(fd, family, port) if fd >= 0 else fd


cdef CarrierOps OPS
sockets_ops(&OPS)


def make(settings):
    cdef CarrierHandle handle = CarrierHandle.__new__(CarrierHandle)
    cdef Carrier *c = <Carrier *>sockets_new(&OPS, open_family, C_ECN | C_PORTS, HEADER, sizeof(Sockets))
    handle.hold("unchecked", c)
    return handle
