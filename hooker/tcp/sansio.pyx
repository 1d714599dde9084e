"""Segments and twins in Python's hands, for tests and experiments: bytes and times in and out."""

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
cimport hooker.tcp.segment as sg
cimport hooker.tcp.twin as tw

from hooker.tcp.fields import REFUSALS, Heard, Refused, Segment

_WHAT = (
    (tw.HEARD_DATA, "data"), (tw.HEARD_NEW, "new"), (tw.HEARD_FIN, "fin"), (tw.HEARD_PUSH, "push"),
    (tw.HEARD_URGENT, "urgent"), (tw.HEARD_ACK, "ack"), (tw.HEARD_EDGE, "edge"),
    (tw.HEARD_DUPLICATE, "duplicate"), (tw.HEARD_PROBE, "probe"), (tw.HEARD_STALE, "stale"),
    (tw.HEARD_AHEAD, "ahead"), (tw.HEARD_AGAIN, "again"), (tw.HEARD_RESET, "reset"),
    (tw.HEARD_NO_SOCKET, "no-socket"), (tw.HEARD_CHALLENGE, "challenge"),
    (tw.HEARD_SYN, "syn"), (tw.HEARD_DROPPED, "dropped"),
)
_TOLD = {
    tw.TOLD_NOTHING: "nothing", tw.TOLD_NEWS: "news", tw.TOLD_DUE: "due", tw.TOLD_BEYOND: "beyond",
    tw.TOLD_FAR: "far",
}
TWIN_SIZE = sizeof(tw.twin)


cdef int read(bytes packet, sg.Segment *s) except -1:
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(packet)
    cdef sg.refusal r = sg.segment_parse(p, PyBytes_GET_SIZE(packet), s)
    if r != sg.SEGMENT_OK:
        raise Refused(REFUSALS[<int>r])
    return 0


def parse(bytes packet not None):
    """The segment in a packet of a TUN device, its ``virtio_net_hdr`` in front. Raises Refused."""
    cdef sg.Segment s
    cdef uint32_t n
    read(packet, &s)
    n = sg.address_size(s.version)
    return Segment(
        src=(<const char *>s.src)[:n], dst=(<const char *>s.dst)[:n],
        src_port=s.src_port, dst_port=s.dst_port,
        seq=s.seq, ack=s.ack, flags=s.flags, window=s.window, data=(<const char *>s.data)[:s.length],
        urgent=s.urgent, mss=s.mss if s.options & sg.HAS_MSS else None,
        wscale=s.wscale if s.options & sg.HAS_WSCALE else None,
        sack_permitted=bool(s.options & sg.HAS_SACK_PERMITTED),
        timestamps=(s.ts_value, s.ts_echo) if s.options & sg.HAS_TIMESTAMPS else None,
        sacks=tuple([(s.sack[i][0], s.sack[i][1]) for i in range(s.sacks)]),
        ecn=s.ecn, gso_size=s.gso_size,
    )


def build(segment not None, *, bint partial=False):
    """The packet of a segment; ``partial``: the checksum over the data is left to the kernel."""
    cdef sg.Segment s
    cdef uint8_t head[sg.MAX_HEADERS]
    cdef bytes src = segment.src, dst = segment.dst, data = segment.data
    if len(src) != len(dst) or len(src) not in (4, 16):
        raise ValueError("addresses have 4 or 16 bytes, both as many")
    if len(data) > sg.MAX_PACKET - (sg.MAX_HEADERS - sg.VNET_HEADER):
        raise ValueError(f"{len(data)} bytes do not fit into a packet")
    memset(&s, 0, sizeof(s))
    s.version = 4 if len(src) == 4 else 6
    s.src, s.dst = <const uint8_t *>PyBytes_AS_STRING(src), <const uint8_t *>PyBytes_AS_STRING(dst)
    s.data, s.length = <const uint8_t *>PyBytes_AS_STRING(data), len(data)
    s.src_port, s.dst_port = segment.src_port, segment.dst_port
    s.seq, s.ack, s.flags = segment.seq, segment.ack, segment.flags
    s.window, s.urgent = segment.window, segment.urgent
    s.ecn, s.gso_size = segment.ecn & 3, segment.gso_size
    set_options(&s, segment)
    return (<const char *>head)[:sg.segment_build(&s, partial, head)] + data


def cut(bytes packet not None, uint32_t size):
    """The IP packets that a wire carries for a packet of the device; each has ``size`` bytes at most."""
    cdef sg.Segment s
    cdef uint32_t at = 0, n
    cdef bytearray out
    packets = []
    size = min(size, <uint32_t>sg.MAX_PACKET)
    read(packet, &s)
    out = bytearray(sg.MAX_READ_HEADERS + sg.MAX_PACKET)
    while at < s.length or not packets:
        n = sg.segment_cut(&s, at, size, <uint8_t *>PyByteArray_AS_STRING(out))
        packets.append(bytes(out[:n]))
        at += min(sg.cut_room(&s, size), s.length - at)
    return packets


