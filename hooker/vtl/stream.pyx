"""One flow's stream: opening, both directions of bytes, ending, and its credit.

A direction ends by FIN, or by RESET_STREAM, CANCEL or OPEN_REJECT with the final size, so that both
sides agree on the credit used. Who gets one of the latter three ends its own direction with a
RESET_STREAM. A stream is finished when our end is acknowledged and the peer's end is here.
"""

from libc.stdlib cimport calloc, free
from libc.string cimport memset
from hooker.vtl.api cimport *
from hooker.vtl.budget cimport (
    STREAM_COST, budget_room, stranger_known, stream_hold, stream_let_go, undecided_add, undecided_done, undecided_room,
)
from hooker.vtl.core cimport *
from hooker.vtl.credit cimport credit_measure
from hooker.vtl.proof cimport PROOF_OPEN_ACK, proof_of
from hooker.vtl.reassembly cimport (
    reassembly_advance, reassembly_clear, reassembly_memory, reassembly_need, reassembly_peek, reassembly_store,
)
from hooker.vtl.sendbuf cimport (
    sendbuf_clear, sendbuf_has_lost, sendbuf_on_acked, sendbuf_on_lost, sendbuf_release,
)
from hooker.vtl.wire cimport *

cdef inline vtl_stream *s_pub(Stream *s) noexcept nogil:
    return <vtl_stream *>s


# --- table and lists

cdef bint grow_table(Assoc *a) noexcept nogil:
    cdef uint32_t cap = 16 if a.table_cap == 0 else 2 * a.table_cap
    cdef Stream **table = <Stream **>calloc(cap, sizeof(Stream *))
    cdef Stream *s = a.all
    if table == NULL:
        return False
    free(a.table)
    a.table = table
    a.table_cap = cap
    while s != NULL:
        stream_link(s)
        s = s.next
    return True


cdef inline bint peers_own(const Assoc *a, uint32_t id) noexcept nogil:
    return (id & 1) == (1 if a.initiator else 0)


cdef Stream *stream_new(Assoc *a, uint32_t id) noexcept nogil:
    cdef Stream *s
    if peers_own(a, id) and (budget_room(a) < STREAM_COST or not undecided_room(a)):
        a.ep.count.over_budget += 1
        return NULL
    if a.streams >= MAX_STREAMS or (a.streams >= a.table_cap and not grow_table(a)):
        return NULL
    s = <Stream *>calloc(1, sizeof(Stream))
    if s == NULL:
        return NULL
    s.assoc = a
    s.id = id
    s.quantum = QUANTUM
    s.send_max = a.peer_stream_window
    s.recv_max = s.credit.window = a.ep.cfg.stream_window
    s.credit.since = a.ep.now
    stream_link(s)
    s.next = a.all
    if a.all != NULL:
        a.all.prev = s
    a.all = s
    a.streams += 1
    if peers_own(a, id):
        stream_hold(s, STREAM_COST)
        undecided_add(s)
    a.idle_since = 0
    assoc_touch(a)
    return s


cdef void stream_unqueue(Stream *s) noexcept nogil:
    if s.in_active:
        active_remove(&s.assoc.blocked if s.in_blocked else &s.assoc.active, s)
    if s.in_ctrl:
        ctrl_remove(&s.assoc.ctrl, s)


cdef void stream_destroy(Stream *s) noexcept nogil:
    cdef Assoc *a = s.assoc
    cdef Stream **p = stream_place(a, s.id)
    stream_unqueue(s)
    undecided_done(s)
    stream_let_go(s, s.held)
    while p[0] != s:
        p = &p[0].bucket
    p[0] = s.bucket
    if s.prev != NULL:
        s.prev.next = s.next
    else:
        a.all = s.next
    if s.next != NULL:
        s.next.prev = s.prev
    a.streams -= 1
    if not assoc_in_use(a):
        a.idle_since = a.ep.now
        assoc_touch(a)
    sendbuf_clear(&s.out, a.ep.sink.release, a.ep.sink.ctx)
    reassembly_clear(&s.in_)
    assoc_consumed(a, s.recv_high - s.consumed)
    free(s)


cdef void stream_control(Stream *s, uint32_t what) noexcept nogil:
    cdef Assoc *a = s.assoc
    s.pending |= what
    if not s.in_ctrl:
        ctrl_add(&a.ctrl, s)
    assoc_ready(a)


