"""Whole flows, byte-exact: opened, filled from both sides, ended, and nothing left behind."""

from __future__ import annotations

import random
from collections.abc import Iterable

from sim.network import Pair


def payload(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


class Exchange:
    """A flow from a to b that carries its own bytes each way; :meth:`done` once both ends are closed."""

    def __init__(
        self, pair: Pair, there: int, back: int = 0, *, seed: int = 0, assoc: int | None = None
    ) -> None:
        self.pair = pair
        self.there, self.back = payload(there, 2 * seed + 1), payload(back, 2 * seed + 2)
        self.flow, self.peer = pair.open(assoc, locator=seed)
        for host, handle, data in ((pair.a, self.flow, self.there), (pair.b, self.peer, self.back)):
            host.endpoint.write(handle, data)
            host.endpoint.fin(handle)

    def done(self) -> bool:
        return self.pair.a.flows[self.flow].closed and self.pair.b.flows[self.peer].closed

    def check(self) -> None:
        """Each end has exactly the other's bytes, all of them acknowledged, and a FIN."""
        x, y = self.pair.a.flows[self.flow], self.pair.b.flows[self.peer]
        assert y.received == self.there, f"seed {self.pair.seed}"
        assert x.received == self.back, f"seed {self.pair.seed}"
        assert (x.acked, y.acked) == (len(self.there), len(self.back))
        for side in (x, y):
            assert side.fin
            assert not side.resets


def nothing_left(pair: Pair) -> None:
    for host in (pair.a, pair.b):
        assert host.endpoint.borrowed == 0, f"seed {pair.seed}, {host.name}"
        assert host.endpoint.flows == (), f"seed {pair.seed}, {host.name}"


def finish(pair: Pair, exchanges: Iterable[Exchange], *, limit: float = 120.0) -> None:
    exchanges = list(exchanges)
    pair.run(lambda: all(e.done() for e in exchanges), limit=limit)
    for e in exchanges:
        e.check()
    nothing_left(pair)


def exchange(pair: Pair, size: int, *, limit: float = 120.0) -> None:
    """One flow, `size` bytes and a FIN each way, closed at both ends, nothing left behind."""
    finish(pair, [Exchange(pair, size, size)], limit=limit)
