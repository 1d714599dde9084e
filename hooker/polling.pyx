"""Adaptive busy polling: while answers come within microseconds, waiting awake is shorter than being woken.

As KVM's halt polling does it: a sleep that turned out short makes the next wait begin with polling, a poll that
found nothing ends that. Between two looks the CPU is offered to others; when one of them keeps it, somebody
needs it more, and polling pauses, each time for longer.
"""

from libc.stdint cimport uint64_t
from hooker.includes.linux cimport epoll_event, hk_epoll_wait_ns, sched_yield

cdef enum:
    FIRST = 10000                # ns
    TAKEN = 200000               # ns: a yield that lasted so long went to a task that has much to do
    PAUSE = 1000000              # ns
    PAUSE_MOST = 256000000       # ns


cdef void poll_init(poller *p, uint64_t most) noexcept nogil:
    p.most = most
    p.now = 0
    p.not_before = 0
    p.penalty = PAUSE
    p.hits = p.misses = p.crowded = 0


cdef void step_aside(poller *p, uint64_t at) noexcept nogil:
    p.crowded += 1
    p.not_before = at + p.penalty
    p.penalty = p.penalty * 2 if p.penalty < PAUSE_MOST else PAUSE_MOST


cdef int poll_awake(poller *p, int epoll_fd, epoll_event *events, int room, uint64_t begin, uint64_t ns) noexcept nogil:
    """Events, or 0 when `ns` have gone by without."""
    cdef uint64_t at = begin, before
    cdef int n
    while at - begin < ns:
        n = hk_epoll_wait_ns(epoll_fd, events, room, 0)
        if n:
            p.hits += 1
            p.penalty = PAUSE
            return n
        before = at
        sched_yield()
        at = clock_ns()
        if at - before > TAKEN:
            step_aside(p, at)
            return hk_epoll_wait_ns(epoll_fd, events, room, 0)
    p.misses += 1
    p.now = 0
    return 0


cdef int wait_events(poller *p, int epoll_fd, epoll_event *events, int room, uint64_t ns) noexcept nogil:
    """As epoll_wait(): how many events there are, after at most `ns`; UINT64_MAX: for ever."""
    cdef uint64_t begin, slept
    cdef int n
    if p.most == 0 or ns == 0:
        return hk_epoll_wait_ns(epoll_fd, events, room, ns)
    begin = clock_ns()
    if p.now and begin >= p.not_before:
        n = poll_awake(p, epoll_fd, events, room, begin, p.now if p.now < ns else ns)
        if n:
            return n
        slept = clock_ns()
        if ns != <uint64_t>-1:
            ns = ns - (slept - begin) if ns > slept - begin else 0
        begin = slept
    n = hk_epoll_wait_ns(epoll_fd, events, room, ns)
    slept = clock_ns() - begin
    if n > 0 and slept < p.most:
        p.now = p.most
    return n
