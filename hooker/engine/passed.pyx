"""Adopted flows' other source: bytes that their applications' TCPs have, PASS in the kernel program's words.

1. Adopted is what has been engaged and has sent a few segments. From its snd_nxt of that moment on (`base`)
   the engine receives the local TCP's stream itself; bytes below are the kernel's as before. In which order
   with what is redirected, and what is acknowledged when: hooker/flow/joined.pyx.
2. The machine is told of it all in the peer's positions: what is below `base`, where they are the same, and
   acknowledgements.
"""

from libc.stdint cimport UINT64_MAX, int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from hooker.engine.actions cimport act, cause, flow_gives_up
from hooker.engine.channel cimport has_arrived
from hooker.engine.flows cimport flow_key_of, flow_touch
from hooker.engine.hk0 cimport is_due
from hooker.engine.lent cimport lent_for
from hooker.engine.peers cimport refuse
from hooker.engine.redirected cimport *
from hooker.engine.stamp cimport stamp_echoed
from hooker.engine.tapped cimport tap_bytes
from hooker.engine.worker cimport *
from hooker.engine.slab cimport slab
from hooker.flow.joined cimport *
from hooker.flow.machine cimport (
    DO_BRIDGE, DO_SEND_DATA, FL_FINAL_HERE, Outcome, ST_ENGAGED, after, flow_segment, near,
)
from hooker.flow.machine cimport Segment as Numbers
from hooker.includes.bpf cimport hk_prog_run
from hooker.includes.hk cimport *
from hooker.includes.linux cimport hk_store32, hk_store64
from hooker.tcp.numbers cimport NOWHERE
from hooker.tcp.segment cimport FLAG_ACK, FLAG_FIN, FLAG_RST, HAS_TIMESTAMPS, Segment
from hooker.tcp.twin cimport *

cdef enum:
    ADOPT_AFTER = 4            # segments with bytes: a short connection is not worth it
    ETHERNET = 14


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
    hk_store64(&r.rec.resume, <uint32_t>(r.j.taken - 1))
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
    if f.bits & F_TWIN and f.active.t.up_fin == NOWHERE:
        adopt(w, f)


# ---- what the local TCP says -------------------------------------------------------------------------

cdef void has_taken(worker *w, flow *f, uint32_t n) noexcept nogil:
    w.n.passed_bytes += n
    if f.r.rec != NULL:
        hk_store64(&f.r.rec.resume, <uint32_t>(f.r.j.taken - 1))


cdef bint take_bytes(worker *w, flow *f, const uint8_t *data, uint32_t n, slab *memory) noexcept nogil:
    """Whether `memory` has them for longer now."""
    cdef const uint8_t *bytes = data
    cdef lot *l = lent_for(w, f, memory, &bytes, n)
    cdef bint in_slab = l != NULL and l.memory != NULL
    cdef joined_got got = GOT_NOT
    cdef Turns t
    if l != NULL:
        redirected_turns(f, &t)
        got = redirected_take(w, f, &t, l, bytes, n)
    if got == GOT_NOT:
        w.n.passed_not_taken += 1
        return False
    if got == GOT_KEPT:
        w.n.passed_early += 1
        return in_slab
    if w.tap != NULL:
        tap_bytes(w, f, memory, data, n)
    has_taken(w, f, n)
    return in_slab or (w.tap != NULL and memory != NULL)


cdef void meet_parts(worker *w, flow *f, const Turns *t) noexcept nogil:
    cdef Part *p = joined_meet(&f.r.j, &w.pool, t)
    while p != NULL:
        if w.tap != NULL:
            tap_bytes(w, f, (<lot *>p.owner).memory, p.data, p.n)
        has_taken(w, f, p.n)
        free(p)
        p = joined_meet(&f.r.j, &w.pool, t)


