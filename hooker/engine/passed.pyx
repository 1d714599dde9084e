"""Adopted flows' other source: bytes that their applications' TCPs have, PASS in the kernel program's words.

1. Adopted is what has been engaged and has sent a few segments. From its snd_nxt of that moment on (`base`)
   the engine receives the local TCP's stream itself: in order, acknowledged at once, with the credit that
   is left as its window. Bytes below are the kernel's as before, and until their acknowledgement has come
   no later one is given: it would cover them.
2. Order: bytes of TCP follow the first `spill_at` redirected ones. The kernel program turns to REDIRECT
   only when all that TCP ever got has been taken (`resume`), so between two turns there is one order. The
   kernel gathers redirected messages, so a segment may be here before those that precede it: it is kept
   until they come.
3. FIN is the sender's when all frames are here, and acknowledged when the peer's kernel has acknowledged
   it: FIN_WAIT and SO_LINGER mean what TCP means by them.
4. The machine is told of it all in the peer's positions: what is below `base`, where they are the same, and
   acknowledgements.
"""

from libc.stdint cimport UINT64_MAX, int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from hooker.engine.actions cimport act, cause, flow_gives_up
from hooker.engine.collected cimport collected_all, has_turn
from hooker.engine.flows cimport flow_key_of, flow_touch
from hooker.engine.hk0 cimport is_due
from hooker.engine.lent cimport lent_back, lent_for
from hooker.engine.peers cimport refuse
from hooker.engine.redirected cimport *
from hooker.engine.tapped cimport tap_bytes
from hooker.engine.worker cimport *
from hooker.engine.slab cimport slab
from hooker.flow.machine cimport (
    DO_BRIDGE, DO_SEND_DATA, FL_FINAL_HERE, Outcome, ST_ENGAGED, after, flow_segment, near,
)
from hooker.flow.machine cimport Segment as Numbers
from hooker.flow.sender cimport sender_done, sender_fin, sender_position
from hooker.includes.bpf cimport hk_prog_run
from hooker.includes.hk cimport *
from hooker.includes.linux cimport hk_load64, hk_store32, hk_store64
from hooker.tcp.numbers cimport NOWHERE, is_newer
from hooker.tcp.segment cimport FLAG_ACK, FLAG_FIN, FLAG_RST, HAS_TIMESTAMPS, Segment
from hooker.tcp.twin cimport *

cdef enum:
    ADOPT_AFTER = 4            # segments with bytes: a short connection is not worth it
    ETHERNET = 14
    WINDOW_STEP = 65536        # bytes: while so much is left the window is not said anew (RFC 9293 3.8.6.2.2)


# ---- adoption ----------------------------------------------------------------------------------------

cdef uint32_t run_adopt(worker *w, flow *f) noexcept nogil:
    cdef uint8_t packet[54]    # ETHERNET + sizeof(hk_key)
    cdef uint32_t verdict = 0
    cdef hk_key key
    memset(packet, 0, ETHERNET)
    flow_key_of(f, &key)
    memcpy(packet + ETHERNET, &key, sizeof(hk_key))
    if hk_prog_run(w.adopt_fd, packet, sizeof(packet), &verdict) < 0:
        return HK_ADOPT_REFUSED
    return verdict


cdef void adopt(worker *w, flow *f) noexcept nogil:
    """First all that the kernel program reads, then the socket, then the permission."""
    cdef redirected *r = redirected_new(w, f)
    cdef uint32_t verdict
    if r == NULL:
        w.n.adopt_refused += 1
        return
    hk_store64(&r.rec.resume, <uint32_t>(r.taken - 1))
    verdict = run_adopt(w, f)
    if verdict == HK_ADOPT_DONE:
        w.n.adopted += 1
        r.bits |= R_ALLOWED
        hk_store32(&r.rec.allowed, 1)
        return
    redirected_free(w, f)
    if verdict == HK_ADOPT_BLOCKING:
        w.n.adopt_blocking += 1
    elif verdict == HK_ADOPT_REFUSED:
        w.n.adopt_refused += 1
    elif verdict == HK_ADOPT_ZEROCOPY:
        w.n.adopt_zerocopy += 1


cdef void adopt_later(worker *w, flow *f) noexcept nogil:
    if f.sent >= ADOPT_AFTER or f.f.state != ST_ENGAGED or not f.f.flags & FL_FINAL_HERE:
        return
    f.sent += 1
    if f.sent < ADOPT_AFTER or w.adopt_fd < 0 or f.rec == NULL:
        return
    if f.bits & F_TWIN and f.t.up_fin == NOWHERE:
        adopt(w, f)


