"""SCTP (RFC 9260) as a transport: one association for a pair of hosts, by the kernel's sockets (RFC 6458).

The kernel keeps messages apart, repeats, and paces; we bound.

1. Messages go unordered, so that a lost packet holds up none but its own. Until the peer has been heard they
   go in order, for it takes nothing before HELLO.
2. A message that is delivered in parts is put together (partial.pxd). One longer than any message ends the
   association.
3. The kernel is given what the path takes (twice its congestion window) and LOWAT: what is said later is not
   behind megabytes. SO_SNDBUF follows. A message is taken as a whole, or not at all.
4. An association that its peer has begun anew (RFC 9260, 5.2.2: another engine by the same port) is down.
5. It has one address at each end. Of others that a host has the peer may have the same: the engines' devices
   do. What the kernel asked there its own host would answer, with ABORT. So who connects names one only, and
   those that who is connected to names (the kernel's choice) are never used: nothing confirms them.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from hooker.flow.messages cimport MAX_HEADER
from hooker.includes.addresses cimport fill_address, set_int
from hooker.includes.bytes cimport load32, store32
from hooker.includes.hk cimport HK_MARK_OWN
from hooker.includes.linux cimport *
from hooker.transports.connection cimport *
from hooker.transports.connections cimport connections_make
from hooker.transports.contract cimport *
from hooker.transports.partial cimport partial_add, partial_end
from hooker.transports.queues cimport BATCH_BYTES, CUT, FRAME_ROOM, LENGTH_SIZE, Batch, out_fill

cdef extern from "<netinet/in.h>" nogil:
    enum:
        IPPROTO_SCTP

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_EOR
        MSG_MORE
        SO_MEMINFO

cdef extern from "<linux/sock_diag.h>" nogil:
    enum:
        SK_MEMINFO_SNDBUF
        SK_MEMINFO_WMEM_QUEUED

cdef extern from "<linux/sctp.h>" nogil:
    struct sctp_initmsg:
        uint16_t sinit_num_ostreams
        uint16_t sinit_max_instreams
    struct sctp_rtoinfo:
        uint32_t srto_initial
        uint32_t srto_max
        uint32_t srto_min
    struct sctp_assocparams:
        uint16_t sasoc_asocmaxrxt
    struct sctp_sack_info:
        uint32_t sack_delay
        uint32_t sack_freq
    struct sctp_paddrparams:
        uint32_t spp_flags
    struct sctp_sndinfo:
        uint16_t snd_flags
    struct sctp_event:
        uint16_t se_type
        uint8_t se_on
    struct sctp_assoc_change:
        uint16_t sac_type
        uint16_t sac_state
    struct sctp_paddrinfo:
        uint32_t spinfo_cwnd
        uint32_t spinfo_srtt
        uint32_t spinfo_rto
        uint32_t spinfo_mtu
    struct sctp_status:
        uint16_t sstat_unackdata
        uint16_t sstat_outstrms
        sctp_paddrinfo sstat_primary
    struct sctp_assoc_stats:
        uint64_t sas_rtxchunks
    enum:
        MSG_NOTIFICATION
        SCTP_RTOINFO
        SCTP_ASSOCINFO
        SCTP_INITMSG
        SCTP_PEER_ADDR_PARAMS
        SCTP_NODELAY
        SCTP_DELAYED_SACK
        SCTP_DEFAULT_SNDINFO
        SCTP_EVENT
        SCTP_STATUS
        SCTP_GET_ASSOC_STATS
        SCTP_ASSOC_CHANGE
        SCTP_RESTART
        SCTP_UNORDERED
        SPP_HB_DISABLE

cdef extern from "<time.h>" nogil:
    int clock_getres(int clock, timespec *ts)
    enum:
        CLOCK_MONOTONIC_COARSE

cdef enum:
    WIRE_ID = 9
    MAX_MESSAGE = MAX_HEADER + 65535
    RX_MESSAGES = 16           # of one recvmmsg()
    RX_ROOM = CUT + FRAME_ROOM # bytes: what a peer like this one sends at most
    RECEIVE_BUFFER = 2 << 20   # bytes; the kernel doubles it, and offers the peer a half
    LOWAT = 256 << 10          # bytes that the kernel may have beside what the path takes
    SEND_MOST = 16 << 20
    LOOK_EVERY = 64 << 10      # bytes sent before the kernel is asked for its window
    MS = 1000000               # ns
    SACK_DELAY = 20            # ms; below RTO_MIN, which is TCP's here
    RTO_MIN = 200
    RTO_INITIAL = 1000
    RTO_MAX = 2000             # above round trips; timeouts double while nothing comes back, else up to 60 s
    TRIES = 8                  # repetitions in a row beyond those of dead_after: the kernel gives up last

cdef struct Received:          # what one read takes
    mmsghdr m[16]              # RX_MESSAGES
    iovec iov[16]
    uint8_t bytes[16][32872]   # RX_ROOM


# ---- the socket --------------------------------------------------------------------------------------

cdef void set_up(ConnectionTransport *t, int fd) noexcept nogil:
    cdef sctp_initmsg streams
    cdef sctp_rtoinfo rto
    cdef sctp_assocparams tries
    cdef sctp_sack_info sack
    cdef sctp_event restart
    cdef sctp_paddrparams ways
    memset(&streams, 0, sizeof(streams))
    streams.sinit_num_ostreams = streams.sinit_max_instreams = 1
    memset(&rto, 0, sizeof(rto))
    rto.srto_min, rto.srto_initial, rto.srto_max = RTO_MIN, RTO_INITIAL, RTO_MAX
    memset(&tries, 0, sizeof(tries))
    tries.sasoc_asocmaxrxt = <uint16_t>min(TRIES + t.dead_after // (<uint64_t>RTO_MAX * MS), <uint64_t>0xFFFF)
    memset(&sack, 0, sizeof(sack))
    sack.sack_delay, sack.sack_freq = SACK_DELAY, 2
    memset(&restart, 0, sizeof(restart))
    restart.se_type, restart.se_on = SCTP_ASSOC_CHANGE, 1
    memset(&ways, 0, sizeof(ways))
    ways.spp_flags = SPP_HB_DISABLE                 # by which alone others than the first are confirmed
    set_int(fd, SOL_SOCKET, SO_MARK, HK_MARK_OWN)
    set_int(fd, SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    set_int(fd, SOL_SOCKET, SO_SNDBUFFORCE, LOWAT)
    set_int(fd, IPPROTO_SCTP, SCTP_NODELAY, 1)
    setsockopt(fd, IPPROTO_SCTP, SCTP_INITMSG, &streams, sizeof(streams))
    setsockopt(fd, IPPROTO_SCTP, SCTP_RTOINFO, &rto, sizeof(rto))
    setsockopt(fd, IPPROTO_SCTP, SCTP_ASSOCINFO, &tries, sizeof(tries))
    setsockopt(fd, IPPROTO_SCTP, SCTP_DELAYED_SACK, &sack, sizeof(sack))
    setsockopt(fd, IPPROTO_SCTP, SCTP_EVENT, &restart, sizeof(restart))
    setsockopt(fd, IPPROTO_SCTP, SCTP_PEER_ADDR_PARAMS, &ways, sizeof(ways))


cdef bint choose_source(Connection *a) noexcept nogil:
    """The one that the kernel would send from: unbound, a socket tells the peer all that this host has."""
    cdef sockaddr_storage end
    cdef socklen_t n = fill_address(&end, a.peer.ip, a.peer.port)
    cdef int asked = socket(end.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0)
    cdef bint found
    if asked < 0:
        return False
    set_int(asked, SOL_SOCKET, SO_MARK, HK_MARK_OWN)
    found = connect(asked, <sockaddr *>&end, n) == 0 and getsockname(asked, <sockaddr *>&end, &n) == 0
    close(asked)
    (<sockaddr_in *>&end).sin_port = 0              # the same place in both families
    return found and bind(a.fd, <sockaddr *>&end, n) == 0


cdef void came_up(Connection *a) noexcept nogil:
    pass


cdef void let_overtake(Connection *a) noexcept nogil:
    """From now on messages are unordered."""
    cdef sctp_sndinfo how
    memset(&how, 0, sizeof(how))
    how.snd_flags = SCTP_UNORDERED
    setsockopt(a.fd, IPPROTO_SCTP, SCTP_DEFAULT_SNDINFO, &how, sizeof(how))


cdef void give_up(Connection *a) noexcept nogil:
    """close() aborts: else the kernel would go on to repeat what it has."""
    will_abort(a)


cdef bint ask_kernel(const Connection *a, sctp_status *status) noexcept nogil:
    cdef socklen_t n = sizeof(sctp_status)
    memset(status, 0, sizeof(sctp_status))
    return getsockopt(a.fd, IPPROTO_SCTP, SCTP_STATUS, status, &n) == 0


cdef bint ask_memory(const Connection *a, uint32_t *info) noexcept nogil:
    cdef socklen_t n = 16 * sizeof(uint32_t)
    memset(info, 0, n)
    return getsockopt(a.fd, SOL_SOCKET, SO_MEMINFO, info, &n) == 0


cdef uint64_t tick() noexcept nogil:
    """ns of the kernel's clock, by which it measures round trips."""
    cdef timespec one
    clock_getres(CLOCK_MONOTONIC_COARSE, &one)
    return one.tv_nsec


