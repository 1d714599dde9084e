"""The receiving end of channels: blocks into the bytes they are parts of."""

from __future__ import annotations

import random
from collections.abc import Iterable

from sim.network import Host, Pair

from hooker.vtl.events import BlockReceived

U32 = 1 << 32


def payload(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


class Sink:
    """What arrived of one flow, by position; checks that no byte comes in two versions."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.bytes: dict[int, bytes] = {}

    def take(self, blocks: Iterable[BlockReceived]) -> None:
        for b in blocks:
            self.bytes[(b.position - self.first) % U32] = max(
                b.data, self.bytes.get((b.position - self.first) % U32, b""), key=len
            )

    def prefix(self) -> bytes:
        """The bytes without a hole from the beginning."""
        out = bytearray()
        for at in sorted(self.bytes):
            data = self.bytes[at]
            if at > len(out):
                break
            known = out[at : at + len(data)]
            assert data.startswith(known), f"other bytes at {at}"
            out += data[len(known) :]
        return bytes(out)


def arrived(host: Host, flow: int, first: int = 0) -> bytes:
    sink = Sink(first)
    sink.take(b for b in host.blocks if b.id == flow)
    return sink.prefix()


class Writer:
    """A channel that sends its bytes in blocks as fast as the queue takes them."""

    def __init__(
        self,
        pair: Pair,
        assoc: int,
        flow: int,
        data: bytes,
        *,
        first: int = 0,
        block: int = 60_000,
        host: Host | None = None,
    ) -> None:
        self.endpoint = (host or pair.a).endpoint
        self.channel = self.endpoint.channel_open(assoc)
        self.flow, self.data, self.first, self.block, self.at = flow, data, first, block, 0

    def fill(self) -> None:
        while self.at < len(self.data):
            piece = self.data[self.at : self.at + self.block]
            if not self.endpoint.channel_send(self.channel, self.flow, (self.first + self.at) % U32, piece):
                return
            self.at += len(piece)

    def done(self) -> bool:
        self.fill()
        return self.at == len(self.data) and self.endpoint.channel_unacked(self.channel) == 0


def finish(pair: Pair, writers: Iterable[Writer], *, limit: float = 120) -> None:
    """Until every byte is acknowledged."""
    writers = list(writers)
    pair.run(lambda: sum(w.done() for w in writers) == len(writers), limit=limit)  # each fills its queue
    pair.settle()
