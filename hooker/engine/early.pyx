"""OPENs that came before their flow: the datagram can overtake the handshake's last ACK, or that was lost.

One that is committed also waits here while its server side cannot be made: there is no way back for it.

How many wait is the peers' choice, so nothing here walks over them: an OPEN is found by its stream (which knows it), by its
locator (in a bucket of bounded depth, behind a keyed hash) and by its deadline (a heap). VTL bounds how many there are, by source.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from hooker.engine.flowtable cimport scattered
from hooker.includes.timers cimport timer_clear, timer_set, timers_free, timers_next
from hooker.vtl.api cimport vtl_open_info, vtl_stream
from hooker.vtl.endpoint cimport vtl_reject, vtl_stream_set_waiting, vtl_stream_waiting
from hooker.engine.worker cimport OPEN_BUCKETS, waiting_open, worker

cdef enum:
    DEPTH = 64                 # OPENs in one bucket


cdef inline waiting_open **bucket(worker *w, uint64_t locator) noexcept nogil:
    return &w.opens[scattered(w, locator) & (OPEN_BUCKETS - 1)]


cdef waiting_open **room_in(waiting_open **p) noexcept nogil:
    """The end of a chain, so that who came first is served first; NULL: it is full."""
    cdef uint32_t n = 0
    while p[0] != NULL and n < DEPTH:
        p = &p[0].next
        n += 1
    return p if n < DEPTH else NULL


cdef int early_keep(worker *w, vtl_stream *s, const vtl_open_info *info, uint64_t until) noexcept nogil:
    cdef waiting_open **p = room_in(bucket(w, info.locator))
    cdef waiting_open *o
    if p == NULL or w.open_count == w.max_flows:
        return -1
    o = <waiting_open *>calloc(1, sizeof(waiting_open))
    if o == NULL:
        return -1
    if timer_set(&w.open_timers, &o.due, until) < 0:
        free(o)
        return -1
    o.stream = s
    o.info = info[0]
    o.at = p
    p[0] = o
    w.open_count += 1
    vtl_stream_set_waiting(s, o)
    return 0


cdef void unlink(worker *w, waiting_open *o) noexcept nogil:
    o.at[0] = o.next
    if o.next != NULL:
        o.next.at = o.at
    timer_clear(&w.open_timers, &o.due)
    w.open_count -= 1
    vtl_stream_set_waiting(o.stream, NULL)
    free(o)


cdef vtl_stream *early_take(worker *w, uint64_t locator, vtl_open_info *info) noexcept nogil:
    cdef waiting_open *o = bucket(w, locator)[0]
    cdef vtl_stream *s
    while o != NULL and o.info.locator != locator:
        o = o.next
    if o == NULL:
        return NULL
    s = o.stream
    info[0] = o.info
    unlink(w, o)
    return s


cdef void early_forget(worker *w, vtl_stream *s) noexcept nogil:
    cdef waiting_open *o = <waiting_open *>vtl_stream_waiting(s)
    if o != NULL:
        unlink(w, o)


cdef void early_expire(worker *w, uint32_t code) noexcept nogil:
    cdef waiting_open *o
    cdef vtl_stream *s
    while timers_next(&w.open_timers) <= w.now:
        o = <waiting_open *>w.open_timers.v[0]      # its timer is its first member
        s = o.stream
        unlink(w, o)
        vtl_reject(s, code)


cdef void early_free(worker *w) noexcept nogil:
    """The streams are gone already."""
    cdef uint32_t i
    for i in range(w.open_timers.n):
        free(<waiting_open *>w.open_timers.v[i])
    w.open_count = 0
    timers_free(&w.open_timers)