cdef bint stream_sendable(Stream *s) noexcept nogil:
    if s.flags & S_ENDED:
        return False
    if sendbuf_has_lost(&s.out):
        return True
    if s.out.next < s.out.end:
        return s.out.next < s.send_max
    return (s.flags & (S_FIN_QUEUED | S_FIN_SENT)) == S_FIN_QUEUED


cdef void stream_activate(Stream *s) noexcept nogil:
    cdef Assoc *a = s.assoc
    if s.in_blocked and (s.out.next == s.out.end or sendbuf_has_lost(&s.out)):
        active_remove(&a.blocked, s)            # what it has now needs no credit of the association
    if s.in_active or not stream_sendable(s):
        return
    active_add(&a.active, s)
    assoc_ready(a)


# --- what is held for it

cdef inline void weigh(Stream *s, uint64_t before) noexcept nogil:
    """Its out-of-order bytes took so much before."""
    cdef uint64_t after = reassembly_memory(&s.in_)
    if after > before:
        stream_hold(s, after - before)
    elif after < before:
        stream_let_go(s, before - after)


cdef inline int store(Stream *s, uint64_t offset, const uint8_t *data, uint32_t n) noexcept nogil:
    cdef uint64_t before = reassembly_memory(&s.in_)
    cdef int rc
    if budget_room(s.assoc) < reassembly_need(&s.in_, offset, n):
        s.assoc.ep.count.over_budget += 1
        return -1
    rc = reassembly_store(&s.in_, offset, data, n)
    weigh(s, before)
    return rc


cdef inline void hand_over(Stream *s, uint64_t n) noexcept nogil:
    """The engine gets n bytes, and says when the application has taken them."""
    s.untaken += n
    stream_hold(s, n)


cdef inline void advance(Stream *s, uint64_t next) noexcept nogil:
    cdef uint64_t before = reassembly_memory(&s.in_)
    reassembly_advance(&s.in_, next)
    if before > 0:
        weigh(s, before)


cdef inline void taken(Stream *s, uint64_t n) noexcept nogil:
    n = min(n, s.untaken)
    s.untaken -= n
    stream_let_go(s, n)


cdef void forget_received(Stream *s) noexcept nogil:
    """Nobody wants what came: it is not kept until the peer acknowledges the end."""
    cdef uint64_t before = reassembly_memory(&s.in_)
    reassembly_clear(&s.in_)
    weigh(s, before)
    taken(s, s.untaken)
    undecided_done(s)


# --- ending

cdef void stream_finish(Stream *s) noexcept nogil:
    cdef Assoc *a = s.assoc
    if s.owed and not s.flags & S_ENDED:
        return
    if (s.flags & (S_SEND_DONE | S_RECV_DONE | S_FINISHED)) == (S_SEND_DONE | S_RECV_DONE):
        s.flags |= S_FINISHED
        s.next_finished = a.finished.first
        a.finished.first = s
        assoc_unfinished(a)


cdef void stream_end(Stream *s, uint32_t what, uint32_t code) noexcept nogil:
    """Ends our direction with a frame instead of a FIN, and the engine's interest in the other.

    Borrowed bytes are kept until the stream closes: datagrams that point to them may not be sent yet."""
    if s.flags & S_ENDED:
        return
    s.flags = (s.flags | S_ENDED | S_DEAD) & ~<uint32_t>S_SEND_DONE
    forget_received(s)
    if s.flags & S_FIN_KNOWN:
        s.flags |= S_RECV_DONE                  # what was not delivered yet nobody wants
    s.code = code
    s.pending = 0
    if s.in_active:
        active_remove(&s.assoc.blocked if s.in_blocked else &s.assoc.active, s)
    if (s.flags & S_LOCAL) and not (s.flags & S_OPEN_SENT):
        s.flags |= S_SEND_DONE | S_RECV_DONE    # the peer has never heard of it
        stream_finish(s)
        assoc_ready(s.assoc)
        return
    stream_control(s, what)


