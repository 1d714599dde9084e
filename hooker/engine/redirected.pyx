"""The engine as the TCP of what an application sends: a sender for each adopted flow, and its two ends.

1. Two sources make one stream, in the order in which the application wrote it (hooker/flow/joined.pyx):
   frames of the redirect socket (collected.pyx), and segments of the local TCP (passed.pyx). What either
   gives is put behind what is there, so positions towards the peer are the sender's, and the local TCP's own
   go no farther than hk0.
2. Bytes stay where they were read until the peer's kernel has acknowledged them. The transport borrows the
   same bytes a second time, until it has delivered them: a lot counts both.
3. Nobody repeats a frame. So a frame is taken whatever the peer's share of memory is; what bounds it is the
   credit that the kernel program was given, which a flow beyond its share loses. What is beyond the credit
   is TCP's, and waits there.
"""

from libc.stdint cimport UINT64_MAX, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from hooker.engine.channel cimport channel_of
from hooker.engine.lent cimport lent_back, lent_not, lent_room, lent_taken
from hooker.engine.worker cimport *
from hooker.flow.joined cimport *
from hooker.flow.machine cimport flow_compose
from hooker.flow.messages cimport MSG_ACKED, MSG_DATA, MSG_REFUSED, MSG_RESET, Message
from hooker.flow.sender cimport *
from hooker.includes.hk cimport HK_MODE_REDIRECT
from hooker.includes.linux cimport hk_load32, hk_load64, hk_store32, hk_store64
from hooker.transports.contract cimport Channel

cdef enum:
    AGAIN = 10000000           # ns after which the transport is asked again, if nothing else happens


cdef void give_back(void *ctx, void *owner, size_t n) noexcept nogil:
    lent_back(<worker *>ctx, <lot *>owner, n)


cdef void redirected_start(worker *w, uint64_t budget) noexcept nogil:
    sender_defaults(&w.pool.c)
    w.pool.c.repairs = w.config.repairs
    w.pool.c.budget = budget
    w.pool.release = give_back
    w.pool.ctx = w


# ---- its life ----------------------------------------------------------------------------------------

cdef redirected *redirected_new(worker *w, flow *f) noexcept nogil:
    """From what the local TCP has sent so far on, the bytes are ours."""
    cdef redirected *r = <redirected *>calloc(1, sizeof(redirected))
    if r == NULL:
        return NULL
    joined_init(&r.j, &w.pool, f.f.snd_nxt, f.f.peer_edge, <uint64_t>f.f.rtt_us * 1000)
    r.rec = &w.redirects[<uint32_t>f.id]
    r.retry_at = UINT64_MAX
    f.r = r
    redirected_note(w, f)
    return r


cdef void redirected_drop(worker *w, flow *f) noexcept nogil:
    if f.r == NULL:
        return
    if not f.r.j.bits & J_OVER:
        w.n.undelivered_bytes += joined_queued(&f.r.j)
    joined_end(&f.r.j, &w.pool)
    if f.r.rec != NULL:
        hk_store32(&f.r.rec.allowed, 0)


cdef void redirected_free(worker *w, flow *f) noexcept nogil:
    redirected_drop(w, f)
    free(f.r)
    f.r = NULL


cdef void redirected_socket_gone(worker *w, flow *f) noexcept nogil:
    """What of it is not here by now is found by nobody: then it must not end in peace."""
    cdef redirected *r = f.r
    if r == NULL or r.rec == NULL:
        return
    redirected_turns(f, &r.turns)
    hk_store32(&r.rec.allowed, 0)
    r.rec = NULL
    if not r.j.bits & J_OVER and not joined_all(&r.j, &r.turns):
        r.j.bits |= J_LOST
        redirected_due(w, f)


cdef void redirected_due(worker *w, flow *f) noexcept nogil:
    if f.r.bits & R_DUE:
        return
    f.r.bits |= R_DUE
    f.r.next_due = w.senders
    w.senders = f


