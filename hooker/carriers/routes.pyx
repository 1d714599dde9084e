"""Next hops of peers, each asked for while it is needed, and forgotten when anything has changed.

1. The resolver asks; nothing here waits. What is not known yet is the kernel's to send.
2. It is asked again for each peer before what it said last is too old, and after any change of routes, rules,
   links, addresses, policies of IPsec, and of its own neighbour: those of others come and go by the thousand
   where somebody pretends to be them. An answer to a question from before a change counts for nothing.
3. One packet in each second is the kernel's in any case. A neighbour grows old whatever frames go to it; what
   the kernel sends makes it ask, and what it hears comes back here.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy
from hooker.carriers.contract cimport C_ASKED, C_FRAME, C_NEIGHBOUR
from hooker.carriers.next_hop cimport *
from hooker.carriers.resolver cimport *
from hooker.includes.linux cimport *
from hooker.includes.siphash cimport siphash24

cdef enum:
    LIFE = 1000000000          # ns
    AGAIN = 500000000          # ns from an answer to the next question
    SHORT_AGAIN = 100000000    # the same for what is not known for certain
    TURN = 1000000000          # ns from one packet of the kernel's to the next
    MESSAGES = 64              # heard at once; more are there the next time
    MESSAGE = 256              # bytes: one about a neighbour is shorter

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *buf, size_t n, unsigned int flags)

cdef extern from "<linux/netlink.h>" nogil:
    struct nlmsghdr:
        uint32_t nlmsg_len
        uint16_t nlmsg_type
    enum:
        NETLINK_ROUTE
        NETLINK_XFRM
        SOL_NETLINK
        NETLINK_ADD_MEMBERSHIP

cdef extern from "<errno.h>" nogil:
    enum:
        EPROTONOSUPPORT

cdef extern from "<linux/xfrm.h>" nogil:
    enum:
        XFRMGRP_POLICY

cdef extern from "<linux/neighbour.h>" nogil:
    struct ndmsg:
        uint8_t ndm_family
        int32_t ndm_ifindex

cdef extern from "<linux/rtnetlink.h>" nogil:
    enum:
        RTM_NEWNEIGH
        RTM_DELNEIGH
        NDA_DST
        RTMGRP_LINK
        RTMGRP_NEIGH
        RTMGRP_IPV4_IFADDR
        RTMGRP_IPV4_ROUTE
        RTMGRP_IPV4_RULE
        RTMGRP_IPV6_IFADDR
        RTMGRP_IPV6_ROUTE
        RTNLGRP_IPV6_RULE
        RTNLGRP_NEXTHOP

cdef struct Change:
    nlmsghdr head
    ndmsg neighbour


# ---- open --------------------------------------------------------------------------------------------

cdef void shut(int *fd) noexcept nogil:
    if fd[0] >= 0:
        close(fd[0])
    fd[0] = -1


cdef int listen_for_changes() noexcept nogil:
    """A descriptor, or -errno."""
    cdef int more[2]
    cdef int i
    cdef int fd = netlink(NETLINK_ROUTE, RTMGRP_LINK | RTMGRP_NEIGH | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE
                          | RTMGRP_IPV4_RULE | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE)
    more[0], more[1] = RTNLGRP_IPV6_RULE, RTNLGRP_NEXTHOP
    for i in range(2 if fd >= 0 else 0):
        setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &more[i], sizeof(int))
    return fd


cdef int routes_open(Routes *r) noexcept nogil:
    cdef int err
    r.resolver, r.all, r.rounds = NULL, NULL, 0
    getrandom(r.secret, sizeof(r.secret), 0)
    r.none.way = C_ASKED
    r.policy_changes = netlink(NETLINK_XFRM, XFRMGRP_POLICY)    # a kernel without IPsec has no such protocol
    r.changes = listen_for_changes()
    r.all = <Route *>calloc(ROUTE_PLACES, sizeof(Route))
    if r.changes < 0 or r.all == NULL or (r.policy_changes < 0 and r.policy_changes != -EPROTONOSUPPORT):
        routes_close(r)
        return -ENOBUFS
    r.last = r.all
    err = resolver_start(&r.resolver)
    if err < 0:
        routes_close(r)
    return err


cdef void routes_close(Routes *r) noexcept nogil:
    shut(&r.changes)
    shut(&r.policy_changes)
    if r.resolver != NULL:
        resolver_leave(r.resolver)
    free(r.all)
    r.all, r.resolver = NULL, NULL


# ---- what is known -----------------------------------------------------------------------------------

cdef bint is_of(const Route *to, const uint8_t *ip, const uint8_t *local) noexcept nogil:
    return memcmp(to.hop.ip, ip, 16) == 0 and memcmp(to.hop.local, local, 16) == 0


cdef void places_of(Routes *r, const uint8_t *ip, const uint8_t *local, Route **those) noexcept nogil:
    """Two sets, of which the emptier one is taken: then hardly any fills before all do (Azar et al. 1999)."""
    cdef uint8_t both[32]
    cdef uint64_t hashed
    memcpy(both, ip, 16)
    memcpy(both + 16, local, 16)
    hashed = siphash24(r.secret, both, sizeof(both))
    those[0] = &r.all[hashed % ROUTE_SETS * ROUTE_WAYS]
    those[1] = &r.all[(hashed >> 32) % ROUTE_SETS * ROUTE_WAYS]


cdef Route *known(Routes *r, const uint8_t *ip, const uint8_t *local) noexcept nogil:
    """NULL: it is not."""
    cdef Route *those[2]
    cdef int i
    if is_of(r.last, ip, local):
        return r.last
    places_of(r, ip, local, those)
    for i in range(2 * ROUTE_WAYS):
        if is_of(&those[i & 1][i >> 1], ip, local):
            r.last = &those[i & 1][i >> 1]
            return r.last
    return NULL


cdef void forget(Routes *r, Route *to) noexcept nogil:
    r.rounds += 1
    to.round = r.rounds
    to.until = to.again = 0
    to.hop.way = C_ASKED


cdef Route *place_for(Routes *r, const uint8_t *ip, const uint8_t *local, uint64_t now) noexcept nogil:
    """That of a peer to whom nothing is sent any more; NULL: all of them are in use."""
    cdef Route *those[2]
    cdef Route *to
    cdef Route *each
    cdef int i
    places_of(r, ip, local, those)
    to = those[0]
    for i in range(1, 2 * ROUTE_WAYS):              # in turn: the first that is empty is of the emptier set
        each = &those[i & 1][i >> 1]
        if each.used < to.used:
            to = each
    if to.used and now - to.used < LIFE:
        return NULL
    memcpy(to.hop.ip, ip, 16)
    memcpy(to.hop.local, local, 16)
    forget(r, to)
    to.turn, to.asked = 0, False
    r.last = to
    return to


cdef void learn(Routes *r, const NextHop *hop, uint32_t round_, uint64_t now) noexcept nogil:
    cdef Route *to = known(r, hop.ip, hop.local)
    if to == NULL:
        return
    to.asked = False
    if round_ != to.round:
        return
    to.hop = hop[0]
    to.until, to.again = now + LIFE, now + (SHORT_AGAIN if hop.way == C_NEIGHBOUR else AGAIN)


cdef const NextHop *route_to(Routes *r, const uint8_t *ip, const uint8_t *local, uint64_t now) noexcept nogil:
    cdef Route *to = known(r, ip, local)
    if to == NULL:
        to = place_for(r, ip, local, now)
        if to == NULL:
            return &r.none
    to.used = now
    if now >= to.again and not to.asked:
        to.asked = resolver_ask(r.resolver, ip, local, to.round)
    if now >= to.until and to.hop.way == C_FRAME:
        to.hop.way = C_ASKED
    if now >= to.turn and to.hop.way == C_FRAME:
        to.turn = now + TURN
        return NULL
    return &to.hop


# ---- what has changed --------------------------------------------------------------------------------

cdef void forget_all(Routes *r) noexcept nogil:
    cdef int i
    for i in range(ROUTE_PLACES):
        forget(r, &r.all[i])


cdef bint concerns(const Route *to, const Change *change, const uint8_t *address) noexcept nogil:
    """Whether a packet there may go by that neighbour: it does, or nobody knows yet."""
    cdef size_t n = 4 if change.neighbour.ndm_family == AF_INET else 16
    if to.hop.way == C_ASKED or to.asked or to.hop.ifindex == 0:
        return True
    return to.hop.ifindex == <uint32_t>change.neighbour.ndm_ifindex and memcmp(to.hop.next, address, n) == 0


cdef bint forget_by_neighbour(Routes *r, const uint8_t *message, size_t n) noexcept nogil:
    """What has this neighbour as its next hop. False: it is another kind of message, or more than one."""
    cdef const Change *change = <const Change *>message
    cdef const uint8_t *address
    cdef size_t size
    cdef int i
    if (n < sizeof(Change) or change.head.nlmsg_len != n
            or (change.head.nlmsg_type != RTM_NEWNEIGH and change.head.nlmsg_type != RTM_DELNEIGH)
            or (change.neighbour.ndm_family != AF_INET and change.neighbour.ndm_family != AF_INET6)):
        return False
    address = attribute(message + sizeof(Change), n - sizeof(Change), NDA_DST,
                        4 if change.neighbour.ndm_family == AF_INET else 16, &size)
    if address == NULL:
        return False
    for i in range(ROUTE_PLACES):
        if r.all[i].used and concerns(&r.all[i], change, address):
            forget(r, &r.all[i])
    return True


cdef bint hear(Routes *r, int fd, bint neighbours) noexcept nogil:
    """Whether all is to be forgotten: more than neighbours have changed, or messages were lost."""
    cdef uint8_t message[MESSAGE]
    cdef bint all_ = False
    cdef ssize_t n
    cdef int i
    for i in range(MESSAGES if fd >= 0 else 0):
        n = recv(fd, message, MESSAGE, MSG_DONTWAIT)
        if n < 0 and errno == EINTR:
            continue
        if n < 0 and errno != ENOBUFS:
            return all_
        if n < 0 or n == MESSAGE or not neighbours or not forget_by_neighbour(r, message, n):
            all_ = True
    return all_


cdef void routes_hear(Routes *r, uint64_t now) noexcept nogil:
    cdef NextHop hop
    cdef uint32_t round_
    while resolver_answer(r.resolver, &hop, &round_):   # first: with it a change may concern others only
        learn(r, &hop, round_, now)
    if hear(r, r.changes, True) | hear(r, r.policy_changes, False):
        forget_all(r)
