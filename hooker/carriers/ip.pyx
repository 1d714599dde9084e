"""IP itself as a carrier: protocol 253, for experiments and testing (RFC 3692), by raw sockets.

There are no ports, so what comes for the protocol comes to whoever has a socket of it: a network namespace
has one engine with this carrier. Its lock is one more raw socket of the protocol, with an address of its own
(raw(7)): nobody without CAP_NET_RAW there can have one, it ends with its process, and is in no file system.
Where there is none the kernel answers with ICMP: protocol unreachable (RFC 1122 3.2.2.1), or unrecognized
next header (RFC 4443 3.4).

Where an XDP program leads packets of an interface's queue to it, they come by an AF_XDP socket (xsk.pyx), and
what the program passes by the raw ones, as all does without it.

What is sent goes by the raw ones: the kernel knows routes and neighbours. With the parameter `frames` they
are known (routes.pyx), and what is plain leaves by that interface's AF_XDP socket, as a frame with the
headers that the kernel would have made. Such frames meet nothing on their way out: no netfilter, no queueing
discipline, no program of a cgroup. So it is for a user to say.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport FILE, fclose, fgets, fopen, sscanf
from libc.string cimport memcpy, memset
from hooker.carriers.contract cimport *
from hooker.carriers.datagrams cimport *
from hooker.carriers.frame cimport read_frame
from hooker.carriers.next_hop cimport NextHop
from hooker.carriers.routes cimport *
from hooker.carriers.xsk cimport *
from hooker.flow.messages cimport crc32c
from hooker.includes.addresses cimport set_int
from hooker.includes.bytes cimport load16, store16, store32
from hooker.includes.clock cimport clock_ns
from hooker.includes.hk cimport HK_MARK_OWN
from hooker.includes.linux cimport (
    AF_INET, AF_INET6, EADDRINUSE, IPPROTO_IP, IPPROTO_IPV6, SOCK_CLOEXEC, SOCK_RAW, SOL_SOCKET, SO_MARK,
    SO_RCVBUF, bind, close, errno, iovec, sockaddr, sockaddr_in, socket,
)
from hooker.vtl.api cimport vtl_batch, vtl_datagram

cdef enum:
    PROTOCOL = 253
    QUEUES = 2                 # the descriptor behind those of the families
    LOCK_ADDRESS = 0x7f484bfd  # 127.72.75.253, of a socket that is the lock
    IP_FREEBIND = 15           # linux/in.h
    LINK_HEADER = 14           # bytes: Ethernet's
    V4_HEADERS = LINK_HEADER + 20
    FULL_TRIES = 50            # rounds in which nothing leaves by frames, before the kernel sends
    IPV6_AUTOFLOWLABEL = 70    # linux/in6.h
    PORT_FIRST = 0x8000        # of those that are nobody's (RFC 6335: of private use from 49,152 on)

cdef extern from "<arpa/inet.h>" nogil:
    uint32_t htonl(uint32_t v)

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *buf, size_t n, unsigned int flags)

cdef struct Ip:
    Sockets sockets
    int lock                   # -1: not open
    XskSet queues
    bint by_queue              # the last batch came by them
    bint frames
    Routes routes
    uint32_t full              # rounds in a row without a chunk


cdef int open_family(Carrier *c, int family, uint16_t port) noexcept nogil:
    cdef int fd = open_socket(SOCK_RAW, PROTOCOL, family)
    if fd >= 0 and family == AF_INET6 and (<Ip *>c).frames:
        set_int(fd, IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, 0)    # the kernel's secret: both ways have none
    return fd


cdef int locks_here() noexcept nogil:
    """Sockets that are a lock in this thread's network namespace, or -errno."""
    cdef char line[256]
    cdef unsigned int address, protocol
    cdef int n = 0
    cdef FILE *f = fopen("/proc/thread-self/net/raw", "re")
    if f == NULL:
        return -errno
    while fgets(line, sizeof(line), f) != NULL:
        if (sscanf(line, " %*d: %8X:%4X", &address, &protocol) == 2
                and address == htonl(LOCK_ADDRESS) and protocol == PROTOCOL):
            n += 1
    fclose(f)
    return n


