"""A flow without end over a path with a bottleneck."""

from __future__ import annotations

from sim.network import MS, Host, Link, Network

from hooker.vtl.events import DataReceived

RATE = 12.5e6  # bytes/s: 100 Mbit/s
WINDOW = 16 << 20  # bytes of flow control: more than these paths need
CHUNK = bytes(1 << 20)


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
