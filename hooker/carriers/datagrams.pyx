"""Datagrams by sockets of the kernel's: trains out (UDP_SEGMENT, sendmmsg) and in (UDP_GRO, recvmmsg).

It moves what VTL built and knows nothing of it. One socket for each family; both are marked as ours, so
the kernel programs and the routing rule leave them alone. They have no address, so each datagram says which
of this host's it came to, and each answer from which it goes (RFC 1122 4.1.3.5): a peer hears from no other.

Where the kernel's checksum does not cover all bytes, each datagram ends with its CRC32C (RFC 3720, B.4) in network
byte order. One that does not match is dropped here, and counted.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset
from hooker.carriers.contract cimport *
from hooker.flow.messages cimport crc32c
from hooker.includes.addresses cimport fill_address, port_of, read_address, set_int
from hooker.includes.bytes cimport load32, store32
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
    IPV4_HEADER = 20           # bytes
    IPV4_WORDS = 15            # of its first byte: the header's length

cdef const uint8_t NOWHERE[16]

cdef extern from "<linux/errqueue.h>" nogil:
    struct sock_extended_err:
        uint32_t ee_errno
        uint8_t ee_origin
        uint32_t ee_info


cdef inline Sockets *S(Carrier *c) noexcept nogil:
    return <Sockets *>c


cdef Sockets *sockets_new(const CarrierOps *ops, open_one one, uint32_t properties, uint32_t header,
                          size_t size) noexcept nogil:
    cdef Sockets *s = <Sockets *>calloc(1, size)
    if s == NULL:
        return NULL
    s.base.ops, s.base.properties, s.base.overhead = ops, properties, IPV4_HEADER + header
    s.one = one
    s.base.trains = properties & C_TRAINS != 0
    s.fd[0] = s.fd[1] = -1
    if not properties & C_CHECKED:
        s.base.overhead += TRAILER
        s.tx_parts = <iovec *>malloc(TX_PARTS * sizeof(iovec))
        if s.tx_parts == NULL:
            free(s)
            return NULL
    return s


cdef int open_socket(int kind, int protocol, int family) noexcept nogil:
    cdef int fd = socket(family, kind | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol)
    if fd < 0:
        return -errno
    set_int(fd, SOL_SOCKET, SO_MARK, HK_MARK_OWN)
    set_int(fd, SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BUFFER)
    set_int(fd, SOL_SOCKET, SO_SNDBUFFORCE, SOCKET_BUFFER)
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
    return fd


cdef int bind_socket(int fd, int family, uint16_t port) noexcept nogil:
    cdef sockaddr_storage a
    cdef int err
    memset(&a, 0, sizeof(a))
    a.ss_family = family
    (<sockaddr_in *>&a).sin_port = htons(port)      # the same place in both families
    if bind(fd, <sockaddr *>&a, sizeof(sockaddr_in6) if family == AF_INET6 else sizeof(sockaddr_in)) < 0:
        err = errno
        close(fd)
        return -err
    return fd


cdef int sockets_open(Carrier *c, uint16_t port, uint16_t *bound) noexcept nogil:
    cdef Sockets *s = S(c)
    cdef int i, err = 0
    if s.rx_memory == NULL:
        s.rx_memory = <uint8_t *>malloc(RX_BUFFERS * RX_SIZE)
    if s.rx_memory == NULL:
        return -ENOBUFS
    for i in range(PORT_TRIES if port == 0 else 1):
        s.fd[0] = s.one(c, AF_INET, port)
        if s.fd[0] < 0:
            return s.fd[0]
        bound[0] = port_of(s.fd[0]) if s.base.properties & C_PORTS else port
        s.fd[1] = s.one(c, AF_INET6, bound[0])
        if s.fd[1] >= 0 or s.fd[1] == -EAFNOSUPPORT:     # a host without IPv6
            return 0
        err = s.fd[1]                               # the port is free in one family only, or worse
        close(s.fd[0])
        s.fd[0] = s.fd[1] = -1
    return err


cdef void sockets_close(Carrier *c) noexcept nogil:
    cdef Sockets *s = S(c)
    cdef int i
    for i in range(FAMILIES):
        if s.fd[i] >= 0:
            close(s.fd[i])
            s.fd[i] = -1
    free(s.rx_memory)
    s.rx_memory = NULL


cdef void sockets_free(Carrier *c) noexcept nogil:
    sockets_close(c)
    free(S(c).tx_parts)
    free(c)


cdef int sockets_descriptor(const Carrier *c, int which) noexcept nogil:
    return (<const Sockets *>c).fd[which] if which < FAMILIES else -1


# ---- receive -----------------------------------------------------------------------------------------

cdef int sockets_receive(Carrier *c, int which) noexcept nogil:
    cdef Sockets *s = S(c)
    cdef int i, n
    for i in range(RX_BUFFERS):
        s.rx_iov[i].iov_base = s.rx_memory + i * RX_SIZE
        s.rx_iov[i].iov_len = RX_SIZE
        s.rx[i].msg_hdr.msg_name = &s.rx_from[i]
        s.rx[i].msg_hdr.msg_namelen = sizeof(sockaddr_storage)
        s.rx[i].msg_hdr.msg_iov = &s.rx_iov[i]
        s.rx[i].msg_hdr.msg_iovlen = 1
        s.rx[i].msg_hdr.msg_control = s.rx_control + i * CMSG_ROOM
        s.rx[i].msg_hdr.msg_controllen = CMSG_ROOM
        s.rx[i].msg_hdr.msg_flags = 0
    n = recvmmsg(s.fd[which], s.rx, RX_BUFFERS, MSG_DONTWAIT, NULL)
    if n < 0:
        return 0 if errno == EAGAIN or errno == EINTR else -errno
    c.recv_calls += 1
    return n


cdef inline void read_control(msghdr *m, Datagram *out) noexcept nogil:
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


cdef bint is_whole(uint8_t *data, uint32_t *size) noexcept nogil:
    """Its checksum is right; what is left is the datagram."""
    if size[0] < TRAILER:
        return False
    size[0] -= TRAILER
    return load32(data + size[0]) == crc32c(0, data, size[0])


cdef bint sockets_split(Carrier *c, int train, uint32_t *offset, Datagram *out) noexcept nogil:
    cdef Sockets *s = S(c)
    cdef mmsghdr *m = &s.rx[train]
    cdef uint8_t *data = s.rx_memory + train * RX_SIZE
    cdef uint32_t size
    if offset[0] >= m.msg_len:
        return False
    if offset[0] == 0:
        memset(&out.source, 0, sizeof(vtl_addr))
        out.source.port = read_address(&s.rx_from[train], out.source.ip)
        read_control(&m.msg_hdr, out)
        if s.headers and s.rx_from[train].ss_family == AF_INET:
            offset[0] = (data[0] & IPV4_WORDS) * 4
            if offset[0] >= m.msg_len:
                return False
    size = out.segment
    if size == 0 or size > m.msg_len - offset[0]:
        size = m.msg_len - offset[0]
    data += offset[0]
    offset[0] += size
    if s.tx_parts != NULL and not is_whole(data, &size):
        c.damaged += 1
        return False                                # such trains are one datagram
    out.data = data
    out.size = size
    c.received += 1
    return True


# ---- send --------------------------------------------------------------------------------------------

cdef uint32_t train_end(Sockets *s, vtl_batch *b, uint32_t first, uint32_t apart) noexcept nogil:
    """One past the last datagram that can go with `first`: same peer, size and ECN bits; a shorter one ends it.
    What may be too large for our own link goes by itself, so that it takes nothing with it: a probe, and a train
    that was refused, up to `apart`."""
    cdef vtl_datagram *head = &b.dgram[first]
    cdef uint32_t i = first + 1, bytes_ = head.size
    if not s.base.trains or head.alone or first < apart:
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


cdef void add_sum(Sockets *s, int slot) noexcept nogil:
    """A checksum behind the one datagram of a slot. Its parts are copied, for there the next datagram's follow."""
    cdef msghdr *m = &s.tx[slot].msg_hdr
    cdef iovec *parts = s.tx_parts + s.tx_part
    cdef uint32_t crc = 0
    cdef size_t i
    for i in range(m.msg_iovlen):
        parts[i] = m.msg_iov[i]
        crc = crc32c(crc, <const uint8_t *>parts[i].iov_base, parts[i].iov_len)
    store32(<uint8_t *>&s.tx_sums[slot], crc)
    parts[m.msg_iovlen].iov_base = &s.tx_sums[slot]
    parts[m.msg_iovlen].iov_len = TRAILER
    m.msg_iov = parts
    m.msg_iovlen += 1
    s.tx_part += <uint32_t>m.msg_iovlen


