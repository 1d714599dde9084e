"""Adaptive busy polling: while answers come within microseconds, waiting awake is shorter than being woken.

As KVM's halt polling does it: a sleep that turned out short makes the next wait begin with polling, a poll that
found nothing ends that. Between two looks the CPU is offered to others. When others have it nearly all of the time, it
would not be idle if we slept, so polling gains nothing: it pauses, each time for longer.
"""

from libc.stdint cimport uint64_t
from hooker.includes.linux cimport epoll_event, hk_epoll_wait_ns, sched_yield

cdef enum:
    GIVEN = 2000                 # ns: a yield that lasted so long went to somebody
    TAKEN = 200000               # ns: to a task that has much to do
    WINDOW = 1000000             # ns of polling that are judged together
    PAUSE = 1000000              # ns
    PAUSE_MOST = 256000000       # ns


cdef void poll_init(poller *p, uint64_t most) noexcept nogil:
    p.most = most
    p.now = 0
    p.not_before = p.waited = p.given = 0
    p.penalty = PAUSE
    p.hits = p.misses = p.crowded = 0


cdef void judge(poller *p, uint64_t at) noexcept nogil:
    if p.waited < WINDOW:
        return
    if p.given > p.waited - p.waited // 8:
        p.crowded += 1
        p.not_before = at + p.penalty
        p.penalty = p.penalty * 2 if p.penalty < PAUSE_MOST else PAUSE_MOST
    else:
        p.penalty = PAUSE
    p.waited = p.given = 0


cdef int poll_awake(poller *p, int epoll_fd, epoll_event *events, int room, uint64_t begin, uint64_t ns) noexcept nogil:
    """Events, or 0 when `ns` have gone by without."""
    cdef uint64_t at = begin, before = begin
    cdef int n = 0
    while at - begin < ns and at - before < TAKEN:
        n = hk_epoll_wait_ns(epoll_fd, events, room, 0)
        if n:
            break
        before = at
        sched_yield()
        at = clock_ns()
        if at - before > GIVEN:
            p.given += at - before
    p.waited += at - begin
    judge(p, at)
    if n:
        p.hits += 1
    else:
        p.misses += 1
        p.now = 0
    return n


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
