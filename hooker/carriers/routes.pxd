# The next hops of peers, as they are known now.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from hooker.carriers.next_hop cimport NextHop
from hooker.carriers.resolver cimport Resolver

cdef enum:
    ROUTE_SETS = 64            # two of them by a hash of the peer and our address
    ROUTE_WAYS = 4             # places of each
    ROUTE_PLACES = ROUTE_SETS * ROUTE_WAYS

cdef struct Route:
    NextHop hop                # of whom; the rest as far as its way says
    uint64_t until             # ns: how long it counts
    uint64_t again             # when the kernel is asked again
    uint64_t turn              # when the kernel is to send one
    uint64_t used              # when something was last sent there
    uint32_t round             # what was asked before says nothing
    bint asked                 # the answer is under way

cdef struct Routes:
    Resolver *resolver
    int changes, policy_changes        # netlink; -1: not open
    uint32_t rounds            # so far
    uint64_t secret[2]
    Route *all
    Route *last                # nearly always it is the same peer
    NextHop none               # of a peer for whom there is no place

# 0, or -errno; in the thread's network namespace
cdef int routes_open(Routes *r) noexcept nogil
cdef void routes_close(Routes *r) noexcept nogil        # also of what is closed
# What has changed makes it forget all; what was asked for and is answered is known from here on.
cdef void routes_hear(Routes *r, uint64_t now) noexcept nogil
# Of a peer and one of our addresses, IPv4 as ::ffff:a.b.c.d. NULL: the kernel is to send one in between.
cdef const NextHop *route_to(Routes *r, const uint8_t *ip, const uint8_t *local, uint64_t now) noexcept nogil
