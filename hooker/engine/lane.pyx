"""Whether the lane is open: do marked segments reach hk0, and what it gives the sockets?

A firewall that knows interfaces, a routing rule before ours, a reverse path filter may stand in between,
from the start or from one moment on. A flow would learn it by silence: what its TCP sends is gone, and
nobody hears of it. So the engine has a connection of its own for each family, with the mark, and answers it
itself, from what the segments say.

1. While there are flows it sends one byte in each half second. The byte must come out of hk0, and its
   acknowledgement arrive.
2. If not, a new connection is tried, twice: the old one may have lost its address, and what leads to hk0
   may have to be put back (rule 7). If that comes to nothing, the lane is blocked: all flows of the family go
   back to TCP, new ones stay there at once (`blocked` of hk_attention), and people are told.
3. Then it is tried again, after 1 s, and twice as long each time, up to 64 s, once each time. What opens the
   lane opens it for all flows.
4. A flow whose segments do not come, or come again, asks for a look at once.
5. What hk0's queue still holds, or had no room for, is not taken for lost on the way (unread.pxd): it is read
   before silence counts, and where the queue may have been full the lane is tried again after a pause, but is
   not said to be blocked.
6. Until the first candidate brings the routing rule there is no connection: it would go by the wire. Only
   the first look, at the start, may be by a socket that is bound to hk0.
7. Each connection or byte that comes to nothing has the control plane look after the routing rule and the
   routes (`missed_fd`): other programs may have taken them away. What was, is put back, and the lane is then
   tried at once.
"""

from libc.stdint cimport UINT64_MAX, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from hooker.engine.cut cimport cut_until
from hooker.engine.flows cimport tell_lane
from hooker.engine.unread cimport is_read, was_full
from hooker.engine.worker cimport *
from hooker.engine.tun cimport tun_write
from hooker.includes.hk cimport HK_BLOCKED_V4, HK_BLOCKED_V6
from hooker.includes.addresses cimport fill_end, port_of, set_int
from hooker.includes.linux cimport *
from hooker.tcp.segment cimport *
from hooker.tcp.twin cimport twin_segment

cdef enum:
    BYTE = 150000000           # ns in which the byte must be acknowledged
    BEGIN = 200000000          # and a connection be there
    TRIES = 2                  # connections, before the lane is believed to be blocked
    PERIOD = 500000000
    LOOK = 1000000000          # takes no longer
    PAUSE = 1000000000         # the first one; doubles
    PAUSES = 6                 # so often
    LATE = 100000000           # who comes later than that has not looked
    LANE_MSS = 1220            # bytes
    LANE_WINDOW = 65535

cdef extern from "<linux/sockios.h>" nogil:
    unsigned long SIOCOUTQ     # bytes that are not acknowledged

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *p, unsigned long n, int timeout)
    enum:
        POLLOUT

cdef extern from "<asm/socket.h>" nogil:
    enum:
        SO_BINDTOIFINDEX       # Linux 5.0


cdef inline lane *lane_of(worker *w, uint8_t version) noexcept nogil:
    return &w.lanes[0 if version == 4 else 1]

cdef inline const lane *lane_seen(const worker *w, const flow *f) noexcept nogil:
    return &w.lanes[0 if f.ends.version == 4 else 1]


cdef bint is_blocked(const worker *w, const flow *f) noexcept nogil:
    return lane_seen(w, f).blocked or (w.n.services_cut and cut_until(w, f))


cdef uint64_t blocked_until(const worker *w, const flow *f) noexcept nogil:
    if not lane_seen(w, f).blocked:
        return cut_until(w, f)
    return lane_seen(w, f).due + BEGIN + LATE


# ---- its socket --------------------------------------------------------------------------------------

cdef void hang_up(lane *l) noexcept nogil:
    cdef int fd = l.fd
    l.fd = -1
    if fd >= 0:
        close(fd)              # without FIN: linger is 0


cdef int dial(worker *w, lane *l) noexcept nogil:
    """0, or errno."""
    cdef sockaddr_storage a
    cdef socklen_t size = fill_end(&a, l.version, l.address, l.service)
    cdef linger at_once
    hang_up(l)
    l.before = l.port
    l.fd = socket(AF_INET if l.version == 4 else AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if l.fd < 0:
        return errno
    at_once.l_onoff, at_once.l_linger = 1, 0
    if (set_int(l.fd, SOL_SOCKET, SO_MARK, <int>w.mark) < 0
            or setsockopt(l.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)) < 0):
        return errno
    if l.device and set_int(l.fd, SOL_SOCKET, SO_BINDTOIFINDEX, l.device) < 0:
        return errno
    if connect(l.fd, <sockaddr *>&a, size) < 0 and errno != EINPROGRESS:
        return errno
    l.port = port_of(l.fd)
    return 0 if l.port else errno


