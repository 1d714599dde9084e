# How far hk0 has been read. An engine that has much to do, or too little of the CPU, is late there, and
# what it waits for is in the queue: a FIFO of tun_queue packets. So silence counts only for moments of which
# all has been read: the queue has been found empty since, or as many packets have been read since as it
# holds, which takes some rounds.

from libc.stdint cimport uint64_t
from hooker.engine.tun cimport PACED
from hooker.engine.worker cimport worker


cdef inline bint is_read(const worker *w, uint64_t at) noexcept nogil:
    """All that was in the queue at `at` (ns) has been heard."""
    return w.read_to >= at

cdef inline bint was_full(const worker *w, uint64_t since) noexcept nogil:
    """It may have been, since then: what did not come may have found no room."""
    return w.full_ns >= since

cdef inline void queue_from_here(worker *w, uint64_t at) noexcept nogil:
    w.mark_ns = at
    w.mark_count = w.tun.read_packets + w.tun_queue

cdef inline void queue_empty(worker *w) noexcept nogil:
    w.read_to = w.now
    queue_from_here(w, w.now)

cdef inline void queue_read(worker *w) noexcept nogil:
    """A packet has been."""
    if w.tun.read_packets >= w.mark_count:
        w.read_to = max(w.read_to, w.mark_ns)
        w.full_ns = w.now
        queue_from_here(w, w.now)

cdef inline int queue_share(worker *w, int least) noexcept nogil:
    """Packets to be read now: what was given since draws as many answers, which are to find room."""
    cdef uint64_t given = w.tun.written_packets - w.answered
    w.answered = w.tun.written_packets
    return least + <int>min(given, <uint64_t>PACED)
