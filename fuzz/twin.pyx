"""A local TCP that says anything, a remote one that tells anything, and packets that are none, into one twin.

What must hold: what it says is a segment of the connection, within the local TCP's window, and acknowledges
nothing that was not both sent and told; what is read lies within the packet, and made again it is the same.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from hooker.tcp.numbers cimport FAR, is_far, position_of
from hooker.tcp.segment cimport (
    FLAG_ACK, HAS_SACK, HAS_TIMESTAMPS, MAX_HEADERS, MAX_PACKET, SEGMENT_OK, VNET_HEADER, Segment,
    cut_room, segment_build, segment_cut, segment_parse,
)
from hooker.tcp.twin cimport (
    TWIN_SACK, TWIN_TIMESTAMPS, ack_extra, delivery, heard, twin, twin_ack, twin_acked, twin_deliver,
    twin_echo, twin_expired, twin_finished, twin_hear, twin_init, twin_matches, twin_probe, twin_repeated,
    twin_reset, twin_rests, twin_segment, twin_stamp, twin_start, twin_wants_ack, twin_withdraw,
)
from fuzz.input cimport Input, next8, next16, next32
from fuzz.side cimport fail, failure, forget_failure

cdef enum:
    SCRATCH = 70000
    MOST_SEGMENTS = 64          # of one delivery


cdef struct Bed:
    twin t
    uint64_t now
    uint64_t told               # the most that was told to be acknowledged
    uint64_t window             # the furthest right edge that the local TCP may have shown
    uint8_t *scratch


cdef uint32_t near(Input *i, uint64_t position, uint32_t isn) noexcept nogil:
    """A sequence number: mostly near a position, sometimes anywhere."""
    cdef uint8_t how = next8(i)
    if how < 200:
        return isn + <uint32_t>position + how - 100
    if how < 240:
        return isn + <uint32_t>position + next16(i)
    return next32(i)


cdef bint same(const Segment *a, const Segment *b) noexcept nogil:
    cdef uint32_t k
    for k in range(a.sacks if a.sacks == b.sacks else 0):
        if a.sack[k][0] != b.sack[k][0] or a.sack[k][1] != b.sack[k][1]:
            return False
    return (a.seq == b.seq and a.ack == b.ack and a.flags == b.flags and a.window == b.window
            and a.urgent == b.urgent and a.options == b.options and a.ts_value == b.ts_value
            and a.ts_echo == b.ts_echo and a.length == b.length and a.ecn == b.ecn and a.mss == b.mss
            and a.wscale == b.wscale and a.sacks == b.sacks and memcmp(a.data, b.data, a.length) == 0)


cdef void remake(Bed *b, const Segment *s, bint partial) noexcept nogil:
    """What was read can be written, and is read the same."""
    cdef Segment again
    cdef uint8_t head[MAX_HEADERS]
    cdef uint32_t n
    if s.length > MAX_PACKET - MAX_HEADERS:
        return
    n = segment_build(s, partial, head)
    memcpy(b.scratch, head, n)
    memcpy(b.scratch + n, s.data, s.length)
    if segment_parse(b.scratch, n + s.length, &again) != SEGMENT_OK:
        fail("a segment that was made is refused")
    elif not same(s, &again):
        fail("a segment changed on its way")


cdef void cut_up(Bed *b, const Segment *s, uint32_t size) noexcept nogil:
    """What goes to a wire is read again, complete."""
    cdef Segment piece
    cdef uint32_t at = 0, n, mss = cut_room(s, size)
    while failure() == NULL:
        memset(b.scratch, 0, VNET_HEADER)
        n = segment_cut(s, at, size, b.scratch + VNET_HEADER)
        if segment_parse(b.scratch, VNET_HEADER + n, &piece) != SEGMENT_OK:
            fail("a packet for a wire is refused")
        elif piece.length != min(mss, s.length - at) or memcmp(piece.data, s.data + at, piece.length):
            fail("a packet for a wire has other bytes")
        at += mss
        if at >= s.length:
            return


cdef void check_said(Bed *b, const twin_segment *out) noexcept nogil:
    cdef Segment s
    cdef uint64_t seq, ack
    if out.header > MAX_HEADERS or out.header + out.length > SCRATCH:
        fail("a segment too large")
        return
    memcpy(b.scratch, out.head, out.header)
    if out.length:
        memcpy(b.scratch + out.header, out.data, out.length)
    if segment_parse(b.scratch, out.header + out.length, &s) != SEGMENT_OK:
        fail("a twin's segment is refused")
        return
    seq = position_of(s.seq, b.t.remote_isn, b.t.down_most)
    ack = position_of(s.ack, b.t.local_isn, b.t.up_acked)
    if not s.flags & FLAG_ACK or s.src_port != b.t.remote_port or s.dst_port != b.t.local_port:
        fail("a segment of another connection")
    if ack > b.t.up_seen or ack > b.told:
        fail("an acknowledgement of what was not sent or not told")
    if s.length and seq + s.length > b.window:
        fail("bytes beyond the window")


cdef void check_twin(const Bed *b) noexcept nogil:
    cdef const twin *t = &b.t
    if t.up_acked > t.up_seen or t.up_said > t.up_acked:
        fail("acknowledged more than was sent")
    if t.up_edge < t.up_acked or is_far(t.up_edge, t.up_acked):
        fail("a window that cannot be")
    if <int32_t>(t.ts_newest - t.ts_echo) < 0:
        fail("an echo of what was never said")
    if t.down_handed < t.down_acked or t.down_most < t.down_handed:
        fail("positions out of order")


cdef void hear(Bed *b, const Segment *s, const uint8_t *start, size_t n) noexcept nogil:
    cdef heard h
    twin_hear(&b.t, s, b.now, &h)
    if h.length and (h.data < start or h.data + h.length > start + n):
        fail("heard bytes that are not the segment's")
    if h.edge > b.window:
        b.window = h.edge


cdef void raw_packet(Bed *b, Input *i) noexcept nogil:
    """Bytes of the input as they are."""
    cdef Segment s
    cdef size_t n = next8(i)
    cdef uint8_t *copy
    n = min(n, i.n)
    copy = <uint8_t *>malloc(n if n else 1)
    memcpy(copy, i.p, n)
    i.p += n
    i.n -= n
    if segment_parse(copy, n, &s) == SEGMENT_OK:
        if s.data < copy or s.data + s.length > copy + n:
            fail("data outside of the packet")
        else:
            remake(b, &s, n & 1)
            cut_up(b, &s, 2 * n)
            twin_matches(&b.t, &s)
            hear(b, &s, copy, n)
    free(copy)


cdef void spoken(Bed *b, Input *i) noexcept nogil:
    """A segment with numbers near the connection's."""
    cdef Segment s
    cdef uint32_t n = next8(i)
    cdef uint8_t *data = <uint8_t *>malloc(n if n else 1)
    cdef uint32_t k
    memset(data, 7, n if n else 1)
    memset(&s, 0, sizeof(s))
    s.version, s.src, s.dst = b.t.version, <const uint8_t *>b.t.local, <const uint8_t *>b.t.remote
    s.src_port, s.dst_port = b.t.local_port, b.t.remote_port
    s.seq, s.ack = near(i, b.t.up_seen, b.t.local_isn), near(i, b.t.down_acked, b.t.remote_isn)
    s.flags, s.window, s.urgent = next8(i), next16(i), next8(i)
    s.data, s.length = data, n
    if next8(i) & 1:
        s.options |= HAS_TIMESTAMPS
        s.ts_value, s.ts_echo = b.t.ts_echo + next8(i), b.t.ts_said + next8(i)
    s.sacks = next8(i) % 4
    for k in range(s.sacks):
        s.sack[k][0] = near(i, b.t.down_acked, b.t.remote_isn)
        s.sack[k][1] = near(i, b.t.down_acked, b.t.remote_isn)
    if s.sacks:
        s.options |= HAS_SACK
    remake(b, &s, n & 1)
    hear(b, &s, data, n)
    free(data)


