"""What the kernel puts in front of a packet to a peer, asked for by rtnetlink(7): route, link and neighbour.

Only what is plain becomes a header: one next hop, an Ethernet link that is a card or a veth, a neighbour that
the kernel holds valid and does not doubt, no IPsec. All else is the kernel's own work, for a reason.

The kernel answers within the call that asks, as soon as it has its own lock (RTNL), for which another program
may let it wait.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from hooker.carriers.contract cimport C_FRAME, C_INTERFACE, C_IPSEC, C_NEIGHBOUR, C_ROUTE, C_SOURCE
from hooker.includes.bytes cimport store16
from hooker.includes.hk cimport HK_MARK_OWN
from hooker.includes.ip cimport is_v4
from hooker.includes.linux cimport *

cdef enum:
    LINK = 6                   # bytes of an Ethernet address
    TRIES = 64                 # answers that are passed over: those of questions before
    PROTOCOL = 253
    ANSWER = 16384             # bytes of what the kernel says at once
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

cdef extern from "<errno.h>" nogil:
    enum:
        EPROTONOSUPPORT

cdef extern from "<netinet/in.h>" nogil:
    enum:
        IP_TTL

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


cdef uint32_t asked(NextHops *h, int fd, Question *q, int kind, size_t body) noexcept nogil:
    """Bytes of the answer, which is in `h.answer`; 0: it is none of that kind."""
    cdef nlmsghdr *m = <nlmsghdr *>h.answer
    cdef ssize_t n
    cdef int tries
    h.number += 1
    q.head.nlmsg_seq = h.number
    if send(fd, q, q.head.nlmsg_len, 0) < 0:
        return 0
    for tries in range(TRIES):                  # what an earlier question left
        n = recv(fd, h.answer, ANSWER, MSG_DONTWAIT)
        if n < <ssize_t>sizeof(nlmsghdr):
            return 0
        if m.nlmsg_seq == h.number:
            break
    if (m.nlmsg_seq != h.number or m.nlmsg_type != kind or m.nlmsg_len > n
            or m.nlmsg_len < sizeof(nlmsghdr) + body):
        return 0
    return m.nlmsg_len


cdef const uint8_t *attribute(const uint8_t *p, size_t n, int kind, size_t least,
                              size_t *size) noexcept nogil:
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


cdef void shut(int *fd) noexcept nogil:
    if fd[0] >= 0:
        close(fd[0])
    fd[0] = -1


cdef int next_hops_open(NextHops *h) noexcept nogil:
    memset(h, 0, sizeof(NextHops))
    h.ask = h.policies = h.hops = -1
    h.ask = netlink(NETLINK_ROUTE, 0)
    if h.ask < 0:
        return h.ask
    h.policies = netlink(NETLINK_XFRM, 0)           # a kernel without IPsec has no such protocol
    h.hops = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)
    h.answer = <uint8_t *>malloc(ANSWER)
    if h.hops < 0 or h.answer == NULL or (h.policies < 0 and h.policies != -EPROTONOSUPPORT):
        next_hops_close(h)
        return -ENOBUFS
    return 0


cdef void next_hops_close(NextHops *h) noexcept nogil:
    shut(&h.ask)
    shut(&h.policies)
    shut(&h.hops)
    free(h.answer)
    h.answer = NULL


# ---- what is asked -----------------------------------------------------------------------------------

cdef bint ask_route(NextHops *h, const uint8_t *ip, const uint8_t *local, int flags, Hop *hop) noexcept nogil:
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
    cdef size_t total = asked(h, h.ask, &q, RTM_NEWROUTE, sizeof(rtmsg))
    if total == 0:
        return False
    total -= sizeof(nlmsghdr) + sizeof(rtmsg)
    m = <const rtmsg *>(h.answer + sizeof(nlmsghdr))
    cdef const uint8_t *there = <const uint8_t *>m + sizeof(rtmsg)
    hop.plain = (m.rtm_type == RTN_UNICAST_ and attribute(there, total, RTA_MULTIPATH, 0, &size) == NULL
                 and attribute(there, total, RTA_VIA, 0, &size) == NULL
                 and attribute(there, total, RTA_ENCAP, 0, &size) == NULL
                 and attribute(there, total, RTA_NH_ID, 0, &size) == NULL)
    p = attribute(there, total, RTA_OIF, 4, &size)
    hop.ifindex = number_at(p) if p != NULL else 0
    p = attribute(there, total, RTA_GATEWAY, n, &size)
    memcpy(hop.next, p if p != NULL else ip + skip, n)
    memcpy(hop.own, local + skip, n)
    p = attribute(there, total, RTA_PREFSRC, n, &size) if free_ else NULL
    if p != NULL:
        memcpy(hop.own, p, n)
    hop.ttl = 0
    p = attribute(there, total, RTA_METRICS, 0, &size)
    if p != NULL:
        metric = attribute(p, size, HOPS, 4, &inner)
        hop.ttl = <uint8_t>number_at(metric) if metric != NULL else 0
    return hop.ifindex != 0


cdef bint has_policies(NextHops *h) noexcept nogil:
    """Or it is not to be known."""
    cdef uint32_t flags = 0
    cdef const uint8_t *p
    cdef Question q
    cdef size_t size
    cdef uint32_t n
    if h.policies < 0:
        return False
    begin(&q, SPD_INFO, &flags, sizeof(flags))
    n = asked(h, h.policies, &q, SPD_INFO - 1, sizeof(flags))
    if n == 0:
        return True
    p = attribute(h.answer + sizeof(nlmsghdr) + 4, n - sizeof(nlmsghdr) - 4, SPD_COUNTS, 24, &size)
    return p == NULL or number_at(p + 4 * SPD_OUT) != 0


cdef bint ask_link(NextHops *h, uint32_t ifindex, NextHop *out, uint8_t *own, uint8_t *hops) noexcept nogil:
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
    cdef size_t total = asked(h, h.ask, &q, RTM_NEWLINK, sizeof(ifinfomsg))
    if total == 0:
        return False
    total -= sizeof(nlmsghdr) + sizeof(ifinfomsg)
    m = <const ifinfomsg *>(h.answer + sizeof(nlmsghdr))
    cdef const uint8_t *there = <const uint8_t *>m + sizeof(ifinfomsg)
    if (m.ifi_type != ARPHRD_ETHER or not m.ifi_flags & IFF_UP or not m.ifi_flags & IFF_RUNNING
            or m.ifi_flags & IFF_NOARP or attribute(there, total, IFLA_MASTER, 0, &size) != NULL):
        return False
    p = attribute(there, total, IFLA_LINKINFO, 0, &size)
    if p != NULL:
        p = attribute(p, size, IFLA_INFO_KIND, 1, &size)
        if p == NULL or size < 4 or memcmp(p, b"veth", 4) != 0:
            return False
    p = attribute(there, total, IFLA_ADDRESS, LINK, &size)
    if p == NULL or size != LINK:
        return False
    memcpy(own, p, LINK)
    p = attribute(there, total, IFLA_MTU, 4, &size)
    if p == NULL:
        return False
    out.mtu = number_at(p)
    hops[0] = 0
    p = attribute(there, total, IFLA_AF_SPEC, 0, &size)
    if p != NULL:
        p = attribute(p, size, AF_INET6, 0, &size)
    if p != NULL:
        p = attribute(p, size, IFLA_INET6_CONF, 4 * (HOPS_OF_LINK + 1), &size)
    if p != NULL:
        hops[0] = <uint8_t>number_at(p + 4 * HOPS_OF_LINK)
    return True


cdef bint ask_neighbour(NextHops *h, const Hop *hop, bint v4, uint8_t *link) noexcept nogil:
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
    cdef size_t total = asked(h, h.ask, &q, RTM_NEWNEIGH, sizeof(ndmsg))
    if total == 0:
        return False
    m = <const ndmsg *>(h.answer + sizeof(nlmsghdr))
    if not m.ndm_state & CERTAIN:
        return False
    total -= sizeof(nlmsghdr) + sizeof(ndmsg)
    p = attribute(<const uint8_t *>m + sizeof(ndmsg), total, NDA_LLADDR, LINK, &size)
    if p == NULL or size != LINK:
        return False
    memcpy(link, p, LINK)
    return True


cdef void make_headers(NextHop *to, const uint8_t *own, bint v4, uint8_t ttl) noexcept nogil:
    """All behind the addresses of the link that is the same for each packet."""
    cdef uint8_t *p = to.headers + 2 * LINK
    memset(p, 0, NEXT_HOP_HEADERS - 2 * LINK)
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


cdef int find(NextHops *h, NextHop *to) noexcept nogil:
    """carrier_way."""
    cdef bint v4 = is_v4(to.ip)
    cdef Hop matched, hop
    memset(&hop, 0, sizeof(hop))
    cdef uint8_t hops
    cdef int ttl = 0
    cdef socklen_t n = sizeof(ttl)
    if is_v4(to.local) != v4 and memcmp(to.local, NOWHERE, 16) != 0:
        return C_SOURCE
    if not ask_route(h, to.ip, to.local, FIB_MATCH, &matched) or not matched.plain:
        return C_ROUTE
    if not ask_route(h, to.ip, to.local, 0, &hop) or not hop.plain:
        return C_ROUTE
    if memcmp(hop.own, NOWHERE, 4 if v4 else 16) == 0:
        return C_SOURCE
    to.ifindex = hop.ifindex
    memcpy(to.next, hop.next, 16)
    if has_policies(h):
        return C_IPSEC
    if not ask_link(h, hop.ifindex, to, to.headers + LINK, &hops):
        return C_INTERFACE
    if not ask_neighbour(h, &hop, v4, to.headers):
        return C_NEIGHBOUR
    if v4 and getsockopt(h.hops, IPPROTO_IP, IP_TTL, &ttl, &n) == 0:
        hops = <uint8_t>ttl
    if hop.ttl:
        hops = hop.ttl
    if hops == 0:
        return C_ROUTE
    make_headers(to, hop.own, v4, hops)
    return C_FRAME


cdef int next_hop_find(NextHops *h, NextHop *to) noexcept nogil:
    to.ifindex = 0
    to.way = find(h, to)
    return to.way
