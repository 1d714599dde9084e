# What the kernel's calls take: socket addresses of 16 bytes and a port, and options that are an int.

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcpy, memset
from hooker.includes.ip cimport is_v4, map_v4
from hooker.includes.linux cimport *


cdef inline socklen_t fill_end(sockaddr_storage *out, uint8_t version, const uint8_t *address,
                               uint16_t port) noexcept nogil:
    """An address of 4 or 16 bytes, as in packets; port in host byte order."""
    cdef sockaddr_in *v4 = <sockaddr_in *>out
    cdef sockaddr_in6 *v6 = <sockaddr_in6 *>out
    memset(out, 0, sizeof(sockaddr_in6))
    if version == 4:
        v4.sin_family = AF_INET
        v4.sin_port = htons(port)
        memcpy(&v4.sin_addr, address, 4)
        return sizeof(sockaddr_in)
    v6.sin6_family = AF_INET6
    v6.sin6_port = htons(port)
    memcpy(&v6.sin6_addr, address, 16)
    return sizeof(sockaddr_in6)

cdef inline socklen_t fill_address(sockaddr_storage *out, const uint8_t *ip, uint16_t port) noexcept nogil:
    """The same of 16 bytes, which say the family too."""
    return fill_end(out, 4, ip + 12, port) if is_v4(ip) else fill_end(out, 6, ip, port)

cdef inline uint16_t read_address(const sockaddr_storage *a, uint8_t *ip) noexcept nogil:
    """The other way round; the port, in host byte order."""
    if a.ss_family == AF_INET:
        map_v4(<const uint8_t *>&(<sockaddr_in *>a).sin_addr, ip)
        return ntohs((<sockaddr_in *>a).sin_port)
    memcpy(ip, &(<sockaddr_in6 *>a).sin6_addr, 16)
    return ntohs((<sockaddr_in6 *>a).sin6_port)

cdef inline uint16_t port_of(int fd) noexcept nogil:
    """A socket's own, in host byte order; 0: it has none."""
    cdef sockaddr_storage a
    cdef socklen_t n = sizeof(a)
    if getsockname(fd, <sockaddr *>&a, &n) < 0:
        return 0
    return ntohs((<sockaddr_in *>&a).sin_port)      # the same place in both families

cdef inline int set_int(int fd, int level, int name, int value) noexcept nogil:
    return setsockopt(fd, level, name, &value, sizeof(value))
