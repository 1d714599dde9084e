"""A pair of engines reduced to their twins, in one process: marked sockets' bytes go from device to device.

    python twin_relay.py NETNS_A NETNS_B MARK DELAY LOSS

It takes a flow's numbers from the handshake on the wire, and carries (position, bytes) and (acknowledged,
window edge) between two twins, late and lossy if told so; what is lost, the kernels repair. Until both
sockets are marked, the segments of one go on to the wire. SIGUSR1 makes it deaf: nothing crosses any more.
SIGUSR2 makes it leave: all goes on to the wire. It is meant to be killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import heapq
import itertools
import random
import select
import signal
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from hooker.control import netns
from hooker.control.janitor import Janitor
from hooker.engine.tun import Queue
from hooker.tcp.fields import ACK, SYN, Heard, Refused, Segment
from hooker.tcp.sansio import Twin, cut, parse
from hooker.tun import Device, Way

TABLE, PRIORITY = 0x7702, 91
PROBE_EVERY = 0.03  # s, while a socket's segments have not come through its device
KEPT = 4 << 20  # bytes for one kernel that it has not acknowledged
ETH_P_ALL = 3
SO_ATTACH_FILTER = 26
MTU = 1500  # of the lab's wire
KEEP: list[Any] = []  # memory that the kernel reads
End = tuple[bytes, int]  # packed address, port


@dataclass
class Side:
    """One host's end of a flow."""

    host: int
    twin: Twin
    through: bool = False  # a segment of the socket's has come through the device
    asked: bool = False  # its TCP waits for an answer to a probe
    probing: bool = False  # its TCP is asked where it stands, for the other one
    told: tuple[int, int] | None = None  # where it stands, not yet sent
    kept: dict[int, tuple[bytes, bool]] = field(default_factory=dict)
    echo: int = 0  # the timestamp of the other TCP that this one has echoed
    given: int = 0  # the edge up to which what is kept was given to it
    size: int = 0  # bytes kept
    other: Side = field(init=False)
    probe_at: float = 0.0


