"""The twin: a local TCP socket that is, for this host, the remote end of a hooked flow.

It is put together in repair mode from what the kernel program saw when the connection was established
(tcp(7) TCP_REPAIR; the options are those of the handshake), so the application's own TCP connection goes
on with it as if nothing had happened.

Zero linger is on for its whole life: if the engine dies, the kernel closes the twin with a reset, and the
application sees ECONNRESET instead of an end of data that is none.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset
from hooker.includes.addresses cimport fill_address, is_v4, set_int
from hooker.includes.hk cimport HK_MARK_OWN, HK_TCP_SACK, HK_TCP_TIMESTAMPS, HK_TCP_WSCALE, hk_event
from hooker.includes.linux cimport *

cdef enum:                       # <linux/tcp.h>; libc's header lacks some of them
    TCP_REPAIR = 19
    TCP_REPAIR_QUEUE = 20
    TCP_QUEUE_SEQ = 21
    TCP_REPAIR_OPTIONS = 22
    TCP_TIMESTAMP = 24
    TCP_REPAIR_WINDOW = 29
    TCP_MAXSEG = 2
    SIOCOUTQNSD = 0x894B         # <linux/sockios.h>
    LARGEST_MSS = 32767          # the kernel's limits for TCP_MAXSEG
    LEAST_MSS = 88
    DEFAULT_MSS = 536            # RFC 9293, 3.7.1
    LEAST_WINDOW = 65536
    RECEIVE_BUFFER = 131072      # bytes: what waits on loopback should be in the processor's cache still when it is read
    RECV_QUEUE = 1
    SEND_QUEUE = 2
    OPT_WSCALE = 3
    OPT_SACK = 4
    OPT_TIMESTAMP = 8
    REPAIR_OFF_NO_PROBE = -1
    IPV6_TRANSPARENT_ = 75
    IP_TTL = 2                   # <linux/in.h>
    IPV6_UNICAST_HOPS = 16       # <linux/in6.h>
    MOST_HOPS = 255              # an application may ask for it (IP_MINTTL, RFC 5082)

cdef struct repair_window:
    uint32_t snd_wl1
    uint32_t snd_wnd
    uint32_t max_window
    uint32_t rcv_wnd
    uint32_t rcv_wup

cdef struct repair_opt:
    uint32_t code
    uint32_t value


cdef int set_queue(int fd, int queue, uint32_t seq) noexcept nogil:
    if set_int(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, queue) < 0:
        return -1
    return setsockopt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, &seq, sizeof(seq))


cdef int set_options(int fd, const hk_event *est) noexcept nogil:
    """Those of the handshake. With timestamps, too, a twin's TIME_WAIT does not keep the addresses from the next one."""
    cdef repair_opt opt[3]
    cdef int n = 0
    if est.tcp_options & HK_TCP_WSCALE:      # what the application's socket sends with, we receive with
        opt[n].code = OPT_WSCALE
        opt[n].value = est.rcv_wscale | (<uint32_t>est.snd_wscale << 16)
        n += 1
    if est.tcp_options & HK_TCP_SACK:
        opt[n].code = OPT_SACK
        opt[n].value = 0
        n += 1
    if est.tcp_options & HK_TCP_TIMESTAMPS:
        opt[n].code = OPT_TIMESTAMP
        opt[n].value = 0
        n += 1
        # Never older than the peer's own (PAWS). An odd value would mean a clock of microseconds.
        if set_int(fd, IPPROTO_TCP, TCP_TIMESTAMP, (est.ts_recent + 2) & ~<uint32_t>1) < 0:
            return -1
    return setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, opt, n * sizeof(repair_opt)) if n else 0


cdef int set_windows(int fd, const hk_event *est) noexcept nogil:
    """So that the twin may send at once, and takes all that the application may send."""
    cdef repair_window w
    w.snd_wl1 = est.snd_nxt
    w.snd_wnd = w.max_window = est.rcv_wnd
    w.rcv_wnd = est.snd_wnd if est.snd_wnd > LEAST_WINDOW else LEAST_WINDOW
    w.rcv_wup = est.snd_nxt
    return setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &w, sizeof(w))


cdef int segment_size(const hk_event *est) noexcept nogil:
    """Bytes: loopback's, and half of the peer's window at most.

    TCP sends no part of a segment while more than the window is left to send (RFC 9293, 3.8.6.2.1): one of loopback's size
    would wait for a window that a small receive buffer never gives. One that becomes small later: `narrow`, delivery.pyx.
    """
    cdef uint32_t n = LARGEST_MSS
    if est.rcv_wnd > DEFAULT_MSS and n > est.rcv_wnd // 2:
        n = est.rcv_wnd // 2
    return n if n > LEAST_MSS else LEAST_MSS