cdef void bytes_for_it(Bed *b, Input *i) noexcept nogil:
    cdef delivery d
    cdef twin_segment out
    cdef uint32_t n = next16(i) if next8(i) & 1 else next8(i), k
    cdef uint8_t *data = <uint8_t *>malloc(n if n else 1)
    cdef const uint8_t *end = data + n
    memset(data, 9, n if n else 1)
    memset(&d, 0, sizeof(d))
    d.position = b.t.down_handed + next16(i) - 1000
    d.urgent = d.position + next8(i)
    d.flags, d.length, d.data = next8(i) & 63, n, data
    d.ts = b.t.ts_said + next8(i)
    for k in range(MOST_SEGMENTS):
        if not twin_deliver(&b.t, &d, b.now, &out):
            break
        check_said(b, &out)
    else:
        fail("a delivery without end")
    if d.data + d.length > end:
        fail("more is left than there was")
    free(data)


cdef void told_of(Bed *b, Input *i) noexcept nogil:
    cdef uint64_t position = b.t.up_acked + next16(i) - 300
    cdef uint64_t edge = position + next32(i)
    if next8(i) > 250:
        position = <uint64_t>next32(i) << 16
    if position > b.told and not is_far(position, b.t.up_acked):
        b.told = position
    twin_acked(&b.t, position, edge)


