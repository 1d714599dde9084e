"""What a kernel's TCP does for its bytes, for those that have no kernel: those of the redirect socket, or of the API.

The peer's kernel is the receiver, so its acknowledgements and its window count, not the transport's: a message that the
transport has delivered may have been refused. Congestion is the transport's business; nothing here slows down for it.

One mechanism sends again, the queue's list of lost ranges. They get there by REFUSED, by what SACK or duplicates show, and
by the timer. The timer of RFC 6298 is for bytes under way; with the window closed there are none, or none that may be sent
again, and it asks for a PROBE (RFC 9293 3.8.6.1). Where the transport repairs, the first timeout asks, too: the bytes are
under way, most likely.
"""

from libc.stdint cimport UINT64_MAX, int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from hooker.flow.messages cimport DATA_FIN, DATA_PSH, MAX_BLOCKS
from hooker.vtl.sendbuf cimport (
    Chunk, Segment, sendbuf_chunk, sendbuf_clear, sendbuf_commit, sendbuf_has_lost, sendbuf_on_acked, sendbuf_on_lost,
    sendbuf_peek, sendbuf_release, sendbuf_write,
)

cdef enum:
    MILLISECOND = 1000000
    DUPLICATES = 3              # RFC 5681 3.2: so many show a loss
    MOST_REFUSALS = 7           # 128 round trips between two
    NOT_HERE = 1 << 30          # distance beyond which a position is none of this flow

cdef struct Hole:
    uint64_t start
    uint64_t end


cdef void sender_defaults(SenderConfig *c) noexcept nogil:
    memset(c, 0, sizeof(SenderConfig))
    c.first_rto = 1000 * MILLISECOND
    c.least_rto = 1000 * MILLISECOND
    c.longest_rto = 60 * 1000 * <uint64_t>MILLISECOND
    c.granularity = MILLISECOND
    c.least_credit = 1 << 20
    c.most_credit = 8 << 20
    c.floor_credit = 1 << 16
    c.budget = 256 << 20
    c.segment = 1 << 16
    c.tries = 15                # Linux's tcp_retries2


cdef void sender_init(Sender *s, const SenderConfig *c, uint32_t position, uint32_t edge, uint64_t rtt) noexcept nogil:
    memset(s, 0, sizeof(Sender))
    s.base = position
    s.queue.acked = s.queue.next = s.queue.end = START
    s.edge = START + (edge - position if edge - position < NOT_HERE else 0)
    s.widest = s.edge - START
    s.rto = c.first_rto
    s.path_rtt = rtt if rtt else c.first_rto
    s.due = s.refused_due = UINT64_MAX


cdef void sender_free(Sender *s, SenderPool *m) noexcept nogil:
    m.held -= s.queue.end - s.queue.acked + <uint64_t>RECORD_COST * s.taken_records
    s.taken_records = 0
    s.due = s.refused_due = UINT64_MAX
    sendbuf_clear(&s.queue, m.release, m.ctx)
    s.queue.acked = s.queue.next = s.queue.end
    if not sender_done(s):
        s.bits = 0                      # no FIN behind bytes that do not come


# ---- numbers -----------------------------------------------------------------------------------------

cdef inline uint32_t position_at(const Sender *s, uint64_t offset) noexcept nogil:
    return s.base + <uint32_t>(offset - START)

cdef inline bint offset_of(const Sender *s, uint32_t position, uint64_t *out) noexcept nogil:
    """The offset nearest to what is acknowledged, which may be before the first byte; False: too far from it."""
    cdef int32_t ahead = <int32_t>(position - position_at(s, s.queue.acked))
    if ahead > NOT_HERE or ahead < -NOT_HERE:
        return False
    out[0] = s.queue.acked + ahead
    return True

cdef inline uint64_t fin_end(const Sender *s) noexcept nogil:
    """Behind all that was sent, in offsets, of which FIN has one."""
    return s.queue.next + (1 if s.bits & SN_FIN_SENT else 0)

cdef inline uint64_t acked_end(const Sender *s) noexcept nogil:
    return s.queue.acked + (1 if s.bits & SN_FIN_ACKED else 0)

cdef inline bint under_way(const Sender *s) noexcept nogil:
    return fin_end(s) != acked_end(s)

cdef inline bint is_waiting(const Sender *s) noexcept nogil:
    """Something was written and not sent yet."""
    return s.queue.next != s.queue.end or s.bits & (SN_FIN | SN_FIN_SENT) == SN_FIN

