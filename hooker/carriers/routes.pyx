"""Next hops of peers, as the kernel has them: route, link and neighbour, by rtnetlink(7).

1. The kernel answers within the call that asks, as soon as it has its own lock. It is asked once in a second
   for each peer, and again after anything has changed: routes, rules, links, addresses, neighbours, policies
   of IPsec.
2. Only what is plain becomes a header: one next hop, an Ethernet link that is a card or a veth, a neighbour
   that the kernel holds valid and does not doubt, no IPsec. All else is the kernel's own work, for a reason.
3. One packet in each second is the kernel's in any case. A neighbour grows old whatever frames go to it; what
   the kernel sends makes it ask, and what it hears comes back here.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset
from hooker.carriers.contract cimport *
from hooker.includes.bytes cimport store16
from hooker.includes.hk cimport HK_MARK_OWN
from hooker.includes.ip cimport is_v4
from hooker.includes.linux cimport *

cdef enum:
    LIFE = 1000000000          # ns
    SHORT_LIFE = 100000000     # of what is not known for certain
    TURN = 1000000000          # ns from one packet of the kernel's to the next
    LINK = 6                   # bytes of an Ethernet address
    MESSAGES = 64              # heard at once; more are there the next time
    PROTOCOL = 253
    DONT_FRAGMENT = 0x4000
    RTN_UNICAST_ = 1
    HOPS = 10                  # RTAX_HOPLIMIT
    HOPS_OF_LINK = 1           # DEVCONF_HOPLIMIT
    SKIP_STATS = 1 << 3        # RTEXT_FILTER_SKIP_STATS
    FIB_MATCH = 0x2000         # RTM_F_FIB_MATCH
    CERTAIN = 0x02 | 0x08 | 0x10 | 0x80     # NUD_REACHABLE, DELAY, PROBE, PERMANENT
    SPD_INFO = 0x25            # XFRM_MSG_GETSPDINFO
    SPD_COUNTS = 1             # XFRMA_SPD_INFO: of policies in, out, forwarded, and three of sockets'
    SPD_OUT = 1

cdef const uint8_t NOWHERE[16]

cdef extern from "<linux/netlink.h>" nogil:
    struct sockaddr_nl:
        uint16_t nl_family
        uint32_t nl_pid
        uint32_t nl_groups
    struct nlmsghdr:
        uint32_t nlmsg_len
        uint16_t nlmsg_type
        uint16_t nlmsg_flags
        uint32_t nlmsg_seq
        uint32_t nlmsg_pid
    enum:
        AF_NETLINK
        NETLINK_ROUTE
        NETLINK_XFRM
        NLM_F_REQUEST
        NLMSG_ERROR
        NLA_TYPE_MASK

    enum:
        SOL_NETLINK
        NETLINK_ADD_MEMBERSHIP

cdef extern from "<errno.h>" nogil:
    enum:
        EPROTONOSUPPORT

cdef extern from "<netinet/in.h>" nogil:
    enum:
        IP_TTL

cdef extern from "<linux/xfrm.h>" nogil:
    enum:
        XFRMGRP_POLICY

cdef extern from "<linux/rtnetlink.h>" nogil:
    struct rtmsg:
        uint8_t rtm_family
        uint8_t rtm_dst_len
        uint8_t rtm_src_len
        uint8_t rtm_type
        uint32_t rtm_flags
    struct ifinfomsg:
        uint8_t ifi_family
        uint16_t ifi_type
        int ifi_index
        uint32_t ifi_flags
    struct rtattr:
        uint16_t rta_len
        uint16_t rta_type
    enum:
        RTM_GETROUTE
        RTM_NEWROUTE
        RTM_GETLINK
        RTM_NEWLINK
        RTM_GETNEIGH
        RTM_NEWNEIGH
        RTA_DST
        RTA_SRC
        RTA_OIF
        RTA_GATEWAY
        RTA_METRICS
        RTA_PREFSRC
        RTA_MULTIPATH
        RTA_MARK
        RTA_VIA
        RTA_ENCAP
        RTA_NH_ID
        IFLA_ADDRESS
        IFLA_MTU
        IFLA_MASTER
        IFLA_LINKINFO
        IFLA_INFO_KIND
        IFLA_AF_SPEC
        IFLA_INET6_CONF
        IFLA_EXT_MASK
        NDA_DST
        NDA_LLADDR
        RTMGRP_LINK
        RTMGRP_NEIGH
        RTMGRP_IPV4_IFADDR
        RTMGRP_IPV4_ROUTE
        RTMGRP_IPV4_RULE
        RTMGRP_IPV6_IFADDR
        RTMGRP_IPV6_ROUTE
        RTNLGRP_IPV6_RULE
        RTNLGRP_NEXTHOP

cdef extern from "<linux/neighbour.h>" nogil:
    struct ndmsg:
        uint8_t ndm_family
        int32_t ndm_ifindex
        uint16_t ndm_state

cdef extern from "<linux/if_arp.h>" nogil:
    enum:
        ARPHRD_ETHER
        IFF_UP
        IFF_RUNNING
        IFF_NOARP

cdef struct Question:
    nlmsghdr head
    uint8_t body[128]

cdef struct Hop:               # as far as it is known
    uint32_t ifindex
    uint8_t next[16]           # address of the next hop, as the family has it
    uint8_t own[16]            # the address that packets go from
    uint8_t ttl                # 0: the route says nothing
    bint plain


# ---- netlink -----------------------------------------------------------------------------------------

cdef int netlink(int protocol, uint32_t groups) noexcept nogil:
    """A descriptor, or -errno."""
    cdef sockaddr_nl a
    cdef int err
    cdef int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol)
    if fd < 0:
        return -errno
    memset(&a, 0, sizeof(a))
    a.nl_family, a.nl_groups = AF_NETLINK, groups
    if bind(fd, <sockaddr *>&a, sizeof(a)) < 0:
        err = errno
        close(fd)
        return -err
    return fd


cdef void begin(Question *q, int kind, const void *body, size_t n) noexcept nogil:
    memset(q, 0, sizeof(Question))
    q.head.nlmsg_len = sizeof(nlmsghdr) + <uint32_t>n
    q.head.nlmsg_type, q.head.nlmsg_flags = kind, NLM_F_REQUEST
    memcpy(q.body, body, n)


cdef void add(Question *q, int kind, const void *value, size_t n) noexcept nogil:
    cdef rtattr *a = <rtattr *>(<uint8_t *>q + q.head.nlmsg_len)
    a.rta_len, a.rta_type = <uint16_t>(sizeof(rtattr) + n), kind
    memcpy(<uint8_t *>a + sizeof(rtattr), value, n)
    q.head.nlmsg_len += <uint32_t>(sizeof(rtattr) + (n + 3 & ~<size_t>3))


cdef uint32_t asked(Routes *r, int fd, Question *q, int kind, size_t body) noexcept nogil:
    """Bytes of the answer, which is in `r.answer`; 0: it is none of that kind."""
    cdef nlmsghdr *m = <nlmsghdr *>r.answer
    cdef ssize_t n
    cdef int tries
    r.number += 1
    q.head.nlmsg_seq = r.number
    if send(fd, q, q.head.nlmsg_len, 0) < 0:
        return 0
    for tries in range(MESSAGES):                  # what an earlier question left
        n = recv(fd, r.answer, ROUTE_ANSWER, MSG_DONTWAIT)
        if n < <ssize_t>sizeof(nlmsghdr):
            return 0
        if m.nlmsg_seq == r.number:
            break
    if (m.nlmsg_seq != r.number or m.nlmsg_type != kind or m.nlmsg_len > n
            or m.nlmsg_len < sizeof(nlmsghdr) + body):
        return 0
    return m.nlmsg_len


cdef const uint8_t *found(const uint8_t *p, size_t n, int kind, size_t least, size_t *size) noexcept nogil:
    """The value of the attribute of that kind among n bytes of them; NULL: there is none of `least` bytes."""
    cdef const rtattr *a
    cdef size_t step
    while n >= sizeof(rtattr):
        a = <const rtattr *>p
        if a.rta_len < sizeof(rtattr) or a.rta_len > n:
            return NULL
        if a.rta_type & NLA_TYPE_MASK == kind:
            size[0] = a.rta_len - sizeof(rtattr)
            return p + sizeof(rtattr) if size[0] >= least else NULL
        step = a.rta_len + 3 & ~<size_t>3
        if step >= n:
            return NULL
        p += step
        n -= step
    return NULL


cdef uint32_t number_at(const uint8_t *p) noexcept nogil:
    cdef uint32_t v
    memcpy(&v, p, sizeof(v))
    return v


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


cdef int routes_open(Routes *r, int raw) noexcept nogil:
    memset(r, 0, sizeof(Routes))
    r.raw = raw
    r.policies = r.policy_changes = r.changes = -1
    r.ask = netlink(NETLINK_ROUTE, 0)
    if r.ask < 0:
        return r.ask
    r.changes = listen_for_changes()
    r.all = <Route *>calloc(ROUTE_PLACES, sizeof(Route))
    r.answer = <uint8_t *>malloc(ROUTE_ANSWER)
    if r.changes < 0 or r.all == NULL or r.answer == NULL:
        routes_close(r)
        return -ENOBUFS
    r.policies = netlink(NETLINK_XFRM, 0)           # a kernel without IPsec has no such protocol
    if r.policies >= 0:
        r.policy_changes = netlink(NETLINK_XFRM, XFRMGRP_POLICY)
    elif r.policies != -EPROTONOSUPPORT:
        routes_close(r)
        return -ENOBUFS
    return 0


cdef void routes_close(Routes *r) noexcept nogil:
    shut(&r.ask)
    shut(&r.changes)
    shut(&r.policies)
    shut(&r.policy_changes)
    free(r.all)
    free(r.answer)
    r.all, r.answer = NULL, NULL


cdef bint has_changed(Routes *r, int fd) noexcept nogil:
    """Messages that were lost are a change, too."""
    cdef bint changed = False
    cdef int i
    for i in range(MESSAGES if fd >= 0 else 0):
        if recv(fd, r.answer, ROUTE_ANSWER, MSG_DONTWAIT) >= 0 or errno == ENOBUFS:
            changed = True
        elif errno != EINTR:
            break
    return changed


cdef void routes_hear(Routes *r) noexcept nogil:
    cdef int i
    if has_changed(r, r.changes) | has_changed(r, r.policy_changes):
        for i in range(ROUTE_PLACES):
            r.all[i].until = 0


# ---- what is asked -----------------------------------------------------------------------------------

cdef bint ask_route(Routes *r, const uint8_t *ip, const uint8_t *local, int flags, Hop *hop) noexcept nogil:
    """As for a packet of ours: with the mark of our sockets. False: there is none."""
    cdef bint v4 = is_v4(ip)
    cdef uint32_t n = 4 if v4 else 16
    cdef uint32_t skip = 12 if v4 else 0
    cdef uint32_t mark = HK_MARK_OWN
    cdef bint free_ = memcmp(local, NOWHERE, 16) == 0       # the kernel chooses, and rules see no source
    cdef const uint8_t *p
    cdef const uint8_t *metric
    cdef const rtmsg *m
    cdef rtmsg asks
    cdef Question q
    cdef size_t size, inner
    memset(&asks, 0, sizeof(asks))
    asks.rtm_family, asks.rtm_dst_len = AF_INET if v4 else AF_INET6, n * 8
    asks.rtm_src_len = 0 if free_ else n * 8
    asks.rtm_flags = flags
    begin(&q, RTM_GETROUTE, &asks, sizeof(asks))
    add(&q, RTA_DST, ip + skip, n)
    if not free_:
        add(&q, RTA_SRC, local + skip, n)
    add(&q, RTA_MARK, &mark, sizeof(mark))
    cdef size_t total = asked(r, r.ask, &q, RTM_NEWROUTE, sizeof(rtmsg))
    if total == 0:
        return False
    total -= sizeof(nlmsghdr) + sizeof(rtmsg)
    m = <const rtmsg *>(r.answer + sizeof(nlmsghdr))
    cdef const uint8_t *there = <const uint8_t *>m + sizeof(rtmsg)
    hop.plain = (m.rtm_type == RTN_UNICAST_ and found(there, total, RTA_MULTIPATH, 0, &size) == NULL
                 and found(there, total, RTA_VIA, 0, &size) == NULL
                 and found(there, total, RTA_ENCAP, 0, &size) == NULL
                 and found(there, total, RTA_NH_ID, 0, &size) == NULL)
    p = found(there, total, RTA_OIF, 4, &size)
    hop.ifindex = number_at(p) if p != NULL else 0
    p = found(there, total, RTA_GATEWAY, n, &size)
    memcpy(hop.next, p if p != NULL else ip + skip, n)
    memcpy(hop.own, local + skip, n)
    p = found(there, total, RTA_PREFSRC, n, &size) if free_ else NULL
    if p != NULL:
        memcpy(hop.own, p, n)
    hop.ttl = 0
    p = found(there, total, RTA_METRICS, 0, &size)
    if p != NULL:
        metric = found(p, size, HOPS, 4, &inner)
        hop.ttl = <uint8_t>number_at(metric) if metric != NULL else 0
    return hop.ifindex != 0


cdef bint has_policies(Routes *r) noexcept nogil:
    """Or it is not to be known."""
    cdef uint32_t flags = 0
    cdef const uint8_t *p
    cdef Question q
    cdef size_t size
    cdef uint32_t n
    if r.policies < 0:
        return False
    begin(&q, SPD_INFO, &flags, sizeof(flags))
    n = asked(r, r.policies, &q, SPD_INFO - 1, sizeof(flags))
    if n == 0:
        return True
    p = found(r.answer + sizeof(nlmsghdr) + 4, n - sizeof(nlmsghdr) - 4, SPD_COUNTS, 24, &size)
    return p == NULL or number_at(p + 4 * SPD_OUT) != 0


cdef bint ask_link(Routes *r, uint32_t ifindex, Route *out, uint8_t *own, uint8_t *hops) noexcept nogil:
    """Its address, MTU and hop limit (IPv6); False: it is not plain, or not up."""
    cdef uint32_t mask = SKIP_STATS
    cdef const uint8_t *p
    cdef const ifinfomsg *m
    cdef ifinfomsg asks
    cdef Question q
    cdef size_t size
    memset(&asks, 0, sizeof(asks))
    asks.ifi_index = <int>ifindex
    begin(&q, RTM_GETLINK, &asks, sizeof(asks))
    add(&q, IFLA_EXT_MASK, &mask, sizeof(mask))
    cdef size_t total = asked(r, r.ask, &q, RTM_NEWLINK, sizeof(ifinfomsg))
    if total == 0:
        return False
    total -= sizeof(nlmsghdr) + sizeof(ifinfomsg)
    m = <const ifinfomsg *>(r.answer + sizeof(nlmsghdr))
    cdef const uint8_t *there = <const uint8_t *>m + sizeof(ifinfomsg)
    if (m.ifi_type != ARPHRD_ETHER or not m.ifi_flags & IFF_UP or not m.ifi_flags & IFF_RUNNING
            or m.ifi_flags & IFF_NOARP or found(there, total, IFLA_MASTER, 0, &size) != NULL):
        return False
    p = found(there, total, IFLA_LINKINFO, 0, &size)
    if p != NULL:
        p = found(p, size, IFLA_INFO_KIND, 1, &size)
        if p == NULL or size < 4 or memcmp(p, b"veth", 4) != 0:
            return False
    p = found(there, total, IFLA_ADDRESS, LINK, &size)
    if p == NULL or size != LINK:
        return False
    memcpy(own, p, LINK)
    p = found(there, total, IFLA_MTU, 4, &size)
    if p == NULL:
        return False
    out.mtu = number_at(p)
    hops[0] = 0
    p = found(there, total, IFLA_AF_SPEC, 0, &size)
    if p != NULL:
        p = found(p, size, AF_INET6, 0, &size)
    if p != NULL:
        p = found(p, size, IFLA_INET6_CONF, 4 * (HOPS_OF_LINK + 1), &size)
    if p != NULL:
        hops[0] = <uint8_t>number_at(p + 4 * HOPS_OF_LINK)
    return True


cdef bint ask_neighbour(Routes *r, const Hop *hop, bint v4, uint8_t *link) noexcept nogil:
    """Its address on the link; False: the kernel has to find it, or has reason to doubt it."""
    cdef const uint8_t *p
    cdef const ndmsg *m
    cdef ndmsg asks
    cdef Question q
    cdef size_t size
    memset(&asks, 0, sizeof(asks))
    asks.ndm_family, asks.ndm_ifindex = AF_INET if v4 else AF_INET6, <int32_t>hop.ifindex
    begin(&q, RTM_GETNEIGH, &asks, sizeof(asks))
    add(&q, NDA_DST, hop.next, 4 if v4 else 16)
    cdef size_t total = asked(r, r.ask, &q, RTM_NEWNEIGH, sizeof(ndmsg))
    if total == 0:
        return False
    m = <const ndmsg *>(r.answer + sizeof(nlmsghdr))
    if not m.ndm_state & CERTAIN:
        return False
    total -= sizeof(nlmsghdr) + sizeof(ndmsg)
    p = found(<const uint8_t *>m + sizeof(ndmsg), total, NDA_LLADDR, LINK, &size)
    if p == NULL or size != LINK:
        return False
    memcpy(link, p, LINK)
    return True


cdef void make_headers(Route *to, const uint8_t *own, bint v4, uint8_t ttl) noexcept nogil:
    """All behind the addresses of the link that is the same for each packet."""
    cdef uint8_t *p = to.headers + 2 * LINK
    memset(p, 0, ROUTE_HEADERS - 2 * LINK)
    store16(p, 0x0800 if v4 else 0x86DD)
    p += 2
    if v4:
        p[0], p[8], p[9] = 0x45, ttl, PROTOCOL
        store16(p + 6, DONT_FRAGMENT)
        memcpy(p + 12, own, 4)
        memcpy(p + 16, to.ip + 12, 4)
        to.headers_n = 2 * LINK + 2 + 20
    else:
        p[0], p[6], p[7] = 0x60, PROTOCOL, ttl
        memcpy(p + 8, own, 16)
        memcpy(p + 24, to.ip, 16)
        to.headers_n = 2 * LINK + 2 + 40


cdef int find(Routes *r, Route *to) noexcept nogil:
    """carrier_way."""
    cdef bint v4 = is_v4(to.ip)
    cdef Hop matched, hop
    cdef uint8_t hops
    cdef int ttl = 0
    cdef socklen_t n = sizeof(ttl)
    if is_v4(to.local) != v4 and memcmp(to.local, NOWHERE, 16) != 0:
        return C_SOURCE
    if not ask_route(r, to.ip, to.local, FIB_MATCH, &matched) or not matched.plain:
        return C_ROUTE
    if not ask_route(r, to.ip, to.local, 0, &hop) or not hop.plain:
        return C_ROUTE
    if memcmp(hop.own, NOWHERE, 4 if v4 else 16) == 0:
        return C_SOURCE
    to.ifindex = hop.ifindex
    if has_policies(r):
        return C_IPSEC
    if not ask_link(r, hop.ifindex, to, to.headers + LINK, &hops):
        return C_INTERFACE
    if not ask_neighbour(r, &hop, v4, to.headers):
        return C_NEIGHBOUR
    if v4 and getsockopt(r.raw, IPPROTO_IP, IP_TTL, &ttl, &n) == 0:
        hops = <uint8_t>ttl
    if hop.ttl:
        hops = hop.ttl
    if hops == 0:
        return C_ROUTE
    make_headers(to, hop.own, v4, hops)
    return C_FRAME


cdef Route *route_to(Routes *r, const uint8_t *ip, const uint8_t *local, uint64_t now) noexcept nogil:
    cdef uint32_t place = ip[15] ^ ip[14] * 31 ^ ip[13] * 17 ^ ip[7] * 7 ^ local[15] * 113
    cdef Route *to = &r.all[place & (ROUTE_PLACES - 1)]
    if memcmp(to.ip, ip, 16) != 0 or memcmp(to.local, local, 16) != 0:
        memcpy(to.ip, ip, 16)
        memcpy(to.local, local, 16)
        to.until, to.turn = 0, 0
    if now >= to.until:
        to.way = find(r, to)
        to.until = now + (SHORT_LIFE if to.way == C_NEIGHBOUR else LIFE)
    if now >= to.turn and to.way == C_FRAME:
        to.turn = now + TURN
        return NULL
    return to