cdef void say(Bed *b, Input *i, uint8_t what) noexcept nogil:
    cdef twin_segment out
    cdef ack_extra x
    cdef uint32_t k
    memset(&x, 0, sizeof(x))
    x.sacks, x.ece = next8(i), what & 1
    for k in range(4):
        x.sack[k][0], x.sack[k][1] = b.t.up_acked + next8(i), b.t.up_acked + next8(i)
    if what < 3:
        twin_ack(&b.t, &x if what else NULL, &out)
    elif what == 3:
        twin_probe(&b.t, False, &out)
    else:
        twin_reset(&b.t, &out)
    check_said(b, &out)


cdef void rest(Bed *b) noexcept nogil:
    """One that has nothing under way begins again where it stands, and stands there."""
    cdef twin was = b.t
    cdef twin_start s
    if not twin_rests(&b.t, b.now):
        return
    memset(&s, 0, sizeof(s))
    s.version, s.mss, s.rested = was.version, was.mss, True
    memcpy(s.local, was.local, 16)
    memcpy(s.remote, was.remote, 16)
    s.local_port, s.remote_port = was.local_port, was.remote_port
    s.local_isn, s.remote_isn = was.local_isn, was.remote_isn
    s.local_wscale, s.remote_wscale = was.local_wscale, was.remote_wscale
    s.timestamps, s.sack = was.flags & TWIN_TIMESTAMPS, was.flags & TWIN_SACK
    s.ts_local, s.ts_remote, s.away_us = was.ts_newest, was.ts_said, was.away_us
    s.sent, s.acked, s.edge = was.up_seen, was.up_acked, was.up_edge
    s.received, s.window = was.down_acked, was.down_edge - was.down_acked
    if s.window > FAR or s.edge - s.acked > FAR:
        return
    if not twin_init(&b.t, &s):
        fail("a twin at rest cannot begin again")
    elif b.t.down_most != was.down_most or b.t.up_said != was.up_said or b.t.ts_said != was.ts_said:
        fail("a twin at rest has said something else")


cdef void act(Bed *b, Input *i) noexcept nogil:
    cdef uint8_t what = next8(i) % 16
    cdef uint64_t start = 0, end = 0
    if what < 2:
        raw_packet(b, i)
    elif what < 6:
        spoken(b, i)
    elif what < 9:
        bytes_for_it(b, i)
    elif what < 12:
        told_of(b, i)
    elif what < 13:
        say(b, i, next8(i) % 5)
    elif what < 14:
        rest(b)
    elif what < 15:
        b.now += <uint64_t>next16(i) << 16
        if twin_expired(&b.t, b.now, &start, &end) and (start < b.t.down_acked or end > b.t.down_handed):
            fail("bytes asked for again that were not given")
    else:
        twin_stamp(&b.t, b.t.ts_said + next8(i))
        twin_echo(&b.t, b.t.ts_echo + next8(i))
        start = b.t.up_acked + next16(i)
        twin_repeated(&b.t, b.t.ts_newest, <uint32_t>start)
        twin_withdraw(&b.t, start)
    if twin_wants_ack(&b.t):
        twin_finished(&b.t)


cdef bint begin(Bed *b, Input *i) noexcept nogil:
    cdef twin_start s
    memset(&s, 0, sizeof(s))
    s.version = 4 if next8(i) & 1 else 6
    memset(s.local, 1, 16)
    memset(s.remote, 2, 16)
    s.local_port, s.remote_port = 1000, 80
    s.local_isn, s.remote_isn = next32(i), next32(i)
    s.acked, s.received = 1 + <uint64_t>next8(i), 1 + <uint64_t>next8(i)
    s.sent = s.acked + next16(i)
    s.edge, s.window = s.acked + next16(i), next16(i)
    s.mss = 48 + next16(i) % 9000
    s.local_wscale, s.remote_wscale = next8(i) % 16, next8(i) % 16
    s.timestamps, s.sack = next8(i) & 1, next8(i) & 1
    b.now, b.told, b.window = 0, s.acked, s.received + s.window
    return twin_init(&b.t, &s)


cdef api int one_twin(const uint8_t *data, size_t n) noexcept nogil:
    """0, or 1 when something broke; failure() says what."""
    cdef Input i
    cdef Bed b
    i.p, i.n = data, n
    forget_failure()
    if not begin(&b, &i):
        return 0
    b.scratch = <uint8_t *>malloc(SCRATCH)
    while i.n > 0 and failure() == NULL:
        act(&b, &i)
        check_twin(&b)
    free(b.scratch)
    return failure() != NULL


def replay(bytes data not None):
    """Runs one input; raises AssertionError when it breaks something."""
    if one_twin(data, len(data)):
        raise AssertionError(failure().decode())