# ---- what the local TCP says -------------------------------------------------------------------------

cdef void has_taken(worker *w, flow *f, uint32_t n) noexcept nogil:
    f.r.taken += n
    w.n.passed_bytes += n
    if f.r.rec != NULL:
        hk_store64(&f.r.rec.resume, <uint32_t>(f.r.taken - 1))


cdef bint take_bytes(worker *w, flow *f, const uint8_t *data, uint32_t n, slab *memory) noexcept nogil:
    """In order. Whether `memory` has them for longer now."""
    cdef const uint8_t *bytes = data
    cdef lot *l = lent_for(w, f, memory, &bytes, n)
    cdef bint in_slab = l != NULL and l.memory != NULL
    if l == NULL:
        w.n.passed_not_taken += 1
        return False
    if f.r.early != NULL or not has_turn(f):
        w.n.passed_early += 1
        if not redirected_keep(w, f, l, bytes, n):
            w.n.passed_not_taken += 1
            return False
        f.r.heard += n
        return in_slab
    if w.tap != NULL:
        tap_bytes(w, f, memory, data, n)
    redirected_write(w, f, l, bytes, n)
    if not f.r.bits & R_LOST:
        f.r.heard += n
        has_taken(w, f, n)
    return in_slab or (w.tap != NULL and memory != NULL)


cdef void meet_early(worker *w, flow *f) noexcept nogil:
    """Rule 2. The redirect socket's bytes may be here later than the segment: the kernel gathers them."""
    cdef early_part *e
    if f.r.early == NULL or not has_turn(f):
        return
    e = redirected_meet(f)
    while e != NULL:
        if w.tap != NULL:
            tap_bytes(w, f, e.l.memory, e.data, e.n)
        redirected_write(w, f, e.l, e.data, e.n)
        lent_back(w, e.l, e.n)                  # as an early one
        has_taken(w, f, e.n)
        free(e)
        e = redirected_meet(f)


cdef bint take(worker *w, flow *f, const Segment *s, const heard *h, slab *memory) noexcept nogil:
    """What of the segment is ours, and new. Whether its slab has bytes of it for longer."""
    cdef redirected *r = f.r
    cdef uint32_t at = s.seq - f.t.local_isn, skip = 0, before = r.heard
    cdef bint lent = False
    if r.bits & (R_OVER | R_LOST | R_FIN) or after(at, r.heard):
        w.n.passed_holes += after(at, r.heard)
        f.t.flags |= TWIN_PROMPT        # a hole, or a FIN once more: it hears where we are
        return False
    skip = r.heard - at
    if skip < s.length:
        lent = take_bytes(w, f, s.data + skip, s.length - skip, memory)
    if r.heard != before and h.what & (HEARD_NEW | HEARD_TIMESTAMPS) == HEARD_TIMESTAMPS:
        twin_echo(&f.t, h.ts_value)     # sent once more, and not in vain (docs/twin.md, rule 7)
    if s.flags & FLAG_FIN and r.heard == at + s.length and not r.bits & R_LOST:
        r.bits |= R_FIN
    redirected_due(w, f)
    return lent


cdef void machine_hears(worker *w, flow *f, const Segment *s, uint32_t below, const heard *h,
                        Numbers *out) noexcept nogil:
    """Rule 4. A segment that carries bytes of ours is one of a byte that the machine has seen already: its
    acknowledgement counts."""
    cdef bint carries = s.length > 0 or s.flags & FLAG_FIN
    cdef bint closed = f.t.up_said_edge - f.t.up_acked < <uint64_t>f.t.mss
    out.position, out.length = f.f.snd_nxt, 0
    if below:
        out.position, out.length = s.seq - f.t.local_isn, below
    elif h.what & HEARD_PROBE and closed and redirected_lives(f):
        f.t.flags |= TWIN_PROMPT        # of a window that is ours
        redirected_due(w, f)
    elif h.what & HEARD_PROBE:
        out.position = f.f.snd_una - 1  # a keepalive: the peer's kernel is asked
    elif carries:
        out.position, out.length = f.f.snd_nxt - 1, 1
    out.ack = s.ack - f.t.remote_isn if s.flags & FLAG_ACK else f.f.rcv_ack
    out.window = <uint32_t>s.window << f.t.local_wscale
    out.tsval = s.ts_value if s.options & HAS_TIMESTAMPS else 0
    out.rst = s.flags & FLAG_RST
    out.holes = False                           # nothing of a pinned flow's goes by the wire