cdef bint take(worker *w, flow *f, const Segment *s, const heard *h, slab *memory) noexcept nogil:
    """What of the segment is ours, and new. Whether its slab has bytes of it for longer."""
    cdef Joined *j = &f.r.j
    cdef uint32_t at = s.seq - f.local_isn, skip = 0, before = j.heard
    cdef bint lent = False
    if not joined_follows(j, at):
        w.n.passed_holes += after(at, j.heard)
        f.active.t.flags |= TWIN_PROMPT        # a hole, or a FIN once more: it hears where we are
        return False
    skip = j.heard - at
    if skip < s.length:
        lent = take_bytes(w, f, s.data + skip, s.length - skip, memory)
    if j.heard != before and h.what & (HEARD_NEW | HEARD_TIMESTAMPS) == HEARD_TIMESTAMPS:
        twin_repeated(&f.active.t, h.ts_value, at + s.length)  # and not in vain (docs/twin.md, rule 7)
    if s.flags & FLAG_FIN:
        joined_fin(j, at + s.length)
    redirected_due(w, f)
    return lent


cdef void machine_hears(worker *w, flow *f, const Segment *s, uint32_t below, const heard *h,
                        Numbers *out) noexcept nogil:
    """Rule 2. A segment that carries bytes of ours is one of a byte that the machine has seen already: its
    acknowledgement counts."""
    cdef bint carries = s.length > 0 or s.flags & FLAG_FIN
    cdef bint closed = f.active.t.up_said_edge - f.active.t.up_acked < <uint64_t>f.active.t.mss
    out.position, out.length = f.f.snd_nxt, 0
    if below:
        out.position, out.length = s.seq - f.local_isn, below
    elif h.what & HEARD_PROBE and closed and redirected_lives(f):
        f.active.t.flags |= TWIN_PROMPT        # of a window that is ours
        redirected_due(w, f)
    elif h.what & HEARD_PROBE:
        out.position = f.f.snd_una - 1  # a keepalive: the peer's kernel is asked
    elif carries:
        out.position, out.length = f.f.snd_nxt - 1, 1
    out.ack = s.ack - f.remote_isn if s.flags & FLAG_ACK else f.f.rcv_ack
    out.window = <uint32_t>s.window << f.local_wscale
    out.tsval = s.ts_value if s.options & HAS_TIMESTAMPS else 0
    out.rst = s.flags & FLAG_RST
    out.arrived = below and has_arrived(f)
    out.holes = False                           # nothing of a pinned flow's goes by the wire


cdef bint hear_passed(worker *w, flow *f, const Segment *s, slab *memory) noexcept nogil:
    cdef Numbers numbers
    cdef Outcome out
    cdef heard h
    cdef cause c
    cdef Segment cut = s[0]
    cdef uint32_t below
    cdef bint live = f.bits & F_TWIN and f.f.state == ST_ENGAGED
    if live and not near(s.seq - f.local_isn, f.r.j.taken):
        return False
    h.what = h.sacks = 0
    if live:
        twin_hear(&f.active.t, s, w.now, &h)
    below = joined_below(&f.r.j, s.seq - f.local_isn, s.length, f.f.snd_una)
    machine_hears(w, f, s, below, &h, &numbers)
    flow_segment(&f.f, config_of(w, f), &numbers, w.now, &out)
    stamp_echoed(f, s)
    memset(&c, 0, sizeof(c))
    if below:
        cut.length = below
        cut.flags &= ~<uint8_t>FLAG_FIN
        c.s, c.memory = &cut, memory
        if out.actions & DO_SEND_DATA and h.what & HEARD_TIMESTAMPS:
            twin_repeated(&f.active.t, h.ts_value, s.seq - f.local_isn + below)
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
    cdef uint64_t taken
    if not f.bits & F_TWIN:
        return
    taken = widen(f.r.j.taken, f.active.t.up_seen)
    twin_acked(&f.active.t, widen(joined_ack(&f.r.j, f.f.snd_una), f.active.t.up_seen),
               joined_edge(taken, f.active.t.up_edge, redirected_room(w, f)))
    if f.bits & F_ASKED:
        f.bits &= ~<uint16_t>F_ASKED
        f.active.t.flags |= TWIN_PROMPT
    is_due(w, f)


cdef void serve(worker *w, flow *f) noexcept nogil:
    cdef redirected *r = f.r
    cdef Turns t
    if r.j.bits & J_OVER:
        return
    redirected_turns(f, &t)
    meet_parts(w, f, &t)
    joined_settle(&r.j, &t)
    if r.j.bits & J_LOST:
        flow_gives_up(w, f, WHY_MEMORY)
        return
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
