"""Someone who sees every datagram of both hosts leave, and knows the specification."""

from __future__ import annotations

from collections import defaultdict

from sim.wire import DATA, INIT, INIT_ACK, Ack, Frame, Order, Packet, Repair, Stream, decode


class Direction:
    """What one side of an association has sent, by the connection id it addresses."""

    def __init__(self) -> None:
        self.next_number = 1
        self.max_data = 0  # credit, given by the other side
        self.max_stream: defaultdict[int, int] = defaultdict(int)
        self.high: defaultdict[int, int] = defaultdict(int)  # highest offset sent, by stream
        self.final: dict[int, int] = {}
        self.bytes: dict[int, bytearray] = {}
        self.bodies: dict[int, bytes] = {}  # of the packets a REPAIR may cover
        self.ordered = 0  # the last packet with an ORDER


class Observer:
    """Checks what each packet may say after those before it; raises AssertionError."""

    def __init__(self) -> None:
        self.directions: defaultdict[int, Direction] = defaultdict(Direction)
        self.window: dict[int, tuple[int, int]] = {}  # what the owner of a connection id grants at first
        self.peer: dict[int, int] = {}

    def see(self, datagram: bytes) -> None:
        packet = decode(datagram)
        if packet.kind == INIT:
            self.window[packet.number] = self._windows(packet.body[8:24])
        elif packet.kind == INIT_ACK:
            self.window[packet.number] = self._windows(packet.body[8:24])
            if self.peer.get(packet.cid, packet.number) != packet.number:
                self.directions.pop(packet.cid, None)  # the handshake was begun again: another association
            self.peer[packet.number] = packet.cid
            self.peer[packet.cid] = packet.number
        elif packet.kind == DATA:
            self._data(packet)

    @staticmethod
    def _windows(body: bytes) -> tuple[int, int]:
        return int.from_bytes(body[:8], "big"), int.from_bytes(body[8:], "big")

    def _data(self, packet: Packet) -> None:
        d = self.directions[packet.cid]
        assert packet.number >= d.next_number, f"packet number {packet.number} used again"
        d.next_number = packet.number + 1
        d.bodies[packet.number] = packet.body
        d.bodies.pop(packet.number - 200, None)
        for frame in packet.frames:
            if isinstance(frame, Stream):
                self._stream(packet.cid, d, frame)
            elif isinstance(frame, Ack):
                self._ack(packet.cid, frame)
            elif isinstance(frame, Order):
                assert frame.back in (0, packet.number - d.ordered), "an ORDER of another packet"
                d.ordered = packet.number
            elif isinstance(frame, Repair):
                self._repair(d, frame)
            elif isinstance(frame, Frame) and frame.name.startswith("MAX_"):
                self._credit(packet.cid, frame)

    @staticmethod
    def _repair(d: Direction, repair: Repair) -> None:
        """The XOR of bodies and of lengths, over packets that were sent."""
        lengths = parity = 0
        for i in range(64):
            if repair.covered >> i & 1:
                body = d.bodies[repair.first + i]
                lengths ^= len(body)
                parity ^= int.from_bytes(body.ljust(len(repair.parity), b"\0"), "big")
        assert (lengths, parity) == (repair.lengths, int.from_bytes(repair.parity, "big")), "another XOR"

    def _ack(self, cid: int, ack: Ack) -> None:
        if (back := self.peer.get(cid)) is not None:
            sent = self.directions[back].next_number
            assert ack.ranges[0][1] < sent, f"an ACK of {ack.ranges[0][1]}, and {sent - 1} was sent last"
        for (low, _), (_, high) in zip(ack.ranges, ack.ranges[1:], strict=False):
            assert high < low - 1, "ranges that touch"

    def _credit(self, cid: int, frame: Frame) -> None:
        """Addressed to the owner of `cid`: it may send more to the other one."""
        if (back := self.peer.get(cid)) is None:
            return
        d = self.directions[back]
        if frame.name == "MAX_DATA":
            d.max_data = max(d.max_data, frame.fields[0])
        else:
            d.max_stream[frame.id] = max(d.max_stream[frame.id], frame.fields[0])

    def _stream(self, cid: int, d: Direction, frame: Stream) -> None:
        """Within the credit, and never two different bytes at one place."""
        end = frame.offset + len(frame.data)
        all_, each = self.window.get(cid, (0, 0))
        assert end <= max(each, d.max_stream[frame.id]), f"stream {frame.id}: beyond its credit"
        d.high[frame.id] = max(d.high[frame.id], end)
        assert sum(d.high.values()) <= max(all_, d.max_data), "beyond the association's credit"
        if frame.fin:
            assert d.final.setdefault(frame.id, end) == end, f"stream {frame.id}: another final size"
        seen = d.bytes.setdefault(frame.id, bytearray())
        assert frame.offset <= len(seen), f"stream {frame.id}: a hole in what was sent"
        again = seen[frame.offset : end]
        assert again == frame.data[: len(again)], f"stream {frame.id}: other bytes at {frame.offset}"
        seen += frame.data[len(again) :]
        assert len(seen) <= d.final.get(frame.id, len(seen)), f"stream {frame.id}: bytes behind the end"