cdef int set_final_size(Stream *s, uint64_t final_size) noexcept nogil:
    """The peer's direction ends here. Credit is counted as if every byte had come."""
    cdef Assoc *a = s.assoc
    if s.flags & S_FIN_KNOWN:
        return VTL_OK if s.final_size == final_size else VTL_DROP_PROTOCOL
    if final_size < s.recv_high or final_size > s.recv_max:
        return VTL_DROP_PROTOCOL
    if final_size - s.recv_high > a.recv_max - a.recv_total:
        return VTL_DROP_PROTOCOL
    a.recv_total += final_size - s.recv_high
    s.recv_high = s.final_size = final_size
    s.flags |= S_FIN_KNOWN
    return VTL_OK


cdef int stream_on_reset(Stream *s, uint32_t code, uint64_t final_size, bint cancel) noexcept nogil:
    cdef vtl_sink *k = &s.assoc.ep.sink
    cdef int rc
    if s.flags & S_FIN_KNOWN == 0:
        rc = set_final_size(s, final_size)
        if rc != VTL_OK:
            return rc
    s.flags |= S_RECV_DONE
    if s.flags & (S_ANNOUNCED | S_DEAD) == S_ANNOUNCED and not s.flags & S_FINISHED:
        s.flags |= S_DEAD
        if cancel:
            k.cancelled(k.ctx, s_pub(s))
        else:
            k.reset(k.ctx, s_pub(s), code)
    if not s.flags & S_SEND_DONE:
        stream_end(s, P_RESET, code)
    stream_finish(s)
    return VTL_OK


# --- opening

cdef void stream_on_open(Stream *s, uint64_t locator, uint64_t proof, bint committed) noexcept nogil:
    cdef vtl_sink *k = &s.assoc.ep.sink
    cdef vtl_open_info info
    if s.flags & (S_ANNOUNCED | S_DEAD | S_LOCAL):
        return
    s.flags |= S_ANNOUNCED | (S_COMMITTED if committed else 0)
    s.locator = info.locator = locator
    memset(info.key, 0, sizeof(info.key))
    info.proof = proof
    info.committed = committed
    k.opened(k.ctx, s_pub(s), &info)


cdef void stream_accept(Stream *s) noexcept nogil:
    cdef vtl_sink *k = &s.assoc.ep.sink
    if s.flags & (S_ACCEPTED | S_DEAD | S_LOCAL):
        return
    s.flags |= S_ACCEPTED
    undecided_done(s)
    stranger_known(s.assoc)
    s.owed |= P_OPEN_ACK
    stream_control(s, P_OPEN_ACK)
    if s.flags & S_COMMITTED:
        s.flags |= S_CONFIRMED
        k.confirmed(k.ctx, s_pub(s))
        deliver(s)


cdef void stream_on_open_ack(Stream *s, uint64_t proof) noexcept nogil:
    cdef vtl_sink *k = &s.assoc.ep.sink
    if s.flags & (S_ACCEPTED | S_DEAD) or not s.flags & S_LOCAL:
        return
    if proof != proof_of(s.assoc, s.key, PROOF_OPEN_ACK, 0, s.id):
        stream_on_reject(s, REJECT_UNPROVEN)    # whoever has the peer's address: not the end of this connection
        return
    s.flags |= S_ACCEPTED
    k.accepted(k.ctx, s_pub(s))
    deliver(s)


cdef void stream_on_confirm(Stream *s) noexcept nogil:
    cdef vtl_sink *k = &s.assoc.ep.sink
    if s.flags & (S_LOCAL | S_CONFIRMED | S_DEAD) or not s.flags & S_ACCEPTED:
        return
    s.flags |= S_CONFIRMED
    k.confirmed(k.ctx, s_pub(s))
    deliver(s)


cdef void stream_on_reject(Stream *s, uint32_t code) noexcept nogil:
    cdef vtl_sink *k = &s.assoc.ep.sink
    if not s.flags & S_LOCAL or s.flags & S_ACCEPTED:
        return
    set_final_size(s, 0)
    s.flags |= S_RECV_DONE
    if not s.flags & S_DEAD:
        s.flags |= S_DEAD
        k.rejected(k.ctx, s_pub(s), code)
    stream_end(s, P_RESET, code)
    stream_finish(s)


# --- receiving

cdef inline bint deliverable(const Stream *s) noexcept nogil:
    """The opener gets bytes once accepted, the acceptor once the opener is engaged."""
    if s.flags & S_DEAD or not s.flags & S_ACCEPTED:
        return False
    return s.flags & (S_LOCAL | S_CONFIRMED) != 0


