"""A transport over connections of the kernel's: TCP, or MPTCP.

One warm connection for a pair of hosts carries all flows that one of them is client of. What is sent on it is
framed (queues.pxd): a length of 32 bits, then a message. The kernel repeats, orders and paces; we bound.

1. Who connects is up when the connection is there, who is connected to when HELLO has come, the first frame.
   Until then it is a stranger: so many in all, so many of one source, and for HELLO_TIME.
2. What a peer can make us hold: a frame that is not here as a whole, and grows as its bytes come; control
   messages that it does not read; both are its source's (sources.pyx). The end of a batch that the kernel did
   not take is at most one batch. A length that no message has ends the connection.
3. The kernel is given no more than it will send soon (TCP_NOTSENT_LOWAT), so that what is said later is not
   behind megabytes. What it has taken is given back at once: it has a copy.
4. A peer that says nothing for KEEPALIVE while flows are with it is asked (PING, token 0), each second;
   without any answer for dead_after it is down. An unused association ends after IDLE_AFTER.
5. Where nobody answers the next try waits, 0.1 s and twice as long each time up to 3.2 s.
"""

from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset
from hooker.flow.messages cimport (
    MAX_HEADER, MESSAGE_FINE, MSG_HELLO, MSG_PING, MSG_PONG, PREFIX_SIZE, Message, read_message,
)
from hooker.includes.addresses cimport fill_address, port_of, read_address, set_int
from hooker.includes.bytes cimport load32
from hooker.includes.clock cimport clock_ns
from hooker.includes.hk cimport HK_MARK_OWN
from hooker.includes.linux cimport *
from hooker.includes.siphash cimport siphash24
from hooker.transports.contract cimport *
from hooker.transports.queues cimport *
from hooker.transports.sources cimport (
    FAIR_SOURCES, source_give, source_hold, source_join, source_leave, sources_init,
)

from hooker.errors import ConfigurationError

cdef extern from "<linux/tcp.h>" nogil:
    struct tcp_info:
        uint32_t tcpi_rtt
        uint32_t tcpi_rttvar
        uint32_t tcpi_min_rtt
        uint32_t tcpi_snd_cwnd
        uint32_t tcpi_snd_mss
        uint32_t tcpi_total_retrans
        uint32_t tcpi_unacked
    enum:
        TCP_NODELAY
        TCP_INFO
        TCP_USER_TIMEOUT
        TCP_NOTSENT_LOWAT

cdef extern from "<linux/sockios.h>" nogil:
    unsigned long SIOCOUTQNSD

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *buf, size_t n, unsigned int flags)

cdef enum:
    MAX_FRAME = MAX_HEADER + 65535
    RX_SIZE = 256 << 10        # bytes of one recv()
    LOWAT = 256 << 10          # bytes that the kernel has not sent yet, about
    LOOK_EVERY = 64 << 10      # bytes sent before the kernel is asked for that
    BATCHES = 256              # in one round
    READS = 64                 # of all associations, after a silence
    ACCEPTS = 16               # at once
    BACKLOG = 256
    MAX_INCOMING = SLOTS // 4 * 3
    MAX_STRANGERS = 256
    SOURCE_STRANGERS = 16
    SOURCE_ASSOCS = 64
    BUDGET = 64 << 20          # bytes that peers may make us hold, if the engine's own is not less
    LISTENERS = 0xFFFFF0       # own tags of theirs
    MS = 1000000               # ns, as all times
    CONNECT_TIME = 3000000000  # not as a product: it would be an int's
    HELLO_TIME = 3000000000
    IDLE_AFTER = 120000000000
    KEEPALIVE = 1000 * MS
    LISTEN_PAUSE = 100 * MS    # when there is no descriptor for one more
    FIRST_PAUSE = 100 * MS
    PAUSES = 5                 # doublings
    PATIENCE_LASTS = 100 * MS
    SOL_MPTCP = 284
    MPTCP_INFO_ = 1
    PORT_TRIES = 16
    IPPROTO_MPTCP_ = 262
    MPTCP_INFO_SIZE = 256


cdef struct StreamStats:       # as in a row
    uint64_t srtt_ns, rttvar_ns, min_rtt_ns, cwnd, bytes_in_flight, packets_lost
    uint64_t bytes_sent, bytes_received, messages_received, waiting
    uint32_t streams, up, channels, fallback, outgoing


cdef inline StreamTransport *T(Transport *t) noexcept nogil:
    return <StreamTransport *>t

cdef inline StreamAssociation *A(const Association *a) noexcept nogil:
    return <StreamAssociation *>a

cdef inline StreamTransport *of(const StreamAssociation *a) noexcept nogil:
    return <StreamTransport *>a.base.t

cdef inline bint in_use(const StreamAssociation *a) noexcept nogil:
    return a.out.channels > 0 or a.holds > 0


