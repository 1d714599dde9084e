"""DCCP (RFC 4340) as a carrier: unreliable datagrams on connections whose congestion control is the kernel's.

1. A peer's address is that of a connection. What is sent to one that has none makes one; until it is there
   the last datagram waits. Who has connected is answered there, and nowhere else.
2. The kernel sends no more than CCID 2 (RFC 4341) or 3 (RFC 4342) lets it, and queues what is more.
   What the queue has no room for is lost, for one peer that takes nothing must not hold up the others.
3. Who connects may be anybody. So many connections in all and of one source; who says nothing at first is
   closed, and where room is wanted the one silent for longest, if it has been for a while. For an answer to
   an address that has proven nothing no connection is made: who has gone would have us hold one for him.
4. Where there is no descriptor for one more, nobody is accepted for a moment: a timer says when.

All sockets are in an epoll of the carrier's own, which is its only descriptor.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset
from hooker.carriers.contract cimport *
from hooker.includes.addresses cimport fill_address, port_of, read_address, set_int
from hooker.includes.clock cimport clock_ns
from hooker.includes.hk cimport HK_MARK_OWN
from hooker.includes.ip cimport is_v4
from hooker.includes.linux cimport *
from hooker.vtl.api cimport same_addr, vtl_addr, vtl_batch, vtl_datagram

from hooker.errors import ConfigurationError

CONTRACT = CARRIER_CONTRACT

cdef extern from "<sys/timerfd.h>" nogil:
    struct itimerspec:
        timespec it_interval
        timespec it_value
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec *new, itimerspec *old)
    enum:
        TFD_NONBLOCK
        TFD_CLOEXEC

cdef enum:
    SOCK_DCCP = 6
    IPPROTO_DCCP = 33
    SOL_DCCP = 269
    DCCP_SERVICE = 2
    DCCP_CCID = 13
    DCCP_TXQLEN = 17
    SERVICE = 0x484c5456       # "VTLH" as it lies in memory
    EPOLL_CLOSES = 0x80000     # EPOLL_CLOEXEC
    HEADERS = 84               # bytes: IPv4, generic header, and the options that the kernel leaves room for
    CONNECTIONS = 512
    INCOMING = 384             # of these, begun by peers
    OF_SOURCE = 16             # begun by an IPv4 address, or an IPv6 /64
    FIRST_WITHIN = 3000000000  # ns from the connection to its first datagram
    BEGUN_WITHIN = 10000000000 # ns until one of ours is there
    EVICTABLE = 10000000000    # ns of silence
    SWEPT_EVERY = 500000000    # ns
    TX_QUEUE = 2048            # datagrams of a connection: VTL's window (carried.pyx)
    SHORT_QUEUE = 128          # where the transport bounds nothing
    TX_BUFFER = 8 << 20        # bytes: more than that
    RX_BUFFER = 2 << 20        # bytes
    PENDING = 1500             # bytes of a datagram that waits for its connection
    RX_BUFFERS = 32            # datagrams of a batch
    RX_SIZE = 65536
    OF_ONE = 8                 # datagrams of a connection, then the next one has its turn
    EVENTS = 64
    ACCEPTS = 16
    PORT_TRIES = 16            # for one that is free in both families
    ERRORS = 16
    BACKLOG = 64               # connections that are not accepted yet
    LISTENERS = 0xFFFFFF00     # names of theirs in the epoll
    TIMER = 0xFFFFFF02
    PAUSE = 100000000          # ns, when there is no descriptor for one more

cdef const uint8_t NOWHERE[16]

cdef struct Connection:
    int fd                     # -1: none
    uint32_t serial            # of what it was used for: an event of an earlier one is not its own
    bint incoming
    bint connecting
    bint heard                 # it has said something
    uint64_t last              # ns: heard, or begun
    uint32_t pending           # bytes that wait
    vtl_addr peer

cdef struct Dccp:
    Carrier base
    uint8_t ccids[2]           # the one that we want first
    int queue                  # datagrams of a connection that wait
    int epoll                  # -1: not open
    int listener[2]            # IPv4, IPv6
    int timer                  # when they are heard again
    Connection *all            # CONNECTIONS
    uint8_t *pending           # PENDING bytes each
    uint32_t top               # none is used from there on
    uint32_t incoming
    uint32_t serial
    uint64_t swept             # ns
    Connection *last           # that was found
    PathError errors[16]       # ERRORS
    int errno_of[16]
    uint32_t errors_n
    uint8_t *rx                # RX_BUFFERS of RX_SIZE
    uint32_t rx_n[32]
    vtl_addr rx_from[32]


cdef inline Dccp *D(Carrier *c) noexcept nogil:
    return <Dccp *>c


cdef inline uint8_t *pending_of(Dccp *d, const Connection *k) noexcept nogil:
    return d.pending + (k - d.all) * PENDING


# ---- sockets -----------------------------------------------------------------------------------------

cdef int watch(Dccp *d, int fd, uint32_t events, uint64_t name, int how) noexcept nogil:
    cdef epoll_event ev
    ev.events, ev.data.u64 = events, name
    return epoll_ctl(d.epoll, how, fd, &ev)


cdef void set_bounds(const Dccp *d, int fd) noexcept nogil:
    set_int(fd, SOL_SOCKET, SO_MARK, HK_MARK_OWN)
    set_int(fd, SOL_SOCKET, SO_RCVBUFFORCE, RX_BUFFER)
    set_int(fd, SOL_SOCKET, SO_SNDBUFFORCE, TX_BUFFER)
    set_int(fd, SOL_DCCP, DCCP_TXQLEN, d.queue)


cdef bint set_ccids(int fd, const uint8_t *ccids) noexcept nogil:
    """The one that we want, and the other one for peers that have no such; a kernel may have one only."""
    return (setsockopt(fd, SOL_DCCP, DCCP_CCID, ccids, 2) == 0
            or setsockopt(fd, SOL_DCCP, DCCP_CCID, ccids, 1) == 0)


cdef int make_socket(Dccp *d, int family) noexcept nogil:
    """Or -errno."""
    cdef int fd = socket(family, SOCK_DCCP | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_DCCP), err
    cdef uint32_t service = SERVICE
    if fd < 0:
        return -errno
    set_bounds(d, fd)
    if family == AF_INET6:
        set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1)
    if setsockopt(fd, SOL_DCCP, DCCP_SERVICE, &service, sizeof(service)) < 0 or not set_ccids(fd, d.ccids):
        err = errno
        close(fd)
        return -err
    return fd


cdef int open_listener(Dccp *d, int which, int family, uint16_t port) noexcept nogil:
    """0, or -errno."""
    cdef sockaddr_storage a
    cdef int fd = make_socket(d, family), err
    if fd < 0:
        return fd
    set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1)        # not held up by connections that have ended lately
    memset(&a, 0, sizeof(a))
    a.ss_family = family
    (<sockaddr_in *>&a).sin_port = htons(port)      # the same place in both families
    if (bind(fd, <sockaddr *>&a, sizeof(sockaddr_in6) if family == AF_INET6 else sizeof(sockaddr_in)) < 0
            or listen(fd, BACKLOG) < 0 or watch(d, fd, EPOLLIN, LISTENERS + which, EPOLL_CTL_ADD) < 0):
        err = errno
        close(fd)
        return -err
    d.listener[which] = fd
    return 0


cdef int dccp_open(Carrier *c, uint16_t port, uint16_t *bound) noexcept nogil:
    cdef Dccp *d = D(c)
    cdef int i, r = 0
    d.epoll = epoll_create1(EPOLL_CLOSES)
    if d.epoll < 0:
        return -errno
    d.timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
    if d.timer < 0 or watch(d, d.timer, EPOLLIN, TIMER, EPOLL_CTL_ADD) < 0:
        r = -errno
        dccp_close(c)
        return r
    for i in range(PORT_TRIES if port == 0 else 1):
        r = open_listener(d, 0, AF_INET, port)
        if r < 0:
            break
        bound[0] = port_of(d.listener[0])
        r = open_listener(d, 1, AF_INET6, bound[0])
        if r == 0 or r == -EAFNOSUPPORT:            # a host without IPv6
            return 0
        close(d.listener[0])                        # the port is free in one family only, or worse
        d.listener[0] = -1
    dccp_close(c)
    return r


cdef void drop(Dccp *d, Connection *k) noexcept nogil:
    close(k.fd)
    k.fd = -1
    d.incoming -= k.incoming
    while d.top and d.all[d.top - 1].fd < 0:
        d.top -= 1


cdef void dccp_close(Carrier *c) noexcept nogil:
    cdef Dccp *d = D(c)
    cdef int i
    for i in range(2):
        if d.listener[i] >= 0:
            close(d.listener[i])
        d.listener[i] = -1
    while d.top:
        drop(d, &d.all[d.top - 1])
    if d.timer >= 0:
        close(d.timer)
    if d.epoll >= 0:
        close(d.epoll)
    d.epoll = d.timer = -1
    d.errors_n = 0


cdef void dccp_free(Carrier *c) noexcept nogil:
    dccp_close(c)
    free(D(c).all)
    free(D(c).pending)
    free(D(c).rx)
    free(c)


cdef int dccp_descriptor(const Carrier *c, int which) noexcept nogil:
    return (<const Dccp *>c).epoll if which == 0 else -1


# ---- connections: room for them ----------------------------------------------------------------------

cdef bint is_of_source(const vtl_addr *x, const vtl_addr *of) noexcept nogil:
    return of == NULL or memcmp(x.ip, of.ip, 16 if is_v4(x.ip) else 8) == 0


cdef uint32_t begun_by(const Dccp *d, const vtl_addr *of, Connection **oldest) noexcept nogil:
    """How many connections that source (NULL: all) has begun, and the one silent for longest."""
    cdef Connection *k
    cdef uint32_t i, n = 0
    oldest[0] = NULL
    for i in range(d.top):
        k = &d.all[i]
        if k.fd < 0 or not k.incoming or not is_of_source(&k.peer, of):
            continue
        n += 1
        if oldest[0] == NULL or k.last < oldest[0].last:
            oldest[0] = k
    return n


cdef bint has_room(Dccp *d, const vtl_addr *of, uint32_t most, uint64_t now) noexcept nogil:
    """For one more of that source. The oldest makes room if it is of no use."""
    cdef Connection *oldest
    if begun_by(d, of, &oldest) < most:
        return True
    if now - oldest.last < EVICTABLE:
        return False
    drop(d, oldest)
    return True


cdef void sweep(Dccp *d, uint64_t now) noexcept nogil:
    """Those that never became of use."""
    cdef Connection *k
    cdef uint64_t within
    cdef uint32_t i
    if now - d.swept < SWEPT_EVERY:
        return
    d.swept = now
    for i in range(CONNECTIONS):
        k = &d.all[i]
        within = FIRST_WITHIN
        if not k.incoming:
            within = BEGUN_WITHIN
        if k.fd >= 0 and not k.heard and now - k.last >= within:
            drop(d, k)


cdef Connection *slot_for(Dccp *d, uint64_t now) noexcept nogil:
    """NULL: all are in use."""
    cdef Connection *oldest = NULL
    cdef uint32_t i
    for i in range(CONNECTIONS):
        if d.all[i].fd < 0:
            oldest = &d.all[i]
            break
        if oldest == NULL or d.all[i].last < oldest.last:
            oldest = &d.all[i]
    if oldest.fd >= 0:
        if now - oldest.last < EVICTABLE:
            return NULL
        drop(d, oldest)
    d.top = max(d.top, <uint32_t>(oldest - d.all) + 1)
    return oldest


cdef Connection *begin(Dccp *d, int fd, const vtl_addr *peer, bint incoming, uint64_t now) noexcept nogil:
    """NULL: no room; the descriptor is closed."""
    cdef Connection *k = slot_for(d, now)
    if k == NULL:
        close(fd)
        return NULL
    d.serial += 1
    k.fd, k.serial, k.incoming, k.connecting, k.heard = fd, d.serial, incoming, not incoming, False
    k.last, k.pending, k.peer = now, 0, peer[0]
    d.incoming += incoming
    if watch(d, fd, EPOLLIN if incoming else EPOLLIN | EPOLLOUT, name_of(d, k), EPOLL_CTL_ADD) < 0:
        drop(d, k)
        return NULL
    return k


cdef inline uint64_t name_of(const Dccp *d, const Connection *k) noexcept nogil:
    return <uint64_t>k.serial << 32 | <uint64_t>(k - d.all)


# ---- connections: begun by either side ---------------------------------------------------------------

cdef void read_local(int fd, vtl_addr *peer) noexcept nogil:
    cdef sockaddr_storage a
    cdef socklen_t n = sizeof(a)
    if getsockname(fd, <sockaddr *>&a, &n) == 0:
        read_address(&a, peer.local)


cdef void listen_for(Dccp *d, uint32_t events) noexcept nogil:
    cdef int i
    for i in range(2):
        if d.listener[i] >= 0:
            watch(d, d.listener[i], events, LISTENERS + i, EPOLL_CTL_MOD)


cdef void pause(Dccp *d) noexcept nogil:
    cdef itimerspec at
    memset(&at, 0, sizeof(at))
    at.it_value.tv_nsec = PAUSE
    if timerfd_settime(d.timer, 0, &at, NULL) == 0:
        listen_for(d, 0)


cdef void go_on(Dccp *d) noexcept nogil:
    cdef uint64_t times
    if read(d.timer, &times, sizeof(times)) == sizeof(times):
        listen_for(d, EPOLLIN)


cdef void accept_some(Dccp *d, int which, uint64_t now) noexcept nogil:
    cdef sockaddr_storage a
    cdef socklen_t n
    cdef vtl_addr peer
    cdef int i, fd
    sweep(d, now)
    for i in range(ACCEPTS):
        n = sizeof(a)
        fd = accept4(d.listener[which], <sockaddr *>&a, &n, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if fd < 0:
            if errno == EMFILE or errno == ENFILE or errno == ENOMEM or errno == ENOBUFS:
                pause(d)
            return
        memset(&peer, 0, sizeof(peer))
        peer.port = read_address(&a, peer.ip)
        read_local(fd, &peer)
        set_bounds(d, fd)
        if not has_room(d, &peer, OF_SOURCE, now) or not has_room(d, NULL, INCOMING, now):
            d.base.refused += 1
            close(fd)
        elif begin(d, fd, &peer, True, now) == NULL:
            d.base.refused += 1


cdef Connection *connect_to(Dccp *d, const vtl_addr *to) noexcept nogil:
    cdef sockaddr_storage a
    cdef socklen_t n = fill_address(&a, to.ip, to.port)
    cdef uint64_t now = clock_ns()
    cdef int fd
    sweep(d, now)
    fd = make_socket(d, a.ss_family)
    if fd < 0:
        return NULL
    if slot_for(d, now) == NULL or (connect(fd, <sockaddr *>&a, n) < 0 and errno != EINPROGRESS):
        close(fd)
        return NULL
    return begin(d, fd, to, False, now)


cdef void note_error(Dccp *d, const Connection *k, int err) noexcept nogil:
    """As an ICMP error, which quotes what was sent."""
    cdef PathError *e = &d.errors[d.errors_n]
    if d.errors_n == ERRORS:
        return
    d.errno_of[d.errors_n] = err
    d.errors_n += 1
    e.to, e.size = k.peer, min(k.pending, <uint32_t>QUOTED)
    memcpy(e.quoted, pending_of(d, k), e.size)


cdef void connected(Dccp *d, Connection *k) noexcept nogil:
    cdef int err = 0
    cdef socklen_t n = sizeof(err)
    if getsockopt(k.fd, SOL_SOCKET, SO_ERROR, &err, &n) < 0 or err:
        note_error(d, k, err if err else ECONNREFUSED)
        drop(d, k)
        return
    k.connecting = False
    read_local(k.fd, &k.peer)
    watch(d, k.fd, EPOLLIN, name_of(d, k), EPOLL_CTL_MOD)
    if k.pending:
        d.base.send_calls += 1
        d.base.send_errors += send(k.fd, pending_of(d, k), k.pending, MSG_DONTWAIT | MSG_NOSIGNAL) < 0
    k.pending = 0


# ---- datagrams in ------------------------------------------------------------------------------------

cdef int hear(Dccp *d, Connection *k, int n, uint64_t now) noexcept nogil:
    """Its datagrams, behind n others; how many there are then."""
    cdef ssize_t size
    cdef int i
    for i in range(min(OF_ONE, RX_BUFFERS - n)):
        size = recv(k.fd, d.rx + n * RX_SIZE, RX_SIZE, MSG_DONTWAIT)
        if size < 0 and (errno == EAGAIN or errno == EINTR):
            break
        if size <= 0:                                # it is closed, or of no use
            drop(d, k)
            break
        k.last, k.heard = now, True
        d.rx_n[n], d.rx_from[n] = <uint32_t>size, k.peer
        n += 1
    return n


cdef int dccp_receive(Carrier *c, int which) noexcept nogil:
    cdef Dccp *d = D(c)
    cdef epoll_event ev[EVENTS]
    cdef Connection *k
    cdef uint64_t now = clock_ns()
    cdef uint32_t at
    cdef int i, n = 0
    cdef int events = epoll_wait(d.epoll, ev, EVENTS, 0)
    c.recv_calls += 1
    for i in range(events):
        at = <uint32_t>ev[i].data.u64
        if at == TIMER:
            go_on(d)
            continue
        if at >= LISTENERS:
            accept_some(d, <int>(at - LISTENERS), now)
            continue
        k = &d.all[at]
        if k.fd < 0 or name_of(d, k) != ev[i].data.u64:
            continue
        if k.connecting:
            connected(d, k)
        else:
            n = hear(d, k, n, now)
    return n


cdef bint dccp_split(Carrier *c, int train, uint32_t *offset, Datagram *out) noexcept nogil:
    cdef Dccp *d = D(c)
    if offset[0]:
        return False
    offset[0] = 1
    out.data, out.size, out.segment, out.ecn = d.rx + train * RX_SIZE, d.rx_n[train], 0, 0
    out.source = d.rx_from[train]
    c.received += 1
    return True


# ---- datagrams out -----------------------------------------------------------------------------------

cdef bint leads_to(const Connection *k, const vtl_addr *to) noexcept nogil:
    return k.fd >= 0 and same_addr(&k.peer, to) and (
        k.connecting or memcmp(to.local, NOWHERE, 16) == 0 or memcmp(to.local, k.peer.local, 16) == 0)


cdef Connection *found(Dccp *d, const vtl_addr *to) noexcept nogil:
    cdef uint32_t i
    if d.last != NULL and leads_to(d.last, to):
        return d.last
    for i in range(d.top):
        if leads_to(&d.all[i], to):
            d.last = &d.all[i]
            return d.last
    return NULL


cdef void keep(Dccp *d, Connection *k, const msghdr *m, uint32_t size) noexcept nogil:
    """Until the connection is there."""
    cdef uint8_t *to = pending_of(d, k)
    cdef size_t i
    if size > PENDING:
        d.base.send_errors += 1
        return
    for i in range(m.msg_iovlen):
        memcpy(to, m.msg_iov[i].iov_base, m.msg_iov[i].iov_len)
        to += m.msg_iov[i].iov_len
    k.pending = size


cdef void send_one(Dccp *d, const vtl_batch *b, const vtl_datagram *g) noexcept nogil:
    """What the kernel does not take is lost, as it would be at any full queue."""
    cdef Connection *k = found(d, &g.to)
    cdef msghdr m
    if k == NULL and not g.unproven:
        k = connect_to(d, &g.to)
    if k == NULL:
        d.base.send_errors += 1
        return
    memset(&m, 0, sizeof(m))
    m.msg_iov, m.msg_iovlen = b.iov + g.first, g.count
    if k.connecting:
        keep(d, k, &m, g.size)
        return
    d.base.send_calls += 1
    if sendmsg(k.fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL) < 0:
        d.base.send_errors += 1
        if errno != EAGAIN and errno != EMSGSIZE and errno != ENOBUFS and errno != EINTR:
            drop(d, k)


cdef uint32_t dccp_send(Carrier *c, vtl_batch *b, uint32_t first) noexcept nogil:
    cdef uint32_t i
    for i in range(first, b.dgram_len):
        send_one(D(c), b, &b.dgram[i])
        c.sent += 1
    return b.dgram_len


cdef int dccp_error(Carrier *c, int which, PathError *out) noexcept nogil:
    cdef Dccp *d = D(c)
    if d.errors_n == 0:
        return 0
    d.errors_n -= 1
    out[0] = d.errors[d.errors_n]
    return d.errno_of[d.errors_n]


cdef CarrierOps OPS
OPS.open, OPS.close, OPS.free, OPS.descriptor = dccp_open, dccp_close, dccp_free, dccp_descriptor
OPS.receive, OPS.split, OPS.send, OPS.error = dccp_receive, dccp_split, dccp_send, dccp_error


def make(settings):
    """Parameter `ccid`: 2 or 3, the congestion control that is asked for first; 2 by default.

    Raises MemoryError, ConfigurationError.
    """
    cdef CarrierHandle handle = CarrierHandle.__new__(CarrierHandle)
    cdef Dccp *d
    cdef int i
    ccid = settings.given.get("ccid", 2)
    if ccid not in (2, 3):
        raise ConfigurationError(f"carrier dccp: CCID {ccid}", remedy="ccid=2, or ccid=3")
    d = <Dccp *>calloc(1, sizeof(Dccp))
    handle.hold("dccp", <Carrier *>d)
    d.base.ops, d.base.overhead = &OPS, HEADERS
    d.base.properties = C_CHECKED | C_PORTS | C_CONGESTION | C_CONNECTIONS
    d.ccids[0], d.ccids[1] = ccid, 5 - ccid
    d.queue = TX_QUEUE if settings.bounded else SHORT_QUEUE
    d.epoll = d.timer = d.listener[0] = d.listener[1] = -1
    d.all = <Connection *>calloc(CONNECTIONS, sizeof(Connection))
    d.pending = <uint8_t *>malloc(CONNECTIONS * PENDING)
    d.rx = <uint8_t *>malloc(RX_BUFFERS * RX_SIZE)
    if d.all == NULL or d.pending == NULL or d.rx == NULL:
        raise MemoryError("carrier dccp")
    for i in range(CONNECTIONS):
        d.all[i].fd = -1
    return handle
