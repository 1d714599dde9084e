"""The engine's end of one flow: a TCP endpoint in user space on a link that loses next to nothing.

What it says to the local TCP, and why that is safe (docs/twin.md):

1. It never acknowledges what the remote TCP has not acknowledged to the other engine, nor what the local TCP
   has not sent: what is told beyond that is dropped.
2. It gives the local TCP only bytes that its owner brings, within the window that TCP has opened.
3. All else is self-healing: an ACK of ours that is lost comes again when the local TCP repeats itself
   (HEARD_STALE), a lost window by its probe, bytes it did not take by `deadline` or three duplicate ACKs.
4. A number that is further than 2^30 from those known is not believed and changes nothing.
5. Timestamps: it says the remote one's that the local TCP has echoed, so never one that the other end has not
   reached, and never an older one. It echoes that of the segment whose bytes are acknowledged, a repeated
   segment's only if the owner says so: a retransmission that was needless is undone then (RFC 3522).
6. The acknowledgement is coalesced: due after ACK_EVERY bytes or half the window, else when idle.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from hooker.tcp.numbers cimport FAR, NOWHERE, is_far, is_newer, position_of
from hooker.tcp.segment cimport (
    ECN_CE, FLAG_ACK, FLAG_CWR, FLAG_ECE, FLAG_FIN, FLAG_PSH, FLAG_RST, FLAG_SYN, FLAG_URG, HAS_SACK,
    HAS_TIMESTAMPS, IPV4_HEADER, IPV6_HEADER, MAX_OPTIONS, MAX_PACKET, MAX_SACKS, MAX_WSCALE, TCP_HEADER,
    Segment, address_size, segment_build,
)

cdef enum:
    ACK_EVERY = 400000          # bytes: one ACK for each segment costs the local TCP half as much again
    MOST_SAID = 65535           # of a window, before it is shifted
    MIN_MSS = 48                # below it is a trick to make us send headers only; Linux's least is 48 too
    DUPLICATES = 3              # RFC 5681 3.2
    MICROSECOND = 1000          # ns
    STAMP = 1000                # us: one of Linux's timestamps
    RETRY = 300000000           # ns: longer than a delayed ACK, which Linux bounds by 200 ms
    MAX_RETRY_SHIFT = 5         # so at most 9.6 s


cdef bint twin_init(twin *t, const twin_start *s) noexcept nogil:
    memset(t, 0, sizeof(twin))
    if s.version != 4 and s.version != 6 or s.mss < MIN_MSS:
        return False
    if s.local_wscale > MAX_WSCALE or s.remote_wscale > MAX_WSCALE or s.window > FAR:
        return False
    if s.acked == 0 or s.received == 0 or s.acked > s.sent or s.edge < s.acked:
        return False
    if is_far(s.sent, s.acked) or is_far(s.edge, s.acked):
        return False
    t.version, t.mss = s.version, s.mss
    memcpy(t.local, s.local, 16)
    memcpy(t.remote, s.remote, 16)
    t.local_port, t.remote_port = s.local_port, s.remote_port
    t.local_isn, t.remote_isn = s.local_isn, s.remote_isn
    t.local_wscale, t.remote_wscale = s.local_wscale, s.remote_wscale
    t.up_seen, t.up_acked, t.up_edge = s.sent, s.acked, s.edge
    t.up_said, t.up_said_edge = s.acked, s.edge
    t.down_acked = t.down_handed = t.down_most = s.received
    t.down_edge = s.received + s.window
    t.up_fin = t.down_fin = t.deadline = NOWHERE
    t.ts_said, t.ts_echo, t.ts_newest = s.ts_remote, s.ts_local, s.ts_local
    t.ts_back = t.ts_echo
    if not s.rested:
        t.ts_back -= s.away_us // STAMP         # nobody can have answered the newest yet
    t.away_us = s.away_us
    if s.timestamps:
        t.flags |= TWIN_TIMESTAMPS
    if s.sack:
        t.flags |= TWIN_SACK
    return True


cdef bint twin_matches(const twin *t, const Segment *s) noexcept nogil:
    cdef uint32_t n = address_size(t.version)
    return (s.version == t.version and s.src_port == t.local_port and s.dst_port == t.remote_port
            and memcmp(s.src, t.local, n) == 0 and memcmp(s.dst, t.remote, n) == 0)


# ---- what the local TCP says ------------------------------------------------------------------------------

cdef void arm(twin *t, uint64_t now) noexcept nogil:
    """The deadline runs while bytes that were given without a hole are not acknowledged."""
    t.deadline = now + (<uint64_t>RETRY << t.backoff) if t.down_handed > t.down_acked else NOWHERE


cdef inline void close_hole(twin *t) noexcept nogil:
    """What it was given beyond the hole follows without one now, if the local TCP has it still."""
    cdef int32_t more = <int32_t>(t.beyond_to - <uint32_t>t.down_handed)
    if t.beyond_from == t.beyond_to or <int32_t>(t.beyond_from - <uint32_t>t.down_handed) > 0:
        return
    if more > 0:
        t.down_handed += more
    t.beyond_from = t.beyond_to = 0


cdef void note_beyond(twin *t, uint32_t start, uint32_t end) noexcept nogil:
    """One range is enough: whatever is missing of it tells of all that follows."""
    if t.beyond_from == t.beyond_to or <int32_t>(t.beyond_from - end) > 0:
        t.beyond_from, t.beyond_to = start, end
    elif <int32_t>(start - t.beyond_to) <= 0:
        if <int32_t>(t.beyond_from - start) > 0:
            t.beyond_from = start
        if <int32_t>(end - t.beyond_to) > 0:
            t.beyond_to = end


cdef void hear_acknowledgement(twin *t, uint64_t ack, uint64_t edge, uint64_t now, heard *h) noexcept nogil:
    h.ack, h.edge = ack, edge
    if ack < t.down_acked:                      # an old one, overtaken
        h.ack, h.edge = t.down_acked, t.down_edge
        return
    if ack > t.down_acked:
        h.what |= HEARD_ACK
        if ack > t.down_most:
            h.what |= HEARD_AHEAD
        t.down_acked = ack
        t.down_handed = max(t.down_handed, ack)
        t.down_most = max(t.down_most, ack)
        close_hole(t)
        t.backoff = t.repeats = 0
        arm(t, now)
    if edge > t.down_edge:
        h.what |= HEARD_EDGE
        t.down_edge = edge
    h.edge = t.down_edge


cdef void hear_loss(twin *t, uint64_t edge, heard *h) noexcept nogil:
    """What was given without a hole is missing below a block, or the window ends before what was given within it.

    The device keeps the order, so no third duplicate is needed: the local TCP has dropped it, for want of room. Beyond its
    window it has nothing, also where the hole in front was filled by the wire; and there it would not take our ACKs.
    """
    cdef uint32_t i
    cdef uint64_t to = NOWHERE, given = t.down_handed
    for i in range(h.sacks):
        if h.sack[i][0] > t.down_acked:
            to = min(to, h.sack[i][0])
    if edge < t.down_most:
        if to == NOWHERE:
            to = given = t.down_most
        t.down_most = max(edge, t.down_acked)
        t.beyond_from = t.beyond_to = 0
    if t.down_acked < to <= given:
        h.what |= HEARD_AGAIN
        h.again_from, h.again_to = t.down_acked, to
        t.down_handed = t.down_acked
        t.beyond_from = t.beyond_to = 0
        t.deadline = NOWHERE


cdef void hear_duplicate(twin *t, heard *h) noexcept nogil:
    """The third in a row: what was given below the first block, or just the next segment, is missing.

    Where nothing was given, the transport has it still, or has lost it.
    """
    cdef uint32_t i
    cdef uint64_t to = t.down_handed
    h.what |= HEARD_DUPLICATE
    if t.repeats < 255:
        t.repeats += 1
    if t.repeats != DUPLICATES:
        return
    if h.sacks == 0:
        to = min(to, t.down_acked + t.mss)
    for i in range(h.sacks):
        if h.sack[i][0] > t.down_acked:
            to = min(to, h.sack[i][0])
    if to > t.down_acked:
        h.what |= HEARD_AGAIN
        h.again_from, h.again_to = t.down_acked, to


cdef void hear_sacks(twin *t, const Segment *s, heard *h) noexcept nogil:
    cdef uint32_t i
    cdef uint64_t start, end
    if not (s.options & HAS_SACK and t.flags & TWIN_SACK):
        return
    for i in range(s.sacks):
        start = position_of(s.sack[i][0], t.remote_isn, t.down_acked)
        end = position_of(s.sack[i][1], t.remote_isn, t.down_acked)
        if start != NOWHERE and end != NOWHERE and start < end:
            h.sack[h.sacks][0], h.sack[h.sacks][1] = start, end
            h.sacks += 1


cdef inline void echo(twin *t, uint32_t ts) noexcept nogil:
    if is_newer(ts, t.ts_echo):
        t.ts_echo = ts
    if is_newer(ts, t.ts_back):
        t.ts_back = ts


cdef inline void ripen(twin *t, uint64_t now) noexcept nogil:
    if t.flags & TWIN_AGING and <uint32_t>(now // MICROSECOND) - t.aging_us >= t.away_us:
        t.flags &= ~TWIN_AGING
        echo(t, t.aging_ts)


cdef bint twin_rests(twin *t, uint64_t now) noexcept nogil:
    ripen(t, now)
    return (t.up_seen == t.up_acked == t.up_said and t.down_most == t.down_handed == t.down_acked
            and t.up_fin == t.down_fin == NOWHERE and t.deadline == NOWHERE and not twin_wants_ack(t)
            and not t.flags & ~<uint8_t>(TWIN_TIMESTAMPS | TWIN_SACK))


cdef void age(twin *t, uint32_t ts, uint64_t now) noexcept nogil:
    """The local TCP measures by the echo how long its ACK was on its way to the remote TCP and bytes back, and what it reads
    in that time is what its window must be. Echoed at once, by bytes that had been under way, it would measure nothing."""
    if t.away_us == 0:
        echo(t, ts)
        return
    if is_newer(ts, t.ts_echo):
        t.ts_echo = ts
    ripen(t, now)
    if not t.flags & TWIN_AGING:
        t.aging_ts, t.aging_us = ts, <uint32_t>(now // MICROSECOND)
        t.flags |= TWIN_AGING


cdef void hear_timestamps(twin *t, const Segment *s, uint64_t seq, bint fresh, uint64_t now, heard *h) noexcept nogil:
    """`fresh`: the segment repeats nothing."""
    if not (s.options & HAS_TIMESTAMPS and t.flags & TWIN_TIMESTAMPS):
        return
    h.what |= HEARD_TIMESTAMPS
    h.ts_value, h.ts_echo = s.ts_value, s.ts_echo
    if is_newer(s.ts_value, t.ts_newest):
        t.ts_newest = s.ts_value
    if is_newer(s.ts_echo, t.ts_said):
        t.ts_said = s.ts_echo
    if not fresh:
        return
    if seq <= t.up_said and s.length == 0 and not s.flags & FLAG_FIN:
        age(t, s.ts_value, now)
    elif seq <= t.up_said:                      # RFC 7323 4.3
        echo(t, s.ts_value)
    elif not t.flags & TWIN_MARKED:
        t.mark_ts, t.mark_end = s.ts_value, <uint32_t>seq + s.length
        t.flags |= TWIN_MARKED


cdef void hear_reset(twin *t, const Segment *s, uint64_t seq, heard *h) noexcept nogil:
    """RFC 9293 3.10.7.4: within the window that it was given; an abort is at its snd_nxt, or at the edge."""
    if seq < t.up_said or seq > max(t.up_seen, t.up_said_edge):
        h.what = HEARD_DROPPED
        return
    h.what |= HEARD_RESET
    if not s.flags & FLAG_ACK:                  # RFC 9293 3.5.2: the answer of a host that has no such socket
        h.what |= HEARD_NO_SOCKET
    h.position = seq
    t.flags |= TWIN_OVER
    t.deadline = NOWHERE


cdef void hear_bytes(twin *t, const Segment *s, uint64_t seq, heard *h) noexcept nogil:
    """Data and FIN, without what the remote TCP has acknowledged."""
    cdef uint64_t end = seq + s.length
    cdef uint64_t skip = t.up_acked - seq if t.up_acked > seq else 0
    cdef bint fin = s.flags & FLAG_FIN
    if end + fin <= t.up_acked:
        h.what |= HEARD_STALE
        t.flags |= TWIN_PROMPT
        return
    h.what |= HEARD_DATA
    skip = min(skip, <uint64_t>s.length)
    h.position, h.data, h.length = seq + skip, s.data + skip, s.length - <uint32_t>skip
    if fin:
        h.what |= HEARD_FIN
        t.up_fin = end
    if s.flags & FLAG_PSH:
        h.what |= HEARD_PUSH
    if end + fin > t.up_seen:
        h.what |= HEARD_NEW
        t.up_seen = end + fin


cdef bint is_consistent(const twin *t, const Segment *s, uint64_t seq) noexcept nogil:
    """Nothing follows a FIN, and there is one only."""
    cdef uint64_t end = seq + s.length
    if t.up_fin != NOWHERE:
        return end <= t.up_fin + (s.length == 0) and not (s.flags & FLAG_FIN and end != t.up_fin)
    return not s.flags & FLAG_FIN or end >= t.up_seen


cdef void hear_segment(twin *t, const Segment *s, uint64_t seq, uint64_t ack, uint64_t now,
                       heard *h) noexcept nogil:
    cdef uint64_t edge = ack + (<uint64_t>s.window << t.local_wscale)
    cdef bint carries = s.length > 0 or s.flags & FLAG_FIN
    cdef bint fresh = seq >= t.up_seen
    hear_acknowledgement(t, ack, edge, now, h)
    hear_sacks(t, s, h)
    if s.flags & FLAG_URG:
        h.what |= HEARD_URGENT
        h.urgent = seq + s.urgent
        h.position = seq
    if s.length <= 1 and not s.flags & FLAG_FIN and seq < t.up_said:
        h.what |= HEARD_PROBE                   # RFC 9293 3.8.4: below what is acknowledged
    elif carries:
        hear_bytes(t, s, seq, h)
    else:
        t.up_seen = max(t.up_seen, seq)
        if ack == t.down_acked and t.down_most > ack and not h.what & (HEARD_ACK | HEARD_EDGE):
            hear_duplicate(t, h)
    if ack == t.down_acked:
        hear_loss(t, edge, h)
    hear_timestamps(t, s, seq, fresh, now, h)
    if t.flags & TWIN_ABORTING:
        h.what |= HEARD_CHALLENGE


cdef void twin_hear(twin *t, const Segment *s, uint64_t now, heard *out) noexcept nogil:
    cdef uint64_t seq, ack
    memset(out, 0, sizeof(heard))
    out.flags, out.ecn = s.flags, s.ecn
    if s.flags & FLAG_SYN:
        out.what = HEARD_SYN
        return
    seq = position_of(s.seq, t.local_isn, t.up_seen)
    if seq == NOWHERE or not s.flags & (FLAG_ACK | FLAG_RST):
        out.what = HEARD_DROPPED
        return
    if s.flags & FLAG_RST:
        hear_reset(t, s, seq, out)
        return
    ack = position_of(s.ack, t.remote_isn, t.down_acked)
    if ack == NOWHERE or not is_consistent(t, s, seq):
        out.what = HEARD_DROPPED
        return
    hear_segment(t, s, seq, ack, now, out)


# ---- what the remote TCP has acknowledged -----------------------------------------------------------------

cdef uint16_t said_window(const twin *t) noexcept nogil:
    """As it stands in a header."""
    cdef uint64_t window = (t.up_edge - t.up_acked) >> t.remote_wscale
    return <uint16_t>min(window, <uint64_t>MOST_SAID)


cdef uint64_t said_edge(const twin *t) noexcept nogil:
    return t.up_acked + (<uint64_t>said_window(t) << t.remote_wscale)


cdef told twin_acked(twin *t, uint64_t position, uint64_t edge) noexcept nogil:
    if is_far(position, t.up_acked):
        return TOLD_FAR
    if position > t.up_seen:
        return TOLD_BEYOND
    if position > t.up_acked:
        t.up_acked = position
        if t.flags & TWIN_MARKED and <int32_t>(<uint32_t>position - t.mark_end) >= 0:
            t.flags &= ~(TWIN_MARKED | TWIN_REPEATED)
            echo(t, t.mark_ts)
    if edge > t.up_edge and not is_far(edge, t.up_acked):
        t.up_edge = edge
    t.up_edge = max(t.up_edge, t.up_acked)
    if not twin_wants_ack(t):
        return TOLD_NOTHING
    return TOLD_DUE if is_due(t) else TOLD_NEWS


cdef bint is_due(const twin *t) noexcept nogil:
    """The local TCP waits for it, or soon will: its FIN, its window, or many bytes."""
    cdef uint64_t progress = t.up_acked - t.up_said
    cdef uint64_t left = t.up_said_edge - t.up_seen if t.up_said_edge > t.up_seen else 0
    cdef uint64_t edge = said_edge(t)
    cdef uint64_t opened = edge - t.up_said_edge if edge > t.up_said_edge else 0
    if t.flags & TWIN_PROMPT or progress >= ACK_EVERY:
        return True
    if progress > 0 and t.up_fin != NOWHERE and t.up_acked > t.up_fin:
        return True
    return opened > 0 and left < max(opened, <uint64_t>t.mss)


cdef void twin_withdraw(twin *t, uint64_t edge) noexcept nogil:
    if edge < t.up_edge:
        t.up_edge = max(edge, t.up_acked)
        t.flags |= TWIN_PROMPT


cdef void twin_echo(twin *t, uint32_t ts) noexcept nogil:
    if not is_newer(ts, t.ts_newest):
        echo(t, ts)


cdef void twin_repeated(twin *t, uint32_t ts, uint32_t end) noexcept nogil:
    """Not at once: an acknowledgement of other bytes that comes sooner would tell of a round trip that nothing took, and bbr's
    model believes the least. What is acknowledged already was so by an earlier copy."""
    if is_newer(ts, t.ts_newest) or <int32_t>(<uint32_t>t.up_acked - end) >= 0:
        return
    if not t.flags & TWIN_REPEATED or <int32_t>(end - t.mark_end) <= 0:
        t.mark_ts, t.mark_end = ts, end
        t.flags |= TWIN_MARKED | TWIN_REPEATED


cdef void twin_stamp(twin *t, uint32_t ts) noexcept nogil:
    if is_newer(ts, t.ts_said):
        t.ts_said = ts


cdef bint twin_wants_ack(const twin *t) noexcept nogil:
    return t.flags & TWIN_PROMPT or t.up_acked != t.up_said or said_edge(t) > t.up_said_edge


# ---- what it says to the local TCP ------------------------------------------------------------------------

cdef void begin(const twin *t, uint64_t seq, uint64_t ack, uint8_t flags, Segment *s) noexcept nogil:
    memset(s, 0, sizeof(Segment))
    s.version, s.src, s.dst = t.version, <const uint8_t *>t.remote, <const uint8_t *>t.local
    s.src_port, s.dst_port = t.remote_port, t.local_port
    s.seq, s.ack = t.remote_isn + <uint32_t>seq, t.local_isn + <uint32_t>ack
    s.flags = FLAG_ACK | flags
    s.window = said_window(t)
    if t.flags & TWIN_TIMESTAMPS:
        s.options = HAS_TIMESTAMPS
        s.ts_value, s.ts_echo = t.ts_said, t.ts_back


cdef void finish(const Segment *s, twin_segment *out) noexcept nogil:
    out.data, out.length = s.data, s.length
    out.header = segment_build(s, True, out.head)


cdef void note_said(twin *t) noexcept nogil:
    """A segment at our next number carries the acknowledgement and the window."""
    t.up_said = t.up_acked
    t.up_said_edge = said_edge(t)
    t.flags &= ~TWIN_PROMPT


cdef void twin_ack(twin *t, const ack_extra *x, twin_segment *out) noexcept nogil:
    cdef Segment s
    cdef uint32_t i
    begin(t, t.down_most, t.up_acked, FLAG_ECE if x != NULL and x.ece else 0, &s)
    if x != NULL and t.flags & TWIN_SACK:
        for i in range(min(<uint32_t>x.sacks, <uint32_t>MAX_SACKS)):
            if x.sack[i][0] < x.sack[i][1] <= t.up_seen:        # never what the local TCP has not sent
                s.sack[s.sacks][0] = t.local_isn + <uint32_t>x.sack[i][0]
                s.sack[s.sacks][1] = t.local_isn + <uint32_t>x.sack[i][1]
                s.sacks += 1
        if s.sacks:
            s.options |= HAS_SACK
    note_said(t)
    finish(&s, out)


cdef void twin_probe(const twin *t, bint byte, twin_segment *out) noexcept nogil:
    """At a place before the window: a TCP answers where it stands, RFC 9293 3.10.7.4.

    Without a timestamp: the twin may not know the newest, and Linux drops an old one's segment unanswered (from 6.13 on).
    A byte ends before the window, too: the answer to one that touches it waits for bytes to go with, which may be held.
    """
    cdef Segment s
    begin(t, t.down_acked - (2 if byte else 1), t.up_said - 1, 0, &s)
    s.options = 0
    if byte:
        s.data, s.length = <const uint8_t *><const char *>b"?", 1
    finish(&s, out)


cdef void twin_reset(twin *t, twin_segment *out) noexcept nogil:
    """At its next number exactly (RFC 5961 3.2): what it was given; after its challenge, what it said."""
    cdef Segment s
    begin(t, t.down_acked if t.flags & TWIN_ABORTING else t.down_handed, t.up_acked, FLAG_RST, &s)
    t.flags |= TWIN_ABORTING
    t.deadline = NOWHERE
    finish(&s, out)


cdef uint32_t largest(const twin *t, uint32_t segment) noexcept nogil:
    """Bytes of data in one segment of TSO: whole segments of the wire."""
    cdef uint32_t headers = (IPV4_HEADER if t.version == 4 else IPV6_HEADER) + TCP_HEADER + MAX_OPTIONS
    cdef uint32_t room = MAX_PACKET - headers
    return room - room % segment


cdef void trim_end(const twin *t, delivery *d) noexcept nogil:
    """Nothing follows a FIN, and there is one only."""
    cdef uint64_t end = d.position + d.length
    if t.down_fin == NOWHERE:
        if end < t.down_most:
            d.flags &= ~DELIVER_FIN
        return
    if end != t.down_fin:
        d.flags &= ~DELIVER_FIN
    if end > t.down_fin:
        d.length = <uint32_t>(t.down_fin - d.position) if t.down_fin > d.position else 0


cdef void trim_delivery(const twin *t, delivery *d) noexcept nogil:
    """Without what the local TCP has."""
    cdef uint64_t old
    if is_far(d.position, t.down_acked):
        d.length = d.flags = 0
        return
    trim_end(t, d)
    if d.position < t.down_acked:
        old = min(t.down_acked - d.position, <uint64_t>d.length)
        d.position += old
        d.data += old
        d.length -= <uint32_t>old
    if d.flags & DELIVER_URGENT and (d.urgent <= t.down_acked or is_far(d.urgent, t.down_acked)):
        d.flags &= ~DELIVER_URGENT
    if d.length == 0:
        d.flags &= DELIVER_FIN | DELIVER_URGENT
        if d.position < t.down_acked:           # the FIN too is old; what is urgent may be still to come
            d.position = t.down_acked
            d.flags &= ~DELIVER_FIN


cdef uint8_t delivery_flags(const delivery *d, uint32_t n, bint fin, Segment *s) noexcept nogil:
    cdef uint8_t flags = 0
    if fin:
        flags |= FLAG_FIN
    if n == d.length and (fin or d.flags & DELIVER_PUSH):
        flags |= FLAG_PSH
    if d.flags & DELIVER_CWR:
        flags |= FLAG_CWR
    if d.flags & DELIVER_URGENT and d.urgent > d.position:
        flags |= FLAG_URG
        s.urgent = <uint16_t>min(d.urgent - d.position, <uint64_t>0xFFFF)
    return flags


cdef void note_given(twin *t, uint64_t start, uint64_t end, uint64_t now) noexcept nogil:
    t.down_most = max(t.down_most, end)
    if start > t.down_handed:
        note_beyond(t, <uint32_t>start, <uint32_t>end)
    elif end > t.down_handed:
        t.down_handed = end
        close_hole(t)
        if t.deadline == NOWHERE:
            arm(t, now)


cdef bint twin_deliver(twin *t, delivery *d, uint64_t now, twin_segment *out) noexcept nogil:
    cdef Segment s
    cdef uint64_t room
    cdef uint16_t size = d.segment if d.segment else t.mss
    cdef uint32_t n
    cdef bint fin
    trim_delivery(t, d)
    ripen(t, now)
    room = t.down_edge - d.position if t.down_edge > d.position else 0
    n = <uint32_t>min(room, <uint64_t>min(d.length, largest(t, size)))
    fin = d.flags & DELIVER_FIN and n == d.length and room > n      # a FIN takes place in the window
    if n == 0 and not fin and not (d.flags & DELIVER_URGENT and d.length == 0):
        return False
    begin(t, d.position, t.up_acked, 0, &s)
    s.flags |= delivery_flags(d, n, fin, &s)
    if d.flags & DELIVER_CE:
        s.ecn = ECN_CE
    if d.flags & DELIVER_TIMESTAMP and is_newer(d.ts, t.ts_said):
        s.ts_value = d.ts
    s.data, s.length, s.gso_size = d.data, n, size
    if d.position >= t.down_most:
        note_said(t)
    note_given(t, d.position, d.position + n + fin, now)
    if fin:
        t.down_fin = d.position + n
    d.position += n
    d.data += n
    d.length -= n
    d.flags &= ~(DELIVER_CWR | (DELIVER_FIN if fin else 0))
    if d.length == 0:
        d.flags &= DELIVER_FIN
    finish(&s, out)
    return True


# ---- time -------------------------------------------------------------------------------------------------

cdef bint twin_expired(twin *t, uint64_t now, uint64_t *again_from, uint64_t *again_to) noexcept nogil:
    if now < t.deadline or t.deadline == NOWHERE:
        return False
    again_from[0], again_to[0] = t.down_acked, t.down_handed
    if t.backoff < MAX_RETRY_SHIFT:
        t.backoff += 1
    arm(t, now)
    return again_to[0] > again_from[0]


cdef bint twin_fin_taken(const twin *t) noexcept nogil:
    return t.down_fin != NOWHERE and t.down_acked > t.down_fin


cdef bint twin_finished(const twin *t) noexcept nogil:
    if t.flags & TWIN_OVER:
        return True
    return t.up_fin != NOWHERE and t.up_acked > t.up_fin and twin_fin_taken(t)
