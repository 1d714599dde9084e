"""Bare TCP segments of the engine's own, about a connection that is not its own.

nudge(): a segment that the egress program dropped is tried again only after a retransmission timeout, or when
any acceptable segment arrives (RFC 9293, 3.10.7.4; Linux pushes pending frames after each ACK it takes). So the
host sends the application's socket one: an ACK from the remote address, with the numbers the handshake left, plus what the
twin has sent since: an older sequence number is none that TCP accepts. It
repeats what the application's TCP knows already, the window included (ten segments where that is not known).

announce(): an ACK to the peer's host with the VTL option. The handshake's last ACK, when it waits for data that
is held back, or may have been lost; or the word that the client has left the flow to TCP.

hang_up(): a RST to the peer's host. The client has no way back and the peer's engine did not take the flow: the server's
socket there, which may be on TCP by now, would wait for ever.

forget(): a RST that ends the TIME_WAIT of an application's socket (RFC 1337: its sequence number is exact). TIME_WAIT
keeps the socket's mark, so its answers would never reach the peer, whose next connection with these ports would hang.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset
from hooker.includes.hk cimport (
    HK_MARK_OWN, HK_OPT_EXID, HK_OPT_KIND, HK_OPT_LEN, HK_OPT_VERSION_MESSAGES, HK_TCP_WSCALE, hk_event,
)
from hooker.includes.linux cimport *

cdef enum:
    TCP_HEADER = 20
    FLAG_RST = 0x04
    FLAG_ACK = 0x10
    INITIAL_WINDOW = 14600       # bytes: ten segments, RFC 6928
    IPV6_HDRINCL_ = 36
    LARGEST = 40 + TCP_HEADER + 16
    MOST_HOPS = 255              # an application may ask for it (IP_MINTTL, RFC 5082)

cdef struct segment:             # one ACK: who says what to whom
    const uint8_t *src
    const uint8_t *dst
    uint16_t src_port
    uint16_t dst_port
    uint32_t seq
    uint32_t ack
    uint32_t window              # as it stands in the header
    const uint8_t *option        # HK_OPT_LEN bytes, or NULL
    uint8_t flags


cdef inline uint32_t sum16(const uint8_t *p, size_t n, uint32_t acc) noexcept nogil:
    cdef size_t i
    for i in range(0, n, 2):
        acc += (<uint32_t>p[i] << 8) | p[i + 1]
    return acc


cdef inline uint16_t fold(uint32_t acc) noexcept nogil:
    while acc >> 16:
        acc = (acc & 0xFFFF) + (acc >> 16)
    return <uint16_t>(~acc & 0xFFFF)


cdef inline void put16(uint8_t *p, uint32_t v) noexcept nogil:
    p[0] = (v >> 8) & 0xFF
    p[1] = v & 0xFF


cdef inline void put32(uint8_t *p, uint32_t v) noexcept nogil:
    put16(p, v >> 16)
    put16(p + 2, v & 0xFFFF)


cdef size_t write_tcp(uint8_t *t, const segment *g, bint v4) noexcept nogil:
    """Header and option; bytes written."""
    cdef size_t n = TCP_HEADER, alen = 4 if v4 else 16, skip = 12 if v4 else 0
    cdef uint32_t acc
    memset(t, 0, TCP_HEADER)
    put16(t, g.src_port)
    put16(t + 2, g.dst_port)
    put32(t + 4, g.seq)
    put32(t + 8, g.ack)
    t[13] = g.flags
    put16(t + 14, 1 if g.window == 0 else 65535 if g.window > 65535 else g.window)
    if g.option != NULL:
        memcpy(t + n, g.option, HK_OPT_LEN)
        n += HK_OPT_LEN
    t[12] = <uint8_t>((n // 4) << 4)
    acc = sum16(g.src + skip, alen, sum16(g.dst + skip, alen, <uint32_t>(IPPROTO_TCP + n)))
    put16(t + 16, fold(sum16(t, n, acc)))
    return n


cdef int send_v4(int fd, const segment *g) noexcept nogil:
    cdef uint8_t p[LARGEST]
    cdef sockaddr_in to
    cdef size_t n = 20 + write_tcp(p + 20, g, True)
    memset(p, 0, 20)
    p[0] = 0x45
    put16(p + 2, <uint32_t>n)
    p[6] = 0x40                  # don't fragment
    p[8] = MOST_HOPS
    p[9] = IPPROTO_TCP
    memcpy(p + 12, g.src + 12, 4)
    memcpy(p + 16, g.dst + 12, 4)
    memset(&to, 0, sizeof(to))
    to.sin_family = AF_INET
    memcpy(&to.sin_addr, g.dst + 12, 4)
    return 0 if sendto(fd, p, n, MSG_DONTWAIT, <sockaddr *>&to, sizeof(to)) == <ssize_t>n else -errno


cdef int send_v6(int fd, const segment *g) noexcept nogil:
    cdef uint8_t p[LARGEST]
    cdef sockaddr_in6 to
    cdef size_t n = write_tcp(p + 40, g, False)
    memset(p, 0, 40)
    p[0] = 0x60
    put16(p + 4, <uint32_t>n)
    p[6] = IPPROTO_TCP
    p[7] = MOST_HOPS
    memcpy(p + 8, g.src, 16)
    memcpy(p + 24, g.dst, 16)
    n += 40
    memset(&to, 0, sizeof(to))
    to.sin6_family = AF_INET6
    memcpy(&to.sin6_addr, g.dst, 16)
    return 0 if sendto(fd, p, n, MSG_DONTWAIT, <sockaddr *>&to, sizeof(to)) == <ssize_t>n else -errno


cdef int raw_socket(int family) noexcept nogil:
    cdef int mark = HK_MARK_OWN, on = 1
    cdef int fd = socket(family, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_RAW)
    if fd < 0:
        return -errno
    setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark))
    if family == AF_INET6:
        setsockopt(fd, IPPROTO_IPV6, IPV6_HDRINCL_, &on, sizeof(on))
    return fd


cdef int nudger_open(nudger *n) noexcept nogil:
    n.v4 = raw_socket(AF_INET)
    n.v6 = raw_socket(AF_INET6)           # a host without IPv6 has no IPv6 flows to nudge
    return n.v4 if n.v4 < 0 else 0


cdef void nudger_close(nudger *n) noexcept nogil:
    if n.v4 >= 0:
        close(n.v4)
    if n.v6 >= 0:
        close(n.v6)
    n.v4 = n.v6 = -1


cdef int send_segment(nudger *n, const segment *g) noexcept nogil:
    cdef const uint32_t *w = <const uint32_t *>g.src
    if w[0] == 0 and w[1] == 0 and w[2] == htonl(0xFFFF):
        return send_v4(n.v4, g)
    return send_v6(n.v6, g)


cdef int nudge(nudger *n, const hk_event *est, uint32_t given) noexcept nogil:
    cdef segment g
    g.src, g.src_port = est.key.remote_ip, est.key.remote_port
    g.dst, g.dst_port = est.key.local_ip, est.key.local_port
    g.seq, g.ack = est.rcv_nxt + given, est.snd_nxt
    g.window = est.snd_wnd if est.snd_wnd else INITIAL_WINDOW
    if est.tcp_options & HK_TCP_WSCALE:
        g.window >>= est.snd_wscale
    g.option = NULL
    g.flags = FLAG_ACK
    return send_segment(n, &g)


cdef int announce(nudger *n, const hk_event *est, int role, int transport, uint16_t port) noexcept nogil:
    cdef segment g
    cdef uint8_t option[HK_OPT_LEN]
    option[0] = HK_OPT_KIND
    option[1] = HK_OPT_LEN
    put16(option + 2, HK_OPT_EXID)
    option[4] = HK_OPT_VERSION_MESSAGES << 4 | role
    option[5] = transport
    put16(option + 6, port)
    memcpy(option + 8, &est.client_nonce, 8)
    g.src, g.src_port = est.key.local_ip, est.key.local_port
    g.dst, g.dst_port = est.key.remote_ip, est.key.remote_port
    g.seq, g.ack = est.snd_nxt, est.rcv_nxt
    g.window = est.rcv_wnd
    if est.tcp_options & HK_TCP_WSCALE:
        g.window >>= est.rcv_wscale
    g.option = option
    g.flags = FLAG_ACK
    return send_segment(n, &g)


cdef int hang_up(nudger *n, const hk_event *est) noexcept nogil:
    cdef segment g
    g.src, g.src_port = est.key.local_ip, est.key.local_port
    g.dst, g.dst_port = est.key.remote_ip, est.key.remote_port
    g.seq, g.ack, g.window = est.snd_nxt, est.rcv_nxt, 0
    g.option = NULL
    g.flags = FLAG_RST | FLAG_ACK
    return send_segment(n, &g)


cdef void set_mark(nudger *n, int mark) noexcept nogil:
    setsockopt(n.v4, SOL_SOCKET, SO_MARK, &mark, sizeof(mark))
    if n.v6 >= 0:
        setsockopt(n.v6, SOL_SOCKET, SO_MARK, &mark, sizeof(mark))


cdef int knock(nudger *n, const hk_event *est, int mark) noexcept nogil:
    cdef segment g
    cdef int r
    g.src, g.src_port = est.key.local_ip, est.key.local_port
    g.dst, g.dst_port = est.key.remote_ip, est.key.remote_port
    g.seq, g.ack, g.window = est.snd_nxt, est.rcv_nxt - 2, 1
    g.option = NULL
    g.flags = FLAG_ACK
    set_mark(n, mark)
    r = send_segment(n, &g)
    set_mark(n, HK_MARK_OWN)
    return r


cdef int forget(nudger *n, const hk_event *est, uint32_t seq, uint32_t ack) noexcept nogil:
    cdef segment g
    g.src, g.src_port = est.key.remote_ip, est.key.remote_port
    g.dst, g.dst_port = est.key.local_ip, est.key.local_port
    g.seq, g.ack, g.window = seq, ack, 0
    g.option = NULL
    g.flags = FLAG_RST | FLAG_ACK
    return send_segment(n, &g)
