"""A flow without end over a path with a bottleneck."""

from __future__ import annotations

from sim.network import MS, SECOND, Host, Link, Network, Pair

from hooker.vtl.events import DataReceived

RATE = 12.5e6  # bytes/s: 100 Mbit/s
WINDOW = 16 << 20  # bytes of flow control: more than these paths need
CHUNK = bytes(1 << 20)
BLOCK = 1448  # bytes: what an application's TCP puts into a segment


def link(rtt: int, loss: float, rate: float = RATE, queue: float = 1.0) -> Link:
    """One direction; `queue` in bandwidth-delay products."""
    return Link(rate=rate, delay=rtt * MS // 2, queue=int(rate * rtt / 1000 * queue), loss=loss)


class Bulk:
    """A flow that always has something to send, and a count of what arrived."""

    def __init__(self, net: Network, sender: Host, receiver: Host) -> None:
        self.sender, self.receiver, self.got = sender, receiver, 0
        receiver.on_data = self._on_data
        sender.on_acked = lambda _: self.fill()
        self.net = net
        assoc = sender.connect(receiver.address, net.now)
        before = set(receiver.flows)
        self.flow = sender.endpoint.open(assoc, net.now)
        net.run(lambda: any("FlowConfirmed" in f.log for h, f in receiver.flows.items() if h not in before))
        self.assoc = assoc
        self.fill()

    def _on_data(self, event: DataReceived) -> None:
        self.got += len(event.data)
        self.receiver.endpoint.consumed(event.flow, len(event.data))
        self.receiver.flows[event.flow].received.clear()

    def fill(self) -> None:
        endpoint = self.sender.endpoint
        while endpoint.unacked(self.flow) < endpoint.send_target(self.flow):
            endpoint.write(self.flow, CHUNK)


class Buffered:
    """A channel whose bytes are kept until all before them have arrived, as an application's TCP keeps them.

    Attributes:
        taken: bytes that have arrived without a hole.
    """

    def __init__(self, pair: Pair, assoc: int, buffer: int) -> None:
        self.pair, self.buffer, self.taken = pair, buffer, 0
        self.channel = pair.a.endpoint.channel_open(assoc)
        self._at = self._known = 0  # given; what the sender has heard of `taken`
        self._tick = 0
        self._parts: dict[int, int] = {}

    def run_for(self, seconds: float, most: float = float("inf")) -> float:
        """Go on for so long, with no more than *most* bytes/s to send. Return the bytes/s that were taken."""
        pair, began, before, first = self.pair, self.pair.now, self.taken, self._at
        end = began + int(seconds * SECOND)
        while pair.now < end:
            due = first + most * (pair.now - began) / SECOND
            while self._at < due and self._at + BLOCK - self._known <= self.buffer:
                if not pair.a.endpoint.channel_send(self.channel, 1, self._at % (1 << 32), bytes(BLOCK)):
                    break
                self._at += BLOCK
            if self._tick <= pair.now:  # its clock goes on
                self._tick = pair.now + MS
                pair.at(self._tick, lambda: None)
            pair.step()
            self._take()
        return (self.taken - before) / seconds

    def _take(self) -> None:
        for block in self.pair.b.blocks:
            assert block.position + len(block.data) < 1 << 32
            self._parts[block.position] = max(len(block.data), self._parts.get(block.position, 0))
        self.pair.b.blocks.clear()
        taken = self.taken
        while self.taken in self._parts:
            self.taken += self._parts.pop(self.taken)
        if self.taken > taken:
            self.pair.at(self.pair.now + self.pair.back.delay, lambda known=self.taken: self._hear(known))

    def _hear(self, known: int) -> None:
        self._known = max(self._known, known)
