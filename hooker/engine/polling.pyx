"""Adaptive busy polling: while answers come within microseconds, waiting awake is shorter than being woken.

As KVM's halt polling does it: a sleep that turned out short makes the next wait begin with polling, a poll that
found nothing ends that. Between two looks the CPU is offered to others: those that we wait for answer the sooner. One that
computes keeps it for a whole slice of time, where a sleep would be woken: when nearly all of the time goes to such tasks,
polling pauses, each time for longer.
"""

from libc.stdint cimport uint64_t
from hooker.includes.clock cimport clock_ns
from hooker.includes.hk cimport HK_ASLEEP, HK_DOZE_NS, HK_DOZING
from hooker.includes.linux cimport epoll_event, hk_epoll_wait_ns, sched_yield
from hooker.engine.ringbuf cimport ring_awake, ring_may_sleep, ring_reader, ring_waiting

cdef enum:
    TAKEN = 200000               # ns: a yield that lasted so long went to a task that has much to do, not to one that answers us
    WINDOW = 1000000             # ns of polling that are judged together
    PAUSE = 1000000              # ns
    PAUSE_MOST = 256000000       # ns


cdef void poll_init(poller *p, uint64_t most) noexcept nogil:
    p.most = most
    p.now = 0
    p.not_before = p.waited = p.given = 0
    p.penalty = PAUSE
    p.brisk = False
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


cdef int poll_awake(poller *p, ring_reader *ring, int epoll_fd, epoll_event *events, int room, uint64_t ns) noexcept nogil:
    """Events; 0 when `ns` have gone by without, or for those of the ring."""
    cdef uint64_t begin = clock_ns()
    cdef uint64_t at = begin, before = begin
    cdef int n = 0
    cdef bint found = False
    while at - begin < ns:
        n = hk_epoll_wait_ns(epoll_fd, events, room, 0)
        found = n or ring_waiting(ring)
        if found:
            break
        before = at
        sched_yield()
        at = clock_ns()
        if at - before >= TAKEN:
            p.given += at - before
            break
    p.waited += at - begin
    judge(p, at)
    if found:
        p.hits += 1
    else:
        p.misses += 1
        p.now = 0
    return n


cdef int sleep(poller *p, ring_reader *ring, int epoll_fd, epoll_event *events, int room, uint64_t ns) noexcept nogil:
    cdef uint64_t begin = clock_ns(), lasted
    cdef int n
    if p.brisk and ns > HK_DOZE_NS:
        ns = HK_DOZE_NS
    if not ring_may_sleep(ring, HK_DOZING if p.brisk else HK_ASLEEP):
        ns = 0
    n = hk_epoll_wait_ns(epoll_fd, events, room, ns)
    ring_awake(ring)
    lasted = clock_ns() - begin
    p.brisk = n > 0 and lasted < HK_DOZE_NS
    if n > 0 and lasted < p.most:
        p.now = p.most
    return n


cdef int wait_events(poller *p, ring_reader *ring, int epoll_fd, epoll_event *events, int room, uint64_t ns) noexcept nogil:
    """As epoll_wait(), after at most `ns` (UINT64_MAX: for ever), or sooner when there is something in the ring."""
    cdef uint64_t begin, polled
    cdef int n
    if ns == 0 or ring_waiting(ring):
        return hk_epoll_wait_ns(epoll_fd, events, room, 0)
    if p.now:
        begin = clock_ns()
        if begin >= p.not_before:
            n = poll_awake(p, ring, epoll_fd, events, room, p.now if p.now < ns else ns)
            if n or ring_waiting(ring):
                return n
            polled = clock_ns() - begin
            if ns != <uint64_t>-1:
                ns = ns - polled if ns > polled else 0
    return sleep(p, ring, epoll_fd, events, room, ns)
