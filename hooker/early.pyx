"""OPENs that came before their flow: the datagram can overtake the handshake's last ACK, or that was lost.

One that is committed also waits here while its server side cannot be made: there is no way back for it.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from hooker.flowtable cimport not_after
from hooker.vtl.api cimport vtl_open_info, vtl_stream
from hooker.vtl.endpoint cimport vtl_reject
from hooker.worker cimport OPEN_BUCKETS, waiting_open, worker


cdef inline waiting_open **bucket(worker *w, uint64_t locator) noexcept nogil:
    return &w.opens[locator & (OPEN_BUCKETS - 1)]


cdef int early_keep(worker *w, vtl_stream *s, const vtl_open_info *info, uint64_t until) noexcept nogil:
    cdef waiting_open **b = bucket(w, info.locator)
    cdef waiting_open *o
    if w.open_count == w.max_flows:
        return -1
    o = <waiting_open *>calloc(1, sizeof(waiting_open))
    if o == NULL:
        return -1
    o.stream = s
    o.info = info[0]
    o.deadline = until
    o.next = b[0]
    b[0] = o
    w.open_count += 1
    not_after(w, until)
    return 0


cdef void unlink(worker *w, waiting_open **p) noexcept nogil:
    cdef waiting_open *o = p[0]
    p[0] = o.next
    w.open_count -= 1
    free(o)


cdef vtl_stream *early_take(worker *w, uint64_t locator, vtl_open_info *info) noexcept nogil:
    cdef waiting_open **p = bucket(w, locator)
    cdef vtl_stream *s
    while p[0] != NULL:
        if p[0].info.locator == locator:
            s = p[0].stream
            info[0] = p[0].info
            unlink(w, p)
            return s
        p = &p[0].next
    return NULL


cdef void early_forget(worker *w, vtl_stream *s) noexcept nogil:
    cdef waiting_open **p
    cdef uint32_t i
    for i in range(OPEN_BUCKETS if w.open_count else 0):
        p = &w.opens[i]
        while p[0] != NULL:
            if p[0].stream == s:
                unlink(w, p)
                return
            p = &p[0].next


cdef void expire_bucket(worker *w, waiting_open **p, uint32_t code) noexcept nogil:
    cdef vtl_stream *s
    while p[0] != NULL:
        if p[0].deadline > w.now:
            not_after(w, p[0].deadline)
            p = &p[0].next
            continue
        s = p[0].stream
        unlink(w, p)
        vtl_reject(s, code)


cdef void early_expire(worker *w, uint32_t code) noexcept nogil:
    cdef uint32_t i
    for i in range(OPEN_BUCKETS if w.open_count else 0):
        expire_bucket(w, &w.opens[i], code)


cdef void early_free(worker *w) noexcept nogil:
    cdef uint32_t i
    for i in range(OPEN_BUCKETS):
        while w.opens[i] != NULL:
            unlink(w, &w.opens[i])
