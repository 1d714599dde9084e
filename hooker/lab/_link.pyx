"""The relay of the lab's emulated link: frames from one TAP device to another, later, or never.

The settings of both directions and their counters are in a shared file: the owner of the link writes the former at
any time with plain stores, the relay's process the latter. A frame's way: loss at random or in bursts comes after
the droptail queue of the rate limiter, as on a wire behind a router; then delay and jitter, which keep the order;
a reordered frame stands in a lane of its own, where everything is a fixed time later.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from posix.mman cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap,
)
from hooker.includes.linux cimport (
    CLOCK_MONOTONIC, EAGAIN, EINTR, clock_gettime, errno, read, timespec, write,
)

import os

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    enum:
        POLLIN
    int ppoll(pollfd *fds, unsigned long n, const timespec *timeout, const void *mask)

cdef extern from "<time.h>" nogil:
    int clock_nanosleep(int clock, int flags, const timespec *t, timespec *rest)

cdef extern from "<sys/prctl.h>" nogil:
    int prctl(int option, unsigned long value)
    enum:
        PR_SET_TIMERSLACK

cdef enum:
    SLOTS = 16384                # frames under way in one lane; 375 ms at 100 Mbit/s are 3,200 of full size
    BATCH = 64                   # frames read from one device before what is due is sent
    PAUSE = 150000               # ns between looks while frames come: fewer wake-ups for that much delay error
    ETHERNET = 14                # bytes of a frame that the rate does not count
    IN_ORDER = 0
    LATE = 1
    NS = 1000000000

cdef struct settings:            # of one direction; written by the owner
    uint64_t delay               # ns
    uint64_t jitter              # ns: delay ± jitter, equally distributed
    uint64_t reorder_by          # ns
    uint64_t queue               # bytes waiting for their turn, at most
    double rate                  # bytes per ns; 0: no limit
    double loss                  # part of 1, over a long time
    double burst                 # mean number of losses in a row; 1 or less: each on its own
    double reorder               # part of 1

cdef struct counters:            # of one direction; written by the relay
    uint64_t frames
    uint64_t delivered
    uint64_t delivered_bytes
    uint64_t lost
    uint64_t queue_dropped
    uint64_t reordered
    uint64_t overflowed          # no slot was free: the emulation itself was too small
    uint64_t lateness            # ns, sum over the delivered frames of what they were later than they should

cdef struct shared:
    settings s[2]
    counters c[2]

cdef struct frame:
    uint64_t due                 # ns
    uint32_t size
    uint8_t data[0]

cdef struct lane:                # first in, first out
    uint8_t *slots
    uint64_t head
    uint64_t tail
    uint64_t last_due

cdef struct direction:
    settings *s
    counters *c
    lane lanes[2]
    int source
    int sink
    uint64_t free_at             # ns: when the last frame will have left the queue
    uint64_t random
    bint bursting


cdef inline uint64_t now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <uint64_t>t.tv_sec * NS + t.tv_nsec


cdef inline double draw(direction *d) noexcept nogil:
    """Uniform in [0, 1). splitmix64 (Steele, Lea, Flood 2014)."""
    cdef uint64_t z
    d.random += <uint64_t>0x9E3779B97F4A7C15
    z = d.random
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
    return ((z ^ (z >> 31)) >> 11) * (1.0 / 9007199254740992.0)


cdef inline bint is_lost(direction *d) noexcept nogil:
    """Two states (Gilbert 1960): in the bad one all is lost; `loss` is its share, `burst` its mean length."""
    cdef double loss = d.s.loss, burst = d.s.burst
    if loss <= 0:
        return False
    if burst <= 1 or loss >= 1:
        return draw(d) < loss
    if d.bursting:
        d.bursting = draw(d) >= 1 / burst
    else:
        d.bursting = draw(d) < loss / (1 - loss) / burst
    return d.bursting


cdef inline frame *slot(lane *l, uint64_t number, size_t slot_size) noexcept nogil:
    return <frame *>(l.slots + (number % SLOTS) * slot_size)


cdef uint64_t departure(direction *d, uint64_t at, uint32_t size) noexcept nogil:
    """When a frame that came `at` has left the bottleneck; 0: its queue was full."""
    cdef uint64_t start = d.free_at if d.free_at > at else at
    cdef double rate = d.s.rate
    if rate <= 0:
        return at
    if (start - at) * rate + size > d.s.queue:
        return 0
    d.free_at = start + <uint64_t>(size / rate)
    return d.free_at


cdef int accept(direction *d, frame *f, uint64_t at) noexcept nogil:
    """Decide what becomes of a frame just read: the lane it goes to, or -1."""
    cdef uint64_t left = departure(d, at, f.size - ETHERNET if f.size > ETHERNET else 0)
    cdef double wander = 0
    cdef int which = IN_ORDER
    if left == 0:
        d.c.queue_dropped += 1
        return -1
    if is_lost(d):
        d.c.lost += 1
        return -1
    if d.s.jitter:
        wander = (2 * draw(d) - 1) * d.s.jitter
        if -wander > d.s.delay:
            wander = -<double>d.s.delay
    f.due = left + d.s.delay + <uint64_t>(<long long>wander)
    if d.s.reorder > 0 and draw(d) < d.s.reorder:
        which = LATE
        f.due += d.s.reorder_by
        d.c.reordered += 1
    if f.due < d.lanes[which].last_due:
        f.due = d.lanes[which].last_due
    d.lanes[which].last_due = f.due
    return which


cdef int take_in(direction *d, size_t slot_size, frame *spare) noexcept nogil:
    """Read what waits at the source. Most frames are read into the slot where they then stay."""
    cdef lane *l = &d.lanes[IN_ORDER]
    cdef lane *other = &d.lanes[LATE]
    cdef frame *f
    cdef frame *copy
    cdef ssize_t n
    cdef int i, which
    for i in range(BATCH):
        f = spare if l.tail - l.head == SLOTS else slot(l, l.tail, slot_size)
        n = read(d.source, f.data, slot_size - sizeof(frame))
        if n <= 0:
            return i
        f.size = <uint32_t>n
        d.c.frames += 1
        if f is spare:
            d.c.overflowed += 1
            continue
        which = accept(d, f, now())
        if which == IN_ORDER:
            l.tail += 1
        elif which == LATE:
            if other.tail - other.head == SLOTS:
                d.c.overflowed += 1
                continue
            copy = slot(other, other.tail, slot_size)
            copy.due, copy.size = f.due, f.size
            for n in range(f.size):
                copy.data[n] = f.data[n]
            other.tail += 1
    return BATCH


cdef uint64_t hand_out(direction *d, size_t slot_size, uint64_t at) noexcept nogil:
    """Deliver what is due by `at`; return when the next frame is, or 0."""
    cdef lane *l
    cdef frame *f
    cdef uint64_t earliest = 0
    cdef int i
    for i in range(2):
        l = &d.lanes[i]
        while l.head != l.tail:
            f = slot(l, l.head, slot_size)
            if f.due > at:
                if earliest == 0 or f.due < earliest:
                    earliest = f.due
                break
            if write(d.sink, f.data, f.size) == f.size:
                d.c.delivered += 1
                d.c.delivered_bytes += f.size
                d.c.lateness += at - f.due
            l.head += 1
    return earliest


cdef int relay(direction *d, size_t slot_size, frame *spare) noexcept nogil:
    """Until a device goes away; the process is ended by a signal."""
    cdef pollfd fds[2]
    cdef timespec wait
    cdef timespec pause
    cdef uint64_t due, nearest, at
    cdef int i, taken
    pause.tv_sec, pause.tv_nsec = 0, PAUSE
    for i in range(2):
        fds[i].fd, fds[i].events, fds[i].revents = d[i].source, POLLIN, 0
    while True:
        at, nearest = now(), 0
        for i in range(2):
            due = hand_out(&d[i], slot_size, at)
            if due and (nearest == 0 or due < nearest):
                nearest = due
        at = now()
        due = nearest - at if nearest > at else 0
        wait.tv_sec, wait.tv_nsec = due // NS, due % NS
        if ppoll(fds, 2, &wait if nearest else NULL, NULL) < 0:
            if errno != EINTR and errno != EAGAIN:
                return -errno
            continue
        taken = 0
        for i in range(2):
            if fds[i].revents & POLLIN:
                taken += take_in(&d[i], slot_size, spare)
            elif fds[i].revents:
                return 0
        if 0 < taken < BATCH:
            clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL)


cdef uint8_t *memory(size_t size) except NULL:
    cdef void *m = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if m == MAP_FAILED:
        raise MemoryError(f"no {size} bytes for the link's frames")
    return <uint8_t *>m


cdef class Wire:
    """The shared file of one link, for its owner and for its relay.

    Args:
        fd: an open file of at least ``Wire.SIZE`` bytes, zeros at first.
    """

    SIZE = sizeof(shared)
    cdef shared *file

    def __cinit__(self, int fd):
        cdef void *m = mmap(NULL, sizeof(shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if m == MAP_FAILED:
            raise OSError(errno, os.strerror(errno))
        self.file = <shared *>m

    def __dealloc__(self):
        if self.file != NULL:
            munmap(self.file, sizeof(shared))

    def configure(
        self, int way, *, double rate, double delay, double jitter, double loss, double burst,
        double reorder, double reorder_by, uint64_t queue,
    ):
        """Set one direction (0 or 1): bit/s, seconds, parts of 1, bytes. From the next frame on."""
        cdef settings *s = &self.file.s[way & 1]
        s.rate, s.queue = rate / 8 / NS, queue
        s.delay, s.jitter, s.reorder_by = <uint64_t>(delay * NS), <uint64_t>(jitter * NS), <uint64_t>(reorder_by * NS)
        s.burst, s.loss, s.reorder = burst, loss, reorder

    def counters(self, int way):
        """Return the counters of one direction by name."""
        cdef counters *c = &self.file.c[way & 1]
        return {
            "frames": c.frames, "delivered": c.delivered, "delivered_bytes": c.delivered_bytes,
            "lost": c.lost, "queue_dropped": c.queue_dropped, "reordered": c.reordered,
            "overflowed": c.overflowed, "lateness": <double>c.lateness / NS,
        }

    def relay(self, int tap_a, int tap_b, int mtu, uint64_t seed):
        """Carry frames between two non-blocking TAP devices, 0 from *tap_a* to *tap_b*, until one goes away."""
        cdef direction d[2]
        cdef size_t slot_size = (sizeof(frame) + ETHERNET + 4 + mtu + 63) & ~<size_t>63
        cdef uint8_t *frames = memory((4 * SLOTS + 1) * slot_size)
        cdef int i, j, error
        for i in range(2):
            d[i].s, d[i].c = &self.file.s[i], &self.file.c[i]
            d[i].source, d[i].sink = (tap_a, tap_b) if i == 0 else (tap_b, tap_a)
            d[i].free_at, d[i].bursting = 0, False
            d[i].random = 2 * seed + i
            for j in range(2):
                d[i].lanes[j].slots = frames + (2 * i + j) * SLOTS * slot_size
                d[i].lanes[j].head = d[i].lanes[j].tail = d[i].lanes[j].last_due = 0
        with nogil:
            prctl(PR_SET_TIMERSLACK, 1)          # ns
            error = relay(d, slot_size, <frame *>(frames + 4 * SLOTS * slot_size))
        munmap(frames, (4 * SLOTS + 1) * slot_size)
        if error:
            raise OSError(-error, os.strerror(-error))