# ---- bytes in ----------------------------------------------------------------------------------------

cdef void redirected_turns(flow *f, Turns *t) noexcept nogil:
    cdef const hk_redirect *rec = f.r.rec
    if rec == NULL:
        t[0] = f.r.turns
        return
    t.spill_at = hk_load64(&rec.spill_at)
    t.redirects = hk_load32(&rec.mode) == HK_MODE_REDIRECT
    t.redirected = hk_load64(&rec.redirected)


cdef void redirected_frame(worker *w, flow *f, lot *l, const uint8_t *data, uint32_t n) noexcept nogil:
    redirected_due(w, f)
    if l == NULL:
        joined_missed(&f.r.j, n)
    elif joined_frame(&f.r.j, &w.pool, data, n, l):
        lent_taken(l, n)
    else:
        lent_not(w, l)


cdef joined_got redirected_take(worker *w, flow *f, const Turns *t, lot *l, const uint8_t *data,
                                uint32_t n) noexcept nogil:
    cdef joined_got got = joined_take(&f.r.j, &w.pool, t, data, n, l)
    redirected_due(w, f)
    if got == GOT_NOT:
        lent_not(w, l)
    else:
        lent_taken(l, n)
    return got


cdef uint64_t redirected_credit(const worker *w, const flow *f) noexcept nogil:
    """Rule 3."""
    return joined_credit(&f.r.j, &w.pool, f.p != NULL and f.p.a != NULL and lent_room(w, f.p))


cdef uint64_t redirected_room(const worker *w, const flow *f) noexcept nogil:
    cdef uint64_t credit = redirected_credit(w, f), queued = joined_queued(&f.r.j)
    return credit - queued if credit > queued else 0


cdef void redirected_note(worker *w, flow *f) noexcept nogil:
    cdef redirected *r = f.r
    cdef uint64_t consumed = joined_consumed(&r.j), credit
    if r.rec == NULL:
        return
    credit = redirected_credit(w, f)
    if consumed > r.rec.consumed or not r.bits & R_ALLOWED:
        hk_store64(&r.rec.consumed, consumed)
    if credit != r.rec.credit:
        hk_store64(&r.rec.credit, credit)


# ---- and out -----------------------------------------------------------------------------------------

cdef bint send_piece(worker *w, flow *f, const Piece *p) noexcept nogil:
    cdef Message m
    cdef Channel *channel
    flow_compose(&f.f, MSG_DATA, w.now, &m)
    m.flags |= p.flags
    m.position, m.data, m.data_n = p.position, p.data, p.n
    channel = channel_of(f)
    if channel == NULL or channel.ops.send(channel, &m, p.owner) < 0:
        w.n.data_not_taken += 1
        return False
    if p.n:
        lent_taken(<lot *>p.owner, p.n)         # the second loan
    if not p.again:
        f.bytes_out += p.n
    return True


cdef void redirected_send(worker *w, flow *f) noexcept nogil:
    cdef redirected *r = f.r
    cdef Piece p
    r.retry_at = UINT64_MAX
    while sender_next(&r.j.s, &w.pool.c, w.now, &p):
        if not send_piece(w, f, &p):
            r.retry_at = w.now + AGAIN
            break
        sender_sent(&r.j.s, &w.pool.c, &p, w.now)
    f.f.snd_nxt = sender_position(&r.j.s)


# ---- what the peer says ------------------------------------------------------------------------------

cdef void redirected_word(worker *w, flow *f, const Message *m) noexcept nogil:
    if f.r.j.bits & J_OVER:
        return
    if m.type == MSG_ACKED:
        joined_acked(&f.r.j, &w.pool, m.position, m.edge, m.serial, w.now)
    elif m.type == MSG_REFUSED:
        sender_refused(&f.r.j.s, m.position, w.now)
    elif m.type == MSG_RESET:
        redirected_drop(w, f)
    redirected_due(w, f)
