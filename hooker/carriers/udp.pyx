"""UDP (RFC 768) as a carrier."""

from libc.stdint cimport uint16_t, uint32_t
from hooker.carriers.contract cimport *
from hooker.carriers.datagrams cimport *
from hooker.includes.addresses cimport set_int
from hooker.includes.linux cimport IPPROTO_UDP, SOCK_DGRAM, UDP_GRO

cdef enum:
    HEADER = 8                 # bytes


cdef int open_family(Carrier *c, int family, uint16_t port) noexcept nogil:
    cdef int fd = open_socket(SOCK_DGRAM, IPPROTO_UDP, family)
    if fd < 0:
        return fd
    set_int(fd, IPPROTO_UDP, UDP_GRO, 1)
    return bind_socket(fd, family, port)


cdef CarrierOps OPS
sockets_ops(&OPS)


def make(settings):
    """Raises MemoryError."""
    cdef CarrierHandle handle = CarrierHandle.__new__(CarrierHandle)
    cdef uint32_t properties = C_ECN | C_TRAINS | C_CHECKED | C_PORTS
    handle.hold("udp", <Carrier *>sockets_new(&OPS, open_family, properties, HEADER, sizeof(Sockets)))
    return handle