cdef int take_lock() noexcept nogil:
    """A descriptor, or -errno: EADDRINUSE when another engine here has it.

    The kernel lets many have a raw socket with one address, so who sees another one than his own has to give
    way: of two that begin at the same moment none may have it, but never both."""
    cdef sockaddr_in a
    cdef int fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, PROTOCOL)
    cdef int r
    if fd < 0:
        return -errno
    memset(&a, 0, sizeof(a))
    a.sin_family, a.sin_addr.s_addr = AF_INET, htonl(LOCK_ADDRESS)
    set_int(fd, SOL_SOCKET, SO_MARK, HK_MARK_OWN)
    set_int(fd, SOL_SOCKET, SO_RCVBUF, 0)           # it is not read
    set_int(fd, IPPROTO_IP, IP_FREEBIND, 1)         # the loopback device may be down
    r = -errno if bind(fd, <sockaddr *>&a, sizeof(a)) < 0 else locks_here()
    if r != 1:
        close(fd)
        return r if r < 0 else -EADDRINUSE
    return fd


cdef void ip_close(Carrier *c) noexcept nogil:
    sockets_close(c)
    xsks_close(&(<Ip *>c).queues)
    if (<Ip *>c).frames:
        routes_close(&(<Ip *>c).routes)
    if (<Ip *>c).lock >= 0:
        close((<Ip *>c).lock)
    (<Ip *>c).lock = -1


cdef void ip_free(Carrier *c) noexcept nogil:
    ip_close(c)
    sockets_free(c)


cdef int ip_open(Carrier *c, uint16_t port, uint16_t *bound) noexcept nogil:
    cdef int r = take_lock()
    if r < 0:
        return r
    (<Ip *>c).lock = r
    r = xsks_init(&(<Ip *>c).queues)
    if r < 0:
        ip_close(c)
        return r
    (<Ip *>c).queues.sends = (<Ip *>c).frames
    if port == 0:
        getrandom(&port, sizeof(port), 0)
        port |= PORT_FIRST
    r = sockets_open(c, port, bound)
    if r == 0 and (<Ip *>c).frames:
        r = routes_open(&(<Ip *>c).routes)
    if r < 0:
        ip_close(c)
    return r


# ---- by an interface's queue -------------------------------------------------------------------------

cdef int ip_attach(Carrier *c, uint32_t ifindex, uint32_t queue) noexcept nogil:
    return xsks_open(&(<Ip *>c).queues, ifindex, queue)


cdef void ip_detach(Carrier *c, uint32_t ifindex) noexcept nogil:
    xsks_drop(&(<Ip *>c).queues, ifindex)


cdef int ip_descriptor(const Carrier *c, int which) noexcept nogil:
    return (<const Ip *>c).queues.epoll if which == QUEUES else (<const Ip *>c).sockets.fd[which]


cdef int ip_receive(Carrier *c, int which) noexcept nogil:
    cdef int n
    (<Ip *>c).by_queue = which == QUEUES
    if which != QUEUES:
        return sockets_receive(c, which)
    n = xsks_receive(&(<Ip *>c).queues)
    c.recv_calls += n > 0
    return n


cdef bint ip_split(Carrier *c, int train, uint32_t *offset, Datagram *out) noexcept nogil:
    cdef XskPacket *packet = &(<Ip *>c).queues.packets[train]
    if not (<Ip *>c).by_queue:
        return sockets_split(c, train, offset, out)
    if offset[0] != 0:
        return False
    offset[0] = packet.size
    if not read_frame(packet.data, packet.size, PROTOCOL, out) or not is_whole(out.data, &out.size):
        c.damaged += 1
        return False
    c.received += 1
    return True


# ---- as frames ---------------------------------------------------------------------------------------

cdef uint16_t header_sum(const uint8_t *p) noexcept nogil:
    """IPv4's, of 20 bytes (RFC 1071)."""
    cdef uint32_t sum = 0
    cdef int i
    for i in range(0, 20, 2):
        sum += load16(p + i)
    sum = (sum & 0xFFFF) + (sum >> 16)
    sum = (sum & 0xFFFF) + (sum >> 16)
    return ~sum & 0xFFFF


cdef uint32_t write_frame(uint8_t *p, const NextHop *to, const vtl_batch *b,
                          const vtl_datagram *d) noexcept nogil:
    """Its size."""
    cdef const iovec *part
    cdef uint8_t *ip = p + LINK_HEADER
    cdef uint32_t i, at = to.headers_n
    memcpy(p, to.headers, at)
    for i in range(d.count):
        part = <const iovec *>&b.iov[d.first + i]
        memcpy(p + at, part.iov_base, part.iov_len)
        at += <uint32_t>part.iov_len
    store32(p + at, crc32c(0, p + to.headers_n, at - to.headers_n))
    at += TRAILER
    if to.headers_n == V4_HEADERS:
        ip[1] = d.ecn
        store16(ip + 2, at - LINK_HEADER)
        store16(ip + 10, header_sum(ip))
    else:
        ip[1] = d.ecn << 4
        store16(ip + 4, at - to.headers_n)
    return at