cdef inline bint is_closed(const Sender *s) noexcept nogil:
    """The window, and not only for what is behind the last byte: FIN alone goes whatever the window is."""
    return s.edge <= s.queue.acked and s.queue.acked != s.queue.end


# ---- what is written ---------------------------------------------------------------------------------

cdef int sender_write(Sender *s, SenderPool *m, const uint8_t *data, size_t n, void *owner) noexcept nogil:
    cdef uint32_t records = s.queue.tail
    if s.bits & SN_FIN or n > MOST_QUEUED - (s.queue.end - s.queue.acked):
        return -1
    if n == 0:
        return 0
    if sendbuf_write(&s.queue, data, n, owner) < 0:
        return -1
    records = s.queue.tail - records
    s.taken_records += records
    m.held += n + RECORD_COST * records
    return 0


cdef void sender_fin(Sender *s) noexcept nogil:
    s.bits |= SN_FIN


cdef uint64_t sender_credit(const Sender *s, const SenderPool *m) noexcept nogil:
    """Twice what the path takes in a round trip, as for a kernel's send buffer, and of the budget a quarter of what is left."""
    cdef uint64_t used = s.queue.end - s.queue.acked, records = <uint64_t>RECORD_COST * s.taken_records
    cdef const SenderConfig *c = &m.c
    cdef uint64_t left = c.budget - m.held if c.budget > m.held else 0
    cdef uint64_t n = min(max(2 * s.most_in_round, c.least_credit), c.most_credit)
    n = max(min(n, used + records + left // 4), c.floor_credit)
    return n - records if n > records else 0


# ---- what is sent ------------------------------------------------------------------------------------

cdef bint is_silly(const Sender *s, const SenderConfig *c) noexcept nogil:
    """RFC 9293 3.8.6.2.1: a window that cuts what there is to a morsel. What is under way brings a better one."""
    cdef uint64_t room = s.edge - s.queue.next
    return s.edge < s.queue.end and room < c.segment and 2 * room < s.widest and s.queue.next != s.queue.acked


cdef bint fin_alone(const Sender *s, Piece *p) noexcept nogil:
    if not s.bits & SN_FIN or s.queue.next != s.queue.end or sendbuf_has_lost(&s.queue):
        return False
    if s.bits & SN_FIN_ACKED or (s.bits & SN_FIN_SENT and not s.bits & SN_FIN_AGAIN):
        return False
    if s.edge < s.queue.end:
        return False                    # the window was taken back
    p.offset, p.n, p.data, p.owner, p.flags = s.queue.end, 0, NULL, NULL, DATA_FIN
    p.again = s.bits & SN_FIN_SENT
    p.position = position_at(s, p.offset)
    return True


cdef bint sender_next(Sender *s, const SenderConfig *c, uint64_t now, Piece *p) noexcept nogil:
    if find_piece(s, c, p):
        return True
    set_timer(s, c, False, now)         # what was written to a closed window is probed for
    return False


cdef bint find_piece(Sender *s, const SenderConfig *c, Piece *p) noexcept nogil:
    cdef Segment g
    cdef const Chunk *k
    if not sendbuf_peek(&s.queue, s.edge, c.segment, &g):
        return fin_alone(s, p)
    if g.offset >= s.edge or (not g.again and is_silly(s, c)):
        return False
    k = sendbuf_chunk(&s.queue, g.offset, g.again)
    p.data, p.owner = k.ptr + (g.offset - k.offset), k.owner
    p.n = <uint32_t>min(min(g.len, k.offset + k.len - g.offset), s.edge - g.offset)
    p.offset, p.again, p.flags = g.offset, g.again, 0
    p.position = position_at(s, g.offset)
    if g.offset + p.n == s.queue.end:
        p.flags = DATA_PSH
        if s.bits & SN_FIN and s.edge > s.queue.end:
            p.flags |= DATA_FIN
    return True


cdef void sender_sent(Sender *s, const SenderConfig *c, const Piece *p, uint64_t now) noexcept nogil:
    cdef Segment g
    cdef bint was_under_way = under_way(s)
    if p.n:
        g.offset, g.len, g.again = p.offset, p.n, p.again
        sendbuf_commit(&s.queue, &g)
    if p.flags & DATA_FIN:
        s.bits = (s.bits | SN_FIN_SENT) & ~<uint8_t>SN_FIN_AGAIN
    if p.again and s.timed_to > p.offset:
        s.timed_to = 0                  # Karn: whose acknowledgement it will be nobody knows
    elif not p.again and s.timed_to == 0:
        s.timed_to = fin_end(s)
        s.timed_at = now
    if s.round_to == 0:
        s.round_from, s.round_to = s.queue.acked, s.queue.next
    if not was_under_way or s.due == UINT64_MAX:
        s.tries = 0
        s.due = now + interval(s, c)


# ---- what the peer says ------------------------------------------------------------------------------

cdef void measured(Sender *s, const SenderConfig *c, uint64_t rtt) noexcept nogil:
    """RFC 6298 2.2, 2.3."""
    cdef uint64_t off
    if s.srtt == 0:
        s.srtt, s.rttvar = max(rtt, <uint64_t>1), rtt // 2
    else:
        off = s.srtt - rtt if s.srtt > rtt else rtt - s.srtt
        s.rttvar = (3 * s.rttvar + off) // 4
        s.srtt = max((7 * s.srtt + rtt) // 8, <uint64_t>1)
    s.rto = min(max(s.srtt + max(c.granularity, 4 * s.rttvar), c.least_rto), c.longest_rto)
    s.backoff = 0


cdef void measure_round(Sender *s) noexcept nogil:
    if s.round_to == 0 or s.queue.acked < s.round_to:
        return
    s.most_in_round = max(s.queue.acked - s.round_from, s.most_in_round - s.most_in_round // 8)
    s.round_from = s.queue.acked
    s.round_to = s.queue.next if s.queue.next != s.queue.acked else 0


cdef void take(Sender *s, SenderPool *m, uint64_t upto) noexcept nogil:
    """The kernel has everything below that offset."""
    cdef uint64_t bytes_upto = min(upto, s.queue.end)
    cdef uint64_t n = bytes_upto - s.queue.acked
    cdef uint32_t records = s.queue.head
    if upto > s.queue.end:
        s.bits = (s.bits | SN_FIN_ACKED) & ~<uint8_t>SN_FIN_AGAIN
    if n:
        sendbuf_on_acked(&s.queue, s.queue.acked, n)
        sendbuf_release(&s.queue, bytes_upto, m.release, m.ctx)
    records = s.queue.head - records
    if acked_end(s) > s.refused_from:
        s.refused_due, s.refusals = UINT64_MAX, 0
    s.taken_records -= records
    m.held -= n + <uint64_t>RECORD_COST * records
    measure_round(s)


cdef uint32_t holes(const Sender *s, const uint32_t *sack, uint32_t blocks, uint64_t below, Hole *out) noexcept nogil:
    """What is missing below the highest block, or below `below`: at most MAX_BLOCKS + 1. Blocks that cannot be are left out."""
    cdef Hole known[4]          # MAX_BLOCKS
    cdef Hole one
    cdef uint64_t start, end, at = s.queue.acked
    cdef uint32_t n = 0, count = 0, i, k
    for i in range(min(blocks, <uint32_t>MAX_BLOCKS)):
        if not offset_of(s, sack[2 * i], &start) or not offset_of(s, sack[2 * i + 1], &end):
            continue
        if start >= end or start <= at or end > fin_end(s):
            continue                    # a DSACK, or a lie
        one.start, one.end = start, end
        k = n
        while k > 0 and known[k - 1].start > start:
            known[k] = known[k - 1]
            k -= 1
        known[k] = one
        n += 1
    for i in range(n):
        if known[i].start > at:
            out[count].start, out[count].end = at, known[i].start
            count += 1
        at = max(at, known[i].end)
    if at < below:
        out[count].start, out[count].end = at, below
        count += 1
    return count


cdef void lose(Sender *s, uint64_t start, uint64_t end) noexcept nogil:
    """To be sent again."""
    if start >= end:
        return
    if end > s.queue.next:
        s.bits |= SN_FIN_AGAIN          # there is nothing else above it
        end = s.queue.next
    if start < end:
        sendbuf_on_lost(&s.queue, start, end - start)


cdef void lose_all(Sender *s, const uint32_t *sack, uint32_t blocks, uint64_t below) noexcept nogil:
    """Each byte once: if that is lost, too, the timer finds it."""
    cdef Hole missing[5]        # MAX_BLOCKS + 1
    cdef uint32_t n = holes(s, sack, blocks, below, missing), i
    cdef uint64_t upto = s.again_to
    for i in range(n):
        lose(s, max(missing[i].start, s.again_to), missing[i].end)
        upto = max(upto, missing[i].end)
    s.again_to = upto


cdef inline uint64_t first_segment(const Sender *s, const SenderConfig *c) noexcept nogil:
    return min(s.queue.acked + c.segment, fin_end(s))


cdef void look_for_losses(Sender *s, const SenderConfig *c, uint8_t duplicates, const uint32_t *sack, uint32_t blocks,
                          bint more) noexcept nogil:
    """RFC 6582, with the holes that SACK shows. A transport that repairs only reorders."""
    if s.bits & SN_RECOVERS and acked_end(s) >= s.recover:
        s.bits &= ~<uint8_t>(SN_RECOVERS | SN_TIMED_OUT)
    if s.bits & SN_RECOVERS:
        if more:
            lose_all(s, sack, blocks, s.recover if s.bits & SN_TIMED_OUT else first_segment(s, c))
        return
    if c.repairs or duplicates < DUPLICATES or not under_way(s):
        return
    s.bits |= SN_RECOVERS
    s.recover = fin_end(s)
    s.again_to = s.queue.acked
    lose_all(s, sack, blocks, first_segment(s, c))


cdef sender_word sender_acked(Sender *s, SenderPool *m, uint32_t position, uint32_t edge, uint8_t duplicates,
                              const uint32_t *sack, uint32_t blocks, uint64_t now) noexcept nogil:
    cdef const SenderConfig *c = &m.c
    cdef uint64_t at = 0
    cdef bint more, was_closed = is_closed(s)
    if not offset_of(s, position, &at) or at > fin_end(s) or START <= at < acked_end(s):
        return ACKED_NOT
    more = at > acked_end(s)
    if more:
        if s.timed_to != 0 and at >= s.timed_to:
            measured(s, c, now - s.timed_at)
            s.timed_to = 0
        take(s, m, at)
        s.tries = 0
    s.edge = at + (edge - position if edge - position < NOT_HERE else 0)
    s.widest = max(s.widest, s.edge - at)
    if is_closed(s):
        s.tries = 0                     # who answers may keep its window closed for ever
    elif was_closed:
        s.backoff = 0                   # probes say nothing of the path
    look_for_losses(s, c, duplicates, sack, blocks, more)
    set_timer(s, c, more or (was_closed and not is_closed(s)), now)
    return ACKED_MORE if more else ACKED_SAME


cdef inline uint64_t interval(const Sender *s, const SenderConfig *c) noexcept nogil:
    return min(s.rto << s.backoff, c.longest_rto)


cdef void set_timer(Sender *s, const SenderConfig *c, bint again, uint64_t now) noexcept nogil:
    if under_way(s) or (is_waiting(s) and is_closed(s)):
        if again or s.due == UINT64_MAX:
            s.due = now + interval(s, c)        # RFC 6298 5.3; RFC 9293 3.8.6.1
    else:
        s.due = UINT64_MAX              # what waits now waits for the transport


cdef void sender_refused(Sender *s, uint32_t position, uint64_t now) noexcept nogil:
    """Each byte once in a round trip, then in two, four: what 16 bytes can bring about is bounded."""
    cdef uint64_t start = 0, end = fin_end(s)
    if not offset_of(s, position, &start) or start >= end or acked_end(s) == end:
        return
    start = max(start, acked_end(s))
    if s.refused_at and now < s.refused_at + patience(s):
        if start >= s.refused_from:
            s.refused_due = s.refused_at + patience(s)
            return
        end = min(end, s.refused_from)
    else:
        again_refused(s, now)
    s.refused_from = start
    lose(s, start, end)


cdef inline uint64_t patience(const Sender *s) noexcept nogil:
    return max(s.srtt if s.srtt else s.path_rtt, <uint64_t>MILLISECOND) << s.refusals


cdef inline void again_refused(Sender *s, uint64_t now) noexcept nogil:
    s.refused_due = UINT64_MAX
    s.refused_at = now
    s.refusals = min(s.refusals + 1, MOST_REFUSALS)


# ---- time --------------------------------------------------------------------------------------------

cdef sender_due sender_timer(Sender *s, const SenderConfig *c, uint64_t now) noexcept nogil:
    if now >= s.refused_due:
        again_refused(s, now)
        lose(s, max(s.refused_from, acked_end(s)), fin_end(s))
        return DUE_BYTES
    if now < s.due:
        return DUE_NOTHING
    s.backoff += s.rto << s.backoff < c.longest_rto     # RFC 6298 5.5
    s.due = now + interval(s, c)
    s.tries = min(s.tries, <uint8_t>254) + 1
    if s.tries > c.tries:
        s.due = UINT64_MAX
        return DUE_END
    if is_closed(s) or (c.repairs and s.tries == 1):
        return DUE_PROBE
    s.bits |= SN_RECOVERS | SN_TIMED_OUT
    s.recover = fin_end(s)
    s.again_to = first_segment(s, c)
    lose(s, s.queue.acked, s.again_to)
    return DUE_BYTES
