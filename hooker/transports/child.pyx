"""The engine's end of the link to a process that runs a user's class.

1. It never waits for the child, but at its start (`child_open`, OPEN_TIME). What the socket does not take is
   kept, one packet, and nothing more is said until it has gone.
2. The child says each half second that it runs. After BEAT_TIME without it is suspected, and GRACE later it
   has failed, whatever it does: we may have stood still ourselves, and then its words are read first.
3. Failed is for good. Closing the socket is what ends it: its keeper (hooker/prototype/keeper.py) kills it.
"""

from libc.stdint cimport UINT64_MAX, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset, strlen
from hooker.includes.bytes cimport load16, load32, store16
from hooker.includes.clock cimport clock_ns
from hooker.includes.linux cimport *
from hooker.transports.contract cimport PeerAddress

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long n, int timeout)
    short POLLIN

cdef extern from "<errno.h>" nogil:
    enum:
        ECONNRESET
        EPIPE
        EPROTO

cdef enum:
    BEAT_TIME = 3000000000     # ns
    GRACE = 500000000
    OPEN_TIME = 5000000000
    MOST_PARTS = 260
    SOCKET_ROOM = 1 << 20      # bytes


cdef int child_init(Child *c) noexcept nogil:
    memset(c, 0, sizeof(Child))
    c.fd = -1
    c.rx, c.unsent = <uint8_t *>malloc(PACKET), <uint8_t *>malloc(PACKET)
    return 0 if c.rx != NULL and c.unsent != NULL else -1


cdef void child_free(Child *c) noexcept nogil:
    child_end(c)
    free(c.rx)
    free(c.unsent)
    c.rx = c.unsent = NULL


cdef void child_begin(Child *c, int fd, uint64_t now) noexcept nogil:
    cdef int room = SOCKET_ROOM
    child_end(c)
    c.fd, c.heard, c.suspected = fd, now, 0
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room))


cdef void child_end(Child *c) noexcept nogil:
    cdef int fd = c.fd
    c.fd = -1                  # first: its number may be another file's as soon as it is closed
    if fd >= 0:
        close(fd)
    c.blocked = False
    c.unsent_n = 0


cdef void child_fail(Child *c, const char *why, uint32_t n) noexcept nogil:
    if not c.failed:
        memset(c.text, 0, TEXT)
        memcpy(c.text, why, min(n, <uint32_t>TEXT - 1))
        c.failed = True
    child_end(c)


cdef inline void failed(Child *c, const char *why) noexcept nogil:
    child_fail(c, why, <uint32_t>strlen(why))


# ---- out ---------------------------------------------------------------------------------------------

cdef void keep(Child *c, const iovec *parts, uint32_t n) noexcept nogil:
    cdef uint32_t i
    c.unsent_n = 0
    for i in range(n):
        if c.unsent_n + parts[i].iov_len > PACKET:
            c.unsent_n = 0
            return
        memcpy(c.unsent + c.unsent_n, parts[i].iov_base, parts[i].iov_len)
        c.unsent_n += <uint32_t>parts[i].iov_len


cdef bint went(Child *c, ssize_t n) noexcept nogil:
    if n >= 0:
        c.sent += 1
        c.bytes_sent += <uint64_t>n
    elif errno == EAGAIN or errno == EINTR or errno == ENOBUFS:
        c.blocked = True
    elif errno == EPIPE or errno == ECONNRESET:
        c.blocked = True                # it has ended; what it died of is to be read yet, and then the end
    else:
        failed(c, b"its process has ended")
    return n >= 0


cdef bint child_say(Child *c, child_word what, const PeerAddress *about, iovec *parts,
                    uint32_t n) noexcept nogil:
    cdef uint8_t head[HEAD]
    cdef iovec all[MOST_PARTS]
    cdef msghdr m
    if c.fd < 0 or c.blocked or n >= MOST_PARTS:
        return False
    memset(head, 0, HEAD)
    head[0] = <uint8_t>what
    if about != NULL:
        store16(head + 2, about.port)
        memcpy(head + 4, about.ip, 16)
    all[0].iov_base, all[0].iov_len = head, HEAD
    if n:
        memcpy(&all[1], parts, n * sizeof(iovec))
    memset(&m, 0, sizeof(m))
    m.msg_iov, m.msg_iovlen = all, n + 1
    if went(c, sendmsg(c.fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL)):
        return True
    if c.blocked:
        keep(c, all, n + 1)
    return False


cdef bint child_say_rest(Child *c) noexcept nogil:
    if c.fd < 0:
        return False
    c.blocked = False
    if c.unsent_n and went(c, send(c.fd, c.unsent, c.unsent_n, MSG_DONTWAIT | MSG_NOSIGNAL)):
        c.unsent_n = 0
    return not c.unsent_n


# ---- in ----------------------------------------------------------------------------------------------

cdef uint32_t child_hear(Child *c, uint64_t now) noexcept nogil:
    cdef ssize_t n
    if c.fd < 0:
        return 0
    n = recv(c.fd, c.rx, PACKET, MSG_DONTWAIT)
    if n < 0 and errno == ECONNRESET:   # said once, before its last words, if it left something unread
        n = recv(c.fd, c.rx, PACKET, MSG_DONTWAIT)
    if n < 0 and (errno == EAGAIN or errno == EINTR):
        return 0
    if n <= 0:
        failed(c, b"its process has ended")
        return 0
    if n < HEAD:
        failed(c, b"what its process says is no packet of the link")
        return 0
    c.received += 1
    c.bytes_received += <uint64_t>n
    c.heard, c.suspected = now, 0
    if c.rx[0] == TOLD_FAILED:
        child_fail(c, <const char *>c.rx + HEAD, <uint32_t>n - HEAD)
        return 0
    return <uint32_t>n


cdef void child_about(const Child *c, PeerAddress *out) noexcept nogil:
    out.port = load16(c.rx + 2)
    memcpy(out.ip, c.rx + 4, 16)


cdef int child_open(Child *c, uint16_t port, uint16_t *bound) noexcept nogil:
    cdef PeerAddress at
    cdef pollfd p
    cdef uint64_t end = clock_ns() + <uint64_t>OPEN_TIME
    cdef uint32_t n
    memset(&at, 0, sizeof(at))
    at.port = port
    child_say(c, SAY_OPEN, &at, NULL, 0)
    while c.fd >= 0:
        p.fd, p.events, p.revents = c.fd, POLLIN, 0
        if clock_ns() >= end:
            failed(c, b"it does not answer: open() takes too long")
            break
        poll(&p, 1, 100)
        n = child_hear(c, clock_ns())
        if n and c.rx[0] == TOLD_OPEN:
            bound[0] = load16(c.rx + 2)
            if bound[0]:
                return 0
            return -<int>(load32(c.rx + HEAD) & 127 or EPROTO) if n == HEAD + 4 else -EPROTO
    return -EPROTO


# ---- time --------------------------------------------------------------------------------------------

cdef uint64_t child_due(const Child *c) noexcept nogil:
    if c.fd < 0:
        return UINT64_MAX
    return c.suspected + <uint64_t>GRACE if c.suspected else c.heard + <uint64_t>BEAT_TIME


cdef void child_judge(Child *c, uint64_t now) noexcept nogil:
    if c.fd < 0 or child_due(c) > now:
        return
    if not c.suspected:
        c.suspected = now
    else:
        failed(c, b"it has stood still for three seconds")
