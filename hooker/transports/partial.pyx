"""See partial.pxd."""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy
from hooker.transports.connection cimport Connection, ConnectionTransport, fail, of
from hooker.transports.contract cimport DOWN_MEMORY
from hooker.transports.sources cimport source_give, source_hold


cdef bint keep_room(Connection *a, uint32_t n) noexcept nogil:
    cdef ConnectionTransport *t = of(a)
    cdef uint8_t *room
    if n <= a.partial_room:
        return True
    if not source_hold(&t.sources, a.source, n - a.partial_room):
        t.n.over_budget += 1
        fail(a, DOWN_MEMORY)
        return False
    room = <uint8_t *>realloc(a.partial, n)
    if room == NULL:
        source_give(&t.sources, a.source, n - a.partial_room)
        fail(a, DOWN_MEMORY)
        return False
    a.partial, a.partial_room = room, n
    t.held_peak = max(t.held_peak, t.sources.held)
    return True


cdef bint partial_set(Connection *a, const uint8_t *p, uint32_t n) noexcept nogil:
    a.partial_n = 0
    return partial_add(a, p, n)


cdef bint partial_add(Connection *a, const uint8_t *p, uint32_t n) noexcept nogil:
    if not keep_room(a, a.partial_n + n):
        return False
    memcpy(a.partial + a.partial_n, p, n)
    a.partial_n += n
    return True


cdef void partial_end(Connection *a) noexcept nogil:
    free(a.partial)
    source_give(&of(a).sources, a.source, a.partial_room)
    a.partial = NULL
    a.partial_n = a.partial_room = 0