class Relay:
    """Both hosts' devices, all flows, and the transport between them."""

    def __init__(self, names: list[str], delay: float, loss: float) -> None:
        self.delay, self.loss = delay, loss
        self.deaf = self.left = False
        self.devices = [netns.call(name, Device) for name in names]
        self.queues = [Queue(d.descriptors[0]) for d in self.devices]
        self.wire = netns.call(names[0], lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM))
        self.wire.bind(("eth0", ETH_P_ALL))
        self.wire.setblocking(False)
        self.wire.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, only_syns())
        self.raw = [{family: raw_socket(name, family) for family in (4, 6)} for name in names]
        self.syns: dict[tuple[End, End], Segment] = {}
        self.sides: dict[tuple[End, End], Side] = {}  # by (local, remote)
        self.messages: list[Any] = []
        self.count = itertools.count()
        self.random = random.Random(1)

    # -- the handshake, from the wire

    def sniff(self) -> None:
        while True:
            try:
                packet, address = self.wire.recvfrom(70000)
            except BlockingIOError:
                return
            with contextlib.suppress(Refused):
                s = parse(b"\2" + bytes(9) + packet)  # DATA_VALID: veth leaves checksums half done
                if s.flags & SYN:
                    self.handshake(s, from_a=address[2] == socket.PACKET_OUTGOING)

    def handshake(self, s: Segment, from_a: bool) -> None:
        me, other = (s.src, s.src_port), (s.dst, s.dst_port)
        if not s.flags & ACK:
            self.syns[me, other] = s
        elif (other, me) in self.syns and (me, other) not in self.sides:
            self.begin(self.syns[other, me], s, client_host=int(from_a))

    def begin(self, syn: Segment, answer: Segment, client_host: int) -> None:
        client = Side(client_host, twin_of(syn, answer))
        server = Side(1 - client_host, twin_of(answer, syn))
        client.other, server.other = server, client
        ends = (syn.src, syn.src_port), (syn.dst, syn.dst_port)
        self.sides[ends], self.sides[ends[::-1]] = client, server
        client.probe_at = server.probe_at = time.monotonic() + PROBE_EVERY

    # -- segments

    def hear(self, host: int, packet: bytes) -> None:
        try:
            s = parse(packet)
        except Refused:
            return
        side = self.sides.get(((s.src, s.src_port), (s.dst, s.dst_port)))
        if side is None or side.host != host:
            return
        side.through = True
        h = side.twin.hear(packet, time.monotonic_ns())
        if side.other.through and not self.left:
            self.heard(side, h)
        else:
            self.bridge(host, packet, s)

    def bridge(self, host: int, packet: bytes, s: Segment) -> None:
        """To the wire, cut as a network card would: the other socket is not marked yet."""
        family = 4 if len(s.dst) == 4 else 6
        where = socket.inet_ntop(socket.AF_INET if family == 4 else socket.AF_INET6, s.dst)
        for piece in cut(packet, MTU):
            self.raw[host][family].sendto(piece, (where, 0))

    def heard(self, side: Side, h: Heard) -> None:
        if "data" in h.what or "urgent" in h.what:
            fin, push = "fin" in h.what, "push" in h.what
            ts = h.timestamps[0] if h.timestamps else 0
            self.send(
                side, "data", h.position, h.data, fin, push, h.urgent if "urgent" in h.what else None, ts
            )
            if "new" not in h.what:
                side.twin.echo(ts)  # this transport knows of no repetition that it does not need
        if h.what & {"ack", "edge"} or side.probing:
            side.told = (h.ack, h.edge)
            side.echo = h.timestamps[1] if h.timestamps else 0
            side.probing = False
            self.forget(side, h.ack)
        if h.edge > side.given:
            self.again(side, side.given, h.edge)
            side.given = h.edge
        if (self.loss and h.sacks) or "duplicate" in h.what:
            self.send(side, "sacked", h.sacks, h.timestamps[1] if h.timestamps else 0)
        if "probe" in h.what:
            side.asked = True
            self.send(side, "probe")
        if "reset" in h.what:
            self.send(side, "reset")
        if "challenge" in h.what:
            self.write(side, side.twin.reset())
        if h.again:
            self.again(side, *h.again)

    def send(self, side: Side, what: str, *args: Any) -> None:
        if not self.deaf and self.random.random() >= self.loss:
            at = time.monotonic() + self.delay
            heapq.heappush(self.messages, (at, next(self.count), side.other, what, args))

    def write(self, side: Side, packet: bytes) -> None:
        self.queues[side.host].write(packet)

    # -- messages

    def told(self, side: Side, what: str, args: tuple[Any, ...]) -> None:
        if what == "data":
            self.bytes_for(side, *args)
        elif what == "acked":
            self.echo(side, args[2])
            if side.twin.acked(*args[:2]) == "due" or side.asked:
                side.asked = False
                self.write(side, side.twin.ack())
        elif what == "sacked":
            self.echo(side, args[1])
            self.write(side, side.twin.ack(sacks=args[0]))
        elif what == "probe":
            side.probing = True
            self.write(side, side.twin.probe())
        else:
            self.write(side, side.twin.reset())

    def echo(self, side: Side, ts: int) -> None:
        """Where losses are TCP's to repair, it must know which of its segments has arrived."""
        if self.loss:
            side.twin.echo(ts)

    def bytes_for(
        self, side: Side, position: int, data: bytes, fin: bool, push: bool, urgent: int | None, ts: int
    ) -> None:
        stamp = ts if self.loss else None
        packets, _ = side.twin.deliver(
            position, data, time.monotonic_ns(), fin=fin, push=push, urgent=urgent, timestamp=stamp
        )
        for packet in packets:
            self.write(side, packet)
        if not packets:  # nothing new: the other one missed our word
            numbers = side.twin.numbers
            side.told = (numbers["down_acked"], numbers["down_edge"])
        elif side.size + len(data) <= KEPT:
            self.keep(side, position, data, fin)

    def keep(self, side: Side, position: int, data: bytes, fin: bool) -> None:
        side.size += len(data) - len(side.kept.get(position, (b"", False))[0])
        side.kept[position] = (data, fin)

    def forget(self, side: Side, acked: int) -> None:
        for position, (data, fin) in list(side.kept.items()):
            if position + len(data) + fin <= acked:
                side.size -= len(data)
                del side.kept[position]

    def again(self, side: Side, start: int, end: int) -> None:
        for position, (data, fin) in sorted(side.kept.items()):
            if position < end and position + len(data) + fin > start:
                packets, _ = side.twin.deliver(position, data, time.monotonic_ns(), fin=fin, push=True)
                for packet in packets:
                    self.write(side, packet)

    # -- the loop

    def idle(self) -> None:
        """Nothing waits to be read: say what may be said late."""
        if self.left:
            return
        now = time.monotonic()
        for side in self.sides.values():
            if side.told:
                self.send(side, "acked", *side.told, side.echo)
                side.told = None
            if side.through and side.twin.wants_ack:
                self.write(side, side.twin.ack())
            lost = side.twin.expired(time.monotonic_ns())
            if lost:
                self.again(side, *lost)
            if side.other.through and not side.through and now >= side.probe_at:
                side.probe_at = now + PROBE_EVERY
                self.write(side, side.twin.probe())

    def run(self) -> None:
        poll = select.poll()
        for descriptor in (*(q.descriptor for q in self.queues), self.wire.fileno()):
            poll.register(descriptor, select.POLLIN)
        while True:
            wait = self.messages[0][0] - time.monotonic() if self.messages else 1.0
            poll.poll(max(0.0, min(wait, 0.01)) * 1000)
            self.sniff()
            for host, queue in enumerate(self.queues):
                for packet in queue.read():
                    self.hear(host, packet)
            if self.left:
                self.messages.clear()
            while self.messages and self.messages[0][0] <= time.monotonic():
                _, _, side, what, args = heapq.heappop(self.messages)
                self.told(side, what, args)
            self.idle()