cdef inline bint has_own(flow *f) noexcept nogil:
    """Once so, always: gigabytes later the two would compare the other way round."""
    if not f.r.bits & R_OWN and not after(f.r.base, f.f.snd_una):
        f.r.bits |= R_OWN
    return f.r.bits & R_OWN


cdef uint32_t bytes_below(flow *f, const Segment *s) noexcept nogil:
    """Those that stay the kernel's, and are sent once more as long as they are not acknowledged."""
    cdef uint32_t at = s.seq - f.t.local_isn
    return min(f.r.base - at, s.length) if not has_own(f) and after(f.r.base, at) else 0


cdef bint hear_passed(worker *w, flow *f, const Segment *s, slab *memory) noexcept nogil:
    cdef Numbers numbers
    cdef Outcome out
    cdef heard h
    cdef cause c
    cdef Segment cut = s[0]
    cdef uint32_t below
    cdef bint live = f.bits & F_TWIN and f.f.state == ST_ENGAGED
    if live and not near(s.seq - f.t.local_isn, f.r.taken):
        return False
    h.what = h.sacks = 0
    if live:
        twin_hear(&f.t, s, w.now, &h)
    below = bytes_below(f, s)
    machine_hears(w, f, s, below, &h, &numbers)
    flow_segment(&f.f, &w.config, &numbers, w.now, &out)
    if s.options & HAS_TIMESTAMPS and is_newer(s.ts_echo, f.ts_recent):
        f.ts_recent = s.ts_echo
    memset(&c, 0, sizeof(c))
    if below:
        cut.length = below
        cut.flags &= ~<uint8_t>FLAG_FIN
        c.s, c.memory = &cut, memory
        if out.actions & DO_SEND_DATA and h.what & HEARD_TIMESTAMPS:
            twin_echo(&f.t, h.ts_value)
    else:
        out.actions &= ~<uint32_t>DO_SEND_DATA
        c.s = s if out.actions & DO_BRIDGE else NULL    # of a TIME_WAIT, whose header is all that goes there
    act(w, f, &out, &c)
    live = live and f.f.state == ST_ENGAGED
    if live and (s.length > below or s.flags & FLAG_FIN) and not h.what & (HEARD_PROBE | HEARD_DROPPED):
        c.lent |= take(w, f, s, &h, memory)
    if h.what & HEARD_AGAIN:
        refuse(w, f, h.again_from)
    is_due(w, f)
    return c.lent


# ---- what it is told ---------------------------------------------------------------------------------

cdef inline uint64_t widen(uint32_t position, uint64_t near) noexcept nogil:
    return near + <int32_t>(position - <uint32_t>near)


cdef void tell_local(worker *w, flow *f) noexcept nogil:
    """Rules 1 and 3. While messages are redirected nobody needs the window: it is said when it is small."""
    cdef redirected *r = f.r
    cdef uint64_t taken, acked, edge, room
    if not f.bits & F_TWIN:
        return
    taken = widen(r.taken, f.t.up_seen)
    acked = taken + (1 if sender_done(&r.s) else 0)
    if not has_own(f):
        acked = widen(f.f.snd_una, f.t.up_acked)
    edge = f.t.up_edge
    if edge < taken + WINDOW_STEP:
        room = redirected_room(w, f)
        if taken + room >= edge + WINDOW_STEP // 2:
            edge = taken + room
    twin_acked(&f.t, acked, edge)
    if f.bits & F_ASKED:
        f.bits &= ~<uint16_t>F_ASKED
        f.t.flags |= TWIN_PROMPT
    is_due(w, f)


cdef void serve(worker *w, flow *f) noexcept nogil:
    cdef redirected *r = f.r
    if r.bits & R_OVER:
        return
    if r.bits & R_LOST:
        flow_gives_up(w, f, WHY_MEMORY)
        return
    meet_early(w, f)
    if r.bits & (R_FIN | R_FIN_TAKEN) == R_FIN and r.taken == r.heard and collected_all(f):
        r.bits |= R_FIN_TAKEN
        sender_fin(&r.s)
    redirected_send(w, f)
    redirected_note(w, f)
    if f.f.state == ST_ENGAGED:
        tell_local(w, f)
    flow_touch(w, f)


cdef void flush_senders(worker *w) noexcept nogil:
    cdef flow *f
    while w.senders != NULL:
        f = w.senders
        w.senders = f.r.next_due
        f.r.bits &= ~<uint8_t>R_DUE
        if not f.bits & F_FORGET:
            serve(w, f)
