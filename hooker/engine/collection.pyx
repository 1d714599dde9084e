"""Application → peer. Two sources of one byte stream, in the order the application wrote it.

1. A flow starts in PASS: bytes come through the twin, TCP's own way.
2. When the engine has read all that TCP got (`resume` has reached write_seq), the kernel program turns to
   REDIRECT: bytes come as frames on the redirect socket.
   The program sees messages at all only once the socket is in the SOCKHASH (`adopt`): after some traffic, and
   if the application's file is non-blocking (bpf/adopt.c says why).
3. When `redirected - consumed` reaches the credit, it turns back to PASS and notes `spill_at`: the bytes in
   TCP follow the first `spill_at` redirected ones. So the twin is read only once `received == spill_at`.
4. While the twin holds unread bytes the program cannot turn (rule 2), so what FIONREAD promised is safe to
   read after rule 3 was checked; no lock, and no system call in the program's way.
5. End of data on the twin is the stream's end only when all frames have come.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from hooker.engine.ending cimport flow_abort, flow_app_reset, flow_check_end
from hooker.engine.flowtable cimport flow_by_id, maybe_done
from hooker.engine.frames cimport FRAME_FIRST, FRAME_LAST, frame_entry, frames_parse
from libc.string cimport memcpy, memset
from hooker.includes.bpf cimport hk_prog_run
from hooker.includes.hk cimport (
    HK_ADOPT_BLOCKING, HK_ADOPT_DONE, HK_ADOPT_REFUSED, HK_ADOPT_ZEROCOPY, HK_MODE_REDIRECT, HK_STATE_ENGAGED, hk_key,
)
from hooker.includes.linux cimport *
from hooker.engine.slab cimport pool_current, pool_has_room, slab
from hooker.engine.tap cimport tap_frames
from hooker.engine.twin cimport twin_available, twin_bound
from hooker.vtl.endpoint cimport vtl_fin, vtl_send_target, vtl_unacked, vtl_write
from hooker.engine.worker cimport FRAMES, R_MEMORY, R_PROTOCOL, flow, worker

cdef enum:
    ROOM = 65536                 # bytes: no recv() with less
    READS = 16                   # recv() calls on the redirect socket in one round
    SEND_MIN = 1 << 20           # bytes a flow may have unacknowledged, at least
    SEND_MAX = 8 << 20           # and at most
    ADOPT_AFTER = 4              # reads of the twin: a short connection is not worth it
    BOUND_AFTER = 32768          # bytes: less than TCP needs to have seen before it lets the buffer grow
    ETHERNET = 14
    MORE = 1                     # what reading a twin came to: there may be more,
    DRAINED = 2                  # there is none: the next edge tells,
    WAITS = 3                    # its turn or room has not come,
    OVER = 4                     # the flow is reset,
    ENDED = 5                    # it had its end of data


cdef inline size_t send_limit(flow *f) noexcept nogil:
    cdef size_t n = vtl_send_target(f.stream)
    if n < SEND_MIN:
        return SEND_MIN
    return n if n < SEND_MAX else SEND_MAX


cdef inline void retry_later(worker *w, flow *f) noexcept nogil:
    if not f.in_retry:
        f.in_retry = True
        f.retry_next = w.retry
        w.retry = f


cdef void starve(worker *w, flow *f) noexcept nogil:
    w.starved = True
    if f.in_starving:
        return
    f.in_starving = True
    f.starving_next = NULL
    if w.starving == NULL:
        w.starving = f
    else:
        w.starving_last.starving_next = f
    w.starving_last = f


cdef inline int lend(worker *w, flow *f, slab *s, const uint8_t *data, size_t n) noexcept nogil:
    s.borrowed += n
    if vtl_write(f.stream, data, n, s) < 0:
        s.borrowed -= n
        flow_abort(w, f, R_MEMORY)
        return -1
    f.bytes_out += n
    return 0


cdef void take_frame(worker *w, slab *s, const uint8_t *data, const frame_entry *e) noexcept nogil:
    cdef flow *f = flow_by_id(w, e.flow_id)
    w.n.frames += 1
    w.n.frame_bytes += e.length
    if f == NULL or f.state != HK_STATE_ENGAGED or f.stream == NULL:
        w.n.unknown_flow_frames += 1          # reset meanwhile: its bytes have nowhere to go
        return
    f.received += e.length
    lend(w, f, s, data + e.offset, e.length)
    if f.waiting or f.hup:
        retry_later(w, f)


cdef void take_frames(worker *w, slab *s, uint8_t *data, size_t n) noexcept nogil:
    cdef size_t used = 0, at = 0
    cdef uint32_t count, i
    while at < n and not w.parser.broken:
        count = frames_parse(&w.parser, data + at, n - at, w.frames, FRAMES, &used)
        if w.tap != NULL:
            tap_frames(w.tap, w.owner, s, data + at, w.frames, count, &w.n.tap_errors)
        for i in range(count):
            take_frame(w, s, data + at, &w.frames[i])
        at += used


cdef void give_up_redirect(worker *w) noexcept nogil:
    """Framing is lost: what is in the redirect socket belongs to nobody any more. The twins go on."""
    cdef uint32_t i
    cdef flow *f
    w.n.bad_frames += 1
    w.adopt_fd = -1
    epoll_ctl(w.epoll_fd, EPOLL_CTL_DEL, w.redirect_fd, NULL)
    w.redirect_armed = w.starved = False
    for i in range(w.max_flows):
        f = w.flows[i]
        if f != NULL and f.adopted and not f.ended:
            flow_abort(w, f, R_PROTOCOL)


cdef void collect_redirected(worker *w) noexcept nogil:
    cdef int i
    cdef slab *s
    cdef ssize_t n
    cdef size_t room
    for i in range(READS):
        s = pool_current(&w.slabs, ROOM)
        if s == NULL:
            w.starved = True                  # an ACK frees a slab, and the loop comes back
            w.n.slabs_exhausted += 1
            return
        room = w.slabs.size - s.used
        n = recv(w.redirect_fd, s.base + s.used, room, MSG_DONTWAIT)
        if n <= 0:
            return
        w.n.redirect_reads += 1
        take_frames(w, s, s.base + s.used, n)
        s.used += n
        if w.parser.broken:
            give_up_redirect(w)
            return
        if <size_t>n < room // 2:
            return                            # that was all, or close to it


cdef inline bint twin_turn(flow *f) noexcept nogil:
    """Rule 3; called after FIONREAD said that there are bytes. In REDIRECT they are of a send() that began
    before the socket was adopted: after all frames, then."""
    if hk_load64(&f.rec.spill_at) == f.received:
        return True
    return hk_load32(&f.rec.mode) == HK_MODE_REDIRECT and hk_load64(&f.rec.redirected) == f.received


cdef void adopt(worker *w, flow *f) noexcept nogil:
    cdef uint8_t packet[54]      # ETHERNET + sizeof(hk_key)
    cdef uint32_t verdict = 0
    memset(packet, 0, ETHERNET)
    memcpy(packet + ETHERNET, &f.est.key, sizeof(hk_key))
    if hk_prog_run(w.adopt_fd, packet, sizeof(packet), &verdict) < 0:
        verdict = HK_ADOPT_REFUSED
    if verdict == HK_ADOPT_DONE:
        f.adopted = True
        w.n.adopted += 1
    elif verdict == HK_ADOPT_BLOCKING:
        w.n.adopt_blocking += 1
    elif verdict == HK_ADOPT_REFUSED:
        w.n.adopt_refused += 1
    elif verdict == HK_ADOPT_ZEROCOPY:
        w.n.adopt_zerocopy += 1


cdef void show_read(worker *w, flow *f, slab *s, size_t n) noexcept nogil:
    """What the twin gave is a frame of its own."""
    cdef frame_entry e
    e.flow_id = f.id
    e.offset = 0
    e.length = <uint32_t>n
    e.flags = FRAME_FIRST | FRAME_LAST
    tap_frames(w.tap, w.owner, s, s.base + s.used, &e, 1, &w.n.tap_errors)


cdef int read_twin(worker *w, flow *f, size_t most) noexcept nogil:
    """One recv() of at most so many bytes."""
    cdef slab *s
    cdef size_t want
    cdef ssize_t n
    if not twin_turn(f) or vtl_unacked(f.stream) >= send_limit(f):
        f.waiting = True
        return WAITS
    s = pool_current(&w.slabs, ROOM)
    if s == NULL:
        w.n.slabs_exhausted += 1
        f.waiting = True
        starve(w, f)
        return WAITS
    want = w.slabs.size - s.used
    if want > most:
        want = most
    if want > BOUND_AFTER and not f.bounded:
        want = BOUND_AFTER
    n = recv(f.twin, s.base + s.used, want, MSG_DONTWAIT)
    if n <= 0:
        return nothing_read(w, f, n)
    w.n.twin_reads += 1
    w.n.twin_read_bytes += n
    if w.tap != NULL:
        show_read(w, f, s, n)
    if lend(w, f, s, s.base + s.used, n) < 0:
        return OVER
    s.used += n
    f.resume += n
    hk_store64(&f.rec.resume, f.resume)
    if f.resume >= BOUND_AFTER and not f.bounded:
        f.bounded = True
        twin_bound(f.twin)
    if f.reads < ADOPT_AFTER and w.adopt_fd >= 0:
        f.reads += 1
        if f.reads == ADOPT_AFTER:
            adopt(w, f)
    return DRAINED if <size_t>n < want and not f.urgent else MORE


cdef int nothing_read(worker *w, flow *f, ssize_t n) noexcept nogil:
    if n < 0 and errno != EAGAIN and errno != EINTR:
        flow_app_reset(w, f)
        return OVER
    if n == 0:
        f.hup = True
        return ENDED
    return DRAINED


cdef int read_promised(worker *w, flow *f) noexcept nogil:
    """Rule 4: only what was there when the socket's turn was checked."""
    cdef int n = twin_available(f.twin)
    cdef int r
    if n < 0:
        flow_app_reset(w, f)
        return OVER
    if n == 0:
        return DRAINED
    r = read_twin(w, f, n)
    return MORE if r == DRAINED else r


