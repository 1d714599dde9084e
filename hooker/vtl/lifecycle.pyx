"""The end of streams and associations, and the second life of an association.

When the peer has forgotten an association (it closed it as idle while our OPEN was on its way, or it
was restarted), the flows it never accepted are not lost with it: the association shakes hands anew
and opens them again. All others are reset, and channels are told that it is down.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset
from hooker.vtl.api cimport *
from hooker.vtl.channel cimport channels_down, channels_release, channels_restart
from hooker.vtl.core cimport *
from hooker.vtl.handshake cimport handshake_start
from hooker.vtl.ranges cimport ranges_clear
from hooker.vtl.registry cimport assoc_free, assoc_rekey, path_forget, random_cid
from hooker.vtl.sendbuf cimport sendbuf_clear
from hooker.vtl.stream cimport stream_control, stream_destroy, stream_link, stream_unqueue

cdef enum:
    MAX_RESTARTS = 3


cdef void close_stream(Stream *s) noexcept nogil:
    cdef vtl_sink *k = &s.assoc.ep.sink
    sendbuf_clear(&s.out, k.release, k.ctx)
    if s.flags & S_ANNOUNCED:
        s.flags |= S_DEAD
        k.closed(k.ctx, <vtl_stream *>s)
    stream_destroy(s)


cdef void reap_streams(Endpoint *ep) noexcept nogil:
    cdef Assoc *a
    cdef Stream *s
    while ep.unfinished != NULL:
        a = ep.unfinished
        ep.unfinished = a.next_unfinished
        if ep.unfinished != NULL:
            ep.unfinished.unfinished_at = &ep.unfinished
        a.in_unfinished = False
        while a.finished.first != NULL:
            s = a.finished.first
            a.finished.first = s.next_finished
            close_stream(s)
        channels_release(a)


cdef bint unheard(const Stream *s) noexcept nogil:
    """The peer has not accepted it, and has nothing of it that counts."""
    return (s.flags & (S_LOCAL | S_ACCEPTED | S_DEAD | S_ENDED) == S_LOCAL
            and s.out.acked == 0 and s.out.done.n == 0 and s.recv_high == 0)


cdef bint worth_restart(const Assoc *a) noexcept nogil:
    cdef Stream *s = a.all
    if a.down_reason != VTL_DOWN_STATELESS_RESET and not (a.down_reason == VTL_DOWN_IDLE and a.closed_by_peer):
        return False
    while s != NULL and not unheard(s):
        s = s.next
    return s != NULL and a.restarts < MAX_RESTARTS


cdef void end_stream(Stream *s, uint32_t reason) noexcept nogil:
    cdef vtl_sink *k = &s.assoc.ep.sink
    if s.flags & (S_ANNOUNCED | S_DEAD) == S_ANNOUNCED:
        s.flags |= S_DEAD
        k.reset(k.ctx, <vtl_stream *>s, reason)
    close_stream(s)


cdef void reopen(Stream *s) noexcept nogil:
    """As if it had just been opened and written to."""
    cdef Assoc *a = s.assoc
    s.id = a.next_id << 1                       # we are the initiator now
    a.next_id += 1
    s.flags &= ~<uint32_t>(S_OPEN_SENT | S_FIN_SENT)
    s.pending = 0
    s.out.next = 0
    s.out.cursor = s.out.head
    ranges_clear(&s.out.lost)
    s.send_max = 0
    stream_link(s)
    stream_control(s, P_OPEN)


cdef void end_all_heard(Assoc *a) noexcept nogil:
    """Leaves only unheard streams; callbacks may end more of them meanwhile."""
    cdef Stream *s
    cdef Stream *next
    cdef bint ended = True
    while ended:
        ended = False
        s = a.all
        while s != NULL:
            next = s.next
            if not unheard(s) and not s.flags & S_FINISHED:
                end_stream(s, a.down_reason)
                ended = True
            s = next
        reap_streams(a.ep)


cdef void restart(Assoc *a) noexcept nogil:
    cdef Stream *s = a.all
    a.restarts += 1
    a.closed_by_peer = False
    while s != NULL:
        stream_unqueue(s)
        s = s.next
    channels_restart(a)
    path_forget(a)
    assoc_rekey(a, random_cid(a.ep))
    memset(a.table, 0, a.table_cap * sizeof(Stream *))
    handshake_start(a, a.ep.now)
    s = a.all
    while s.next != NULL:                       # oldest first: their order stays
        s = s.next
    while s != NULL:
        reopen(s)
        s = s.prev


cdef void take_down(Assoc *a) noexcept nogil:
    cdef vtl_sink *k = &a.ep.sink
    channels_down(a)                            # a channel's flow has a way back: it is never begun again
    if worth_restart(a):
        end_all_heard(a)
        if a.all != NULL:
            restart(a)
            return
    while a.all != NULL:
        end_stream(a.all, a.down_reason)
    k.assoc_down(k.ctx, <vtl_assoc *>a, a.down_reason)
    assoc_free(a)


cdef void reap(Endpoint *ep) noexcept nogil:
    cdef Assoc *a
    while ep.unfinished != NULL or ep.dead != NULL:
        reap_streams(ep)
        if ep.dead != NULL:
            a = ep.dead
            ep.dead = a.next_dead
            take_down(a)
