"""UDP-Lite (RFC 3828) as a carrier: the kernel's checksum covers the beginning of a datagram.

What is damaged behind that still reaches this host, and is dropped by the carrier's own checksum.
"""

from libc.stdint cimport uint16_t, uint32_t
from hooker.carriers.contract cimport *
from hooker.carriers.datagrams cimport *
from hooker.includes.addresses cimport set_int
from hooker.includes.linux cimport SOCK_DGRAM, close, errno

cdef enum:
    HEADER = 8                 # bytes, which are always covered
    IPPROTO_UDPLITE = 136
    UDPLITE_SEND_CSCOV = 10
    UDPLITE_RECV_CSCOV = 11

cdef struct UdpLite:
    Sockets sockets
    int coverage               # bytes, the header's with them


cdef int open_family(Carrier *c, int family, uint16_t port) noexcept nogil:
    cdef int coverage = (<UdpLite *>c).coverage, err
    cdef int fd = open_socket(SOCK_DGRAM, IPPROTO_UDPLITE, family)
    if fd < 0:
        return fd
    if (set_int(fd, IPPROTO_UDPLITE, UDPLITE_SEND_CSCOV, coverage) < 0
            or set_int(fd, IPPROTO_UDPLITE, UDPLITE_RECV_CSCOV, HEADER) < 0):    # the peer chooses its own
        err = errno
        close(fd)
        return -err
    return bind_socket(fd, family, port)


cdef CarrierOps OPS
sockets_ops(&OPS)


def make(settings):
    """Parameter `coverage`: bytes of each datagram that the kernel's checksum covers; by default the
    transport's headers. Raises MemoryError."""
    cdef uint16_t coverage = settings.given.get("coverage", settings.headers)
    cdef CarrierHandle handle = CarrierHandle.__new__(CarrierHandle)
    cdef uint32_t properties = C_ECN | C_COVERAGE | C_PORTS
    cdef Carrier *c = <Carrier *>sockets_new(&OPS, open_family, properties, HEADER, sizeof(UdpLite))
    handle.hold("udplite", c)
    (<UdpLite *>c).coverage = HEADER + coverage
    return handle
