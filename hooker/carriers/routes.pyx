"""Next hops of peers, each asked for while it is needed, and forgotten when anything has changed.

1. The resolver asks; nothing here waits. What is not known yet is the kernel's to send.
2. It is asked again for each peer before what it said last is too old, and after any change of routes, rules,
   links, addresses, neighbours, policies of IPsec. An answer to a question from before a change counts for
   nothing.
3. One packet in each second is the kernel's in any case. A neighbour grows old whatever frames go to it; what
   the kernel sends makes it ask, and what it hears comes back here.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy
from hooker.carriers.contract cimport C_ASKED, C_FRAME, C_NEIGHBOUR
from hooker.carriers.next_hop cimport *
from hooker.carriers.resolver cimport *
from hooker.includes.linux cimport *

cdef enum:
    LIFE = 1000000000          # ns
    AGAIN = 500000000          # ns from an answer to the next question
    SHORT_AGAIN = 100000000    # the same for what is not known for certain
    TURN = 1000000000          # ns from one packet of the kernel's to the next
    MESSAGES = 64              # heard at once; more are there the next time
    MESSAGE = 256              # bytes of one: that it is there says enough

cdef extern from "<linux/netlink.h>" nogil:
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

cdef extern from "<linux/rtnetlink.h>" nogil:
    enum:
        RTMGRP_LINK
        RTMGRP_NEIGH
        RTMGRP_IPV4_IFADDR
        RTMGRP_IPV4_ROUTE
        RTMGRP_IPV4_RULE
        RTMGRP_IPV6_IFADDR
        RTMGRP_IPV6_ROUTE
        RTNLGRP_IPV6_RULE
        RTNLGRP_NEXTHOP


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
    r.resolver, r.all, r.round = NULL, NULL, 0
    r.policy_changes = netlink(NETLINK_XFRM, XFRMGRP_POLICY)    # a kernel without IPsec has no such protocol
    r.changes = listen_for_changes()
    r.all = <Route *>calloc(ROUTE_PLACES, sizeof(Route))
    if r.changes < 0 or r.all == NULL or (r.policy_changes < 0 and r.policy_changes != -EPROTONOSUPPORT):
        routes_close(r)
        return -ENOBUFS
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

cdef Route *place_of(Routes *r, const uint8_t *ip, const uint8_t *local) noexcept nogil:
    cdef uint32_t place = ip[15] ^ ip[14] * 31 ^ ip[13] * 17 ^ ip[7] * 7 ^ local[15] * 113
    return &r.all[place & (ROUTE_PLACES - 1)]


cdef bint is_of(const Route *to, const uint8_t *ip, const uint8_t *local) noexcept nogil:
    return memcmp(to.hop.ip, ip, 16) == 0 and memcmp(to.hop.local, local, 16) == 0


cdef bint has_changed(int fd) noexcept nogil:
    """Messages that were lost are a change, too."""
    cdef uint8_t message[MESSAGE]
    cdef bint changed = False
    cdef int i
    for i in range(MESSAGES if fd >= 0 else 0):
        if recv(fd, message, MESSAGE, MSG_DONTWAIT) >= 0 or errno == ENOBUFS:
            changed = True
        elif errno != EINTR:
            break
    return changed


cdef void forget_all(Routes *r) noexcept nogil:
    cdef int i
    r.round += 1
    for i in range(ROUTE_PLACES):
        r.all[i].until = r.all[i].again = 0
        r.all[i].hop.way = C_ASKED


cdef void learn(Routes *r, const NextHop *hop, uint32_t round_, uint64_t now) noexcept nogil:
    cdef Route *to = place_of(r, hop.ip, hop.local)
    if not is_of(to, hop.ip, hop.local):
        return
    to.asked = False
    if round_ != r.round:
        return
    to.hop = hop[0]
    to.until, to.again = now + LIFE, now + (SHORT_AGAIN if hop.way == C_NEIGHBOUR else AGAIN)


cdef void routes_hear(Routes *r, uint64_t now) noexcept nogil:
    cdef NextHop hop
    cdef uint32_t round_
    if has_changed(r.changes) | has_changed(r.policy_changes):
        forget_all(r)
    while resolver_answer(r.resolver, &hop, &round_):
        learn(r, &hop, round_, now)


cdef const NextHop *route_to(Routes *r, const uint8_t *ip, const uint8_t *local, uint64_t now) noexcept nogil:
    cdef Route *to = place_of(r, ip, local)
    if not is_of(to, ip, local):
        memcpy(to.hop.ip, ip, 16)
        memcpy(to.hop.local, local, 16)
        to.hop.way = C_ASKED
        to.until = to.again = to.turn = 0
        to.asked = False
    if now >= to.again and not to.asked:
        to.asked = resolver_ask(r.resolver, ip, local, r.round)
    if now >= to.until and to.hop.way == C_FRAME:
        to.hop.way = C_ASKED
    if now >= to.turn and to.hop.way == C_FRAME:
        to.turn = now + TURN
        return NULL
    return &to.hop
