"""Out of hk0: each packet is read to where its bytes stay until the transport has delivered them, so they are not copied.

Without a slab the packet is read nevertheless: its acknowledgement counts, its bytes TCP sends again.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from hooker.engine.actions cimport (
    act, cause, flow_doubt, flow_lingered, flow_sends_rest, flow_tells_day, flow_translated, has_fin, unmark_due,
)
from hooker.engine.channel cimport has_arrived
from hooker.engine.hk0 cimport is_due
from hooker.engine.index cimport flow_by_tuple
from hooker.engine.kernel cimport take_kernel_events
from hooker.engine.kept cimport keep_repeated
from hooker.engine.lane cimport lane_doubt, lane_hear
from hooker.engine.passed cimport adopt_later, hear_passed
from hooker.engine.peers cimport peer_say, refuse
from hooker.engine.record cimport record_numbers, record_read
from hooker.engine.rest cimport awake
from hooker.engine.stamp cimport stamp_echoed
from hooker.engine.tapped cimport tap_segment
from hooker.engine.translated cimport translated_of
from hooker.engine.unread cimport queue_empty, queue_read
from hooker.engine.wire cimport wire_alone, wire_segment
from hooker.engine.worker cimport *
from hooker.engine.slab cimport pool_current, slab
from hooker.flow.machine cimport (
    DO_SEND_DATA, DO_SEND_SACK, Outcome, ST_BRIDGE, ST_EARLY, ST_ENGAGED, ST_TCP, flow_compose, flow_marked, flow_segment,
)
from hooker.flow.machine cimport Segment as Numbers
from hooker.flow.messages cimport MSG_ACKED, Message
from hooker.includes.linux cimport hk_load32
from hooker.tcp.numbers cimport is_newer
from hooker.tcp.segment cimport *
from hooker.tcp.twin cimport HEARD_AGAIN, HEARD_DATA, HEARD_NEW, HEARD_TIMESTAMPS, heard, twin_hear, twin_repeated
from hooker.engine.tun cimport SLOT, tun_read

cdef enum:
    LINE = 64                  # bytes: where the next packet begins
    FIRST_ROUND = 1 << 30      # positions
    A_DAY = 86400000           # of Linux's timestamps, which are ms


cdef bint take_segments(worker *w, int most) noexcept nogil:
    cdef slab *memory
    cdef uint8_t *room
    cdef uint32_t size = 0
    cdef int i
    for i in range(most):
        memory = pool_current(&w.slabs, SLOT)
        if memory == NULL:
            w.n.slabs_exhausted += 1
        room = memory.base + memory.used if memory != NULL else w.spare
        if tun_read(w.tun_fd, room, &size, 1, &w.tun) <= 0:
            queue_empty(w)
            unmark_due(w)
            return False
        queue_read(w)
        w.n.segments += 1
        w.n.segment_bytes += size
        if hear(w, room, size, memory):
            memory.used += (size + LINE - 1) & ~<size_t>(LINE - 1)
    unmark_due(w)
    return True


cdef inline void ends_of(const Segment *s, ends *out) noexcept nogil:
    memset(out, 0, sizeof(ends))
    memcpy(out.local, s.src, address_size(s.version))
    memcpy(out.remote, s.dst, address_size(s.version))
    out.local_port, out.remote_port, out.version = s.src_port, s.dst_port, s.version


cdef void numbers_of(const flow *f, const Segment *s, Numbers *out) noexcept nogil:
    cdef uint32_t i
    out.position = s.seq - f.local_isn
    out.length = s.length + (1 if s.flags & FLAG_FIN else 0)
    out.ack = s.ack - f.remote_isn if s.flags & FLAG_ACK else f.f.rcv_ack
    out.window = <uint32_t>s.window << f.local_wscale
    out.tsval = s.ts_value if s.options & HAS_TIMESTAMPS else 0
    out.rst = s.flags & FLAG_RST
    out.arrived = out.length > 0 and <int32_t>(f.f.snd_nxt - out.position) > 0 and has_arrived(f)      # only of what comes again
    out.holes = False
    if s.options & HAS_SACK:
        for i in range(s.sacks):
            out.holes |= is_newer(s.sack[i][0], s.ack)      # else it says what came twice (RFC 2883)


cdef void take_marks(worker *w, flow *f) noexcept nogil:
    """The kernel program has marked the socket since we looked: its numbers of that moment. It may do so while we read."""
    cdef record_numbers n
    if f.rec == NULL or hk_load32(&f.rec.marks) == f.marks:
        return
    if not record_read(f.rec, &n) or n.marks == f.marks:
        return                          # the next segment will do
    f.marks = n.marks
    flow_marked(&f.f, n.snd_una - f.local_isn, n.snd_nxt - f.local_isn, n.rcv_nxt - f.remote_isn)


cdef void pass_handshake(worker *w, flow *f, const Segment *s) noexcept nogil:
    """A flow with a key is marked before the handshake's last ACK: no word of ours was asked yet."""
    w.n.segments_bridged += 1
    wire_segment(w, f, s)
    if s.options & HAS_TIMESTAMPS:
        f.f.tsval = s.ts_value
    stamp_echoed(f, s)