def raw_socket(name: str, family: int) -> socket.socket:
    """For whole packets, headers included."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    made = netns.call(name, lambda: socket.socket(kind, socket.SOCK_RAW, socket.IPPROTO_RAW))
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
    return made


def only_syns() -> bytes:
    """A socket filter, from the IP header on: TCP without IP options or extension headers, with SYN."""
    code = [
        (0x30, 0, 0, 0),  # version
        (0x74, 0, 0, 4),
        (0x15, 4, 0, 6),
        (0x30, 0, 0, 9),  # IPv4: protocol, then flags
        (0x15, 0, 6, 6),
        (0x30, 0, 0, 33),
        (0x05, 0, 0, 3),
        (0x30, 0, 0, 6),  # IPv6
        (0x15, 0, 2, 6),
        (0x30, 0, 0, 53),
        (0x45, 1, 0, SYN),
        (0x06, 0, 0, 0),
        (0x06, 0, 0, 0xFFFFFFFF),
    ]
    program = b"".join(struct.pack("=HBBI", *step) for step in code)
    KEEP.append(ctypes.create_string_buffer(program))
    return struct.pack("HxxxxxxP", len(code), ctypes.addressof(KEEP[-1]))


def twin_of(mine: Segment, other: Segment) -> Twin:
    """The twin before the host that said `mine` in the handshake."""
    scaled = mine.wscale is not None and other.wscale is not None
    timed = mine.timestamps is not None and other.timestamps is not None
    return Twin(
        (mine.src, mine.src_port),
        (other.src, other.src_port),
        local_isn=mine.seq,
        remote_isn=other.seq,
        edge=1 + other.window,
        window=mine.window,
        mss=min(mine.mss or 536, other.mss or 536) - (12 if timed else 0),
        local_wscale=mine.wscale or 0 if scaled else 0,
        remote_wscale=other.wscale or 0 if scaled else 0,
        timestamps=(mine.timestamps[0], other.timestamps[0]) if timed else None,  # type: ignore[index]
        sack=mine.sack_permitted and other.sack_permitted,
    )


def main(names: list[str], mark: int, delay: float, loss: float) -> None:
    """Entry point: does not return."""
    relay = Relay(names, delay, loss)
    signal.signal(signal.SIGUSR2, lambda *_: setattr(relay, "left", True))
    signal.signal(signal.SIGUSR1, lambda *_: setattr(relay, "deaf", True))
    with Janitor() as keeper:
        for name, device in zip(names, relay.devices, strict=True):
            way = Way(keeper, device, mark=mark, table=TABLE, priority=PRIORITY)
            netns.call(name, way.__enter__)
        print("ready", flush=True)
        relay.run()


if __name__ == "__main__":
    main(sys.argv[1:3], int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]))
