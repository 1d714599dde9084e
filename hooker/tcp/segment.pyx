"""Reads and makes TCP segments over IPv4 and IPv6, as a TUN device with IFF_VNET_HDR carries them.

A packet is read in order: offload header, IP, TCP, options; each step takes its bytes from the cursor or
refuses. What the kernel has only half summed (NEEDS_CSUM) is not summed again; all else must have a right
checksum. Options follow Linux: one whose length cannot be ends the list, what came before it counts.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from hooker.includes.bytes cimport Cursor, htobe16, load16, load32, store16, store32, take
from hooker.tcp.checksum cimport PROTOCOL_TCP, fold, sum_bytes, sum_pseudo

cdef enum:                      # <linux/virtio_net.h>
    NEEDS_CSUM = 1
    DATA_VALID = 2
    GSO_NONE = 0
    GSO_TCPV4 = 1
    GSO_TCPV6 = 4
    GSO_ECN = 0x80
    CHECKSUM_OFFSET = 16        # of the checksum in the TCP header

cdef enum:                      # IPv6 extension headers, RFC 8200 4
    HOP_BY_HOP = 0
    MOST_HOPS = 255             # an application may ask for it (IP_MINTTL, RFC 5082)
    ROUTING = 43
    FRAGMENT = 44
    DESTINATION = 60

cdef enum:                      # TCP option kinds
    KIND_END = 0
    KIND_NOP = 1
    KIND_MSS = 2
    KIND_WSCALE = 3
    KIND_SACK_PERMITTED = 4
    KIND_SACK = 5
    KIND_TIMESTAMPS = 8

cdef struct vnet:               # struct virtio_net_hdr
    uint8_t flags
    uint8_t gso_type
    uint16_t hdr_len
    uint16_t gso_size
    uint16_t csum_start
    uint16_t csum_offset


# ---- reading ----------------------------------------------------------------------------------------------

cdef refusal read_ipv4(Cursor *c, Segment *s) noexcept nogil:
    """Leaves the cursor at the TCP header, and bounded by the packet's own length."""
    cdef const uint8_t *p = c.p
    cdef uint32_t header, total
    if c.n < IPV4_HEADER:
        return SEGMENT_SHORT
    header, total = (p[0] & 15) * 4, load16(p + 2)
    if header < IPV4_HEADER or total < header:
        return SEGMENT_MALFORMED
    if total > c.n:
        return SEGMENT_SHORT
    if load16(p + 6) & 0x3FFF:          # more fragments, or not the first
        return SEGMENT_FRAGMENT
    if p[9] != PROTOCOL_TCP:
        return SEGMENT_NOT_TCP
    if fold(sum_bytes(p, header, 0)) != 0xFFFF:
        return SEGMENT_CHECKSUM
    s.version, s.ecn, s.src, s.dst = 4, p[1] & 3, p + 12, p + 16
    c.n = total
    take(c, header)
    return SEGMENT_OK


cdef refusal read_extensions(Cursor *c, uint8_t next) noexcept nogil:
    """Passes over those that say nothing about where the segment goes."""
    cdef const uint8_t *p
    cdef int i
    for i in range(MAX_EXTENSIONS):
        if next == PROTOCOL_TCP:
            return SEGMENT_OK
        if next == FRAGMENT:
            return SEGMENT_FRAGMENT
        if next != HOP_BY_HOP and next != DESTINATION and next != ROUTING:
            return SEGMENT_NOT_TCP if i == 0 else SEGMENT_EXTENSION
        p = c.p
        if c.n < 8 or take(c, (<size_t>p[1] + 1) * 8) == NULL:
            return SEGMENT_SHORT
        if next == ROUTING and p[3] != 0:       # segments left: the destination is not the last one
            return SEGMENT_EXTENSION
        next = p[0]
    return SEGMENT_OK if next == PROTOCOL_TCP else SEGMENT_EXTENSION