cdef inline void repeated(flow *f, const heard *h) noexcept nogil:
    """What is sent once more was lost before, so its acknowledgement is this copy's. With the first one's timestamp the local
    TCP would measure the time in which nothing passed, wait as long for each next segment, and believe that it had repeated
    in vain (docs/twin.md, rule 7)."""
    if h.what & (HEARD_DATA | HEARD_NEW | HEARD_TIMESTAMPS) == HEARD_DATA | HEARD_TIMESTAMPS:
        twin_repeated(&f.active.t, h.ts_value, <uint32_t>(h.position + h.length))


cdef inline bint is_over(const flow *f) noexcept nogil:
    """Its socket is gone, so what comes may be the first segment of the next connection with its addresses."""
    return f.rec == NULL or hk_load32(&f.rec.app_closed) != 0


cdef void say_sack(worker *w, flow *f, const heard *h) noexcept nogil:
    """The peer's TCP repeats what is not in the blocks and went by the wire."""
    cdef Message m
    cdef uint32_t i
    flow_compose(&f.f, MSG_ACKED, w.now, &m)
    for i in range(h.sacks):
        if h.sack[i][0] > h.ack:
            m.sack[2 * m.blocks], m.sack[2 * m.blocks + 1] = <uint32_t>h.sack[i][0], <uint32_t>h.sack[i][1]
            m.blocks += 1
    if m.blocks:
        w.n.holes_told += 1
        peer_say(w, f, &m)


cdef inline bint is_older(const flow *f, const Segment *s) noexcept nogil:
    """Of a connection that had the same ports before, and was still in hk0 when this one began: below its first number, as long
    as numbers have not come round. Bridged, it would follow this one's SYN, and draw a challenge ACK (RFC 5961)."""
    return f.f.snd_una < FIRST_ROUND and <int32_t>(s.seq - f.local_isn) < 0


cdef bint hear(worker *w, const uint8_t *packet, uint32_t size, slab *memory) noexcept nogil:
    """Whether the packet's bytes are lent now."""
    cdef Segment s
    cdef Numbers numbers
    cdef Outcome out
    cdef ends both
    cdef heard h
    cdef cause c
    cdef flow *f
    cdef uint32_t seen
    if segment_parse(packet, size, &s) != SEGMENT_OK or (s.flags & FLAG_SYN and not lane_hear(w, &s)):
        w.n.segments_refused += 1
        return False
    if s.flags & FLAG_SYN:
        return False
    ends_of(&s, &both)
    f = flow_by_tuple(w, &both)
    if f == NULL and lane_hear(w, &s):
        return False
    if f == NULL or is_over(f):
        take_kernel_events(w)           # its beginning, or that of the next one with its ports, was not there when we looked
        f = flow_by_tuple(w, &both)
    if f == NULL:
        w.n.segments_unknown += 1
        f = translated_of(w, &s)
        if f != NULL:
            flow_translated(w, f)
        wire_alone(w, &s)
        return False
    awake(w, f)
    if f.bits & F_HELD:
        f.active.heard = True
        if f.f.state == ST_TCP:
            pass_handshake(w, f, &s)
            return False
    if f.r != NULL:
        return hear_passed(w, f, &s, memory)
    if ST_EARLY <= f.f.state <= ST_BRIDGE:
        take_marks(w, f)
        if is_older(f, &s):
            w.n.segments_older += 1
            return False
    numbers_of(f, &s, &numbers)
    h.what = h.sacks = 0
    seen = f.f.snd_nxt
    if numbers.rst:
        flow_sends_rest(w, f)
    flow_segment(&f.f, config_of(w, f), &numbers, w.now, &out)
    stamp_echoed(f, &s)
    f.longest = max(f.longest, s.gso_size if s.gso_size else <uint16_t>min(s.length, <uint32_t>0xFFFF))
    if f.bits & F_TWIN and f.f.state == ST_ENGAGED:
        twin_hear(&f.active.t, &s, w.now, &h)
        if out.actions & DO_SEND_DATA:
            repeated(f, &h)
        if h.what & (HEARD_DATA | HEARD_NEW) == HEARD_DATA:
            lane_doubt(w, f)            # for want of an acknowledgement, which may have been dropped here
            if not out.actions & DO_SEND_DATA:
                keep_repeated(w, f, &s)
            if f.f.peer_edge == f.f.snd_una:
                f.bits |= F_ASKED       # it repeats what the window has closed on: if the peer answers, it must hear of it
    memset(&c, 0, sizeof(c))
    c.s, c.memory = &s, memory
    if w.tap != NULL and s.length and f.f.state == ST_ENGAGED:
        tap_segment(w, f, memory, &s, seen)
        c.lent = memory != NULL         # as long as it looks
    act(w, f, &out, &c)
    if out.actions & DO_SEND_SACK:
        say_sack(w, f, &h)
    if <uint32_t>(f.f.tsval - f.told_ts) > A_DAY:
        flow_tells_day(w, f)
    if s.length and w.redirects != NULL:
        adopt_later(w, f)
    if h.what & HEARD_AGAIN:
        refuse(w, f, h.again_from)
    if h.sacks and h.sack[0][0] < h.ack:
        flow_doubt(w, f)                # RFC 2883: it was given something twice. Not by us, or seldom: by the wire, then
    is_due(w, f)
    if f.bits & F_SOCKET_GONE and f.f.state == ST_ENGAGED and has_fin(f):
        flow_lingered(w, f)
    return c.lent
