# What a flow of the messages engine holds of its peer's bytes, given back.
from libc.stdlib cimport free
from hooker.engine.worker cimport block, flow, worker


cdef inline void gather_drop(worker *w, flow *f) noexcept nogil:
    if f.gather != NULL:
        f.gather.next_free = w.gather_free
        w.gather_free = f.gather
        f.gather = NULL


cdef inline void backlog_drop(worker *w, flow *f) noexcept nogil:
    cdef block *b
    while f.backlog_first != NULL:
        b = f.backlog_first
        f.backlog_first = b.next
        free(b)
    f.backlog_last = NULL
    f.backlog = 0
    gather_drop(w, f)