# ---- timers ------------------------------------------------------------------------------------------

cdef inline void set_due(StreamAssociation *a, uint64_t at) noexcept nogil:
    a.due = at
    of(a).next_due = min(of(a).next_due, at)


cdef void use_changed(StreamAssociation *a) noexcept nogil:
    cdef uint64_t now = of(a).now
    if a.state != STREAM_UP or (in_use(a) and a.idle_since == 0):
        return
    if in_use(a):
        a.idle_since = 0
        set_due(a, min(a.due, now + KEEPALIVE))
    elif a.idle_since == 0:
        a.idle_since = now
        set_due(a, min(a.due, now + IDLE_AFTER))


# ---- the beginning -----------------------------------------------------------------------------------

cdef StreamAssociation *association_new(StreamTransport *t, const PeerAddress *peer) noexcept nogil:
    """NULL: no memory, or too many."""
    cdef StreamAssociation *a
    cdef uint32_t slot = 0
    while slot < SLOTS and t.slots[slot] != NULL:
        slot += 1
    if slot == SLOTS:
        return NULL
    a = <StreamAssociation *>calloc(1, sizeof(StreamAssociation))
    if a == NULL:
        return NULL
    a.source = source_join(&t.sources, peer)
    if a.source == NULL:
        free(a)
        return NULL
    a.base.ops, a.base.t = t.base.ops, &t.base
    a.peer, a.fd, a.slot, a.due, a.began, a.heard = peer[0], -1, slot, UINT64_MAX, t.now, t.now
    a.out.shared, a.out.source = &t.shared, a.source
    t.slots[slot] = a
    t.top = max(t.top, slot + 1)
    t.count += 1
    return a


cdef void association_free(StreamTransport *t, StreamAssociation *a) noexcept nogil:
    cdef int i
    out_end(&a.out)
    for i in range(TAKES):
        a.source.taken[i] -= a.taken[i]
    source_give(&t.sources, a.source, a.partial_room)
    source_leave(&t.sources, a.source)
    t.slots[a.slot] = NULL
    while t.top and t.slots[t.top - 1] == NULL:
        t.top -= 1
    t.count -= 1
    free(a.partial)
    free(a.unsent)
    free(a)


cdef void close_fd(StreamAssociation *a) noexcept nogil:
    if a.fd >= 0:
        close(a.fd)
    a.fd = -1


cdef void known(StreamAssociation *a) noexcept nogil:
    """No stranger any more."""
    if a.state == STREAM_STRANGER:
        of(a).strangers -= 1
        a.source.strangers -= 1


cdef void fail(StreamAssociation *a, down_reason why) noexcept nogil:
    """assoc_down() comes out of the next flush()."""
    cdef StreamTransport *t = of(a)
    if a.state == STREAM_DEAD:
        return
    known(a)
    if a.state == STREAM_CONNECTING and why == DOWN_UNREACHABLE:
        t.n.connects_failed += 1
        note_failure(t, &a.peer, True)
    if why == DOWN_PROTOCOL:
        t.n.broken += 1
    a.state, a.why, a.due = STREAM_DEAD, why, UINT64_MAX
    close_fd(a)
    a.dead_next = t.dead
    t.dead = a


cdef down_reason why_of(int error) noexcept nogil:
    return DOWN_SILENT if error == ETIMEDOUT else DOWN_CLOSED