cdef void deliver(Stream *s) noexcept nogil:
    """Buffered bytes that are in order now, and the FIN behind them."""
    cdef vtl_sink *k = &s.assoc.ep.sink
    cdef const uint8_t *p = NULL
    cdef size_t n
    while deliverable(s):
        n = reassembly_peek(&s.in_, &p)
        if n == 0:
            break
        hand_over(s, n)
        k.data(k.ctx, s_pub(s), p, n, False)
        if s.flags & S_DEAD:                    # reset inside the callback
            return
        advance(s, s.in_.next + n)
    if deliverable(s) and s.flags & (S_FIN_KNOWN | S_RECV_DONE) == S_FIN_KNOWN and s.in_.next == s.final_size:
        s.flags |= S_RECV_DONE
        k.fin(k.ctx, s_pub(s))
        stream_finish(s)


cdef int account(Stream *s, uint64_t end) noexcept nogil:
    cdef Assoc *a = s.assoc
    if end <= s.recv_high:
        return VTL_OK
    if end > s.recv_max or end - s.recv_high > a.recv_max - a.recv_total:
        return VTL_DROP_PROTOCOL
    if s.flags & S_FIN_KNOWN:
        return VTL_DROP_PROTOCOL
    a.recv_total += end - s.recv_high
    s.recv_high = end
    return VTL_OK


cdef int stream_on_data(Stream *s, uint64_t offset, const uint8_t *data, uint32_t n, bint fin) noexcept nogil:
    cdef vtl_sink *k = &s.assoc.ep.sink
    cdef uint64_t end = offset + n, next = s.in_.next
    cdef int rc
    if end < offset:
        return VTL_DROP_PROTOCOL
    rc = set_final_size(s, end) if fin else account(s, end)
    if rc != VTL_OK:
        return rc
    if s.flags & S_RECV_DONE:
        return VTL_OK
    if s.flags & S_DEAD:
        if s.flags & S_FIN_KNOWN:               # nobody wants the bytes; their number is all we need
            s.flags |= S_RECV_DONE
            stream_finish(s)
        return VTL_OK
    if end > next:
        s.assoc.stream_received += n
        if offset <= next and deliverable(s):
            if s.untaken > 0 and end - next > budget_room(s.assoc):     # an application that reads is never kept waiting
                s.assoc.ep.count.over_budget += 1
                return VTL_DROP_MEMORY
            advance(s, end)
            hand_over(s, end - next)
            k.data(k.ctx, s_pub(s), data + (next - offset), end - next, not s.assoc.fec.rebuilding)
        elif store(s, offset, data, n) < 0:
            return VTL_DROP_MEMORY
    if s.in_.have.n > 0 or s.flags & S_FIN_KNOWN:
        deliver(s)
        if s.in_.have.n > 0 and deliverable(s):
            hole_stands(s)
    return VTL_OK


cdef bint widen_assoc(Assoc *a) noexcept nogil:
    """Doubles its window, if there is memory for that."""
    cdef Endpoint *ep = a.ep
    if 2 * a.credit.window > ep.cfg.assoc_window_max or a.credit.window > budget_room(a) or ep.windows_grown + a.credit.window > ep.cfg.window_budget:
        return False
    ep.windows_grown += a.credit.window
    a.credit.window *= 2
    return True


cdef void widen_stream(Stream *s) noexcept nogil:
    s.credit.window = min(2 * s.credit.window, max(s.credit.window, s.assoc.ep.cfg.stream_window_max))


cdef inline void offer_data(Assoc *a) noexcept nogil:
    """MAX_DATA, once half of the window is free."""
    cdef uint64_t window = a.credit.window
    if a.consumed + window - a.recv_max >= window // 2 and a.consumed + window > a.recv_max:
        a.recv_max = a.consumed + window
        a.window_due = True
        assoc_ready(a)


cdef inline void offer_stream_data(Stream *s) noexcept nogil:
    """MAX_STREAM_DATA, the same."""
    cdef uint64_t window = s.credit.window
    if s.consumed + window - s.recv_max >= window // 2:
        s.recv_max = s.consumed + window
        stream_control(s, P_WINDOW)


cdef void assoc_consumed(Assoc *a, uint64_t n) noexcept nogil:
    a.consumed += n
    if a.rec.has_rtt and credit_measure(&a.credit, n, a.rec.srtt, a.ep.now):
        widen_assoc(a)
    offer_data(a)


