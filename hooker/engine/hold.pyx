"""Flows that are held: nothing of theirs but bare headers is on the wire until both engines have agreed.

1. The kernel program keeps payload back (bpf/guard.c), TCP has it unsent. The engine says by `hold` of the record when
   it may go: engaged, to hk0; given up, anywhere, and a bare ACK makes the local TCP send at once.
2. A flow of an engine without a key is free as soon as it is engaged. With a key it is pinned when ENGAGED is about to be
   sent: from then on the peer may have bytes that came encrypted, and there is no way back. Given up before that, it is TCP's
   for good.
3. Who does not get so far in `hold_for`, or in two round trips where they take longer, is given up. Without an association its
   host is not asked again for `avoid_for`. With one it may have been a busy moment: its service is not asked for FIRST, and
   twice as long each time until one is engaged.
4. A pinned client's handshake ends through hk0. Where this host leads it elsewhere (kube-proxy's translation, a firewall) its
   last ACK is lost, and its server waits for it: it is sent again when the flow is given up.
5. The last ACK of a client's handshake may be lost, and no bytes come that would stand for it, as they do with TCP: its server
   is not there yet, and would say its SYN-ACK again in a second. So the client's socket is asked for it after a round trip, and
   again after two more, four more and so on, as long as the server's engine has not answered.
6. The socket of a flow that is ARMED has been asked at once, and answers through hk0 in a moment, whatever the peer does. Who is
   given up when it has not for ASKED, is so for this host's sake, not for want of time.
"""

from libc.stdint cimport UINT64_MAX, uint64_t
from hooker.engine.cut cimport cut_of
from hooker.engine.hk0 cimport give_nudge, give_probe, is_due
from hooker.engine.unread cimport is_read, was_full
from hooker.engine.worker cimport *
from hooker.flow.machine cimport FL_PINNED, ROLE_CLIENT, ST_OPENING, ST_ARMED, ST_BRIDGE, ST_CLOSED
from hooker.includes.hk cimport *
from hooker.includes.linux cimport hk_load32, hk_store32
from hooker.tcp.twin cimport TWIN_PROMPT

cdef enum:
    FIRST = 1000000000         # ns
    MOST = 1000000000          # ns of a round trip
    PAUSES = 6                 # doublings
    ASKED = 100000000          # ns
    SOON = 20000000            # ns, at least, until an ACK is taken for lost
    AGAIN = 8                  # times


cdef void hold_begin(worker *w, flow *f) noexcept nogil:
    if w.hold_for:
        f.bits |= F_HELD


cdef uint64_t hold_deadline(const worker *w, const flow *f) noexcept nogil:
    if not f.bits & F_HELD or f.f.state == ST_CLOSED:
        return UINT64_MAX
    # OPEN and ACCEPT take one; a new association's HELLO comes half a one after the connection
    return f.opened_ns + max(w.hold_for, 2 * min(<uint64_t>f.f.rtt_us * 1000, <uint64_t>MOST))


cdef uint64_t hold_again(const worker *w, const flow *f) noexcept nogil:
    cdef uint64_t step
    if (not f.bits & F_HELD or f.f.role != ROLE_CLIENT or f.f.state > ST_OPENING or f.rec == NULL
            or f.active.acks_again >= AGAIN):
        return UINT64_MAX
    step = max(<uint64_t>f.f.rtt_us * 1000, <uint64_t>SOON)
    return f.opened_ns + step * ((2 << f.active.acks_again) - 1)


cdef void hold_ack_again(worker *w, flow *f) noexcept nogil:
    """Rule 5."""
    f.active.acks_again += 1
    give_probe(w, f, True)


cdef void hold_release(worker *w, flow *f) noexcept nogil:
    f.bits &= ~<uint16_t>F_HELD
    if w.pinned:
        f.bits |= F_NEVER
        f.again_at = UINT64_MAX
    if f.rec == NULL:
        return
    if w.pinned:
        hk_store32(&f.rec.want, HK_WANT_NEVER)
    hk_store32(&f.rec.hold, HK_HOLD_NONE)
    if f.bits & F_STEERED:
        return
    if hk_load32(&f.rec.marked):                # it keeps the mark until it says something, and would be ended with the engine
        give_probe(w, f, True)                  # by now its answer goes by the wire
    give_nudge(w, f)


cdef bint hold_missed(const worker *w, const flow *f) noexcept nogil:
    """Rule 4. The routing rule is there: an engine with pinned flows begins with it."""
    return w.pinned and f.f.role == ROLE_CLIENT and not f.active.heard and f.rec != NULL and hk_load32(&f.rec.marked)


cdef bint hold_unanswered(const worker *w, const flow *f) noexcept nogil:
    """Rule 6."""
    return f.f.state == ST_ARMED and is_read(w, f.active.armed_ns + ASKED) and not was_full(w, f.active.armed_ns)


cdef void hold_pin(worker *w, flow *f) noexcept nogil:
    if w.pinned and f.bits & F_HELD:
        f.bits &= ~<uint16_t>F_HELD
        f.f.flags |= FL_PINNED


cdef void hold_unpin(worker *w, flow *f) noexcept nogil:
    """BRIDGE only: a peer that is pinned says RESET, not LEAVE, so neither side has sent bytes, and TCP has them all."""
    if w.pinned and f.f.state == ST_BRIDGE and f.f.flags & FL_PINNED:
        f.f.flags &= ~FL_PINNED
        f.bits |= F_HELD


cdef uint64_t hold_failed(worker *w, const flow *f) noexcept nogil:
    cdef cut *at = cut_of(w, w.waits, f, True)
    if at.until > w.now:
        return at.until                         # others of the same moment have said so
    at.until = w.now + min(<uint64_t>FIRST << at.pauses, w.avoid_for)
    if at.pauses < PAUSES:
        at.pauses += 1
    w.n.held_in_vain += 1
    return at.until


cdef void hold_engaged(worker *w, flow *f) noexcept nogil:
    cdef cut *failed = cut_of(w, w.waits, f, False) if w.n.held_in_vain else NULL
    if failed != NULL:
        failed.pauses = 0
    f.bits &= ~<uint16_t>F_HELD
    if f.rec == NULL or hk_load32(&f.rec.hold) != HK_HOLD_ALL:
        return
    hk_store32(&f.rec.hold, HK_HOLD_WIRE if f.f.flags & FL_PINNED else HK_HOLD_NONE)
    if f.bits & F_TWIN:
        f.active.t.flags |= TWIN_PROMPT                # what its TCP has unsent goes now
        is_due(w, f)


cdef bint is_withheld(const flow *f) noexcept nogil:
    return f.f.flags & FL_PINNED or f.bits & F_HELD