cdef int set_options(sg.Segment *s, segment) except -1:
    if segment.mss is not None:
        s.mss = segment.mss
        s.options |= sg.HAS_MSS
    if segment.wscale is not None:
        s.wscale = segment.wscale
        s.options |= sg.HAS_WSCALE
    if segment.sack_permitted:
        s.options |= sg.HAS_SACK_PERMITTED
    if segment.timestamps is not None:
        s.ts_value, s.ts_echo = segment.timestamps
        s.options |= sg.HAS_TIMESTAMPS
    if segment.sacks:
        s.options |= sg.HAS_SACK
        s.sacks = <uint8_t>min(len(segment.sacks), sg.MAX_SACKS)
        for i in range(s.sacks):
            s.sack[i][0], s.sack[i][1] = segment.sacks[i]
    return 0


cdef bytes packet_of(const tw.twin_segment *s):
    return (<const char *>s.head)[:s.header] + (<const char *>s.data)[:s.length]


cdef class Twin:
    """One twin. Times are ns of any clock, positions as in ``Heard``; packets have a ``virtio_net_hdr``.

    Args:
        local, remote: (packed address, port) of the TCP it talks to, and of the one it plays.
        local_isn, remote_isn: their initial sequence numbers.
        sent, acked, edge: what the local TCP has sent, what of it is acknowledged, up to where it may send.
        received, window: what the local TCP has received, and the bytes that it takes more.
        mss: bytes of data in one segment on the wire.
        local_wscale, remote_wscale: by how much each shifts the windows it says.
        timestamps: the newest of both, each as the other end has seen it; None: not negotiated.
        away_us: the round trip to the remote TCP, microseconds; 0: not known.
    """

    cdef tw.twin t

    def __init__(self, local, remote, *, uint32_t local_isn, uint32_t remote_isn, uint64_t sent=1,
                 uint64_t acked=1, uint64_t edge=65536, uint64_t received=1, uint64_t window=65535,
                 uint32_t mss=1448, uint8_t local_wscale=0, uint8_t remote_wscale=0, timestamps=None,
                 bint sack=True, uint32_t away_us=0):
        cdef tw.twin_start s
        cdef bytes a = local[0], b = remote[0]
        if len(a) != len(b) or len(a) not in (4, 16):
            raise ValueError("addresses have 4 or 16 bytes, both as many")
        memset(&s, 0, sizeof(s))
        s.version = 4 if len(a) == 4 else 6
        memcpy(s.local, PyBytes_AS_STRING(a), len(a))
        memcpy(s.remote, PyBytes_AS_STRING(b), len(b))
        s.local_port, s.remote_port = local[1], remote[1]
        s.local_isn, s.remote_isn, s.sent, s.acked, s.edge = local_isn, remote_isn, sent, acked, edge
        s.received, s.window, s.mss, s.sack = received, window, mss, sack
        s.away_us = away_us
        s.local_wscale, s.remote_wscale = local_wscale, remote_wscale
        if timestamps is not None:
            s.timestamps = True
            s.ts_local, s.ts_remote = timestamps
        if not tw.twin_init(&self.t, &s):
            raise ValueError("these numbers cannot be those of a connection")

    def matches(self, bytes packet not None):
        """Whether the packet is one of the local TCP's, in this connection. Raises Refused."""
        cdef sg.Segment s
        read(packet, &s)
        return bool(tw.twin_matches(&self.t, &s))

    def hear(self, bytes packet not None, uint64_t now):
        """What the local TCP says in this packet. Raises Refused."""
        cdef sg.Segment s
        cdef tw.heard h
        read(packet, &s)
        tw.twin_hear(&self.t, &s, now, &h)
        return heard_of(&h)

    def deliver(self, uint64_t position, bytes data not None, uint64_t now, *, bint fin=False,
                bint push=False, urgent=None, bint ce=False, timestamp=None, uint16_t segment=0):
        """Packets for the local TCP, and how many bytes it had no room for; a FIN is one. segment: bytes in
        which the remote TCP sent them."""
        cdef tw.delivery d
        cdef tw.twin_segment out
        packets = []
        memset(&d, 0, sizeof(d))
        d.position, d.data, d.length = position, <const uint8_t *>PyBytes_AS_STRING(data), len(data)
        d.segment = segment
        d.flags = ((tw.DELIVER_FIN if fin else 0) | (tw.DELIVER_PUSH if push else 0)
                   | (tw.DELIVER_CE if ce else 0))
        if timestamp is not None:
            d.flags |= tw.DELIVER_TIMESTAMP
            d.ts = timestamp
        if urgent is not None:
            d.flags |= tw.DELIVER_URGENT
            d.urgent = urgent
        while tw.twin_deliver(&self.t, &d, now, &out):
            packets.append(packet_of(&out))
        return packets, d.length + (1 if d.flags & tw.DELIVER_FIN else 0)

    def acked(self, uint64_t position, uint64_t edge):
        """What the remote TCP has acknowledged and takes: "nothing", "news", "due"; or dropped."""
        return _TOLD[<int>tw.twin_acked(&self.t, position, edge)]

    def withdraw(self, uint64_t edge):
        """Takes a promised window back."""
        tw.twin_withdraw(&self.t, edge)

    def echo(self, uint32_t ts):
        """The local TCP's timestamp to echo from now on; one that it has not said is not believed."""
        tw.twin_echo(&self.t, ts)

    def repeated(self, uint32_t ts, uint32_t end):
        """A repeated segment has been passed on: echo *ts* when all below position *end* is acknowledged."""
        tw.twin_repeated(&self.t, ts, end)

    def stamp(self, uint32_t ts):
        """A timestamp that the remote TCP has sent."""
        tw.twin_stamp(&self.t, ts)

    def ack(self, *, sacks=(), bint ece=False):
        """An ACK for the local TCP."""
        cdef tw.twin_segment out
        cdef tw.ack_extra x
        memset(&x, 0, sizeof(x))
        x.ece, x.sacks = ece, <uint8_t>min(len(sacks), sg.MAX_SACKS)
        for i in range(x.sacks):
            x.sack[i][0], x.sack[i][1] = sacks[i]
        tw.twin_ack(&self.t, &x, &out)
        return packet_of(&out)

    def probe(self, *, bint byte=False):
        """A segment that makes the local TCP say where it stands; with an old byte, at any rate."""
        cdef tw.twin_segment out
        tw.twin_probe(&self.t, byte, &out)
        return packet_of(&out)

    def reset(self):
        """A RST for the local TCP; again after each "challenge" that is heard."""
        cdef tw.twin_segment out
        tw.twin_reset(&self.t, &out)
        return packet_of(&out)

    def expired(self, uint64_t now):
        """The positions [from, to) that should be delivered again by now, or None."""
        cdef uint64_t start, end
        return (start, end) if tw.twin_expired(&self.t, now, &start, &end) else None

    def rested(self, uint64_t now):
        """A twin that begins where this one is at rest; None: something is under way."""
        cdef Twin other
        cdef tw.twin_start s
        if not tw.twin_rests(&self.t, now):
            return None
        memset(&s, 0, sizeof(s))
        s.version, s.mss = self.t.version, self.t.mss
        memcpy(s.local, self.t.local, 16)
        memcpy(s.remote, self.t.remote, 16)
        s.local_port, s.remote_port = self.t.local_port, self.t.remote_port
        s.local_isn, s.remote_isn = self.t.local_isn, self.t.remote_isn
        s.local_wscale, s.remote_wscale = self.t.local_wscale, self.t.remote_wscale
        s.timestamps, s.sack = self.t.flags & tw.TWIN_TIMESTAMPS, self.t.flags & tw.TWIN_SACK
        s.ts_local, s.ts_remote, s.away_us = self.t.ts_newest, self.t.ts_said, self.t.away_us
        s.sent, s.acked, s.edge = self.t.up_seen, self.t.up_acked, self.t.up_edge
        s.received, s.window, s.rested = self.t.down_acked, self.t.down_edge - self.t.down_acked, True
        other = Twin.__new__(Twin)
        return other if tw.twin_init(&other.t, &s) else None

    @property
    def deadline(self):
        """When ``expired`` should be asked, or None."""
        return None if self.t.deadline == tw.NOWHERE else self.t.deadline

    @property
    def wants_ack(self):
        return bool(tw.twin_wants_ack(&self.t))

    @property
    def finished(self):
        """Both FINs are acknowledged, or the local TCP has reset the connection."""
        return bool(tw.twin_finished(&self.t))

    @property
    def numbers(self):
        """All positions, by the names in twin.pxd; those that are not known are left out."""
        return {name: value for name, value in {
            "up_seen": self.t.up_seen, "up_acked": self.t.up_acked, "up_edge": self.t.up_edge,
            "up_said": self.t.up_said, "up_said_edge": self.t.up_said_edge, "up_fin": self.t.up_fin,
            "down_acked": self.t.down_acked, "down_edge": self.t.down_edge, "down_handed": self.t.down_handed,
            "down_most": self.t.down_most, "down_fin": self.t.down_fin,
        }.items() if value != tw.NOWHERE}


cdef heard_of(const tw.heard *h):
    return Heard(
        what=frozenset([name for bit, name in _WHAT if h.what & bit]), position=h.position,
        data=(<const char *>h.data)[:h.length], ack=h.ack, edge=h.edge, urgent=h.urgent,
        again=(h.again_from, h.again_to) if h.what & tw.HEARD_AGAIN else None,
        sacks=tuple([(h.sack[i][0], h.sack[i][1]) for i in range(h.sacks)]),
        timestamps=(h.ts_value, h.ts_echo) if h.what & tw.HEARD_TIMESTAMPS else None,
        flags=h.flags, ecn=h.ecn,
    )
