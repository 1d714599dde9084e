"""The engine as the TCP of what an application sends: a sender for each adopted flow, and its two ends.

1. Two sources make one stream, in the order in which the application wrote it: frames of the redirect
   socket (collected.pyx), and segments of the local TCP (passed.pyx). What either gives is put behind what
   is there, so positions towards the peer are the sender's, and the local TCP's own go no farther than hk0.
2. Bytes stay where they were read until the peer's kernel has acknowledged them. The transport borrows the
   same bytes a second time, until it has delivered them: a lot counts both.
3. Nobody repeats a frame. So a frame is taken whatever the peer's share of memory is; what bounds it is the
   credit that the kernel program was given, which a flow beyond its share loses. What is beyond the credit
   is TCP's, and waits there.
"""

from libc.stdint cimport UINT64_MAX, int16_t, int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from hooker.engine.channel cimport channel_of
from hooker.engine.lent cimport lent_back, lent_not, lent_room, lent_taken
from hooker.engine.worker cimport *
from hooker.flow.machine cimport flow_compose
from hooker.flow.messages cimport MSG_ACKED, MSG_DATA, MSG_REFUSED, MSG_RESET, Message
from hooker.flow.sender cimport *
from hooker.includes.linux cimport hk_store32, hk_store64
from hooker.transports.vtl cimport send_message
from hooker.vtl.api cimport vtl_channel

cdef enum:
    EARLY_PARTS = 4096         # of one flow that are kept
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
    sender_init(&r.s, &w.pool.c, f.f.snd_nxt, f.f.peer_edge, <uint64_t>f.f.rtt_us * 1000)
    r.base = r.taken = r.heard = f.f.snd_nxt
    r.rec = &w.redirects[<uint32_t>f.id]
    r.retry_at = UINT64_MAX
    f.r = r
    redirected_note(w, f)
    return r


cdef void drop_early(worker *w, flow *f) noexcept nogil:
    cdef early_part *e = redirected_meet(f)
    while e != NULL:
        lent_back(w, e.l, e.n)
        free(e)
        e = redirected_meet(f)


cdef void redirected_drop(worker *w, flow *f) noexcept nogil:
    if f.r == NULL or f.r.bits & R_OVER:
        return
    f.r.bits |= R_OVER
    if f.r.rec != NULL:
        hk_store32(&f.r.rec.allowed, 0)
    sender_free(&f.r.s, &w.pool)
    drop_early(w, f)


cdef void redirected_free(worker *w, flow *f) noexcept nogil:
    redirected_drop(w, f)
    free(f.r)
    f.r = NULL


cdef void redirected_socket_gone(flow *f) noexcept nogil:
    if f.r == NULL or f.r.rec == NULL:
        return
    hk_store32(&f.r.rec.allowed, 0)
    f.r.rec = NULL


cdef void redirected_due(worker *w, flow *f) noexcept nogil:
    if f.r.bits & R_DUE:
        return
    f.r.bits |= R_DUE
    f.r.next_due = w.senders
    w.senders = f


# ---- bytes in ----------------------------------------------------------------------------------------

cdef bint redirected_write(worker *w, flow *f, lot *l, const uint8_t *data, uint32_t n) noexcept nogil:
    """Whether they stand in a slab, and are lent now. What cannot be written is given up with the flow."""
    redirected_due(w, f)
    if sender_write(&f.r.s, &w.pool, data, n, l) < 0:
        lent_not(w, l)
        f.r.bits |= R_LOST
        return False
    return lent_taken(l, n)


cdef bint redirected_keep(worker *w, flow *f, lot *l, const uint8_t *data, uint32_t n) noexcept nogil:
    cdef redirected *r = f.r
    cdef early_part *e = NULL
    if r.early_n < EARLY_PARTS:
        e = <early_part *>malloc(sizeof(early_part))
    if e == NULL:
        lent_not(w, l)
        return False
    e.next, e.l, e.data, e.n = NULL, l, data, n
    if r.early == NULL:
        r.early = e
    else:
        r.early_last.next = e
    r.early_last = e
    r.early_n += 1
    lent_taken(l, n)
    return True


cdef early_part *redirected_meet(flow *f) noexcept nogil:
    cdef early_part *e = f.r.early
    if e != NULL:
        f.r.early = e.next
        f.r.early_n -= 1
    return e


cdef uint64_t redirected_credit(const worker *w, const flow *f) noexcept nogil:
    """Rule 3. A flow with nothing under way hears nothing, and so keeps the least."""
    if f.r.s.queue.end != f.r.s.queue.acked and (f.p == NULL or f.p.a == NULL or not lent_room(w, f.p)):
        return 0
    return sender_credit(&f.r.s, &w.pool)


cdef uint64_t redirected_room(const worker *w, const flow *f) noexcept nogil:
    cdef uint64_t credit = redirected_credit(w, f), queued = f.r.s.queue.end - f.r.s.queue.acked
    return credit - queued if credit > queued else 0


cdef void redirected_note(worker *w, flow *f) noexcept nogil:
    """Of what was redirected, that which the peer has acknowledged needs no credit any more."""
    cdef redirected *r = f.r
    cdef uint64_t queued = r.s.queue.end - r.s.queue.acked, credit
    cdef uint64_t consumed = r.received - queued if r.received > queued else 0
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
    cdef vtl_channel *channel
    flow_compose(&f.f, MSG_DATA, w.now, &m)
    m.flags |= p.flags
    m.position, m.data, m.data_n = p.position, p.data, p.n
    channel = channel_of(f)
    if channel == NULL or send_message(channel, &m, p.owner) < 0:
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
    while sender_next(&r.s, &w.pool.c, w.now, &p):
        if not send_piece(w, f, &p):
            r.retry_at = w.now + AGAIN
            break
        sender_sent(&r.s, &w.pool.c, &p, w.now)
    f.f.snd_nxt = sender_position(&r.s)


# ---- what the peer says ------------------------------------------------------------------------------

cdef bint is_news(redirected *r, const Message *m) noexcept nogil:
    """docs/flow.md, 4.2."""
    cdef uint32_t known = r.s.base + <uint32_t>(r.s.queue.acked - START)
    if r.bits & R_SERIAL and <int16_t>(m.serial - r.serial_in) <= 0 and <int32_t>(m.position - known) <= 0:
        return False
    r.bits |= R_SERIAL
    r.serial_in = m.serial
    return True


cdef void redirected_word(worker *w, flow *f, const Message *m) noexcept nogil:
    if f.r.bits & R_OVER:
        return
    if m.type == MSG_ACKED and is_news(f.r, m):
        sender_acked(&f.r.s, &w.pool, m.position, m.edge, 0, NULL, 0, w.now)
    elif m.type == MSG_REFUSED:
        sender_refused(&f.r.s, m.position, w.now)
    elif m.type == MSG_RESET:
        redirected_drop(w, f)
    redirected_due(w, f)