cdef void end_of_data(worker *w, flow *f) noexcept nogil:
    """The application's FIN is here and TCP has nothing left: the end, if all frames have come."""
    cdef uint8_t byte
    cdef ssize_t n = recv(f.twin, &byte, 1, MSG_DONTWAIT | MSG_PEEK)
    if n > 0:
        retry_later(w, f)
        return
    if n < 0:
        if f.app_closed or (errno != EAGAIN and errno != EINTR):
            flow_app_reset(w, f)              # closed without a FIN: nothing more can come
        return
    ended(w, f)


cdef void ended(worker *w, flow *f) noexcept nogil:
    if hk_load64(&f.rec.redirected) != f.received:
        f.waiting = True                      # rule 5
        return
    f.eof = True
    vtl_fin(f.stream)
    flow_check_end(w, f)


cdef void collect_twin(worker *w, flow *f) noexcept nogil:
    cdef int r = MORE
    if f.twin < 0 or f.eof or f.stream == NULL or f.state != HK_STATE_ENGAGED:
        return
    f.waiting = False
    while r == MORE:
        r = read_promised(w, f) if f.adopted else read_twin(w, f, <size_t>-1)
    if r == ENDED:
        ended(w, f)
    elif r == DRAINED and f.hup:
        end_of_data(w, f)