cdef void stream_consumed(Stream *s, uint64_t n) noexcept nogil:
    cdef Assoc *a = s.assoc
    n = min(n, s.recv_high - s.consumed)
    s.consumed += n
    taken(s, n)
    assoc_consumed(a, n)
    if s.flags & (S_FIN_KNOWN | S_DEAD):
        return
    if a.rec.has_rtt and credit_measure(&s.credit, n, a.rec.srtt, a.ep.now):
        widen_stream(s)
    offer_stream_data(s)


cdef void hole_stands(Stream *s) noexcept nogil:
    """Bytes wait behind a lost one. What is lost once waits a round trip, twice two: the windows make room for
    four times what waits, or the sender would stand still until the hole is filled."""
    cdef Assoc *a = s.assoc
    cdef uint64_t waiting = s.recv_high - s.in_.next
    if s.flags & S_FIN_KNOWN:
        return
    if 4 * waiting > a.credit.window and widen_assoc(a):
        offer_data(a)
    if 4 * waiting > s.credit.window and s.credit.window < a.ep.cfg.stream_window_max:
        widen_stream(s)
        offer_stream_data(s)


# --- acknowledgment and loss of our frames

cdef void mark_send_done(Stream *s) noexcept nogil:
    s.flags |= S_SEND_DONE
    stream_finish(s)


cdef void stream_frame_acked(Stream *s, const SentFrame *f) noexcept nogil:
    cdef Assoc *a = s.assoc
    if f.type == FR_OPEN_ACK or f.type == FR_CONFIRM:
        s.owed &= ~<uint32_t>(P_OPEN_ACK if f.type == FR_OPEN_ACK else P_CONFIRM)
        stream_finish(s)
        return
    if f.type != FR_STREAM:
        if f.type == FR_RESET_STREAM or f.type == FR_CANCEL or f.type == FR_OPEN_REJECT:
            mark_send_done(s)
        return
    if s.flags & S_ENDED:
        return
    sendbuf_on_acked(&s.out, f.offset, f.len)
    if f.flags & STREAM_FIN:
        s.flags |= S_FIN_ACKED
    if not s.in_acked:
        s.in_acked = True
        s.next_acked = a.acked.first
        a.acked.first = s


cdef void stream_flush_acked(Assoc *a) noexcept nogil:
    cdef vtl_sink *k = &a.ep.sink
    cdef Stream *s
    cdef uint64_t n
    while a.acked.first != NULL:
        s = a.acked.first
        a.acked.first = s.next_acked
        s.in_acked = False
        n = s.out.acked - s.out.reported
        if n > 0 and not s.flags & S_ENDED:
            s.out.reported = s.out.acked
            sendbuf_release(&s.out, s.out.acked, k.release, k.ctx)
        if (n > 0 or s.out.done.n > 0) and not s.flags & S_ENDED:
            k.acked(k.ctx, s_pub(s), n)
        if s.flags & (S_FIN_ACKED | S_ENDED) == S_FIN_ACKED and s.out.acked == s.out.end:
            mark_send_done(s)


cdef void stream_frame_lost(Stream *s, const SentFrame *f) noexcept nogil:
    cdef uint32_t again = 0
    if f.type == FR_STREAM:
        if s.flags & S_ENDED:
            return
        sendbuf_on_lost(&s.out, f.offset, f.len)
        if f.flags & STREAM_FIN and not s.flags & S_FIN_ACKED:
            s.flags &= ~<uint32_t>S_FIN_SENT
        stream_activate(s)
    elif f.type == FR_OPEN:
        again = P_OPEN if not s.flags & (S_ACCEPTED | S_ENDED) else 0
    elif f.type == FR_OPEN_ACK:
        again = s.owed & P_OPEN_ACK if not s.flags & S_ENDED else 0
    elif f.type == FR_CONFIRM:
        again = s.owed & P_CONFIRM if not s.flags & S_ENDED else 0
    elif f.type == FR_MAX_STREAM_DATA:
        again = P_WINDOW if not s.flags & (S_FIN_KNOWN | S_DEAD) else 0
    elif not s.flags & S_SEND_DONE:
        again = P_CANCEL if f.type == FR_CANCEL else P_REJECT if f.type == FR_OPEN_REJECT else P_RESET
    if again:
        stream_control(s, again)