cdef int way_of(Ip *ip, const vtl_datagram *d, uint64_t now, const NextHop **to, Xsk **x) noexcept nogil:
    """carrier_way."""
    cdef uint32_t size
    if d.unproven:
        return C_UNPROVEN
    to[0] = route_to(&ip.routes, d.to.ip, d.to.local, now)
    if to[0] == NULL:
        return C_IN_TURN
    if to[0].way != C_FRAME:
        return to[0].way
    size = to[0].headers_n + d.size + TRAILER
    if size - LINK_HEADER > to[0].mtu or size > XSK_CHUNK:
        return C_SIZE
    x[0] = xsks_sender(&ip.queues, to[0].ifindex)
    return C_INTERFACE if x[0] == NULL else C_FRAME


cdef void kick(Ip *ip, Xsk *x) noexcept nogil:
    if x != NULL:
        ip.sockets.base.send_calls += xsk_kick(x)


cdef uint8_t *room(Ip *ip, Xsk *x) noexcept nogil:
    cdef uint8_t *p = xsk_chunk(x)
    if p == NULL:
        kick(ip, x)
        p = xsk_chunk(x)
    ip.full = 0 if p != NULL else ip.full + 1
    return p


cdef uint32_t by_kernel(Ip *ip, vtl_batch *b, uint32_t first, uint32_t end, int way) noexcept nogil:
    cdef uint32_t at, all = b.dgram_len
    if first == end:
        return end
    b.dgram_len = end
    at = sockets_send(&ip.sockets.base, b, first)
    b.dgram_len = all
    ip.sockets.base.left[way] += at - first
    return at


cdef uint32_t ip_send(Carrier *c, vtl_batch *b, uint32_t first) noexcept nogil:
    """In order: what goes by the kernel is collected as long as there is one reason, and frames as long as
    there is one interface."""
    cdef Ip *ip = <Ip *>c
    cdef Xsk *x = NULL
    cdef Xsk *last = NULL
    cdef const NextHop *to = NULL
    cdef uint8_t *p
    cdef uint32_t at, run = first
    cdef int way, ran = C_FRAME
    cdef uint64_t now
    if not ip.frames:
        return sockets_send(c, b, first)
    now = clock_ns()
    routes_hear(&ip.routes, now)
    for at in range(first, b.dgram_len):
        way = way_of(ip, &b.dgram[at], now, &to, &x)
        p = room(ip, x) if way == C_FRAME else NULL
        if way == C_FRAME and p == NULL:
            way = C_FULL
        if way != ran or way == C_FRAME:                # what was collected for the kernel goes first
            run = by_kernel(ip, b, run, at, ran)
            if run < at:
                return run
        if last != NULL and (way != C_FRAME or x != last):
            kick(ip, last)
            last = NULL
        if way == C_FULL and ip.full < FULL_TRIES:
            return at
        ran = way
        if way == C_FRAME:
            xsk_give(x, write_frame(p, to, b, &b.dgram[at]))
            c.left[<int>C_FRAME] += 1
            c.sent += 1
            last = x
            run = at + 1
    kick(ip, last)
    return by_kernel(ip, b, run, b.dgram_len, ran)


cdef CarrierOps OPS
sockets_ops(&OPS)
OPS.open, OPS.close, OPS.free = ip_open, ip_close, ip_free
OPS.attach, OPS.detach = ip_attach, ip_detach
OPS.descriptor, OPS.receive, OPS.split, OPS.send = ip_descriptor, ip_receive, ip_split, ip_send


def make(settings):
    """Parameter `frames`: 1, what can is sent by AF_XDP sockets; 0 by default. Raises MemoryError."""
    cdef CarrierHandle handle = CarrierHandle.__new__(CarrierHandle)
    cdef Carrier *c = <Carrier *>sockets_new(&OPS, open_family, C_ECN, 0, sizeof(Ip))
    handle.hold("ip", c)
    (<Sockets *>c).headers = True
    (<Ip *>c).lock = (<Ip *>c).queues.epoll = -1
    (<Ip *>c).frames = settings.given.get("frames", 0) == 1
    if (<Ip *>c).frames:
        c.properties |= C_FRAMES
        (<Ip *>c).routes.changes = (<Ip *>c).routes.policy_changes = -1
    return handle