cdef inline uint64_t srtt_of(const sctp_status *status) noexcept nogil:
    return status.sstat_primary.spinfo_srtt * tick()


cdef uint64_t patience(const Connection *a) noexcept nogil:
    """SRTT twice and its deviation four times, of which the kernel tells what exceeds the least RTO; three
    timeouts pass in four times this. And an answer comes behind all that the kernel has, which counts its own
    structures, about as much again."""
    cdef sctp_status status
    cdef uint32_t info[16]     # SK_MEMINFO_VARS
    cdef uint64_t srtt, rto, queue = 0
    if not ask_kernel(a, &status):
        return a.patience
    srtt, rto = srtt_of(&status), <uint64_t>status.sstat_primary.spinfo_rto * MS
    if ask_memory(a, info):
        queue = queue_time(info[SK_MEMINFO_WMEM_QUEUED] // 2, status.sstat_primary.spinfo_cwnd, srtt)
    return srtt + (rto if rto > RTO_MIN * MS else max(2 * srtt + tick(), rto // 4 * 3)) + queue


cdef void measure(const Connection *a, ConnectionRow *s) noexcept nogil:
    cdef sctp_status status
    cdef sctp_assoc_stats stats
    cdef socklen_t n = sizeof(stats)
    if ask_kernel(a, &status):
        s.srtt_ns = srtt_of(&status)
        s.cwnd = status.sstat_primary.spinfo_cwnd
        s.bytes_in_flight = <uint64_t>status.sstat_unackdata * status.sstat_primary.spinfo_mtu
        s.streams = status.sstat_outstrms
    memset(&stats, 0, sizeof(stats))
    if getsockopt(a.fd, IPPROTO_SCTP, SCTP_GET_ASSOC_STATS, &stats, &n) == 0:
        s.packets_lost = stats.sas_rtxchunks


# ---- in ----------------------------------------------------------------------------------------------

cdef void notified(Connection *a, const uint8_t *p, uint32_t n) noexcept nogil:
    cdef sctp_assoc_change change
    if n < sizeof(change):
        return
    memcpy(&change, p, sizeof(change))
    if change.sac_type == SCTP_ASSOC_CHANGE and change.sac_state == SCTP_RESTART:
        fail(a, DOWN_REPLACED)


cdef void take_part(Connection *a, const uint8_t *p, uint32_t n, bint last) noexcept nogil:
    cdef Sink *k = &a.base.t.sink
    if last and a.partial_n == 0:
        take_message(a, p, n)
    elif a.partial_n + n > MAX_MESSAGE:
        fail(a, DOWN_PROTOCOL)
    elif partial_add(a, p, n) and last:
        take_message(a, a.partial, a.partial_n)
        k.settle(k.ctx)                             # its bytes go now
        partial_end(a)


cdef void take_one(Connection *a, const mmsghdr *m) noexcept nogil:
    cdef const uint8_t *p = <const uint8_t *>m.msg_hdr.msg_iov[0].iov_base
    if m.msg_len == 0:
        fail(a, DOWN_CLOSED)
    elif m.msg_hdr.msg_flags & MSG_NOTIFICATION:
        notified(a, p, m.msg_len)
    else:
        heard_of(a, m.msg_len)
        take_part(a, p, m.msg_len, m.msg_hdr.msg_flags & MSG_EOR != 0)


cdef bint receive(Connection *a) noexcept nogil:
    cdef ConnectionTransport *t = of(a)
    cdef Received *rx = <Received *>t.rx
    cdef bint first = a.messages_received == 0
    cdef int i, n
    memset(rx.m, 0, sizeof(rx.m))
    for i in range(RX_MESSAGES):
        rx.iov[i].iov_base = &rx.bytes[i][0]
        rx.iov[i].iov_len = RX_ROOM
        rx.m[i].msg_hdr.msg_iov, rx.m[i].msg_hdr.msg_iovlen = &rx.iov[i], 1
    n = recvmmsg(a.fd, rx.m, RX_MESSAGES, MSG_DONTWAIT, NULL)
    t.n.recv_calls += 1
    if n < 0:
        if errno != EAGAIN and errno != EINTR:
            fail(a, why_of(errno))
        return False
    for i in range(n):
        if a.state != CONN_DEAD:
            take_one(a, &rx.m[i])
    t.base.sink.settle(t.base.sink.ctx)
    if first and a.messages_received and a.state == CONN_UP:
        let_overtake(a)
    return n == RX_MESSAGES and a.state != CONN_DEAD


# ---- out ---------------------------------------------------------------------------------------------

cdef int submit(Connection *a, mmsghdr *m, uint32_t n) noexcept nogil:
    """How many of these the kernel has taken: of the next one it says EAGAIN. -1: it has failed.

    All but the last leave with what comes behind them, in as few packets as can be.
    """
    cdef int taken = 0, r
    cdef uint32_t i, part
    cdef int flags = MSG_DONTWAIT | MSG_NOSIGNAL
    while taken < <int>n:
        part = n - taken - 1 if n - taken > 1 else 1
        r = sendmmsg(a.fd, m + taken, part, flags | (MSG_MORE if part < n - taken else 0))
        of(a).n.send_calls += 1
        if r < 0 and (errno == EAGAIN or errno == EINTR):
            break
        if r < 0:
            fail(a, why_of(errno))
            return -1
        for i in range(<uint32_t>r):
            sent(a, m[taken + i].msg_len)
        taken += r
    return taken


cdef bint keep_unsent(Connection *a, const mmsghdr *m, uint32_t n) noexcept nogil:
    """Each with its length before it. False: no memory."""
    cdef size_t size = 0, i, j
    cdef uint8_t *at
    cdef const iovec *part
    for i in range(n):
        size += LENGTH_SIZE
        for j in range(m[i].msg_hdr.msg_iovlen):
            size += m[i].msg_hdr.msg_iov[j].iov_len
    a.unsent = <uint8_t *>malloc(size)
    if a.unsent == NULL:
        return False
    a.unsent_at, a.unsent_n = 0, <uint32_t>size
    at = a.unsent
    for i in range(n):
        size = 0
        for j in range(m[i].msg_hdr.msg_iovlen):
            part = &m[i].msg_hdr.msg_iov[j]
            memcpy(at + LENGTH_SIZE + size, part.iov_base, part.iov_len)
            size += part.iov_len
        store32(at, <uint32_t>size)
        at += LENGTH_SIZE + size
    return True


cdef bint send_rest(Connection *a) noexcept nogil:
    """Of the batch before; whether that was all."""
    cdef mmsghdr m
    cdef iovec part
    cdef int taken = 1
    while a.unsent_n and taken == 1:
        memset(&m, 0, sizeof(m))
        part.iov_base = a.unsent + a.unsent_at + LENGTH_SIZE
        part.iov_len = load32(a.unsent + a.unsent_at)
        m.msg_hdr.msg_iov, m.msg_hdr.msg_iovlen = &part, 1
        taken = submit(a, &m, 1)
        if taken == 1:
            a.unsent_at += LENGTH_SIZE + <uint32_t>part.iov_len
            a.unsent_n -= LENGTH_SIZE + <uint32_t>part.iov_len
    if a.unsent_n:
        if taken == 0:
            block(a)
        return False
    free(a.unsent)
    a.unsent = NULL
    return True


cdef void follow_window(Connection *a) noexcept nogil:
    cdef sctp_status status
    if a.since_look < LOOK_EVERY:
        return
    a.since_look = 0
    if ask_kernel(a, &status):                      # the kernel doubles it, and counts its own structures
        set_int(a.fd, SOL_SOCKET, SO_SNDBUFFORCE,
                <int>min(2 * <uint64_t>status.sstat_primary.spinfo_cwnd + LOWAT, <uint64_t>SEND_MOST))


cdef uint32_t room(const Connection *a) noexcept nogil:
    """Bytes that the kernel takes now, about; 0: EPOLLOUT says when. It counts its own structures, too."""
    cdef uint32_t info[16]     # SK_MEMINFO_VARS
    if not ask_memory(a, info):
        return BATCH_BYTES
    if info[SK_MEMINFO_WMEM_QUEUED] >= info[SK_MEMINFO_SNDBUF]:
        return 0
    return min((info[SK_MEMINFO_SNDBUF] - info[SK_MEMINFO_WMEM_QUEUED] + 1) // 2, <uint32_t>BATCH_BYTES)


cdef void send_batch(Connection *a) noexcept nogil:
    cdef Batch *b = &of(a).shared.batch
    cdef mmsghdr m[128]        # BATCH_MESSAGES
    cdef uint32_t takes, i, end
    cdef int taken
    if not send_rest(a):
        return
    takes = room(a)
    if takes == 0:
        block(a)
        return
    b.n = b.bytes = b.used = b.messages = 0
    b.apart = True
    out_fill(&a.out, b, takes)
    memset(m, 0, b.messages * sizeof(mmsghdr))
    for i in range(b.messages):
        end = b.begins[i + 1] if i + 1 < b.messages else b.n
        m[i].msg_hdr.msg_iov = &b.iov[b.begins[i]]
        m[i].msg_hdr.msg_iovlen = end - b.begins[i]
    taken = submit(a, m, b.messages)
    if taken < 0:
        return
    follow_window(a)
    if taken < <int>b.messages:
        if keep_unsent(a, m + taken, b.messages - taken):
            block(a)
        else:
            fail(a, DOWN_MEMORY)


cdef ConnectionKind SCTP
SCTP.set_up = set_up
SCTP.choose_source = choose_source
SCTP.came_up = came_up
SCTP.receive = receive
SCTP.send = send_batch
SCTP.give_up = give_up
SCTP.patience = patience
SCTP.measure = measure


def make(settings):
    """Raises ConfigurationError when there is a key, MemoryError."""
    return connections_make("sctp", WIRE_ID, IPPROTO_SCTP, &SCTP,
                            T_REPAIRS | T_INTEGRITY | T_CONGESTION | T_WHOLE | T_QUEUED, sizeof(Received),
                            settings)
