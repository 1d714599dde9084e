"""The UDP carrier: trains of datagrams out (UDP_SEGMENT, sendmmsg) and in (UDP_GRO, recvmmsg).

It moves what VTL built and knows nothing of it. One socket for each family; both are marked as ours, so
the kernel programs and the routing rule leave them alone. They have no address, so each datagram says which
of this host's it came to, and each answer from which it goes (RFC 1122 4.1.3.5): a peer hears from no other.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from hooker.includes.addresses cimport fill_address, port_of, read_address, set_int
from hooker.includes.hk cimport HK_MARK_OWN
from hooker.includes.linux cimport *
from hooker.includes.ip cimport map_v4
from hooker.vtl.api cimport same_ends, vtl_addr, vtl_batch, vtl_datagram

cdef enum:
    SOCKET_BUFFER = 32 << 20     # bytes: more than any window we give
    PORT_TRIES = 16              # for a port that is free in both families
    MAX_TRAIN = 65000            # bytes of one GSO send: below 64 KiB with all headers
    MAX_SEGMENTS = 64            # UDP_MAX_SEGMENTS of older kernels
    PMTUDISC_PROBE = 3           # never fragmented, and no size but VTL's own is believed
    SEND_TRIES = 3               # the first may only report an earlier ICMP error
    QUEUE_TRIES = 50             # rounds that a full queue of the link may take nothing
    ECN_BITS = 3
    EE_ORIGIN_ICMP = 2
    EE_ORIGIN_ICMP6 = 3

cdef const uint8_t NOWHERE[16]

cdef extern from "<linux/errqueue.h>" nogil:
    struct sock_extended_err:
        uint32_t ee_errno
        uint8_t ee_origin


cdef int open_family(int family, uint16_t port) noexcept nogil:
    cdef sockaddr_storage a
    cdef int fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    cdef int err
    if fd < 0:
        return -errno
    memset(&a, 0, sizeof(a))
    a.ss_family = family
    (<sockaddr_in *>&a).sin_port = htons(port)      # the same place in both families
    set_int(fd, SOL_SOCKET, SO_MARK, HK_MARK_OWN)
    set_int(fd, SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BUFFER)
    set_int(fd, SOL_SOCKET, SO_SNDBUFFORCE, SOCKET_BUFFER)
    set_int(fd, IPPROTO_UDP, UDP_GRO, 1)
    if family == AF_INET6:
        set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1)
        set_int(fd, IPPROTO_IPV6, IPV6_RECVERR, 1)
        set_int(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1)
        set_int(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
        set_int(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE)
    else:
        set_int(fd, IPPROTO_IP, IP_RECVERR, 1)
        set_int(fd, IPPROTO_IP, IP_RECVTOS, 1)
        set_int(fd, IPPROTO_IP, IP_PKTINFO, 1)
        set_int(fd, IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE)
    if bind(fd, <sockaddr *>&a, sizeof(sockaddr_in6) if family == AF_INET6 else sizeof(sockaddr_in)) < 0:
        err = errno
        close(fd)
        return -err
    return fd


cdef int udp_open(udp_carrier *c, uint16_t port, uint16_t *bound) noexcept nogil:
    cdef int i, err = 0
    memset(c, 0, sizeof(udp_carrier))
    c.fd[0] = c.fd[1] = -1
    c.gso = True
    c.rx_memory = <uint8_t *>malloc(RX_BUFFERS * RX_SIZE)
    if c.rx_memory == NULL:
        return -ENOBUFS
    for i in range(PORT_TRIES if port == 0 else 1):
        c.fd[0] = open_family(AF_INET, port)
        if c.fd[0] < 0:
            return c.fd[0]
        bound[0] = port_of(c.fd[0])
        c.fd[1] = open_family(AF_INET6, bound[0])
        if c.fd[1] >= 0 or c.fd[1] == -EAFNOSUPPORT:     # a host without IPv6
            return 0
        err = c.fd[1]                               # the port is free in one family only, or worse
        close(c.fd[0])
        c.fd[0] = c.fd[1] = -1
    return err


cdef void udp_close(udp_carrier *c) noexcept nogil:
    cdef int i
    for i in range(2):
        if c.fd[i] >= 0:
            close(c.fd[i])
            c.fd[i] = -1
    free(c.rx_memory)
    c.rx_memory = NULL


# ---- receive -----------------------------------------------------------------------------------------

cdef int udp_receive(udp_carrier *c, int which) noexcept nogil:
    cdef int i, n
    for i in range(RX_BUFFERS):
        c.rx_iov[i].iov_base = c.rx_memory + i * RX_SIZE
        c.rx_iov[i].iov_len = RX_SIZE
        c.rx[i].msg_hdr.msg_name = &c.rx_from[i]
        c.rx[i].msg_hdr.msg_namelen = sizeof(sockaddr_storage)
        c.rx[i].msg_hdr.msg_iov = &c.rx_iov[i]
        c.rx[i].msg_hdr.msg_iovlen = 1
        c.rx[i].msg_hdr.msg_control = c.rx_control + i * CMSG_ROOM
        c.rx[i].msg_hdr.msg_controllen = CMSG_ROOM
        c.rx[i].msg_hdr.msg_flags = 0
    n = recvmmsg(c.fd[which], c.rx, RX_BUFFERS, MSG_DONTWAIT, NULL)
    if n < 0:
        return 0 if errno == EAGAIN or errno == EINTR else -errno
    c.recv_calls += 1
    return n


cdef inline void read_control(msghdr *m, udp_datagram *out) noexcept nogil:
    """What the kernel says about a train: size of its datagrams, their ECN bits, and to which address they came."""
    cdef cmsghdr *cm = CMSG_FIRSTHDR(m)
    cdef int value
    out.segment = 0
    out.ecn = 0
    while cm != NULL:
        if cm.cmsg_level == IPPROTO_IP and cm.cmsg_type == IP_TOS:
            out.ecn = (<uint8_t *>CMSG_DATA(cm))[0] & ECN_BITS
        elif cm.cmsg_level == IPPROTO_IP and cm.cmsg_type == IP_PKTINFO:
            map_v4(<const uint8_t *>CMSG_DATA(cm) + 4, out.source.local)    # ipi_spec_dst, behind the interface
        elif cm.cmsg_level == IPPROTO_IPV6 and cm.cmsg_type == IPV6_PKTINFO:
            memcpy(out.source.local, CMSG_DATA(cm), 16)                     # ipi6_addr
        else:
            memcpy(&value, CMSG_DATA(cm), sizeof(value))
            if cm.cmsg_level == IPPROTO_UDP and cm.cmsg_type == UDP_GRO:
                out.segment = value
            elif cm.cmsg_level == IPPROTO_IPV6 and cm.cmsg_type == IPV6_TCLASS:
                out.ecn = value & ECN_BITS
        cm = CMSG_NXTHDR(m, cm)


cdef int udp_split(udp_carrier *c, int train, uint32_t *offset, udp_datagram *out) noexcept nogil:
    """The next datagram of a train; `offset` starts at 0 and is moved on, `out` keeps what holds for all."""
    cdef mmsghdr *m = &c.rx[train]
    cdef uint32_t size
    if offset[0] >= m.msg_len:
        return 0
    if offset[0] == 0:
        memset(&out.source, 0, sizeof(vtl_addr))
        out.source.port = read_address(&c.rx_from[train], out.source.ip)
        read_control(&m.msg_hdr, out)
    size = out.segment
    if size == 0 or size > m.msg_len - offset[0]:
        size = m.msg_len - offset[0]
    out.data = c.rx_memory + train * RX_SIZE + offset[0]
    out.size = size
    offset[0] += size
    c.datagrams_received += 1
    return 1


# ---- send --------------------------------------------------------------------------------------------

cdef uint32_t train_end(udp_carrier *c, vtl_batch *b, uint32_t first, uint32_t apart) noexcept nogil:
    """One past the last datagram that can go with `first`: same peer, size and ECN bits; a shorter one ends it.
    What may be too large for our own link goes by itself, so that it takes nothing with it: a probe, and a train
    that was refused, up to `apart`."""
    cdef vtl_datagram *head = &b.dgram[first]
    cdef uint32_t i = first + 1, bytes_ = head.size
    if not c.gso or head.alone or first < apart:
        return i
    while i < b.dgram_len and i - first < MAX_SEGMENTS and b.dgram[i].size <= head.size:
        bytes_ += b.dgram[i].size
        if bytes_ > MAX_TRAIN or b.dgram[i].alone or b.dgram[i].ecn != head.ecn or not same_ends(&b.dgram[i].to, &head.to):
            return i
        i += 1
        if b.dgram[i - 1].size < head.size:
            return i
    return i


cdef void add_control(msghdr *m, uint8_t *control, int level, int name, const void *value, size_t n) noexcept nogil:
    """One more control message; `control` has room for all."""
    cdef cmsghdr *cm = <cmsghdr *>(control + m.msg_controllen)
    m.msg_control = control
    m.msg_controllen += CMSG_SPACE(n)
    cm.cmsg_level = level
    cm.cmsg_type = name
    cm.cmsg_len = CMSG_LEN(n)
    memcpy(CMSG_DATA(cm), value, n)


cdef void add_source(msghdr *m, uint8_t *control, const uint8_t *local, bint v6) noexcept nogil:
    """The address that it goes from, on whichever interface the routes say: in_pktinfo, or in6_pktinfo."""
    cdef uint8_t info[20]
    if memcmp(local, NOWHERE, 16) == 0:
        return
    memset(info, 0, sizeof(info))
    if v6:
        memcpy(info, local, 16)
        add_control(m, control, IPPROTO_IPV6, IPV6_PKTINFO, info, 20)
    else:
        memcpy(info + 4, local + 12, 4)
        add_control(m, control, IPPROTO_IP, IP_PKTINFO, info, 12)


cdef bint fill_train(udp_carrier *c, int slot, vtl_batch *b, uint32_t first, uint32_t end) noexcept nogil:
    cdef msghdr *m = &c.tx[slot].msg_hdr
    cdef vtl_datagram *head = &b.dgram[first]
    cdef vtl_datagram *tail = &b.dgram[end - 1]
    cdef uint8_t *control = c.tx_control + slot * CMSG_ROOM
    cdef uint16_t segment = head.size
    cdef int ecn = head.ecn
    cdef bint v6
    memset(m, 0, sizeof(msghdr))
    c.tx_alone[slot] = head.alone
    m.msg_namelen = fill_address(&c.tx_to[slot], head.to.ip, head.to.port)
    v6 = c.tx_to[slot].ss_family == AF_INET6
    m.msg_name = &c.tx_to[slot]
    m.msg_iov = <iovec *>(b.iov + head.first)
    m.msg_iovlen = tail.first + tail.count - head.first
    if end - first > 1:
        add_control(m, control, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof(segment))
    if ecn:
        add_control(m, control, IPPROTO_IPV6 if v6 else IPPROTO_IP, IPV6_TCLASS if v6 else IP_TOS, &ecn, sizeof(ecn))
    add_source(m, control, head.to.local, v6)
    return v6


cdef int prepare(udp_carrier *c, vtl_batch *b, uint32_t first, uint32_t apart, uint32_t *ends, bint *v6) noexcept nogil:
    """Trains from `first` on, all of one family."""
    cdef uint32_t at = first
    cdef int trains = 0
    cdef bint family
    while at < b.dgram_len and trains < TX_TRAINS:
        ends[trains] = train_end(c, b, at, apart)
        family = fill_train(c, trains, b, at, ends[trains])
        if trains and family != v6[0]:
            break
        v6[0] = family
        at = ends[trains]
        trains += 1
    return trains


cdef int send_trains(udp_carrier *c, int fd, int trains, bint *refused) noexcept nogil:
    """How many have been sent: fewer than given when the socket is full, GSO was switched off, or the next one is
    refused."""
    cdef int done = 0, failures = 0, n
    while done < trains:
        n = sendmmsg(fd, &c.tx[done], trains - done, MSG_DONTWAIT | MSG_NOSIGNAL)
        c.send_calls += 1
        if n > 0:
            done += n
            failures = 0
            c.queue_full = 0
            continue
        if errno == EAGAIN or (errno == ENOBUFS and not c.tx_alone[done] and c.queue_full < QUEUE_TRIES):
            c.queue_full += errno == ENOBUFS
            c.blocked = True
            break
        c.send_errors += 1
        if errno == ENOBUFS:     # a link that drops what is too large for its other end says the same, for ever
            refused[0] = True
            break
        if c.gso and errno == EIO:
            c.gso = False        # no checksum offload here: one by one from now on
            break
        failures += 1
        if failures == SEND_TRIES:
            refused[0] = True
            break
    return done


cdef uint32_t udp_send(udp_carrier *c, vtl_batch *b, uint32_t first) noexcept nogil:
    """A train is refused as a whole, with EMSGSIZE or (before Linux 6.14) EINVAL, when our own link carries its
    size no more. Its datagrams then go one by one; those still refused are lost, as they would be farther on.
    Nothing waits for a datagram that stands alone."""
    cdef uint32_t ends[TX_TRAINS]
    cdef uint32_t at = first, apart = first
    cdef int trains, done
    cdef bint v6 = False, refused
    c.blocked = False
    while at < b.dgram_len and not c.blocked:
        refused = False
        trains = prepare(c, b, at, apart, ends, &v6)
        done = send_trains(c, c.fd[v6], trains, &refused) if c.fd[v6] >= 0 else trains
        if done:
            c.datagrams_sent += ends[done - 1] - at
            at = ends[done - 1]
        if refused and ends[done] - at > 1:
            apart = ends[done]
        elif refused:
            at += 1
    return at


cdef int udp_error(udp_carrier *c, int which, udp_icmp *out) noexcept nogil:
    cdef uint8_t control[256]
    cdef sockaddr_storage name
    cdef iovec iov
    cdef msghdr m
    cdef cmsghdr *cm
    cdef sock_extended_err *ee
    cdef ssize_t n
    memset(&m, 0, sizeof(m))
    iov.iov_base = out.quoted
    iov.iov_len = sizeof(out.quoted)
    m.msg_name = &name
    m.msg_namelen = sizeof(name)
    m.msg_iov = &iov
    m.msg_iovlen = 1
    m.msg_control = control
    m.msg_controllen = sizeof(control)
    n = recvmsg(c.fd[which], &m, MSG_ERRQUEUE | MSG_DONTWAIT)
    if n < 0:
        return 0
    out.size = n
    memset(&out.to, 0, sizeof(vtl_addr))
    out.to.port = read_address(&name, out.to.ip)
    cm = CMSG_FIRSTHDR(&m)
    while cm != NULL:
        if cm.cmsg_level == IPPROTO_IP or cm.cmsg_level == IPPROTO_IPV6:
            ee = <sock_extended_err *>CMSG_DATA(cm)
            if ee.ee_origin == EE_ORIGIN_ICMP or ee.ee_origin == EE_ORIGIN_ICMP6:
                return ee.ee_errno
        cm = CMSG_NXTHDR(&m, cm)
    return EMSGSIZE              # our own link's answer: the sender has seen it