cdef bint fill_train(Sockets *s, int slot, vtl_batch *b, uint32_t first, uint32_t end) noexcept nogil:
    cdef msghdr *m = &s.tx[slot].msg_hdr
    cdef vtl_datagram *head = &b.dgram[first]
    cdef vtl_datagram *tail = &b.dgram[end - 1]
    cdef uint8_t *control = s.tx_control + slot * CMSG_ROOM
    cdef uint16_t segment = head.size
    cdef int ecn = head.ecn
    cdef bint v6
    memset(m, 0, sizeof(msghdr))
    s.tx_alone[slot] = head.alone
    m.msg_namelen = fill_address(&s.tx_to[slot], head.to.ip, head.to.port)
    v6 = s.tx_to[slot].ss_family == AF_INET6
    m.msg_name = &s.tx_to[slot]
    m.msg_iov = <iovec *>(b.iov + head.first)
    m.msg_iovlen = tail.first + tail.count - head.first
    if end - first > 1:
        add_control(m, control, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof(segment))
    if ecn:
        add_control(m, control, IPPROTO_IPV6 if v6 else IPPROTO_IP, IPV6_TCLASS if v6 else IP_TOS, &ecn, sizeof(ecn))
    add_source(m, control, head.to.local, v6)
    if s.tx_parts != NULL:
        add_sum(s, slot)
    return v6


