"""The redirect socket: messages of all adopted sockets, each behind a header that says whose it is.

It is read into slabs, where the bytes stay until the peer has acknowledged them. Without a slab it is not
listened to: what its queue holds is bounded by the flows' credit. Framing that is lost cannot be found
again, so then all that was adopted has come to its end (turns.pyx).
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memmove
from hooker.engine.frames cimport frame_entry, frames_parse
from hooker.engine.flows cimport flow_by_id
from hooker.engine.lent cimport lent_frame
from hooker.engine.redirected cimport redirected_frame
from hooker.engine.worker cimport *
from hooker.engine.slab cimport pool_current, pool_has_room, slab
from hooker.engine.tap cimport tap_frames
from hooker.flow.joined cimport J_LOST, J_OVER
from hooker.includes.linux cimport *

cdef enum:
    ROOM = 65536               # bytes: no recv() with less
    READS = 16                 # recv() calls in one round
    JOINED = 256               # bytes: smaller frames are moved behind the one before, to travel with it


# ---- one frame ---------------------------------------------------------------------------------------

cdef void take_frame(worker *w, slab *s, const uint8_t *data, uint32_t n, flow *f) noexcept nogil:
    cdef lot *l
    if f == NULL or f.r == NULL or f.r.j.bits & (J_OVER | J_LOST):
        w.n.unknown_flow_frames += 1    # reset meanwhile: its bytes have nowhere to go
        return
    l = lent_frame(w, f, s, &data, n)
    w.n.unknown_flow_frames += l == NULL        # the association is down, or there is no memory
    redirected_frame(w, f, l, data, n)


cdef void take_frames(worker *w, slab *s, uint8_t *data, size_t n) noexcept nogil:
    cdef size_t used = 0, at = 0
    cdef uint32_t count, i
    cdef frame_entry *e
    cdef flow *f = NULL
    cdef uint8_t *behind = NULL         # the last frame's bytes
    cdef uint8_t *bytes
    while at < n and not w.parser.broken:
        count = frames_parse(&w.parser, data + at, n - at, w.frames, FRAMES, &used)
        if w.tap != NULL:
            tap_frames(w.tap, w.owner, s, data + at, w.frames, count, &w.n.tap_errors)
        for i in range(count):
            e = &w.frames[i]
            bytes = data + at + e.offset
            if f == NULL or f.id != e.flow_id:
                f = flow_by_id(w, e.flow_id)
            elif w.tap == NULL and e.length <= JOINED and behind != NULL:
                memmove(behind, bytes, e.length)        # over its header; a tap may look at them for longer
                bytes = behind
            behind = bytes + e.length
            take_frame(w, s, bytes, e.length, f)
            w.n.frames += 1
            w.n.frame_bytes += e.length
        at += used


# ---- the socket --------------------------------------------------------------------------------------

cdef void lost_framing(worker *w) noexcept nogil:
    w.n.bad_frames += 1
    w.adopt_fd = -1
    epoll_ctl(w.epoll_fd, EPOLL_CTL_DEL, w.redirect_fd, NULL)
    w.redirect_armed = w.starved = False
    w.walking, w.walk_at = True, 0


cdef void collect(worker *w) noexcept nogil:
    cdef int i
    cdef slab *s
    cdef ssize_t n
    cdef size_t room
    if w.parser.broken:
        return
    for i in range(READS):
        s = pool_current(&w.slabs, ROOM)
        if s == NULL:
            w.starved = True
            w.n.slabs_exhausted += 1
            return
        room = w.slabs.size - s.used
        n = recv(w.redirect_fd, s.base + s.used, room, MSG_DONTWAIT)
        if n < 0 and (errno == EAGAIN or errno == EINTR):
            return
        if n <= 0:
            w.parser.broken = True      # it has ended: nothing comes of it any more
            lost_framing(w)
            return
        w.n.redirect_reads += 1
        take_frames(w, s, s.base + s.used, n)
        s.used += n
        if w.parser.broken:
            lost_framing(w)
            return
        if <size_t>n < room // 2:
            return                      # that was all, or close to it


cdef void collect_arm(worker *w) noexcept nogil:
    cdef epoll_event ev
    cdef bint want
    if w.redirect_fd < 0 or w.parser.broken:
        return
    if w.starved and pool_has_room(&w.slabs):
        w.starved = False
    want = not w.starved
    if want == w.redirect_armed:
        return
    ev.events = EPOLLIN if want else 0
    ev.data.u64 = <uint64_t>TAG_REDIRECT << 32
    epoll_ctl(w.epoll_fd, EPOLL_CTL_MOD, w.redirect_fd, &ev)
    w.redirect_armed = want
