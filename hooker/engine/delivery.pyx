"""Peer → application. In-order bytes go from the received datagrams into the twin, many in one sendmsg().

What the twin does not take is copied into the flow's backlog, and VTL's window does not open again before
the application has read it; so the backlog never exceeds the stream's window.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from hooker.engine.backlog cimport gather_drop
from hooker.engine.ending cimport flow_abort, flow_app_reset, flow_fin
from hooker.includes.linux cimport *
from hooker.engine.twin cimport twin_piece, twin_prompt
from hooker.vtl.endpoint cimport vtl_consumed
from hooker.engine.worker cimport GATHER, R_MEMORY, block, flow, gather_list, worker

cdef enum:
    BLOCK = 16368


cdef inline void mark_dirty(worker *w, flow *f) noexcept nogil:
    if not f.in_dirty:
        f.in_dirty = True
        f.dirty_next = w.dirty
        w.dirty = f


cdef int keep(worker *w, flow *f, const uint8_t *data, size_t n) noexcept nogil:
    """Copy to the end of the backlog; -1: no memory."""
    cdef block *b
    cdef size_t part
    while n:
        b = f.backlog_last
        if b == NULL or b.end == BLOCK:
            b = <block *>malloc(sizeof(block))
            if b == NULL:
                return -1
            b.next = NULL
            b.start = b.end = 0
            if f.backlog_last == NULL:
                f.backlog_first = b
            else:
                f.backlog_last.next = b
            f.backlog_last = b
        part = BLOCK - b.end if BLOCK - b.end < n else n
        memcpy(b.data + b.end, data, part)
        b.end += part
        f.backlog += part
        data += part
        n -= part
    if f.backlog > w.n.backlog_bytes_peak:
        w.n.backlog_bytes_peak = f.backlog
    return 0


cdef inline void credit(worker *w, flow *f, size_t n) noexcept nogil:
    f.bytes_in += n
    w.n.twin_write_bytes += n
    if f.stream != NULL:
        vtl_consumed(f.stream, n)


cdef ssize_t write_twin(worker *w, flow *f, iovec *iov, uint32_t count, bint last) noexcept nogil:
    """Bytes the twin took, 0 if it is full, -1 if it is gone (the flow is reset then).

    `last`: the end of data follows at once, and goes in the same segment.
    """
    cdef msghdr m
    cdef ssize_t n
    if hk_load32(&f.rec.narrow):
        return write_pieces(w, f, iov, count)
    memset(&m, 0, sizeof(m))
    m.msg_iov = iov
    m.msg_iovlen = count
    w.n.twin_writes += 1
    if f.bytes_in and not f.prompt:       # the first write waits for nothing anyway
        f.prompt = True
        twin_prompt(f.twin)
    n = sendmsg(f.twin, &m, MSG_DONTWAIT | MSG_NOSIGNAL | (MSG_MORE if last else 0))
    if n >= 0:
        credit(w, f, n)
        return n
    if errno == EAGAIN or errno == EINTR or errno == ENOBUFS:
        return 0
    flow_app_reset(w, f)
    return -1


cdef ssize_t write_pieces(worker *w, flow *f, const iovec *iov, uint32_t count) noexcept nogil:
    """The same, each part of the size of a segment on the wire a record of its own: the twin's segments are larger, and
    TCP sends them whole or, to a window that is smaller, not before a timer. Records are not joined."""
    cdef size_t most = twin_piece(&f.est), at, part
    cdef ssize_t n, sum = 0
    cdef uint32_t i
    for i in range(count):
        at = 0
        while at < iov[i].iov_len:
            part = min(most, iov[i].iov_len - at)
            n = send(f.twin, <const uint8_t *>iov[i].iov_base + at, part, MSG_DONTWAIT | MSG_NOSIGNAL | MSG_EOR)
            w.n.twin_writes += 1
            if n < 0 and errno != EAGAIN and errno != EINTR and errno != ENOBUFS:
                flow_app_reset(w, f)
                return -1
            if n > 0:
                credit(w, f, n)
                sum += n
                at += n
            if n < <ssize_t>part:
                return sum
    return sum


cdef gather_list *gather_of(worker *w, flow *f) noexcept nogil:
    """The flow's list, or one from the pool; NULL: no memory."""
    cdef gather_list *g = f.gather
    if g != NULL:
        return g
    g = w.gather_free
    if g != NULL:
        w.gather_free = g.next_free
    else:
        g = <gather_list *>malloc(sizeof(gather_list))
        if g == NULL:
            return NULL
    g.count = 0
    g.size = 0
    f.gather = g
    return g


