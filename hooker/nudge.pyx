"""The nudge: make an application's socket transmit now what it was kept from sending.

A segment that the egress program dropped is tried again only after a retransmission timeout, or when any
acceptable segment arrives (RFC 9293, 3.10.7.4; Linux pushes pending frames after each ACK it takes). So the
host sends itself one: a bare ACK from the remote address, with the numbers the handshake left. It repeats
what the application's TCP knows already, the window included (ten segments where that is not known).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset
from hooker.includes.hk cimport HK_MARK_OWN, HK_TCP_WSCALE, hk_event
from hooker.includes.linux cimport *

cdef enum:
    TCP_HEADER = 20
    FLAG_ACK = 0x10
    INITIAL_WINDOW = 14600       # bytes: ten segments, RFC 6928
    IPV6_HDRINCL_ = 36


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


cdef void write_tcp(uint8_t *t, const hk_event *est, uint32_t seq, const uint8_t *src, const uint8_t *dst, size_t alen) noexcept nogil:
    cdef uint32_t window = est.snd_wnd if est.snd_wnd else INITIAL_WINDOW
    if est.tcp_options & HK_TCP_WSCALE:
        window >>= est.snd_wscale
    memset(t, 0, TCP_HEADER)
    put16(t, est.key.remote_port)
    put16(t + 2, est.key.local_port)
    put32(t + 4, seq)
    put32(t + 8, est.snd_nxt)
    t[12] = (TCP_HEADER // 4) << 4
    t[13] = FLAG_ACK
    put16(t + 14, 1 if window == 0 else 65535 if window > 65535 else window)
    cdef uint32_t acc = sum16(src, alen, sum16(dst, alen, IPPROTO_TCP + TCP_HEADER))
    put16(t + 16, fold(sum16(t, TCP_HEADER, acc)))


cdef int nudge_v4(int fd, const hk_event *est, uint32_t seq) noexcept nogil:
    cdef uint8_t p[40]
    cdef sockaddr_in to
    cdef const uint8_t *src = est.key.remote_ip + 12
    cdef const uint8_t *dst = est.key.local_ip + 12
    memset(p, 0, 20)
    p[0] = 0x45
    put16(p + 2, 40)
    p[6] = 0x40                  # don't fragment
    p[8] = 64
    p[9] = IPPROTO_TCP
    memcpy(p + 12, src, 4)
    memcpy(p + 16, dst, 4)
    write_tcp(p + 20, est, seq, src, dst, 4)
    memset(&to, 0, sizeof(to))
    to.sin_family = AF_INET
    memcpy(&to.sin_addr, dst, 4)
    return 0 if sendto(fd, p, 40, MSG_DONTWAIT, <sockaddr *>&to, sizeof(to)) == 40 else -errno


cdef int nudge_v6(int fd, const hk_event *est, uint32_t seq) noexcept nogil:
    cdef uint8_t p[60]
    cdef sockaddr_in6 to
    memset(p, 0, 40)
    p[0] = 0x60
    put16(p + 4, TCP_HEADER)
    p[6] = IPPROTO_TCP
    p[7] = 64
    memcpy(p + 8, est.key.remote_ip, 16)
    memcpy(p + 24, est.key.local_ip, 16)
    write_tcp(p + 40, est, seq, est.key.remote_ip, est.key.local_ip, 16)
    memset(&to, 0, sizeof(to))
    to.sin6_family = AF_INET6
    memcpy(&to.sin6_addr, est.key.local_ip, 16)
    return 0 if sendto(fd, p, 60, MSG_DONTWAIT, <sockaddr *>&to, sizeof(to)) == 60 else -errno


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


cdef int send_ack(nudger *n, const hk_event *est, uint32_t seq) noexcept nogil:
    cdef const uint32_t *w = <const uint32_t *>est.key.remote_ip
    if w[0] == 0 and w[1] == 0 and w[2] == htonl(0xFFFF):
        return nudge_v4(n.v4, est, seq)
    return nudge_v6(n.v6, est, seq)


cdef int nudge(nudger *n, const hk_event *est) noexcept nogil:
    return send_ack(n, est, est.rcv_nxt)


cdef int nudge_acknowledge(nudger *n, const hk_event *est) noexcept nogil:
    return send_ack(n, est, est.rcv_nxt - 1)