cdef refusal read_ipv6(Cursor *c, Segment *s) noexcept nogil:
    cdef const uint8_t *p = take(c, IPV6_HEADER)
    cdef uint32_t length
    if p == NULL:
        return SEGMENT_SHORT
    length = load16(p + 4)
    if length == 0:                     # a jumbogram, RFC 2675; or nothing
        return SEGMENT_MALFORMED
    if length > c.n:
        return SEGMENT_SHORT
    c.n = length
    s.version, s.ecn, s.src, s.dst = 6, (p[1] >> 4) & 3, p + 8, p + 24
    return read_extensions(c, p[6])


cdef void read_option(Segment *s, const uint8_t *p, uint32_t size) noexcept nogil:
    """One option of a kind that we know and of the right size; all others say nothing."""
    cdef uint32_t i
    cdef uint8_t kind = p[0]
    if kind == KIND_TIMESTAMPS and size == 10:
        s.ts_value, s.ts_echo = load32(p + 2), load32(p + 6)
        s.options |= HAS_TIMESTAMPS
    elif kind == KIND_SACK and size >= 10 and (size - 2) % 8 == 0:
        s.sacks = <uint8_t>((size - 2) // 8)
        for i in range(s.sacks):
            s.sack[i][0], s.sack[i][1] = load32(p + 2 + 8 * i), load32(p + 6 + 8 * i)
        s.options |= HAS_SACK
    elif kind == KIND_MSS and size == 4:
        s.mss = load16(p + 2)
        s.options |= HAS_MSS
    elif kind == KIND_WSCALE and size == 3:
        s.wscale = p[2] if p[2] < MAX_WSCALE else MAX_WSCALE
        s.options |= HAS_WSCALE
    elif kind == KIND_SACK_PERMITTED and size == 2:
        s.options |= HAS_SACK_PERMITTED


cdef void read_options(Segment *s, const uint8_t *p, uint32_t n) noexcept nogil:
    while n > 0 and p[0] != KIND_END:
        if p[0] == KIND_NOP:
            p += 1
            n -= 1
            continue
        if n < 2 or p[1] < 2 or p[1] > n:
            return
        read_option(s, p, p[1])
        n -= p[1]
        p += p[1]


cdef refusal read_tcp(Cursor *c, Segment *s) noexcept nogil:
    cdef const uint8_t *p = c.p
    cdef uint32_t header
    if c.n < TCP_HEADER:
        return SEGMENT_SHORT
    header = (p[12] >> 4) * 4
    if header < TCP_HEADER:
        return SEGMENT_MALFORMED
    if take(c, header) == NULL:
        return SEGMENT_SHORT
    s.src_port, s.dst_port = load16(p), load16(p + 2)
    s.seq, s.ack = load32(p + 4), load32(p + 8)
    s.flags, s.window, s.urgent = p[13], load16(p + 14), load16(p + 18)
    read_options(s, p + TCP_HEADER, header - TCP_HEADER)
    s.data, s.length = c.p, <uint32_t>c.n
    return SEGMENT_OK


cdef refusal check_offload(const vnet *v, const uint8_t *tcp, uint32_t start, Segment *s) noexcept nogil:
    """That offload fields fit the packet; the checksum, unless the kernel has left it to the device."""
    cdef uint8_t gso = v.gso_type & ~GSO_ECN
    cdef uint32_t size = <uint32_t>(s.data - tcp) + s.length
    if gso != GSO_NONE:
        if gso != (GSO_TCPV4 if s.version == 4 else GSO_TCPV6) or v.gso_size == 0:
            return SEGMENT_MALFORMED
        s.gso_size = v.gso_size
    if v.flags & NEEDS_CSUM:
        if v.csum_start != start or v.csum_offset != CHECKSUM_OFFSET:
            return SEGMENT_MALFORMED
    elif not v.flags & DATA_VALID:
        if fold(sum_bytes(tcp, size, sum_pseudo(s.src, s.dst, address_size(s.version), size))) != 0xFFFF:
            return SEGMENT_CHECKSUM
    return SEGMENT_OK


cdef refusal segment_parse(const uint8_t *packet, size_t n, Segment *out) noexcept nogil:
    cdef Cursor c
    cdef vnet v
    cdef refusal r
    cdef const uint8_t *tcp
    c.p, c.n = packet, n
    memset(out, 0, sizeof(Segment))
    if take(&c, VNET_HEADER) == NULL or c.n == 0:
        return SEGMENT_SHORT
    memcpy(&v, packet, VNET_HEADER)
    if c.p[0] >> 4 == 4:
        r = read_ipv4(&c, out)
    elif c.p[0] >> 4 == 6:
        r = read_ipv6(&c, out)
    else:
        return SEGMENT_MALFORMED
    if r != SEGMENT_OK:
        return r
    tcp = c.p
    out.ip, out.tcp = packet + VNET_HEADER, tcp
    r = read_tcp(&c, out)
    if r != SEGMENT_OK:
        return r
    return check_offload(&v, tcp, <uint32_t>(tcp - packet - VNET_HEADER), out)


# ---- making -----------------------------------------------------------------------------------------------

cdef uint8_t *pad(uint8_t *p, uint32_t n) noexcept nogil:
    memset(p, KIND_NOP, n)
    return p + n


cdef uint8_t *write_sacks(const Segment *s, uint8_t *p, uint8_t *limit) noexcept nogil:
    """As many blocks as there is room for."""
    cdef uint32_t i, room = <uint32_t>(limit - p), n = s.sacks
    if room < 12:
        return p
    n = min(n, (room - 4) // 8, <uint32_t>MAX_SACKS)
    if n == 0:
        return p
    p = pad(p, 2)
    p[0], p[1] = KIND_SACK, <uint8_t>(2 + 8 * n)
    for i in range(n):
        store32(p + 2 + 8 * i, s.sack[i][0])
        store32(p + 6 + 8 * i, s.sack[i][1])
    return p + p[1]


cdef uint8_t *write_options(const Segment *s, uint8_t *p) noexcept nogil:
    """Each padded in front to a multiple of four bytes; SACK has what the others leave."""
    cdef uint8_t *limit = p + MAX_OPTIONS
    if s.options & HAS_MSS:
        p[0], p[1] = KIND_MSS, 4
        store16(p + 2, s.mss)
        p += 4
    if s.options & HAS_SACK_PERMITTED:
        p = pad(p, 2)
        p[0], p[1] = KIND_SACK_PERMITTED, 2
        p += 2
    if s.options & HAS_TIMESTAMPS:
        p = pad(p, 2)
        p[0], p[1] = KIND_TIMESTAMPS, 10
        store32(p + 2, s.ts_value)
        store32(p + 6, s.ts_echo)
        p += 10
    if s.options & HAS_WSCALE:
        p = pad(p, 1)
        p[0], p[1], p[2] = KIND_WSCALE, 3, s.wscale
        p += 3
    if s.options & HAS_EXPERIMENT:
        memcpy(p, s.experiment, EXPERIMENT)
        p += EXPERIMENT
    return write_sacks(s, p, limit) if s.options & HAS_SACK else p


cdef uint32_t write_tcp(const Segment *s, bint partial, uint8_t *p) noexcept nogil:
    """Header and options; their size."""
    cdef uint32_t header = <uint32_t>(write_options(s, p + TCP_HEADER) - p)
    cdef uint64_t total = sum_pseudo(s.src, s.dst, address_size(s.version), header + s.length)
    cdef uint16_t sum
    store16(p, s.src_port)
    store16(p + 2, s.dst_port)
    store32(p + 4, s.seq)
    store32(p + 8, s.ack)
    p[12], p[13] = <uint8_t>(header << 2), s.flags
    store16(p + 14, s.window)
    store16(p + 16, 0)
    store16(p + 18, s.urgent)
    if partial:
        sum = fold(total)
    else:
        sum = ~fold(sum_bytes(s.data, s.length, sum_bytes(p, header, total)))
    memcpy(p + CHECKSUM_OFFSET, &sum, 2)
    return header


cdef void write_ipv4(const Segment *s, uint32_t payload, uint8_t *p) noexcept nogil:
    cdef uint16_t sum
    memset(p, 0, IPV4_HEADER)
    p[0], p[1] = 0x45, s.ecn
    store16(p + 2, <uint16_t>(IPV4_HEADER + payload))
    p[6] = 0x40                         # don't fragment
    p[8], p[9] = MOST_HOPS, PROTOCOL_TCP
    memcpy(p + 12, s.src, 4)
    memcpy(p + 16, s.dst, 4)
    sum = ~fold(sum_bytes(p, IPV4_HEADER, 0))
    memcpy(p + 10, &sum, 2)


cdef void write_ipv6(const Segment *s, uint32_t payload, uint8_t *p) noexcept nogil:
    store32(p, 0x60000000 | <uint32_t>s.ecn << 20)
    store16(p + 4, <uint16_t>payload)
    p[6], p[7] = PROTOCOL_TCP, MOST_HOPS
    memcpy(p + 8, s.src, 16)
    memcpy(p + 24, s.dst, 16)


cdef uint32_t segment_build(const Segment *s, bint partial, uint8_t *out) noexcept nogil:
    cdef uint32_t ip = IPV4_HEADER if s.version == 4 else IPV6_HEADER
    cdef uint8_t *packet = out + VNET_HEADER
    cdef uint32_t header = ip + write_tcp(s, partial, packet + ip)
    cdef vnet v
    memset(&v, 0, sizeof(v))
    if s.version == 4:
        write_ipv4(s, header - ip + s.length, packet)
    else:
        write_ipv6(s, header - ip + s.length, packet)
    if partial:
        v.flags, v.csum_start, v.csum_offset = NEEDS_CSUM, <uint16_t>ip, CHECKSUM_OFFSET
    if s.gso_size and s.length > s.gso_size:
        v.gso_type, v.gso_size = GSO_TCPV4 if s.version == 4 else GSO_TCPV6, s.gso_size
        v.hdr_len = <uint16_t>header
    memcpy(out, &v, VNET_HEADER)
    return VNET_HEADER + header


# ---- cutting ---------------------------------------------------------------------------------------------

cdef uint8_t cut_flags(const Segment *s, uint32_t at, uint32_t n) noexcept nogil:
    """As a network card cuts: CWR with the first packet, FIN and PSH with the last."""
    cdef uint8_t flags = s.flags
    if at > 0:
        flags &= ~FLAG_CWR
    if at + n < s.length:
        flags &= ~(FLAG_FIN | FLAG_PSH)
    if s.urgent <= at:
        flags &= ~FLAG_URG
    return flags


cdef void fix_ip(const Segment *s, uint8_t *ip, uint32_t size) noexcept nogil:
    """The length, and what depends on it."""
    cdef uint16_t sum
    if s.version == 6:
        store16(ip + 4, <uint16_t>(size - IPV6_HEADER))
        return
    store16(ip + 2, <uint16_t>size)
    store16(ip + 10, 0)
    sum = ~fold(sum_bytes(ip, (ip[0] & 15) * 4, 0))
    memcpy(ip + 10, &sum, 2)


cdef uint32_t segment_cut(const Segment *s, uint32_t at, uint32_t size, uint8_t *out) noexcept nogil:
    cdef uint32_t n = min(cut_room(s, size), s.length - at), start = <uint32_t>(s.tcp - s.ip)
    cdef uint32_t headers = <uint32_t>(s.data - s.ip)
    cdef uint32_t length = headers - start + n
    cdef uint8_t *tcp = out + start
    cdef uint16_t sum
    memcpy(out, s.ip, headers)
    memcpy(out + headers, s.data + at, n)
    fix_ip(s, out, headers + n)
    store32(tcp + 4, s.seq + at)
    tcp[13] = cut_flags(s, at, n)
    store16(tcp + 18, s.urgent - <uint16_t>at if tcp[13] & FLAG_URG else 0)
    store16(tcp + 16, 0)
    sum = ~fold(sum_bytes(tcp, length, sum_pseudo(s.src, s.dst, address_size(s.version), length)))
    memcpy(tcp + 16, &sum, 2)
    return headers + n