cdef void set_up_socket(StreamTransport *t, int fd) noexcept nogil:
    """What a protocol does not know it does without."""
    set_int(fd, SOL_SOCKET, SO_MARK, HK_MARK_OWN)
    set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1)
    set_int(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, LOWAT)
    set_int(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, <int>(t.dead_after // MS))


cdef void start(StreamAssociation *a) noexcept nogil:
    cdef StreamTransport *t = of(a)
    cdef sockaddr_storage to
    cdef socklen_t size = fill_address(&to, a.peer.ip, a.peer.port)
    a.state = STREAM_CONNECTING
    t.n.connects += 1
    a.fd = socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, t.protocol)
    if a.fd < 0:
        fail(a, DOWN_UNREACHABLE)
        return
    set_up_socket(t, a.fd)
    if connect(a.fd, <sockaddr *>&to, size) < 0 and errno != EINPROGRESS:
        fail(a, DOWN_UNREACHABLE)
    elif watch_file(&t.base, a.fd, EPOLLIN | EPOLLOUT, a.slot) < 0:
        fail(a, DOWN_MEMORY)
    else:
        set_due(a, t.now + CONNECT_TIME)


cdef void watch_for(StreamAssociation *a, uint32_t events) noexcept nogil:
    cdef epoll_event ev
    ev.events = events
    ev.data.u64 = <uint64_t>a.base.t.tag << 32 | <uint64_t>a.base.t.index << 24 | a.slot
    epoll_ctl(a.base.t.epoll_fd, EPOLL_CTL_MOD, a.fd, &ev)


cdef void up(StreamAssociation *a) noexcept nogil:
    cdef StreamTransport *t = of(a)
    known(a)
    a.state, a.announced, a.heard, a.idle_since = STREAM_UP, True, t.now, t.now
    a.due = UINT64_MAX
    if in_use(a):
        a.idle_since = 0
        set_due(a, t.now + KEEPALIVE)
    else:
        set_due(a, t.now + IDLE_AFTER)
    if fell_back(t, a.fd):
        t.n.fallbacks += 1
    t.base.sink.assoc_up(t.base.sink.ctx, &a.base)


cdef bint fell_back(const StreamTransport *t, int fd) noexcept nogil:
    """The other end, or the path, knows no MPTCP: this is a plain TCP connection."""
    cdef uint8_t info[MPTCP_INFO_SIZE]
    cdef socklen_t n = sizeof(info)
    return t.protocol == IPPROTO_MPTCP_ and getsockopt(fd, SOL_MPTCP, MPTCP_INFO_, info, &n) < 0


cdef void connected(StreamAssociation *a) noexcept nogil:
    cdef int error = 0
    cdef socklen_t n = sizeof(error)
    if getsockopt(a.fd, SOL_SOCKET, SO_ERROR, &error, &n) < 0 or error:
        fail(a, DOWN_UNREACHABLE)
        return
    note_failure(of(a), &a.peer, False)
    watch_for(a, EPOLLIN)
    up(a)
    make_ready(a)


# ---- where nobody has answered -----------------------------------------------------------------------

cdef inline bint same_peer(const PeerAddress *x, const PeerAddress *y) noexcept nogil:
    return x.port == y.port and memcmp(x.ip, y.ip, 16) == 0


cdef Failed *failed_place(StreamTransport *t, const PeerAddress *peer) noexcept nogil:
    return &t.failed[siphash24(t.key, peer.ip, 18) & (FAILED - 1)]


cdef void note_failure(StreamTransport *t, const PeerAddress *peer, bint failed) noexcept nogil:
    cdef Failed *f = failed_place(t, peer)
    if not same_peer(&f.peer, peer):
        if not failed:
            return
        f.peer, f.pauses = peer[0], 0
    if not failed:
        f.pauses = 0
        f.until = 0
        return
    f.until = t.now + (<uint64_t>FIRST_PAUSE << f.pauses)
    f.pauses = min(f.pauses + 1, <int>PAUSES)


cdef uint64_t paused_until(StreamTransport *t, const PeerAddress *peer) noexcept nogil:
    cdef Failed *f = failed_place(t, peer)
    return f.until if same_peer(&f.peer, peer) else 0


# ---- who connects to us ------------------------------------------------------------------------------

cdef int open_listener(StreamTransport *t, int family, uint16_t port) noexcept nogil:
    cdef sockaddr_storage a
    cdef int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, t.protocol)
    cdef int err
    if fd < 0:
        return -errno
    memset(&a, 0, sizeof(a))
    a.ss_family = family
    (<sockaddr_in *>&a).sin_port = htons(port)      # the same place in both families
    set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1)        # connections of an engine before may be in TIME_WAIT
    set_up_socket(t, fd)                            # those that it gives have the same
    if family == AF_INET6:
        set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1)
    if (bind(fd, <sockaddr *>&a, sizeof(sockaddr_in6) if family == AF_INET6 else sizeof(sockaddr_in)) < 0
            or listen(fd, BACKLOG) < 0):
        err = errno
        close(fd)
        return -err
    return fd


cdef int open_both(StreamTransport *t, uint16_t port, uint16_t *bound) noexcept nogil:
    cdef int i, err = 0
    for i in range(PORT_TRIES if port == 0 else 1):
        t.listener[0] = open_listener(t, AF_INET, port)
        if t.listener[0] < 0:
            err, t.listener[0] = t.listener[0], -1
            return err
        bound[0] = port_of(t.listener[0])
        t.listener[1] = open_listener(t, AF_INET6, bound[0])
        if t.listener[1] >= 0:
            return 0
        err, t.listener[1] = t.listener[1], -1
        if err == -EAFNOSUPPORT:                    # a host without IPv6
            return 0
        close(t.listener[0])
        t.listener[0] = -1
    return err


cdef int st_open(Transport *base, uint16_t port, uint16_t *bound) noexcept nogil:
    cdef StreamTransport *t = T(base)
    cdef int r = open_both(t, port, bound), i
    t.now = clock_ns()
    for i in range(2 if r == 0 else 0):
        if t.listener[i] >= 0 and watch_file(base, t.listener[i], EPOLLIN, LISTENERS + i) < 0:
            return -errno
    t.listening = r == 0
    return r