cdef uint32_t twin_piece(const hk_event *est) noexcept nogil:
    return est.mss if est.mss else DEFAULT_MSS


cdef int set_identity(int fd, bint v4) noexcept nogil:
    """Whose packets these are: not ours by address, ours by mark."""
    cdef linger reset_on_close
    reset_on_close.l_onoff = 1
    reset_on_close.l_linger = 0
    if set_int(fd, SOL_SOCKET, SO_MARK, HK_MARK_OWN) < 0:
        return -1
    if v4:
        set_int(fd, IPPROTO_IP, IP_TTL, MOST_HOPS)
        if set_int(fd, IPPROTO_IP, IP_TRANSPARENT, 1) < 0:
            return -1
    elif (set_int(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, MOST_HOPS) < 0
          or set_int(fd, IPPROTO_IPV6, IPV6_TRANSPARENT_, 1) < 0):
        return -1
    set_int(fd, SOL_SOCKET, SO_OOBINLINE, 1)     # an urgent byte is a byte of the stream too
    return setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset_on_close, sizeof(reset_on_close))


cdef int assemble(int fd, const hk_event *est, bint on_loopback) noexcept nogil:
    cdef sockaddr_storage a
    cdef socklen_t n
    if set_identity(fd, is_v4(est.key.remote_ip)) < 0 or set_int(fd, IPPROTO_TCP, TCP_REPAIR, 1) < 0:
        return -1
    if on_loopback and setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, b"lo", 2) < 0:
        return -1
    n = fill_address(&a, est.key.remote_ip, est.key.remote_port)
    if bind(fd, <sockaddr *>&a, n) < 0:
        return -1
    if set_queue(fd, SEND_QUEUE, est.rcv_nxt) < 0 or set_queue(fd, RECV_QUEUE, est.snd_nxt) < 0:
        return -1
    set_int(fd, IPPROTO_TCP, TCP_MAXSEG, segment_size(est))
    # Loopback needs no model of a path. Before connect(): bbr, once begun, leaves its pacing to what follows it.
    setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, b"reno", 4)
    n = fill_address(&a, est.key.local_ip, est.key.local_port)
    if connect(fd, <sockaddr *>&a, n) < 0 or set_options(fd, est) < 0 or set_windows(fd, est) < 0:
        return -1
    if set_int(fd, IPPROTO_TCP, TCP_REPAIR, REPAIR_OFF_NO_PROBE) < 0:
        return -1
    return set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1)     # who listens on that port here does not meet us; repair cleared it


cdef int create(const hk_event *est, bint on_loopback) noexcept nogil:
    cdef int family = AF_INET if is_v4(est.key.remote_ip) else AF_INET6
    cdef int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    cdef int err
    if fd < 0:
        return -errno
    if assemble(fd, est, on_loopback) < 0:
        err = errno
        twin_discard(fd)
        return -err
    return fd


cdef int twin_create(const hk_event *est) noexcept nogil:
    cdef int fd = create(est, False)
    if fd == -EADDRNOTAVAIL:     # an earlier twin without timestamps is in TIME_WAIT: bound to lo it does not meet it
        fd = create(est, True)
    return fd


cdef void twin_bound(int fd) noexcept nogil:
    set_int(fd, SOL_SOCKET, SO_RCVBUF, RECEIVE_BUFFER)


cdef void twin_prompt(int fd) noexcept nogil:
    set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1)


cdef void twin_discard(int fd) noexcept nogil:
    set_int(fd, IPPROTO_TCP, TCP_REPAIR, 1)
    close(fd)


cdef void twin_finish(int fd) noexcept nogil:
    cdef linger off
    off.l_onoff = 0
    off.l_linger = 0
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &off, sizeof(off))
    close(fd)


cdef void twin_abort(int fd) noexcept nogil:
    close(fd)


cdef int twin_available(int fd) noexcept nogil:
    cdef int n = 0
    if ioctl(fd, FIONREAD, &n) < 0:
        return -errno
    return n


cdef int twin_unsent(int fd) noexcept nogil:
    """Bytes (and a FIN) it has not sent yet."""
    cdef int n = 0
    return n if ioctl(fd, SIOCOUTQNSD, &n) == 0 else 0
