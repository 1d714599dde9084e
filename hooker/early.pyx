"""OPENs that came before their flow: the datagram can overtake the handshake's last ACK, or that was lost."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from hooker.flowtable cimport not_after
from hooker.vtl.api cimport vtl_open_info, vtl_stream
from hooker.vtl.endpoint cimport vtl_reject
from hooker.worker cimport OPENS, waiting_open, worker


cdef int early_keep(worker *w, vtl_stream *s, const vtl_open_info *info, uint64_t until) noexcept nogil:
    cdef waiting_open *o
    if w.open_count == OPENS:
        return -1
    o = <waiting_open *>calloc(1, sizeof(waiting_open))
    if o == NULL:
        return -1
    o.stream = s
    o.client_nonce = info.client_nonce
    o.server_nonce = info.server_nonce
    o.deadline = until
    o.next = w.opens
    w.opens = o
    w.open_count += 1
    not_after(w, until)
    return 0


cdef void unlink(worker *w, waiting_open **p) noexcept nogil:
    cdef waiting_open *o = p[0]
    p[0] = o.next
    w.open_count -= 1
    free(o)


cdef vtl_stream *early_take(worker *w, uint64_t client_nonce, uint64_t *server_nonce) noexcept nogil:
    cdef waiting_open **p = &w.opens
    cdef vtl_stream *s
    while p[0] != NULL:
        if p[0].client_nonce == client_nonce:
            s = p[0].stream
            server_nonce[0] = p[0].server_nonce
            unlink(w, p)
            return s
        p = &p[0].next
    return NULL


cdef void early_forget(worker *w, vtl_stream *s) noexcept nogil:
    cdef waiting_open **p = &w.opens
    while p[0] != NULL:
        if p[0].stream == s:
            unlink(w, p)
            return
        p = &p[0].next


cdef void early_expire(worker *w, uint32_t code) noexcept nogil:
    cdef waiting_open **p = &w.opens
    cdef vtl_stream *s
    while p[0] != NULL:
        if p[0].deadline > w.now:
            not_after(w, p[0].deadline)
            p = &p[0].next
            continue
        s = p[0].stream
        unlink(w, p)
        vtl_reject(s, code)


cdef void early_free(worker *w) noexcept nogil:
    while w.opens != NULL:
        unlink(w, &w.opens)
