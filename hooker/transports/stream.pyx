"""TCP, or MPTCP, as a transport: messages on a byte stream.

What is sent is framed (queues.pxd): a length of 32 bits, then a message. The kernel repeats, orders and
paces; we bound.

1. What a peer can make us hold: a frame that is not here as a whole (partial.pxd). The end of a batch that
   the kernel did not take is at most one batch. A length that no message has ends the connection.
2. The kernel is given no more than it will send soon (TCP_NOTSENT_LOWAT), so that what is said later is not
   behind megabytes. What it has taken is given back at once: it has a copy.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from hooker.flow.messages cimport MAX_HEADER, PREFIX_SIZE
from hooker.includes.addresses cimport set_int
from hooker.includes.bytes cimport load32
from hooker.includes.hk cimport HK_MARK_OWN
from hooker.includes.linux cimport *
from hooker.transports.connection cimport *
from hooker.transports.connections cimport connections_make
from hooker.transports.contract cimport *
from hooker.transports.partial cimport partial_add, partial_end, partial_set
from hooker.transports.queues cimport BATCH_BYTES, LENGTH_SIZE, Batch, out_fill

cdef extern from "<linux/tcp.h>" nogil:
    struct tcp_info:
        uint32_t tcpi_rtt
        uint32_t tcpi_rttvar
        uint32_t tcpi_rto
        uint32_t tcpi_min_rtt
        uint32_t tcpi_snd_cwnd
        uint32_t tcpi_snd_mss
        uint32_t tcpi_total_retrans
        uint32_t tcpi_unacked
        uint32_t tcpi_notsent_bytes
    enum:
        TCP_NODELAY
        TCP_INFO
        TCP_USER_TIMEOUT
        TCP_NOTSENT_LOWAT

cdef extern from "<linux/sockios.h>" nogil:
    unsigned long SIOCOUTQNSD

cdef enum:
    MAX_FRAME = MAX_HEADER + 65535
    RX_SIZE = 256 << 10        # bytes of one recv()
    LOWAT = 256 << 10          # bytes that the kernel has not sent yet, about
    LOOK_EVERY = 64 << 10      # bytes sent before the kernel is asked for that
    MS = 1000000               # ns
    SOL_MPTCP = 284
    MPTCP_INFO_ = 1
    IPPROTO_MPTCP_ = 262
    MPTCP_INFO_SIZE = 256


# ---- the socket --------------------------------------------------------------------------------------

cdef void set_up(ConnectionTransport *t, int fd) noexcept nogil:
    """What a protocol does not know it does without."""
    set_int(fd, SOL_SOCKET, SO_MARK, HK_MARK_OWN)
    set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1)
    set_int(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, LOWAT)
    set_int(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, <int>(t.dead_after // MS))


cdef bint choose_source(Connection *a) noexcept nogil:
    """The kernel does, when it connects."""
    return True


cdef bint fell_back(const Connection *a) noexcept nogil:
    """The other end, or the path, knows no MPTCP: this is a plain TCP connection."""
    cdef uint8_t info[MPTCP_INFO_SIZE]
    cdef socklen_t n = sizeof(info)
    return of(a).protocol == IPPROTO_MPTCP_ and getsockopt(a.fd, SOL_MPTCP, MPTCP_INFO_, info, &n) < 0


cdef void came_up(Connection *a) noexcept nogil:
    if fell_back(a):
        of(a).n.fallbacks += 1


cdef void give_up(Connection *a) noexcept nogil:
    """TCP_USER_TIMEOUT bounds what becomes of the rest. MPTCP has none: the kernel would go on for
    minutes."""
    if of(a).protocol == IPPROTO_MPTCP_:
        will_abort(a)


cdef bint ask_kernel(const Connection *a, tcp_info *info) noexcept nogil:
    cdef socklen_t n = sizeof(tcp_info)
    memset(info, 0, sizeof(tcp_info))
    return getsockopt(a.fd, IPPROTO_TCP, TCP_INFO, info, &n) == 0


cdef uint64_t patience(const Connection *a) noexcept nogil:
    """An answer comes behind what the kernel has not sent yet, and all wait for a lost segment: in four times
    this three timeouts pass, for one whose repetition was lost, too."""
    cdef tcp_info info
    cdef uint64_t rtt, window
    if not ask_kernel(a, &info):
        return a.patience
    rtt, window = <uint64_t>info.tcpi_rtt * 1000, <uint64_t>info.tcpi_snd_cwnd * info.tcpi_snd_mss
    return (rtt + max(rtt + 4000 * <uint64_t>info.tcpi_rttvar, 750 * <uint64_t>info.tcpi_rto)
            + queue_time(info.tcpi_notsent_bytes, window, rtt))


cdef void measure(const Connection *a, ConnectionRow *s) noexcept nogil:
    cdef tcp_info info
    if ask_kernel(a, &info):
        s.srtt_ns, s.rttvar_ns = <uint64_t>info.tcpi_rtt * 1000, <uint64_t>info.tcpi_rttvar * 1000
        s.min_rtt_ns = <uint64_t>info.tcpi_min_rtt * 1000
        s.cwnd = <uint64_t>info.tcpi_snd_cwnd * info.tcpi_snd_mss
        s.bytes_in_flight = <uint64_t>info.tcpi_unacked * info.tcpi_snd_mss
        s.packets_lost = info.tcpi_total_retrans
    s.fallback = fell_back(a)


# ---- in ----------------------------------------------------------------------------------------------

cdef bint is_more(Connection *a, const uint8_t *p, uint32_t n) noexcept nogil:
    """Whether the frame that has begun is still not whole. It grows by what has come, and is not copied."""
    if a.partial_n < LENGTH_SIZE or a.partial_n + n >= LENGTH_SIZE + load32(a.partial):
        return False
    partial_add(a, p, n)
    return True


cdef void take_bytes(Connection *a, const uint8_t *p, uint32_t n) noexcept nogil:
    cdef uint32_t at = 0, size
    while n - at >= LENGTH_SIZE and a.state != CONN_DEAD:
        size = load32(p + at)
        if not PREFIX_SIZE <= size <= MAX_FRAME:
            fail(a, DOWN_PROTOCOL)
            return
        if n - at - LENGTH_SIZE < size:
            break
        take_message(a, p + at + LENGTH_SIZE, size)
        at += LENGTH_SIZE + size
    if a.state == CONN_DEAD:
        return
    if at < n:
        partial_set(a, p + at, n - at)
    elif a.partial != NULL:
        partial_end(a)


cdef bint receive(Connection *a) noexcept nogil:
    cdef ConnectionTransport *t = of(a)
    cdef uint32_t before = a.partial_n
    cdef ssize_t n
    n = recv(a.fd, t.rx + before, RX_SIZE, MSG_DONTWAIT)
    t.n.recv_calls += 1
    if n <= 0:
        if n == 0:
            fail(a, DOWN_CLOSED)
        elif errno != EAGAIN and errno != EINTR:
            fail(a, why_of(errno))
        return False
    heard_of(a, n)
    if is_more(a, t.rx + before, <uint32_t>n):
        return n == RX_SIZE and a.state != CONN_DEAD
    if before:
        memcpy(t.rx, a.partial, before)
    a.partial_n = 0
    take_bytes(a, t.rx, before + <uint32_t>n)
    t.base.sink.settle(t.base.sink.ctx)
    return n == RX_SIZE and a.state != CONN_DEAD


# ---- out ---------------------------------------------------------------------------------------------

cdef bint send_rest(Connection *a) noexcept nogil:
    """Of the batch before; whether that was all."""
    cdef ssize_t n
    if a.unsent_n == 0:
        return True
    n = send(a.fd, a.unsent + a.unsent_at, a.unsent_n, MSG_DONTWAIT | MSG_NOSIGNAL)
    of(a).n.send_calls += 1
    if n < 0:
        if errno == EAGAIN or errno == EINTR:
            block(a)
        else:
            fail(a, why_of(errno))
        return False
    sent(a, n)
    a.unsent_at += <uint32_t>n
    a.unsent_n -= <uint32_t>n
    if a.unsent_n:
        block(a)
        return False
    free(a.unsent)
    a.unsent = NULL
    return True


cdef bint keep_unsent(Connection *a, const Batch *b, uint32_t skip) noexcept nogil:
    """The bytes of a batch from there on: half a frame cannot be taken back. False: no memory."""
    cdef uint32_t i, n
    a.unsent = <uint8_t *>malloc(b.bytes - skip)
    if a.unsent == NULL:
        return False
    a.unsent_at = a.unsent_n = 0
    for i in range(b.n):
        n = <uint32_t>b.iov[i].iov_len
        if skip >= n:
            skip -= n
            continue
        memcpy(a.unsent + a.unsent_n, <const uint8_t *>b.iov[i].iov_base + skip, n - skip)
        a.unsent_n += n - skip
        skip = 0
    return True


cdef bint has_enough(Connection *a) noexcept nogil:
    """The kernel has not sent what it was given so far."""
    cdef int n = 0
    if a.since_look < LOOK_EVERY:
        return False
    a.since_look = 0
    return ioctl(a.fd, SIOCOUTQNSD, &n) == 0 and n >= LOWAT


cdef void send_batch(Connection *a) noexcept nogil:
    cdef ConnectionTransport *t = of(a)
    cdef Batch *b = &t.shared.batch
    cdef msghdr m
    cdef ssize_t n
    if not send_rest(a):
        return
    b.n = b.bytes = b.used = 0
    out_fill(&a.out, b, BATCH_BYTES)
    if b.bytes == 0:
        return
    memset(&m, 0, sizeof(m))
    m.msg_iov, m.msg_iovlen = b.iov, b.n
    n = sendmsg(a.fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL)
    t.n.send_calls += 1
    if n < 0 and (errno == EAGAIN or errno == EINTR):
        n = 0
    if n < 0:
        fail(a, why_of(errno))
        return
    sent(a, n)
    if n < <ssize_t>b.bytes and not keep_unsent(a, b, <uint32_t>n):
        fail(a, DOWN_MEMORY)
    elif n < <ssize_t>b.bytes or has_enough(a):
        block(a)


cdef ConnectionKind STREAM
STREAM.set_up = set_up
STREAM.choose_source = choose_source
STREAM.came_up = came_up
STREAM.receive = receive
STREAM.send = send_batch
STREAM.give_up = give_up
STREAM.patience = patience
STREAM.measure = measure


def make(str name, uint8_t wire_id, int protocol, settings):
    """One over the kernel's byte streams of `protocol`: see connections.pxd."""
    # the rest of the read before is first in what a read takes
    return connections_make(name, wire_id, protocol, &STREAM,
                            T_REPAIRS | T_ORDERED | T_INTEGRITY | T_CONGESTION | T_WHOLE | T_QUEUED,
                            LENGTH_SIZE + MAX_FRAME + RX_SIZE, settings)
