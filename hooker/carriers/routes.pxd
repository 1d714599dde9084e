# What the kernel would put in front of a packet to a peer, asked for by rtnetlink and kept for a moment.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    ROUTE_PLACES = 256         # peers; one that has another's takes it
    ROUTE_HEADERS = 54         # bytes: Ethernet and IPv6
    ROUTE_ANSWER = 16384       # bytes of what the kernel says at once

cdef struct Route:
    uint8_t ip[16]             # whose, and from which of our addresses
    uint8_t local[16]
    uint64_t until             # ns; 0: nothing is known
    uint64_t turn              # when the kernel is to send one
    int way                    # carrier_way: C_FRAME, or why not
    uint32_t ifindex
    uint32_t mtu               # of the link
    uint32_t headers_n
    uint8_t headers[ROUTE_HEADERS]     # all but length, ECN bits and IPv4's checksum

cdef struct Routes:
    int raw
    int ask, changes, policies, policy_changes     # netlink; -1: not open
    uint32_t number            # of the last question
    Route *all
    uint8_t *answer

# 0, or -errno; in the thread's network namespace. `raw`: a socket of IPv4, which knows their hop limit.
cdef int routes_open(Routes *r, int raw) noexcept nogil
cdef void routes_close(Routes *r) noexcept nogil        # also of what is closed
cdef void routes_hear(Routes *r) noexcept nogil         # what has changed makes it forget all
# Of a peer and one of our addresses, IPv4 as ::ffff:a.b.c.d. NULL: the kernel is to send one in between.
cdef Route *route_to(Routes *r, const uint8_t *ip, const uint8_t *local,
                     uint64_t now) noexcept nogil
