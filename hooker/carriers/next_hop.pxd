# What the kernel would put in front of a packet to a peer, as it says itself.

from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    NEXT_HOP_HEADERS = 54      # bytes: Ethernet and IPv6

cdef struct NextHop:
    uint8_t ip[16]             # whose, and from which of our addresses; IPv4 as ::ffff:a.b.c.d
    uint8_t local[16]
    int way                    # carrier_way: C_FRAME, or why not
    uint32_t ifindex           # 0: not known
    uint8_t next[16]           # address of the next hop, as its family has it
    uint32_t mtu               # of the link
    uint32_t headers_n
    uint8_t headers[NEXT_HOP_HEADERS]  # all but length, ECN bits and IPv4's checksum

cdef struct NextHops:          # to ask with; of one thread at a time
    int ask, policies          # netlink; -1: not open
    int hops                   # a socket that knows the hop limit of IPv4
    uint32_t number            # of the last question
    uint8_t *answer

# 0, or -errno; in the thread's network namespace
cdef int next_hops_open(NextHops *h) noexcept nogil
cdef void next_hops_close(NextHops *h) noexcept nogil   # also of what is closed
# Of to.ip from to.local; the way, and all of `to` behind it if that is C_FRAME. It may wait for the kernel.
cdef int next_hop_find(NextHops *h, NextHop *to) noexcept nogil

# The value of the attribute of that kind among n bytes of them; NULL: there is none of `least` bytes.
cdef const uint8_t *attribute(const uint8_t *p, size_t n, int kind, size_t least,
                              size_t *size) noexcept nogil
cdef int netlink(int protocol, uint32_t groups) noexcept nogil      # a descriptor, or -errno