cdef int prepare(Sockets *s, vtl_batch *b, uint32_t first, uint32_t apart, uint32_t *ends, bint *v6) noexcept nogil:
    """Trains from `first` on, all of one family."""
    cdef uint32_t at = first
    cdef int trains = 0
    cdef bint family
    s.tx_part = 0
    while at < b.dgram_len and trains < TX_TRAINS:
        ends[trains] = train_end(s, b, at, apart)
        family = fill_train(s, trains, b, at, ends[trains])
        if trains and family != v6[0]:
            break
        v6[0] = family
        at = ends[trains]
        trains += 1
    return trains


cdef int send_trains(Sockets *s, int fd, int trains, bint *refused) noexcept nogil:
    """How many have been sent: fewer than given when the socket is full, GSO was switched off, or the next one is
    refused."""
    cdef int done = 0, failures = 0, n
    while done < trains:
        n = sendmmsg(fd, &s.tx[done], trains - done, MSG_DONTWAIT | MSG_NOSIGNAL)
        s.base.send_calls += 1
        if n > 0:
            done += n
            failures = 0
            s.queue_full = 0
            continue
        if errno == EAGAIN or (errno == ENOBUFS and not s.tx_alone[done] and s.queue_full < QUEUE_TRIES):
            s.queue_full += errno == ENOBUFS
            s.blocked = True
            break
        s.base.send_errors += 1
        if errno == ENOBUFS:     # a link that drops what is too large for its other end says the same, for ever
            refused[0] = True
            break
        if s.base.trains and errno == EIO:
            s.base.trains = False        # no checksum offload here: one by one from now on
            break
        failures += 1
        if failures == SEND_TRIES:
            refused[0] = True
            break
    return done


cdef uint32_t sockets_send(Carrier *c, vtl_batch *b, uint32_t first) noexcept nogil:
    """A train is refused as a whole, with EMSGSIZE or (before Linux 6.14) EINVAL, when our own link carries its
    size no more. Its datagrams then go one by one; those still refused are lost, as they would be farther on.
    Nothing waits for a datagram that stands alone."""
    cdef Sockets *s = S(c)
    cdef uint32_t ends[TX_TRAINS]
    cdef uint32_t at = first, apart = first
    cdef int trains, done
    cdef bint v6 = False, refused
    s.blocked = False
    while at < b.dgram_len and not s.blocked:
        refused = False
        trains = prepare(s, b, at, apart, ends, &v6)
        done = send_trains(s, s.fd[v6], trains, &refused) if s.fd[v6] >= 0 else trains
        if done:
            c.sent += ends[done - 1] - at
            at = ends[done - 1]
        if refused and ends[done] - at > 1:
            apart = ends[done]
        elif refused:
            at += 1
    return at


cdef int sockets_error(Carrier *c, int which, PathError *out) noexcept nogil:
    cdef uint8_t control[256]
    cdef sockaddr_storage name
    cdef iovec iov
    cdef msghdr m
    cdef cmsghdr *cm
    cdef sock_extended_err *ee
    cdef ssize_t n
    if which >= FAMILIES:
        return 0
    memset(&m, 0, sizeof(m))
    iov.iov_base = out.quoted
    iov.iov_len = sizeof(out.quoted)
    m.msg_name = &name
    m.msg_namelen = sizeof(name)
    m.msg_iov = &iov
    m.msg_iovlen = 1
    m.msg_control = control
    m.msg_controllen = sizeof(control)
    n = recvmsg(S(c).fd[which], &m, MSG_ERRQUEUE | MSG_DONTWAIT)
    if n < 0:
        return 0
    out.size, out.mtu = n, 0
    memset(&out.to, 0, sizeof(vtl_addr))
    out.to.port = read_address(&name, out.to.ip)
    cm = CMSG_FIRSTHDR(&m)
    while cm != NULL:
        # of the others (TOS, packet info) what would be the origin lies behind their end
        if ((cm.cmsg_level == IPPROTO_IP and cm.cmsg_type == IP_RECVERR)
                or (cm.cmsg_level == IPPROTO_IPV6 and cm.cmsg_type == IPV6_RECVERR)):
            ee = <sock_extended_err *>CMSG_DATA(cm)
            if ee.ee_errno == EMSGSIZE:
                out.mtu = ee.ee_info
            if ee.ee_origin == EE_ORIGIN_ICMP or ee.ee_origin == EE_ORIGIN_ICMP6:
                return ee.ee_errno if n else ECONNREFUSED    # who quotes nothing has proven nothing, and is not our own link
        cm = CMSG_NXTHDR(&m, cm)
    out.size = 0
    return EMSGSIZE


cdef void sockets_ops(CarrierOps *ops) noexcept nogil:
    ops.open, ops.close, ops.free, ops.descriptor = sockets_open, sockets_close, sockets_free, sockets_descriptor
    ops.receive, ops.split = sockets_receive, sockets_split
    ops.send, ops.error = sockets_send, sockets_error