cdef void keep_rest(worker *w, flow *f, const gather_list *g, size_t skip) noexcept nogil:
    """What the twin did not take of the list, into the backlog."""
    cdef uint32_t i
    for i in range(g.count):
        if skip >= g.part[i].iov_len:
            skip -= g.part[i].iov_len
            continue
        if keep(w, f, <uint8_t *>g.part[i].iov_base + skip, g.part[i].iov_len - skip) < 0:
            flow_abort(w, f, R_MEMORY)
            return
        skip = 0


cdef void flush_gather(worker *w, flow *f) noexcept nogil:
    cdef gather_list *g = f.gather
    cdef ssize_t n
    if g == NULL:
        return
    n = write_twin(w, f, g.part, g.count, f.fin)
    if n >= 0 and <size_t>n < g.size:
        keep_rest(w, f, g, n)
    gather_drop(w, f)


cdef void flush_backlog(worker *w, flow *f) noexcept nogil:
    cdef iovec iov[16]
    cdef uint32_t count
    cdef size_t offered
    cdef ssize_t n
    cdef block *b
    while f.backlog and f.twin >= 0:
        count = 0
        offered = 0
        b = f.backlog_first
        while b != NULL and count < 16:
            iov[count].iov_base = b.data + b.start
            iov[count].iov_len = b.end - b.start
            offered += b.end - b.start
            count += 1
            b = b.next
        n = write_twin(w, f, iov, count, f.fin and offered == f.backlog)
        if n <= 0:
            return
        take(f, n)
        if <size_t>n < offered:
            return


cdef void take(flow *f, size_t n) noexcept nogil:
    """Drop `n` bytes from the front of the backlog."""
    cdef block *b
    cdef size_t have
    f.backlog -= n
    while n or (f.backlog_first != NULL and f.backlog_first.start == f.backlog_first.end):
        b = f.backlog_first
        have = b.end - b.start
        if n < have:
            b.start += n
            return
        n -= have
        f.backlog_first = b.next
        if b.next == NULL:
            f.backlog_last = NULL
        free(b)


cdef void finish(worker *w, flow *f) noexcept nogil:
    """The peer's end of data, once all before it was taken."""
    if f.fin and not f.fin_done and f.backlog == 0 and f.gather == NULL and f.twin >= 0:
        flow_fin(w, f)


cdef bint gather(worker *w, flow *f, const uint8_t *data, size_t n) noexcept nogil:
    """Put stable bytes on the flow's list; False if they must be copied."""
    cdef gather_list *g
    if f.gather != NULL and f.gather.count == GATHER:
        flush_gather(w, f)
    if f.backlog or f.twin < 0:
        return False
    g = gather_of(w, f)
    if g == NULL:
        return False
    g.part[g.count].iov_base = <void *>data
    g.part[g.count].iov_len = n
    g.count += 1
    g.size += n
    return True


cdef void deliver(worker *w, flow *f, const uint8_t *data, size_t n, bint stable) noexcept nogil:
    mark_dirty(w, f)
    f.late |= f.eof
    if f.twin >= 0 and stable and gather(w, f, data, n):
        return
    flush_gather(w, f)
    if f.twin >= 0:
        if keep(w, f, data, n) < 0:
            flow_abort(w, f, R_MEMORY)
    elif f.stream != NULL:
        vtl_consumed(f.stream, n)         # nobody is left to take it


cdef void deliver_fin(worker *w, flow *f) noexcept nogil:
    f.fin = True
    mark_dirty(w, f)


cdef void twin_watch(worker *w, flow *f, int how) noexcept nogil:
    """Which of the twin's events the worker hears."""
    cdef epoll_event ev
    ev.events = EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLET | (EPOLLOUT if f.watches_room else 0)
    ev.data.u64 = f.slot
    if f.twin >= 0:
        epoll_ctl(w.epoll_fd, how, f.twin, &ev)


cdef void watch_twin_room(worker *w, flow *f) noexcept nogil:
    """From now on also for when it takes bytes again: most flows never need it. Data may come before engage()."""
    if not f.watches_room:
        f.watches_room = True
        twin_watch(w, f, EPOLL_CTL_MOD)


cdef void delivery_flush(worker *w) noexcept nogil:
    cdef flow *f
    while w.dirty != NULL:
        f = w.dirty
        w.dirty = f.dirty_next
        f.in_dirty = False
        if f.twin < 0:
            gather_drop(w, f)
            continue
        flush_gather(w, f)
        if f.backlog:
            flush_backlog(w, f)
            if f.backlog:
                watch_twin_room(w, f)
        finish(w, f)


cdef void delivery_writable(worker *w, flow *f) noexcept nogil:
    if f.backlog:
        flush_backlog(w, f)
        finish(w, f)


cdef void delivery_free(worker *w) noexcept nogil:
    cdef gather_list *g
    while w.gather_free != NULL:
        g = w.gather_free
        w.gather_free = g.next_free
        free(g)
