"""IP itself as a carrier: protocol 253, for experiments and testing (RFC 3692), by raw sockets.

There are no ports, so what comes for the protocol comes to whoever has a socket of it: a network namespace
has one engine with this carrier, which a name in the abstract namespace of UNIX sockets (unix(7)) sees to.
Where there is none the kernel answers with ICMP: protocol unreachable (RFC 1122 3.2.2.1), or unrecognized
next header (RFC 4443 3.4).

Where an XDP program leads packets of an interface's queue to it, they come by an AF_XDP socket (xsk.pyx), and
what the program passes by the raw ones, as all does without it. What is sent goes by the raw ones: the kernel
knows routes and neighbours.
"""

from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memcpy, memset
from hooker.carriers.contract cimport *
from hooker.carriers.datagrams cimport *
from hooker.carriers.frame cimport read_frame
from hooker.carriers.xsk cimport *
from hooker.includes.linux cimport (
    AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_RAW, bind, close, errno, sockaddr, sockaddr_storage, socket,
)

cdef enum:
    PROTOCOL = 253
    QUEUES = 2                 # the descriptor behind those of the families
    LOCK_NAME = 16             # bytes
    PORT_FIRST = 0x8000        # of those that are nobody's (RFC 6335: of private use from 49,152 on)

cdef const char *LOCK = b"\0hooker-proto253"

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *buf, size_t n, unsigned int flags)

cdef struct Ip:
    Sockets sockets
    int lock                   # -1: not open
    XskSet queues
    bint by_queue              # the last batch came by them


cdef int open_family(Carrier *c, int family, uint16_t port) noexcept nogil:
    return open_socket(SOCK_RAW, PROTOCOL, family)


cdef int take_lock() noexcept nogil:
    """A descriptor, or -errno: EADDRINUSE when another engine here has it."""
    cdef sockaddr_storage a
    cdef int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)
    cdef int err
    if fd < 0:
        return -errno
    memset(&a, 0, sizeof(a))
    a.ss_family = AF_UNIX
    memcpy(<char *>&a + sizeof(a.ss_family), LOCK, LOCK_NAME)
    if bind(fd, <sockaddr *>&a, sizeof(a.ss_family) + LOCK_NAME) < 0:
        err = errno
        close(fd)
        return -err
    return fd


cdef void ip_close(Carrier *c) noexcept nogil:
    sockets_close(c)
    xsks_close(&(<Ip *>c).queues)
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
    if port == 0:
        getrandom(&port, sizeof(port), 0)
        port |= PORT_FIRST
    r = sockets_open(c, port, bound)
    if r < 0:
        ip_close(c)
    return r


# ---- by an interface's queue -------------------------------------------------------------------------

cdef int ip_attach(Carrier *c, uint32_t ifindex, uint32_t queue) noexcept nogil:
    return xsks_open(&(<Ip *>c).queues, ifindex, queue)


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


cdef CarrierOps OPS
sockets_ops(&OPS)
OPS.open, OPS.close, OPS.free, OPS.attach = ip_open, ip_close, ip_free, ip_attach
OPS.descriptor, OPS.receive, OPS.split = ip_descriptor, ip_receive, ip_split


def make(settings):
    """Raises MemoryError."""
    cdef CarrierHandle handle = CarrierHandle.__new__(CarrierHandle)
    cdef Carrier *c = <Carrier *>sockets_new(&OPS, open_family, C_ECN, 0, sizeof(Ip))
    handle.hold("ip", c)
    (<Sockets *>c).headers = True
    (<Ip *>c).lock = (<Ip *>c).queues.epoll = -1
    return handle
