"""The order of what an application has sent: part of it the kernel gave to the engine, part to its own TCP.

1. Bytes of TCP follow the first `spill_at` redirected ones. The kernel turns to redirecting only when all
   that TCP ever got has been taken, so between two turns there is one order. It gathers redirected messages,
   so a segment may be here before those that precede it: it is kept until they come. What TCP gets while the
   kernel redirects is of a send() that had begun before its socket was adopted: it follows all that is
   redirected.
2. Nobody repeats what was redirected. What of that cannot be taken ends the flow. A segment comes again.
3. FIN is behind all that was redirected, and acknowledged when the peer's kernel has acknowledged it:
   FIN_WAIT and SO_LINGER mean what TCP means by them.
4. From `base` on the local TCP is acknowledged at once, with the credit that is left as its window. Bytes
   below are acknowledged by the peer's kernel only, and until that has happened no later acknowledgement is
   given: it would cover them.
"""

from libc.stdint cimport int16_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from hooker.flow.sender cimport *

cdef enum:
    WINDOW_STEP = 65536        # bytes: while so much is left the window is not said anew (RFC 9293 3.8.6.2.2)


cdef void joined_init(Joined *j, const SenderPool *m, uint32_t position, uint32_t edge,
                      uint64_t rtt) noexcept nogil:
    memset(j, 0, sizeof(Joined))
    sender_init(&j.s, &m.c, position, edge, rtt)
    j.base = j.taken = j.heard = position


cdef void joined_end(Joined *j, SenderPool *m) noexcept nogil:
    cdef Part *p
    if j.bits & J_OVER:
        return
    j.bits |= J_OVER
    sender_free(&j.s, m)
    while j.first != NULL:
        p = take_first(j)
        m.release(m.ctx, p.owner, p.n)
        free(p)


# ---- what comes --------------------------------------------------------------------------------------

cdef inline bint is_over(const Joined *j) noexcept nogil:
    return j.bits & (J_OVER | J_LOST)


cdef bint joined_frame(Joined *j, SenderPool *m, const uint8_t *data, uint32_t n, void *owner) noexcept nogil:
    if is_over(j):
        return False
    j.received += n
    return write(j, m, data, n, owner)


cdef void joined_missed(Joined *j, uint32_t n) noexcept nogil:
    j.received += n
    j.bits |= J_LOST


cdef bint write(Joined *j, SenderPool *m, const uint8_t *data, uint32_t n, void *owner) noexcept nogil:
    """Rule 2: the local TCP's are lost, too: acknowledged, or without place behind what is missing."""
    if sender_write(&j.s, m, data, n, owner) < 0:
        j.bits |= J_LOST
        return False
    return True


cdef bint joined_follows(const Joined *j, uint32_t at) noexcept nogil:
    return not is_over(j) and not j.bits & J_FIN and not after(at, j.heard)


cdef joined_got joined_take(Joined *j, SenderPool *m, const Turns *t, const uint8_t *data, uint32_t n,
                            void *owner) noexcept nogil:
    if j.first != NULL or not has_turn(j, t):
        if not keep(j, data, n, owner):
            return GOT_NOT
        j.heard += n
        return GOT_KEPT
    if not write(j, m, data, n, owner):
        return GOT_NOT
    j.heard += n
    j.taken += n
    return GOT_ALL


cdef void joined_fin(Joined *j, uint32_t end) noexcept nogil:
    if j.heard == end and not is_over(j):
        j.bits |= J_FIN


# ---- in which order ----------------------------------------------------------------------------------

cdef bint has_turn(const Joined *j, const Turns *t) noexcept nogil:
    """Rule 1. While it redirects, `spill_at` is of a turn that is past."""
    return joined_all(j, t) if t.redirects else t.spill_at == j.received


cdef bint keep(Joined *j, const uint8_t *data, uint32_t n, void *owner) noexcept nogil:
    cdef Part *p = NULL
    if j.parts < MOST_PARTS:
        p = <Part *>malloc(sizeof(Part))
    if p == NULL:
        return False
    p.next, p.owner, p.data, p.n = NULL, owner, data, n
    if j.first == NULL:
        j.first = p
    else:
        j.last.next = p
    j.last = p
    j.parts += 1
    return True


cdef Part *take_first(Joined *j) noexcept nogil:
    cdef Part *p = j.first
    j.first = p.next
    j.parts -= 1
    return p


cdef Part *joined_meet(Joined *j, SenderPool *m, const Turns *t) noexcept nogil:
    cdef Part *p
    if j.first == NULL or is_over(j) or not has_turn(j, t):
        return NULL
    p = j.first
    if not write(j, m, p.data, p.n, p.owner):
        return NULL                     # it goes with the rest
    j.taken += p.n
    return take_first(j)


cdef void joined_settle(Joined *j, const Turns *t) noexcept nogil:
    """Rule 3."""
    if j.bits & (J_FIN | J_FIN_TAKEN) == J_FIN and j.taken == j.heard and joined_all(j, t) and not is_over(j):
        j.bits |= J_FIN_TAKEN
        sender_fin(&j.s)


# ---- what the peer says, and the local TCP is told ---------------------------------------------------

cdef bint is_news(Joined *j, uint32_t position, uint16_t serial) noexcept nogil:
    """docs/flow.md, 4.2."""
    cdef uint32_t known = j.base + <uint32_t>(j.s.queue.acked - START)
    if j.bits & J_SERIAL and <int16_t>(serial - j.serial_in) <= 0 and <int32_t>(position - known) <= 0:
        return False
    j.bits |= J_SERIAL
    j.serial_in = serial
    return True


cdef sender_word joined_acked(Joined *j, SenderPool *m, uint32_t position, uint32_t edge, uint16_t serial,
                              uint64_t now) noexcept nogil:
    if j.bits & J_OVER or not is_news(j, position, serial):
        return ACKED_NOT
    return sender_acked(&j.s, m, position, edge, 0, NULL, 0, now)


cdef inline bint has_own(Joined *j, uint32_t una) noexcept nogil:
    """Once so, always: gigabytes later the two would compare the other way round."""
    if not j.bits & J_OWN and not after(j.base, una):
        j.bits |= J_OWN
    return j.bits & J_OWN


cdef uint32_t joined_below(Joined *j, uint32_t at, uint32_t n, uint32_t una) noexcept nogil:
    return min(j.base - at, n) if not has_own(j, una) and after(j.base, at) else 0


cdef uint32_t joined_ack(Joined *j, uint32_t una) noexcept nogil:
    """Rules 3 and 4."""
    if not has_own(j, una):
        return una
    return j.taken + (1 if sender_done(&j.s) else 0)


cdef uint64_t joined_edge(uint64_t taken, uint64_t edge, uint64_t room) noexcept nogil:
    """While messages are redirected nobody needs the window: it is said when it is small."""
    if edge < taken + WINDOW_STEP and taken + room >= edge + WINDOW_STEP // 2:
        return taken + room
    return edge


cdef uint64_t joined_credit(const Joined *j, const SenderPool *m, bint room) noexcept nogil:
    """Without room in its share none; what has nothing under way hears nothing, and so keeps the least."""
    return sender_credit(&j.s, m) if room or joined_queued(j) == 0 else 0
