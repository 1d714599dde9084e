# What the kernel's calls take: socket addresses of 16 bytes and a port, and options that are an int.

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcpy, memset
from hooker.includes.ip cimport is_v4, map_v4
from hooker.includes.linux cimport *


cdef inline socklen_t fill_address(sockaddr_storage *out, const uint8_t *ip, uint16_t port) noexcept nogil:
    """Port in host byte order; bytes of the address, which say its family too."""
    cdef sockaddr_in *v4 = <sockaddr_in *>out
    cdef sockaddr_in6 *v6 = <sockaddr_in6 *>out
    memset(out, 0, sizeof(sockaddr_in6))
    if is_v4(ip):
        v4.sin_family = AF_INET
        v4.sin_port = htons(port)
        memcpy(&v4.sin_addr, ip + 12, 4)
        return sizeof(sockaddr_in)
    v6.sin6_family = AF_INET6
    v6.sin6_port = htons(port)
    memcpy(&v6.sin6_addr, ip, 16)
    return sizeof(sockaddr_in6)

cdef inline uint16_t read_address(const sockaddr_storage *a, uint8_t *ip) noexcept nogil:
    """The other way round; the port, in host byte order."""
    if a.ss_family == AF_INET:
        map_v4(<const uint8_t *>&(<sockaddr_in *>a).sin_addr, ip)
        return ntohs((<sockaddr_in *>a).sin_port)
    memcpy(ip, &(<sockaddr_in6 *>a).sin6_addr, 16)
    return ntohs((<sockaddr_in6 *>a).sin6_port)

cdef inline int set_int(int fd, int level, int name, int value) noexcept nogil:
    return setsockopt(fd, level, name, &value, sizeof(value))
