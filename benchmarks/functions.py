"""Reliability functions over simulated paths, in virtual time: goodput of one transfer, and what it cost.

::

    python benchmarks/functions.py [FUNCTION ...]

Deterministic, as ``paths.py`` is. The link is 100 Mbit/s with a queue of one bandwidth-delay product; random
loss goes one way. ``partial`` repeats nothing here; ``none`` needs a TCP above it, and is no row.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from sim.channels import Writer, finish
from sim.network import MS, SECOND, Link, Pair

FUNCTIONS = ("selective-repeat", "go-back-n", "stop-and-wait", "partial")
CELLS = [(rtt, loss) for rtt in (20, 100) for loss in (0.0, 0.01, 0.05)]  # ms
RATE = 12.5e6  # bytes/s
SIZE, SHORT = 2_000_000, 100_000  # bytes; the latter for one packet a round trip
SEEDS = range(3)


def transfer(function: str, rtt: int, loss: float, seed: int) -> tuple[float, float, float]:
    """Mbit/s; per cent of the bytes that were sent again, and that were given up."""
    size = SHORT if function == "stop-and-wait" else SIZE
    there = Link(delay=rtt * MS // 2, loss=loss, rate=RATE, queue=int(RATE * rtt / 1000))
    pair = Pair(seed, link=there, back=Link(delay=rtt * MS // 2), reliability=function, repeats=0)
    assoc = pair.connect()
    start = pair.now
    finish(pair, [Writer(pair, assoc, 1, bytes(size))], limit=600)
    stats = pair.a.endpoint.stats(assoc)
    seconds = (pair.now - start) / SECOND
    again, lost = stats["stream_bytes_retransmitted"], stats["bytes_given_up"]
    return size * 8 / seconds / 1e6, 100 * again / size, 100 * lost / size


def main() -> None:
    for function in sys.argv[1:] or FUNCTIONS:
        for rtt, loss in CELLS:
            runs = zip(*(transfer(function, rtt, loss, seed) for seed in SEEDS), strict=True)
            rate, again, lost = map(statistics.mean, runs)
            cell = f"{function:16} {rtt:4} ms {loss:4.0%}"
            sys.stdout.write(f"{cell}  {rate:6.2f} Mbit/s  again {again:5.1f} %  given up {lost:3.1f} %\n")


if __name__ == "__main__":
    main()
