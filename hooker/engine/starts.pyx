"""How many clients' flows are on their way to be engaged at once.

Of thousands that begin in one moment each would draw packets into hk0's queue, and messages from the peer's
engine, in the same moment: all would be late, be given up and try again, which is more work than before. So
STARTS of them are between OPEN and ENGAGED at a time. The others wait for their turn, in their order and on
TCP, where their applications miss nothing. Whoever is on the way is engaged or given up within seconds, so
the line moves.

A connection to a warm service would be marked by the kernel program before anybody here knows of it: while
others wait it begins on TCP, too. One that is held does not wait in line, for its application would.
"""

from libc.stdint cimport uint8_t
from hooker.engine.tun cimport PACED
from hooker.engine.worker cimport *
from hooker.flow.machine cimport ROLE_CLIENT, ST_BRIDGE, ST_OPENING
from hooker.includes.linux cimport hk_store32

cdef enum:
    STARTS = PACED // 2        # each draws about two packets


cdef void show(worker *w) noexcept nogil:
    """To the kernel program."""
    cdef bint crowded = w.waiting != NULL or w.starting >= STARTS
    if crowded != w.crowded:
        w.crowded = crowded
        hk_store32(&w.ring.attention.crowded, crowded)


cdef bint start_waits(worker *w, flow *f) noexcept nogil:
    if f.bits & F_HELD or (w.starting < STARTS and w.waiting == NULL):
        return False
    if f.starts & START_WAITS:
        return True
    f.starts |= START_WAITS
    f.active.dirty_next = NULL                 # it has no twin
    if w.waiting_last != NULL:
        w.waiting_last.active.dirty_next = f
    else:
        w.waiting = f
    w.waiting_last = f
    w.n.starts_waited += 1
    show(w)
    return True


cdef void start_note(worker *w, flow *f) noexcept nogil:
    cdef bint on_its_way = (f.f.role == ROLE_CLIENT and ST_OPENING <= f.f.state <= ST_BRIDGE
                            and not f.bits & F_FORGET)
    if on_its_way == (f.starts & START_COUNTS != 0):
        return
    f.starts ^= START_COUNTS
    if on_its_way:
        w.starting += 1
    else:
        w.starting -= 1
    show(w)


cdef bint starts_due(const worker *w) noexcept nogil:
    return w.waiting != NULL and w.starting < STARTS


cdef flow *start_next(worker *w) noexcept nogil:
    cdef flow *f = w.waiting
    if not starts_due(w):
        return NULL
    w.waiting = f.active.dirty_next
    if w.waiting == NULL:
        w.waiting_last = NULL
    f.starts &= ~<uint8_t>START_WAITS
    show(w)
    return f


cdef void starts_free(worker *w) noexcept nogil:
    cdef flow *f
    while w.waiting != NULL:
        f = w.waiting
        w.waiting = f.active.dirty_next
        f.starts &= ~<uint8_t>START_WAITS
    w.waiting_last = NULL
