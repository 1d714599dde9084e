# Addresses of 16 bytes, IPv4 as ::ffff:a.b.c.d.

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset


cdef inline bint is_v4(const uint8_t *ip) noexcept nogil:
    cdef uint32_t w[2]
    memcpy(w, ip, sizeof(w))
    return (w[0] | w[1]) == 0 and ip[8] == 0 and ip[9] == 0 and ip[10] == 0xFF and ip[11] == 0xFF

cdef inline void map_v4(const uint8_t *four, uint8_t *ip) noexcept nogil:
    """The 16 bytes of an IPv4 address."""
    memset(ip, 0, 10)
    ip[10] = ip[11] = 0xFF
    memcpy(ip + 12, four, 4)