cdef bint is_connected(const lane *l) noexcept nogil:
    cdef pollfd p
    cdef int error = 0
    cdef socklen_t size = sizeof(error)
    p.fd, p.events, p.revents = l.fd, POLLOUT, 0
    return (poll(&p, 1, 0) == 1 and getsockopt(l.fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 and error == 0
            and p.revents == POLLOUT)


cdef bint is_acknowledged(const lane *l) noexcept nogil:
    cdef int left = 1
    return ioctl(l.fd, SIOCOUTQ, &left) == 0 and left == 0


# ---- what it says comes out of hk0, and is answered --------------------------------------------------

cdef void answer(worker *w, const lane *l, const Segment *s) noexcept nogil:
    """From the segment alone: that is all that is known of the connection."""
    cdef twin_segment out
    cdef Segment a
    memset(&a, 0, sizeof(a))
    a.version = s.version
    a.src, a.dst, a.src_port, a.dst_port = s.dst, s.src, s.dst_port, s.src_port
    a.window = LANE_WINDOW
    a.flags = FLAG_ACK
    if s.flags & FLAG_SYN:
        a.flags |= FLAG_SYN
        a.seq, a.ack = <uint32_t>w.instance, s.seq + 1
        a.options, a.mss = HAS_MSS, LANE_MSS
    else:
        a.seq, a.ack = s.ack, s.seq + s.length
    out.length, out.data = 0, NULL
    out.header = segment_build(&a, False, out.head)
    tun_write(w.tun_fd, &out, &w.tun)


cdef bint lane_hear(worker *w, const Segment *s) noexcept nogil:
    cdef lane *l = lane_of(w, s.version)
    if (not l.watched or s.dst_port != l.service or (s.src_port != l.port and s.src_port != l.before)
            or memcmp(s.dst, l.address, address_size(s.version)) != 0):
        return False
    l.heard = l.heard or s.src_port == l.port
    if s.flags & FLAG_RST or s.src_port != l.port:
        return True
    if s.flags & FLAG_SYN or s.length > 0:
        answer(w, l, s)
    elif l.state == LANE_TRYING:
        l.due = w.now          # it has our answer
    return True


# ---- states ------------------------------------------------------------------------------------------

cdef void lanes_init(worker *w) noexcept nogil:
    cdef int i
    for i in range(2):
        memset(&w.lanes[i], 0, sizeof(lane))
        w.lanes[i].version = 4 if i == 0 else 6
        w.lanes[i].fd = -1
        w.lanes[i].due = UINT64_MAX


cdef void lanes_close(worker *w) noexcept nogil:
    cdef int i
    for i in range(2):
        hang_up(&w.lanes[i])
        w.lanes[i].state = LANE_OFF
        w.lanes[i].due = UINT64_MAX


cdef void show(worker *w, lane *l, bint blocked) noexcept nogil:
    cdef uint32_t bit = HK_BLOCKED_V4 if l.version == 4 else HK_BLOCKED_V6
    cdef uint32_t now = hk_load32(&w.ring.attention.blocked)
    l.blocked = blocked
    hk_store32(&w.ring.attention.blocked, now | bit if blocked else now & ~bit)
    tell_lane(w, l.version, N_LANE_BLOCKED if blocked else N_LANE_OPEN)


cdef void missed(worker *w, const lane *l) noexcept nogil:
    """Rule 7. A bound socket needs no rule."""
    cdef uint64_t one = 1
    if not l.device:
        write(w.missed_fd, &one, sizeof(one))


cdef void pause(worker *w, lane *l) noexcept nogil:
    hang_up(l)
    l.state = LANE_WAITING
    l.tries = 0
    l.due = w.now + (<uint64_t>PAUSE << l.pauses)
    if l.pauses < PAUSES:
        l.pauses += 1


cdef bint failed(worker *w, lane *l) noexcept nogil:
    cdef bint news = not l.blocked and not l.device    # bound: the rule may lead where that does not
    if news and was_full(w, w.now - LOOK):
        w.n.hk0_behind += 1
        news = False
    if news:
        w.n.lanes_blocked += 1
        show(w, l, True)
    pause(w, l)
    return news


cdef void rest(worker *w, lane *l) noexcept nogil:
    l.state = LANE_OPEN
    l.tries = 0
    l.due = w.now + PERIOD if w.live else UINT64_MAX
    if l.blocked:
        show(w, l, False)
        missed(w, l)           # what was said of it is not true any more


cdef void begin(worker *w, lane *l) noexcept nogil:
    cdef int error = dial(w, l)
    l.heard = False
    if error in (EMFILE, ENFILE, ENOBUFS, ENOMEM, EAGAIN, EADDRNOTAVAIL, EAFNOSUPPORT):
        pause(w, l)            # that says nothing about the lane
        return
    l.state = LANE_TRYING      # also where connect() finds no way, and nobody will answer
    l.tries += 1
    l.due = w.now + BEGIN


cdef void ask(worker *w, lane *l) noexcept nogil:
    l.heard = False
    w.n.lane_looks += 1
    if send(l.fd, b"\0", 1, MSG_DONTWAIT | MSG_NOSIGNAL) != 1:
        begin(w, l)            # somebody has ended it
        return
    l.state = LANE_ASKED
    l.due = w.now + BYTE


cdef bint in_vain(worker *w, lane *l) noexcept nogil:
    missed(w, l)
    if l.state == LANE_TRYING and (l.tries >= TRIES or l.blocked):
        return failed(w, l)
    begin(w, l)
    return False


cdef bint conclude(worker *w, lane *l) noexcept nogil:
    if l.state == LANE_OPEN:
        ask(w, l)
    elif l.state == LANE_WAITING or l.state == LANE_RESTING:
        begin(w, l)
    elif l.state == LANE_ASKED and l.heard and is_acknowledged(l):
        l.pauses = 0
        rest(w, l)
    elif l.state == LANE_TRYING and l.heard and is_connected(l):
        rest(w, l)
    else:
        return in_vain(w, l)
    return False


cdef bint lanes_due(worker *w) noexcept nogil:
    cdef bint news = False
    cdef lane *l
    cdef int i
    if w.leaving or w.device_gone:
        return False
    for i in range(2):
        l = &w.lanes[i]
        if l.due > w.now:
            continue
        if w.now - l.due > LATE and not l.late and (l.state == LANE_TRYING or l.state == LANE_ASKED):
            l.late = True      # nor has it heard what came meanwhile, perhaps
            l.due = w.now + LATE
            continue
        if l.state != LANE_OPEN and l.state != LANE_WAITING and not is_read(w, l.due):
            w.n.hk0_behind += 1
            continue           # the next rounds read it
        l.late = False
        if conclude(w, l):
            news = True
    return news


cdef uint64_t lanes_deadline(const worker *w) noexcept nogil:
    if w.leaving or w.device_gone:
        return UINT64_MAX
    return min(w.lanes[0].due, w.lanes[1].due)


# ---- who asks ----------------------------------------------------------------------------------------

cdef void lane_watch(worker *w, uint8_t version, const uint8_t *address, uint16_t service,
                     int device) noexcept nogil:
    cdef lane *l = lane_of(w, version)
    l.device = device
    memcpy(l.address, address, address_size(version))
    l.service = service
    l.pauses = 0
    l.watched = True
    l.state = LANE_WAITING
    l.due = 0


cdef void lane_forget(worker *w, uint8_t version) noexcept nogil:
    cdef lane *l = lane_of(w, version)
    hang_up(l)
    l.watched = False
    l.device = 0
    l.state = LANE_OFF
    l.due = UINT64_MAX
    if l.blocked:
        show(w, l, False)


cdef void lanes_rest(worker *w) noexcept nogil:
    cdef int i
    for i in range(2):
        hang_up(&w.lanes[i])
        if w.lanes[i].watched and not w.lanes[i].blocked:
            w.lanes[i].state = LANE_RESTING
            w.lanes[i].due = UINT64_MAX


cdef void lanes_ruled(worker *w) noexcept nogil:
    cdef int i
    for i in range(2):
        if w.lanes[i].watched and w.lanes[i].device:    # the rule has not been looked at
            w.lanes[i].device = 0
            w.lanes[i].state = LANE_RESTING
        if w.lanes[i].state == LANE_RESTING:
            w.lanes[i].due = 0          # begun at once


cdef void lane_restored(worker *w, uint8_t version) noexcept nogil:
    cdef lane *l = lane_of(w, version)
    w.n.lanes_restored += 1
    tell_lane(w, version, N_LANE_RESTORED)
    if l.state == LANE_WAITING and not l.device:
        l.due = 0


cdef void lane_needed(worker *w, const flow *f) noexcept nogil:
    cdef lane *l = lane_of(w, f.ends.version)
    if l.state == LANE_OPEN and l.due == UINT64_MAX:
        l.due = w.now + PERIOD


cdef void lane_doubt(worker *w, const flow *f) noexcept nogil:
    cdef lane *l = lane_of(w, f.ends.version)
    if l.state == LANE_OPEN:
        l.due = min(l.due, w.now)
