"""Who connects to us is a stranger until he has said HELLO: so many of them in all, so many of one source,
and each for HELLO_TIME; the oldest makes room. One source has so many associations. Of all together there are
so many, too: then the one that has been unused for longest makes room.
"""

from libc.stdint cimport UINT64_MAX, uint16_t, uint32_t, uint64_t
from libc.string cimport memset
from hooker.includes.addresses cimport port_of, read_address, set_int
from hooker.includes.linux cimport *
from hooker.transports.connection cimport *
from hooker.transports.contract cimport Association, DOWN_CLOSED, DOWN_MEMORY, PeerAddress, watch_file
from hooker.transports.sources cimport longest_unused, may_make_room

cdef enum:
    ACCEPTS = 16               # at once
    BACKLOG = 256
    MAX_INCOMING = SLOTS // 4 * 3
    MAX_STRANGERS = 256
    SOURCE_STRANGERS = 16
    SOURCE_ASSOCS = 64
    HELLO_TIME = 3000000000    # ns
    LISTEN_PAUSE = 100000000   # ns, when there is no descriptor for one more
    PORT_TRIES = 16


# ---- the sockets -------------------------------------------------------------------------------------

cdef int open_listener(ConnectionTransport *t, int family, uint16_t port) noexcept nogil:
    cdef sockaddr_storage a
    cdef int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, t.protocol)
    cdef int err
    if fd < 0:
        return -errno
    memset(&a, 0, sizeof(a))
    a.ss_family = family
    (<sockaddr_in *>&a).sin_port = htons(port)      # the same place in both families
    set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1)        # connections of an engine before may be in TIME_WAIT
    t.kind.set_up(t, fd)                            # those that it gives have the same
    if family == AF_INET6:
        set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1)
    if (bind(fd, <sockaddr *>&a, sizeof(sockaddr_in6) if family == AF_INET6 else sizeof(sockaddr_in)) < 0
            or listen(fd, BACKLOG) < 0):
        err = errno
        close(fd)
        return -err
    return fd


cdef int listeners_open(ConnectionTransport *t, uint16_t port, uint16_t *bound) noexcept nogil:
    cdef int i, err = 0
    for i in range(PORT_TRIES if port == 0 else 1):
        err = open_both(t, port, bound)
        if err != -EADDRINUSE:
            break
    for i in range(2 if err == 0 else 0):
        if t.listener[i] >= 0 and watch_file(&t.base, t.listener[i], EPOLLIN, LISTENERS + i) < 0:
            return -errno
    t.listening = err == 0
    return err


cdef int open_both(ConnectionTransport *t, uint16_t port, uint16_t *bound) noexcept nogil:
    cdef int err
    t.listener[0] = open_listener(t, AF_INET, port)
    if t.listener[0] < 0:
        err, t.listener[0] = t.listener[0], -1
        return err
    bound[0] = port_of(t.listener[0])
    t.listener[1] = open_listener(t, AF_INET6, bound[0])
    if t.listener[1] >= 0:
        return 0
    err, t.listener[1] = t.listener[1], -1
    if err == -EAFNOSUPPORT:                        # a host without IPv6
        return 0
    close(t.listener[0])
    t.listener[0] = -1
    return err


cdef void listeners_close(ConnectionTransport *t) noexcept nogil:
    cdef int i
    for i in range(2):
        if t.listener[i] >= 0:
            close(t.listener[i])
        t.listener[i] = -1


cdef void listen_for(ConnectionTransport *t, uint32_t events) noexcept nogil:
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


# ---- strangers ---------------------------------------------------------------------------------------

cdef void evict(ConnectionTransport *t) noexcept nogil:
    """The oldest stranger makes room."""
    cdef Connection *oldest = NULL
    cdef uint32_t i
    for i in range(t.top):
        if t.slots[i] != NULL and t.slots[i].state == CONN_STRANGER:
            if oldest == NULL or t.slots[i].began < oldest.began:
                oldest = t.slots[i]
    if oldest != NULL:
        t.n.evicted += 1
        fail(oldest, DOWN_CLOSED)


cdef uint64_t unused(const Association *base) noexcept nogil:
    cdef const Connection *a = <const Connection *>base
    return a.idle_since if a.state == CONN_UP and not a.outgoing and not in_use(a) else 0


cdef bint make_room(ConnectionTransport *t) noexcept nogil:
    """For one more, which is counted already. False: all are of use, or too many come at once."""
    cdef Connection *a
    if t.count > MAX_INCOMING and not may_make_room(&t.sources, t.now):
        return False
    if t.strangers >= MAX_STRANGERS:
        evict(t)
        return True
    if t.count <= MAX_INCOMING:
        return True
    a = <Connection *>longest_unused(<Association **>t.slots, t.top, unused)
    if a == NULL:
        return False
    t.n.evicted += 1
    fail(a, DOWN_CLOSED)
    return True


cdef void welcome(ConnectionTransport *t, int fd, const PeerAddress *peer) noexcept nogil:
    cdef Connection *a = connection_new(t, peer)
    if (a == NULL or a.source.strangers >= SOURCE_STRANGERS or a.source.assocs > SOURCE_ASSOCS
            or not make_room(t)):
        t.n.refused += 1
        if a != NULL:
            connection_free(t, a)
        close(fd)
        return
    t.n.accepted += 1
    t.strangers += 1
    a.source.strangers += 1
    a.fd, a.state = fd, CONN_STRANGER
    t.kind.set_up(t, fd)
    set_due(a, t.now + HELLO_TIME)
    if watch_file(&t.base, fd, EPOLLIN, a.slot) < 0:
        fail(a, DOWN_MEMORY)


cdef void accept_some(ConnectionTransport *t, int which) noexcept nogil:
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
