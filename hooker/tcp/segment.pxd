# TCP segments as a TUN device with IFF_VNET_HDR carries them: struct virtio_net_hdr, then the IP packet.
#
# Reading is bounds-checked by a cursor; what a segment says is in host byte order afterwards, its addresses
# and data still lie in the packet. A packet has at most 64 KiB, one segment of TSO too.

from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef enum:
    VNET_HEADER = 10            # struct virtio_net_hdr, in the machine's byte order
    IPV4_HEADER = 20
    IPV6_HEADER = 40
    TCP_HEADER = 20
    MAX_OPTIONS = 40            # bytes of TCP options
    MAX_HEADERS = 110           # in front of the data of a segment that we make: 10 + 40 + 20 + 40
    MAX_READ_HEADERS = 16484    # of one that was read: IPv6, eight extension headers of 2,048 bytes, TCP
    MAX_PACKET = 65535          # bytes of an IP packet
    EXPERIMENT = 16             # bytes of an option of RFC 6994 that we write
    MAX_SACKS = 4               # blocks in one option
    MAX_EXTENSIONS = 8          # IPv6 extension headers in one packet: more are refused
    MAX_WSCALE = 14             # RFC 7323 2.3

cdef enum tcp_flag:
    FLAG_FIN = 0x01
    FLAG_SYN = 0x02
    FLAG_RST = 0x04
    FLAG_PSH = 0x08
    FLAG_ACK = 0x10
    FLAG_URG = 0x20
    FLAG_ECE = 0x40
    FLAG_CWR = 0x80

cdef enum ip_ecn:               # RFC 3168, the low two bits of the traffic class
    ECN_CE = 3

cdef enum tcp_option:           # bits of Segment.options
    HAS_MSS = 1
    HAS_WSCALE = 2
    HAS_SACK_PERMITTED = 4
    HAS_TIMESTAMPS = 8
    HAS_SACK = 16
    HAS_EXPERIMENT = 32         # only written

cdef enum refusal:              # why a packet is no segment for us; the names are those of REFUSALS
    SEGMENT_OK = 0
    SEGMENT_SHORT = 1           # a length says more than there is
    SEGMENT_MALFORMED = 2       # a version, header length or offload field that cannot be
    SEGMENT_FRAGMENT = 3
    SEGMENT_NOT_TCP = 4
    SEGMENT_EXTENSION = 5       # an IPv6 extension header that we do not pass over, or too many
    SEGMENT_CHECKSUM = 6


cdef struct Segment:
    const uint8_t *src          # 4 or 16 bytes
    const uint8_t *dst
    const uint8_t *data
    const uint8_t *ip           # of one that was read: where its headers begin
    const uint8_t *tcp
    uint32_t length             # of data
    uint32_t seq
    uint32_t ack
    uint32_t ts_value
    uint32_t ts_echo
    uint32_t sack[4][2]         # left edge, right edge
    uint16_t src_port
    uint16_t dst_port
    uint16_t window             # as it stands in the header
    uint16_t urgent
    uint16_t mss                # option of a SYN
    uint16_t gso_size           # bytes of data in one packet on a wire; 0: the packet is one already
    uint8_t version             # 4 or 6
    uint8_t flags
    uint8_t ecn
    uint8_t options
    uint8_t wscale              # option of a SYN
    uint8_t sacks
    uint8_t experiment[16]      # EXPERIMENT


cdef inline uint32_t address_size(uint8_t version) noexcept nogil:
    return 4 if version == 4 else 16

cdef refusal segment_parse(const uint8_t *packet, size_t n, Segment *out) noexcept nogil
# Writes all in front of the data, VNET_HEADER first; returns its size, at most MAX_HEADERS. `partial` leaves
# the sum over the data to the kernel (NEEDS_CSUM). With a gso_size below the length it is one segment of TSO.
cdef uint32_t segment_build(const Segment *s, bint partial, uint8_t *out) noexcept nogil
# One packet for a wire of a segment that was read, with its data from `at` on: headers as they are but for what
# must differ, all checksums, no offload header. Returns its size, at most `size`, or the headers and one byte (up
# to MAX_READ_HEADERS + 1). Headers vary, with SACK for instance, so it is not told how much data goes in.
cdef uint32_t segment_cut(const Segment *s, uint32_t at, uint32_t size, uint8_t *out) noexcept nogil
cdef inline uint32_t cut_room(const Segment *s, uint32_t size) noexcept nogil:
    """Bytes of data in each but the last packet of a segment that is cut."""
    cdef uint32_t headers = <uint32_t>(s.data - s.ip)
    return size - headers if size > headers else 1