cdef void collection_retry(worker *w) noexcept nogil:
    cdef flow *f
    cdef flow *todo = w.retry
    w.retry = NULL
    while todo != NULL:
        f = todo
        todo = f.retry_next
        f.in_retry = False
        collect_twin(w, f)


cdef void collection_feed(worker *w) noexcept nogil:
    """In turn, as far as there are slabs: who has waited longest reads first."""
    cdef flow *f
    if not w.starved or not pool_has_room(&w.slabs):
        return
    w.starved = False
    while w.starving != NULL and not w.starved:
        f = w.starving
        w.starving = f.starving_next
        f.in_starving = False
        if f.waiting:
            collect_twin(w, f)
        maybe_done(w, f)             # it may have ended meanwhile


cdef void collection_acked(worker *w, flow *f) noexcept nogil:
    """Credit: of the redirected bytes, those that VTL need no longer keep."""
    cdef uint64_t unacked = vtl_unacked(f.stream)
    cdef uint64_t free_ = f.received - unacked if f.received > unacked else 0
    cdef size_t limit = send_limit(f)
    if free_ > f.rec.consumed:
        hk_store64(&f.rec.consumed, free_)
    if f.rec.credit != limit:
        hk_store64(&f.rec.credit, limit)
    if f.waiting and unacked < limit:
        retry_later(w, f)


cdef void collection_start(worker *w, flow *f) noexcept nogil:
    hk_store64(&f.rec.consumed, 0)
    hk_store64(&f.rec.resume, 0)
    hk_store64(&f.rec.credit, SEND_MIN)