cdef void listen_for(StreamTransport *t, uint32_t events) noexcept nogil:
    cdef epoll_event ev
    cdef int i
    for i in range(2):
        ev.events = events
        ev.data.u64 = <uint64_t>t.base.tag << 32 | <uint64_t>t.base.index << 24 | <uint64_t>(LISTENERS + i)
        if t.listener[i] >= 0:
            epoll_ctl(t.base.epoll_fd, EPOLL_CTL_MOD, t.listener[i], &ev)
    t.listening = events != 0
    t.listen_again = UINT64_MAX if events else t.now + LISTEN_PAUSE
    t.next_due = min(t.next_due, t.listen_again)


cdef void evict(StreamTransport *t) noexcept nogil:
    """The oldest stranger makes room."""
    cdef StreamAssociation *oldest = NULL
    cdef uint32_t i
    for i in range(t.top):
        if t.slots[i] != NULL and t.slots[i].state == STREAM_STRANGER:
            if oldest == NULL or t.slots[i].began < oldest.began:
                oldest = t.slots[i]
    if oldest != NULL:
        t.n.evicted += 1
        fail(oldest, DOWN_CLOSED)


cdef void welcome(StreamTransport *t, int fd, const PeerAddress *peer) noexcept nogil:
    cdef StreamAssociation *a
    if t.strangers >= MAX_STRANGERS:
        evict(t)
    a = association_new(t, peer) if t.count < MAX_INCOMING else NULL
    if a == NULL or a.source.strangers >= SOURCE_STRANGERS or a.source.assocs > SOURCE_ASSOCS:
        t.n.refused += 1
        if a != NULL:
            association_free(t, a)
        close(fd)
        return
    t.n.accepted += 1
    t.strangers += 1
    a.source.strangers += 1
    a.fd, a.state = fd, STREAM_STRANGER
    set_up_socket(t, fd)
    set_due(a, t.now + HELLO_TIME)
    if watch_file(&t.base, fd, EPOLLIN, a.slot) < 0:
        fail(a, DOWN_MEMORY)


