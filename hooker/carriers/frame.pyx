"""Ethernet (IEEE 802.3, tags of 802.1Q), IPv4 (RFC 791) and IPv6 (RFC 8200) in front of a datagram.

An XDP program has looked at it before and gives only what is whole: neither fragments nor extension headers.
What is read here has its bounds all the same.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset
from hooker.carriers.contract cimport Datagram
from hooker.includes.bytes cimport load16
from hooker.includes.ip cimport map_v4

cdef enum:
    TAGS = 2
    ADDRESSES = 12             # bytes
    TYPE_IPV4 = 0x0800
    TYPE_IPV6 = 0x86DD
    TYPE_TAG = 0x8100
    TYPE_OUTER_TAG = 0x88A8
    ECN_BITS = 3
    FRAGMENT = 0x3FFF          # more of them, or an offset


cdef bint read_v4(const uint8_t *p, uint32_t n, uint8_t protocol, Datagram *out) noexcept nogil:
    cdef uint32_t header, total
    if n < 20 or p[0] >> 4 != 4:
        return False
    header, total = (p[0] & 15) * 4, load16(p + 2)
    if header < 20 or total < header or total > n or load16(p + 6) & FRAGMENT or p[9] != protocol:
        return False
    out.ecn = p[1] & ECN_BITS
    map_v4(p + 12, out.source.ip)
    map_v4(p + 16, out.source.local)
    out.data, out.size = <uint8_t *>p + header, total - header
    return True


cdef bint read_v6(const uint8_t *p, uint32_t n, uint8_t protocol, Datagram *out) noexcept nogil:
    cdef uint32_t size
    if n < 40 or p[0] >> 4 != 6 or p[6] != protocol:
        return False
    size = load16(p + 4)
    if size > n - 40:
        return False
    out.ecn = p[1] >> 4 & ECN_BITS
    memcpy(out.source.ip, p + 8, 16)
    memcpy(out.source.local, p + 24, 16)
    out.data, out.size = <uint8_t *>p + 40, size
    return True


cdef bint read_frame(const uint8_t *p, uint32_t n, uint8_t protocol, Datagram *out) noexcept nogil:
    cdef uint32_t at = ADDRESSES
    cdef uint16_t kind
    cdef int tags
    memset(out, 0, sizeof(Datagram))
    for tags in range(TAGS + 1):
        if at + 2 > n:
            return False
        kind = load16(p + at)
        at += 2
        if kind == TYPE_IPV4:
            return read_v4(p + at, n - at, protocol, out)
        if kind == TYPE_IPV6:
            return read_v6(p + at, n - at, protocol, out)
        if kind != TYPE_TAG and kind != TYPE_OUTER_TAG:
            return False
        at += 2
    return False
