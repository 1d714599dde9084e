# The Internet checksum (RFC 1071), in the byte order of memory: only the pseudo-header's numbers are swapped.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from hooker.includes.bytes cimport htobe16

cdef enum:
    PROTOCOL_TCP = 6


cdef inline uint64_t sum_bytes(const uint8_t *p, size_t n, uint64_t total) noexcept nogil:
    """Adds bytes; all parts of a sum but the last have an even number."""
    cdef uint32_t word
    cdef uint16_t half = 0
    while n >= 4:
        memcpy(&word, p, 4)
        total += word
        p += 4
        n -= 4
    if n >= 2:
        memcpy(&half, p, 2)
        total += half
        p += 2
        n -= 2
    if n:
        half = 0
        memcpy(&half, p, 1)
        total += half
    return total

cdef inline uint64_t sum_pseudo(const uint8_t *src, const uint8_t *dst, size_t address,
                                uint32_t length) noexcept nogil:
    """The pseudo-header of TCP over IPv4 or IPv6, for up to 65,535 bytes."""
    cdef uint64_t total = <uint64_t>htobe16(PROTOCOL_TCP) + htobe16(<uint16_t>length)
    return sum_bytes(src, address, sum_bytes(dst, address, total))

cdef inline uint16_t fold(uint64_t total) noexcept nogil:
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return <uint16_t>total