cdef void accept_some(StreamTransport *t, int which) noexcept nogil:
    cdef sockaddr_storage from_
    cdef socklen_t n
    cdef PeerAddress peer
    cdef int i, fd
    for i in range(ACCEPTS):
        n = sizeof(from_)
        fd = accept4(t.listener[which], <sockaddr *>&from_, &n, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if fd >= 0:
            peer.port = read_address(&from_, peer.ip)
            welcome(t, fd, &peer)
        elif errno == EMFILE or errno == ENFILE or errno == ENOMEM or errno == ENOBUFS:
            listen_for(t, 0)
            return
        elif errno == EAGAIN:
            return


# ---- in ----------------------------------------------------------------------------------------------

cdef void answer(StreamAssociation *a, const Message *m) noexcept nogil:
    """PONG to a PING about no flow."""
    cdef Message pong
    if m.type != MSG_PING:
        return
    memset(&pong, 0, sizeof(pong))
    pong.type = MSG_PONG
    out_say(&a.out, &pong)
    make_ready(a)


cdef void take_frame(StreamAssociation *a, const uint8_t *p, uint32_t n) noexcept nogil:
    cdef StreamTransport *t = of(a)
    cdef Message m
    cdef bint fine = read_message(p, n, False, &m) == MESSAGE_FINE
    a.messages_received += 1
    if not fine:
        t.base.bad_messages += 1
    if a.state == STREAM_STRANGER:
        if not fine or m.type != MSG_HELLO:
            fail(a, DOWN_PROTOCOL)
            return
        up(a)
    if not fine:
        return
    if m.token == 0 and (m.type == MSG_PING or m.type == MSG_PONG):
        answer(a, &m)
    else:
        t.base.sink.message(t.base.sink.ctx, &a.base, &m, True)


cdef bint keep_room(StreamAssociation *a, uint32_t n) noexcept nogil:
    """For so much of a frame. False: it has failed."""
    cdef StreamTransport *t = of(a)
    cdef uint8_t *room
    if n <= a.partial_room:
        return True
    if not source_hold(&t.sources, a.source, n - a.partial_room):
        t.n.over_budget += 1
        fail(a, DOWN_MEMORY)
        return False
    room = <uint8_t *>realloc(a.partial, n)
    if room == NULL:
        source_give(&t.sources, a.source, n - a.partial_room)
        fail(a, DOWN_MEMORY)
        return False
    a.partial, a.partial_room = room, n
    t.held_peak = max(t.held_peak, t.sources.held)
    return True


cdef void keep_rest(StreamAssociation *a, const uint8_t *p, uint32_t n) noexcept nogil:
    """A frame's beginning, until the rest comes."""
    if keep_room(a, n):
        memcpy(a.partial, p, n)
        a.partial_n = n


cdef bint is_more(StreamAssociation *a, const uint8_t *p, uint32_t n) noexcept nogil:
    """Whether the frame that has begun is still not whole. It grows by what has come, and is not copied."""
    if a.partial_n < LENGTH_SIZE or a.partial_n + n >= LENGTH_SIZE + load32(a.partial):
        return False
    if keep_room(a, a.partial_n + n):
        memcpy(a.partial + a.partial_n, p, n)
        a.partial_n += n
    return True


cdef void no_rest(StreamAssociation *a) noexcept nogil:
    free(a.partial)
    source_give(&of(a).sources, a.source, a.partial_room)
    a.partial = NULL
    a.partial_n = a.partial_room = 0


cdef void take_bytes(StreamAssociation *a, const uint8_t *p, uint32_t n) noexcept nogil:
    cdef uint32_t at = 0, size
    while n - at >= LENGTH_SIZE and a.state != STREAM_DEAD:
        size = load32(p + at)
        if not PREFIX_SIZE <= size <= MAX_FRAME:
            fail(a, DOWN_PROTOCOL)
            return
        if n - at - LENGTH_SIZE < size:
            break
        take_frame(a, p + at + LENGTH_SIZE, size)
        at += LENGTH_SIZE + size
    if a.state == STREAM_DEAD:
        return
    if at < n:
        keep_rest(a, p + at, n - at)
    elif a.partial != NULL:
        no_rest(a)


cdef bint read_some(StreamAssociation *a) noexcept nogil:
    """Whether there may be more."""
    cdef StreamTransport *t = of(a)
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
    a.heard, a.asked = t.now, 0
    a.bytes_received += n
    t.n.bytes_received += n
    if is_more(a, t.rx + before, <uint32_t>n):
        return n == RX_SIZE and a.state != STREAM_DEAD
    if before:
        memcpy(t.rx, a.partial, before)
    a.partial_n = 0
    take_bytes(a, t.rx, before + <uint32_t>n)
    t.base.sink.settle(t.base.sink.ctx)
    return n == RX_SIZE and a.state != STREAM_DEAD


cdef void st_ready(Transport *base, uint32_t own, uint32_t events, uint64_t now) noexcept nogil:
    cdef StreamTransport *t = T(base)
    cdef StreamAssociation *a
    t.now = now
    if own >= LISTENERS:
        accept_some(t, own - LISTENERS)
        return
    a = t.slots[own] if own < SLOTS else NULL
    if a == NULL or a.fd < 0:
        return
    if a.state == STREAM_CONNECTING:
        connected(a)
        return
    if events & EPOLLOUT and a.blocked:
        a.blocked = False
        watch_for(a, EPOLLIN)
        make_ready(a)
    if events & (EPOLLIN | EPOLLERR | EPOLLHUP):
        read_some(a)


cdef void st_catch_up(Transport *base, uint64_t now) noexcept nogil:
    cdef StreamTransport *t = T(base)
    cdef uint32_t i, left = READS
    t.now = now
    for i in range(t.top):
        while left and t.slots[i] != NULL and t.slots[i].state == STREAM_UP and read_some(t.slots[i]):
            left -= 1


# ---- out ---------------------------------------------------------------------------------------------

cdef void make_ready(StreamAssociation *a) noexcept nogil:
    cdef StreamTransport *t = of(a)
    if a.in_ready or a.blocked or a.state != STREAM_UP:
        return
    a.in_ready, a.ready_next = True, NULL
    if t.ready_last != NULL:
        t.ready_last.ready_next = a
    else:
        t.ready_first = a
    t.ready_last = a


cdef void block(StreamAssociation *a) noexcept nogil:
    a.blocked = True
    watch_for(a, EPOLLIN | EPOLLOUT)


cdef void sent(StreamAssociation *a, uint64_t n) noexcept nogil:
    a.bytes_sent += n
    a.since_look += n
    of(a).n.bytes_sent += n


cdef bint send_rest(StreamAssociation *a) noexcept nogil:
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


cdef bint keep_unsent(StreamAssociation *a, const Batch *b, uint32_t skip) noexcept nogil:
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


cdef bint has_enough(StreamAssociation *a) noexcept nogil:
    """The kernel has not sent what it was given so far."""
    cdef int n = 0
    if a.since_look < LOOK_EVERY:
        return False
    a.since_look = 0
    return ioctl(a.fd, SIOCOUTQNSD, &n) == 0 and n >= LOWAT


cdef void send_batch(StreamAssociation *a) noexcept nogil:
    cdef StreamTransport *t = of(a)
    cdef Batch *b = &t.shared.batch
    cdef msghdr m
    cdef ssize_t n
    if not send_rest(a):
        return
    b.n = b.bytes = b.used = 0
    out_fill(&a.out, b)
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


cdef void send_all(StreamTransport *t) noexcept nogil:
    cdef StreamAssociation *a
    cdef int left = BATCHES
    while t.ready_first != NULL and left > 0:
        left -= 1
        a = t.ready_first
        t.ready_first = a.ready_next
        if t.ready_first == NULL:
            t.ready_last = NULL
        a.in_ready = False
        if a.state != STREAM_UP:
            continue
        send_batch(a)
        shared_release(&t.shared)
        if a.unsent_n or out_wants(&a.out):
            make_ready(a)


cdef void leave_ready(StreamTransport *t, StreamAssociation *a) noexcept nogil:
    cdef StreamAssociation *at = t.ready_first
    cdef StreamAssociation *before = NULL
    if not a.in_ready:
        return
    while at != a:
        before = at
        at = at.ready_next
    if before != NULL:
        before.ready_next = a.ready_next
    else:
        t.ready_first = a.ready_next
    if t.ready_last == a:
        t.ready_last = before
    a.in_ready = False


cdef void take_down(StreamTransport *t) noexcept nogil:
    cdef StreamAssociation *a
    while t.dead != NULL:
        a = t.dead
        t.dead = a.dead_next
        leave_ready(t, a)
        out_down(&a.out)
        if a.announced:
            t.base.sink.assoc_down(t.base.sink.ctx, &a.base, <down_reason>a.why)
        association_free(t, a)


cdef void st_flush(Transport *base, uint64_t now) noexcept nogil:
    cdef StreamTransport *t = T(base)
    t.now = now
    shared_release(&t.shared)
    take_down(t)
    send_all(t)
    take_down(t)
    shared_release(&t.shared)


# ---- time --------------------------------------------------------------------------------------------

cdef void ask(StreamAssociation *a) noexcept nogil:
    """Whether it is still there."""
    cdef StreamTransport *t = of(a)
    cdef Message ping
    if a.asked and t.now - a.asked >= t.dead_after:
        fail(a, DOWN_SILENT)
        return
    if not a.asked:
        a.asked = t.now
    memset(&ping, 0, sizeof(ping))
    ping.type = MSG_PING
    out_say(&a.out, &ping)
    make_ready(a)
    set_due(a, min(t.now + KEEPALIVE, a.asked + t.dead_after))


cdef void is_due(StreamAssociation *a) noexcept nogil:
    cdef StreamTransport *t = of(a)
    a.due = UINT64_MAX
    if a.state == STREAM_PAUSING:
        start(a)
    elif a.state == STREAM_CONNECTING:
        fail(a, DOWN_UNREACHABLE)
    elif a.state == STREAM_STRANGER:
        fail(a, DOWN_CLOSED)
    elif not in_use(a):
        if t.now - a.idle_since >= IDLE_AFTER:
            fail(a, DOWN_CLOSED)
        else:
            set_due(a, a.idle_since + IDLE_AFTER)
    elif t.now - a.heard >= KEEPALIVE:
        ask(a)
    else:
        set_due(a, a.heard + KEEPALIVE)


cdef void st_on_time(Transport *base, uint64_t now) noexcept nogil:
    cdef StreamTransport *t = T(base)
    cdef uint32_t i
    if t.next_due > now:
        return
    t.now = now
    t.next_due = UINT64_MAX
    if not t.listening and t.listen_again <= now:
        listen_for(t, EPOLLIN)
    for i in range(t.top):
        if t.slots[i] != NULL and t.slots[i].due <= now:
            is_due(t.slots[i])
        if t.slots[i] != NULL:
            t.next_due = min(t.next_due, t.slots[i].due)
    if not t.listening:
        t.next_due = min(t.next_due, t.listen_again)


cdef uint64_t st_deadline(Transport *t) noexcept nogil:
    return 0 if T(t).ready_first != NULL or T(t).dead != NULL else T(t).next_due


# ---- memory, and the end -----------------------------------------------------------------------------

cdef uint64_t st_held_less(const Transport *t) noexcept nogil:
    return (<const StreamTransport *>t).held_peak - (<const StreamTransport *>t).sources.held


cdef void st_held_noted(Transport *t) noexcept nogil:
    T(t).held_peak = T(t).sources.held


cdef void st_note(Transport *base) noexcept nogil:
    cdef StreamTransport *t = T(base)
    t.noted = t.n
    t.noted.associations, t.noted.held = t.count, t.sources.held


cdef void st_close_files(Transport *base) noexcept nogil:
    cdef StreamTransport *t = T(base)
    cdef uint32_t i
    for i in range(2):
        if t.listener[i] >= 0:
            close(t.listener[i])
        t.listener[i] = -1
    for i in range(t.top):
        if t.slots[i] != NULL:
            close_fd(t.slots[i])


cdef void st_shut(Transport *base) noexcept nogil:
    cdef StreamTransport *t = T(base)
    st_close_files(base)
    while t.top:
        if t.slots[t.top - 1] == NULL:
            t.top -= 1
        else:
            association_free(t, t.slots[t.top - 1])
    t.dead = t.ready_first = t.ready_last = NULL
    shared_end(&t.shared)


cdef void st_free(Transport *base) noexcept nogil:
    st_shut(base)
    free(T(base).rx)
    free(base)


# ---- associations ------------------------------------------------------------------------------------

cdef Association *st_connect(Transport *base, const PeerAddress *to, uint64_t now) noexcept nogil:
    cdef StreamTransport *t = T(base)
    cdef StreamAssociation *a
    cdef uint32_t i
    t.now = now
    for i in range(t.top):
        a = t.slots[i]
        if a != NULL and a.outgoing and a.state != STREAM_DEAD and same_peer(&a.peer, to):
            return &a.base
    a = association_new(t, to)
    if a == NULL:
        return NULL
    a.outgoing = a.announced = True
    if paused_until(t, to) > now:
        a.state = STREAM_PAUSING
        set_due(a, paused_until(t, to))
    else:
        start(a)
    return &a.base


cdef bint st_is_up(const Association *a) noexcept nogil:
    return A(a).state == STREAM_UP


cdef const PeerAddress *st_peer(const Association *a) noexcept nogil:
    return &A(a).peer


cdef bint ask_kernel(const StreamAssociation *a, tcp_info *info) noexcept nogil:
    cdef socklen_t n = sizeof(tcp_info)
    memset(info, 0, sizeof(tcp_info))
    return a.fd >= 0 and getsockopt(a.fd, IPPROTO_TCP, TCP_INFO, info, &n) == 0


cdef uint64_t st_patience(const Association *base) noexcept nogil:
    """As the kernel measures it; asked now and then only."""
    cdef StreamAssociation *a = A(base)
    cdef tcp_info info
    if a.state == STREAM_UP and (not a.patience_at or of(a).now - a.patience_at > PATIENCE_LASTS):
        a.patience_at = of(a).now
        if ask_kernel(a, &info):
            a.patience = (2 * <uint64_t>info.tcpi_rtt + 4 * <uint64_t>info.tcpi_rttvar) * 1000
    return a.patience


cdef int st_say(Association *base, const Message *m) noexcept nogil:
    cdef StreamAssociation *a = A(base)
    if a.state == STREAM_DEAD or out_say(&a.out, m) < 0:
        return -1
    make_ready(a)
    return 0


cdef void st_hold(Association *a) noexcept nogil:
    A(a).holds += 1
    use_changed(A(a))


cdef void st_let_go(Association *a) noexcept nogil:
    A(a).holds -= 1
    use_changed(A(a))


cdef void st_close(Association *base, uint64_t now) noexcept nogil:
    """What was said goes to the kernel yet, as far as it takes it."""
    cdef StreamAssociation *a = A(base)
    of(a).now = now
    if a.state == STREAM_UP and not a.blocked:
        send_batch(a)
    if a.fd >= 0 and a.state == STREAM_UP:
        shutdown(a.fd, SHUT_WR)
    fail(a, DOWN_CLOSED)


cdef void st_stats(const Association *base, uint8_t *row) noexcept nogil:
    cdef StreamAssociation *a = A(base)
    cdef StreamStats *s = <StreamStats *>row
    cdef tcp_info info
    memset(s, 0, sizeof(StreamStats))
    if ask_kernel(a, &info):
        s.srtt_ns, s.rttvar_ns = <uint64_t>info.tcpi_rtt * 1000, <uint64_t>info.tcpi_rttvar * 1000
        s.min_rtt_ns = <uint64_t>info.tcpi_min_rtt * 1000
        s.cwnd = <uint64_t>info.tcpi_snd_cwnd * info.tcpi_snd_mss
        s.bytes_in_flight = <uint64_t>info.tcpi_unacked * info.tcpi_snd_mss
        s.packets_lost = info.tcpi_total_retrans
    s.bytes_sent, s.bytes_received, s.messages_received = a.bytes_sent, a.bytes_received, a.messages_received
    s.waiting = a.out.waiting + a.unsent_n
    s.up, s.channels, s.outgoing = a.state == STREAM_UP, a.out.channels, a.outgoing
    s.fallback = fell_back(of(a), a.fd)


cdef void st_take(Association *a, take_kind what, int64_t n) noexcept nogil:
    A(a).taken[<int>what] += <uint64_t>n
    A(a).source.taken[<int>what] += <uint64_t>n


cdef uint64_t st_taken(const Association *a, take_kind what) noexcept nogil:
    return A(a).source.taken[<int>what]


cdef uint32_t st_sources(const Association *a) noexcept nogil:
    return max(of(A(a)).sources.n, <uint32_t>FAIR_SOURCES)


# ---- channels ----------------------------------------------------------------------------------------

cdef inline StreamAssociation *owner_of(const Channel *c) noexcept nogil:
    """NULL: it is down."""
    cdef Outgoing *o = (<QueueChannel *>c).out
    cdef size_t before = <size_t>&(<StreamAssociation *>NULL).out
    return <StreamAssociation *>(<uint8_t *>o - before) if o != NULL else NULL


cdef Channel *st_channel(Association *base, void *user) noexcept nogil:
    cdef StreamAssociation *a = A(base)
    cdef Channel *c = channel_new(&a.out, user) if a.state != STREAM_DEAD else NULL
    if c != NULL:
        use_changed(a)
    return c


cdef void st_channel_close(Channel *c) noexcept nogil:
    cdef StreamAssociation *a = owner_of(c)
    channel_free(c)
    if a == NULL:
        return
    use_changed(a)
    if out_wants(&a.out):
        make_ready(a)


cdef int st_send(Channel *c, const Message *m, void *owner) noexcept nogil:
    cdef StreamAssociation *a = owner_of(c)
    if a == NULL or a.state == STREAM_DEAD or channel_send(c, m, owner) < 0:
        return -1
    make_ready(a)
    return 0


cdef void st_report(Channel *c) noexcept nogil:
    cdef StreamAssociation *a = owner_of(c)
    if a != NULL and a.state != STREAM_DEAD:
        channel_report(c)
        make_ready(a)


cdef TransportOps OPS
OPS.open = st_open
OPS.ready = st_ready
OPS.catch_up = st_catch_up
OPS.deadline = st_deadline
OPS.on_time = st_on_time
OPS.flush = st_flush
OPS.held_less = st_held_less
OPS.held_noted = st_held_noted
OPS.note = st_note
OPS.close_files = st_close_files
OPS.shut = st_shut
OPS.free = st_free
OPS.connect = st_connect
OPS.is_up = st_is_up
OPS.peer = st_peer
OPS.patience = st_patience
OPS.say = st_say
OPS.hold = st_hold
OPS.let_go = st_let_go
OPS.close = st_close
OPS.stats = st_stats
OPS.take = st_take
OPS.taken = st_taken
OPS.sources = st_sources
OPS.channel = st_channel
OPS.channel_close = st_channel_close
OPS.send = st_send
OPS.report = st_report
OPS.waiting = channel_waiting
OPS.all_waiting = channel_all_waiting
OPS.unacked = channel_waiting
OPS.newest = channel_newest
OPS.at_rest = channel_at_rest


# ---- made --------------------------------------------------------------------------------------------

cdef class StreamHandle(Handle):
    """See contract.pyx."""

    cdef dict counted(self):
        return {f"{self.name}.{name}": count for name, count in (<dict>T(self.t).noted).items()}

    cdef dict row(self, const uint8_t *row):
        return (<const StreamStats *>row)[0]


def make(str name, uint8_t wire_id, int protocol, settings):
    """One over the kernel's connections of `protocol`, of no worker yet. `name`: at most 32 letters of ASCII.

    Raises MemoryError; ConfigurationError when there is a key, for nothing of it is encrypted.
    """
    cdef StreamHandle handle = StreamHandle.__new__(StreamHandle)
    cdef bytes text = name.encode()
    cdef StreamTransport *t
    if settings.keys:
        raise ConfigurationError(f"transport {name} does not encrypt, so a key does not go with it")
    t = <StreamTransport *>calloc(1, sizeof(StreamTransport))
    if t == NULL:
        raise MemoryError(f"transport {name}")
    t.base.ops = &OPS
    t.listener[0] = t.listener[1] = -1
    handle.t = &t.base                              # which frees it
    handle.name = name
    t.base.properties = T_REPAIRS | T_ORDERED | T_INTEGRITY | T_CONGESTION | T_WHOLE
    t.base.wire_id = wire_id
    t.hello[0], t.hello[1] = 1, <uint8_t>len(text)
    memcpy(t.hello + 2, <const char *>text, min(len(text), 32))
    t.base.options, t.base.options_n = t.hello, 2 + <uint32_t>len(text)
    t.protocol = protocol
    t.dead_after = <uint64_t>(settings.dead_after * 1e9)
    t.next_due = t.listen_again = UINT64_MAX
    t.shared.sink, t.shared.ops, t.shared.sources = &t.base.sink, &OPS, &t.sources
    t.shared.cut = CUT
    sources_init(&t.sources, min(<uint64_t>BUDGET, <uint64_t>settings.budget))
    getrandom(t.key, sizeof(t.key), 0)
    t.rx = <uint8_t *>malloc(LENGTH_SIZE + MAX_FRAME + RX_SIZE)     # the rest of the read before is first
    if t.rx == NULL:
        raise MemoryError(f"transport {name}")
    return handle
