"""Simulated paths, in virtual time: goodput of one flow, shares of two, how long short transfers take.

::

    python benchmarks/paths.py [--seconds N] [--congestion NAME ...] [--fair | --tail]

Deterministic: equal seeds give equal figures, on any machine. The link is 100 Mbit/s with a queue of one
bandwidth-delay product that drops at its tail; random loss goes both ways.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from sim.bulk import WINDOW, Bulk, link
from sim.network import MS, SECOND, Link, Network, Pair

from hooker.vtl.sansio import Endpoint

CELLS = [(20, 0.0), (20, 0.01), (20, 0.02), (20, 0.05), (100, 0.02)]  # RTT in ms, loss


def goodput(
    name: str, rtt: int, loss: float, seconds: float, *, warm: bool, seed: int = 1
) -> tuple[float, str]:
    """Mbit/s of payload over the span, with what the controller ended up with."""
    pair = Pair(seed, link=link(rtt, loss), congestion=name, stream_window=WINDOW, assoc_window=2 * WINDOW,
                max_datagram=1452, max_ack_delay=MS)  # fmt: skip
    if warm:
        bulk = Bulk(pair, pair.a, pair.b)
        pair.run_for(3)
        before = bulk.got
    else:
        before = 0
        start = pair.now
        bulk = Bulk(pair, pair.a, pair.b)
        seconds -= (pair.now - start) / SECOND
    pair.run_for(seconds)
    stats = pair.a.endpoint.stats(bulk.assoc)
    lost = stats["packets_lost"] / stats["packets_sent"]
    note = f"lost {lost:.3%} cwnd {stats['cwnd'] // 1000} kB srtt {stats['srtt_ns'] / 1e6:.1f} ms"
    return (bulk.got - before) * 8 / seconds / 1e6, note


def shares(one: str, two: str, rtt: int, queue: float, seconds: float) -> tuple[float, float]:
    """Mbit/s of two flows through one bottleneck, after 5 s in which they find each other."""
    net = Network(7)
    there, back = link(rtt, 0, queue=queue), Link(delay=rtt * MS // 2)
    flows = []
    for i, name in enumerate((one, two)):
        config = {
            "congestion": name,
            "stream_window": WINDOW,
            "assoc_window": 2 * WINDOW,
            "max_datagram": 1452,
        }
        a = net.add(f"a{i}", (f"10.0.{i}.1", 4000), there, Endpoint(seed=2 * i + 1, **config))
        b = net.add(f"b{i}", (f"10.0.{i}.2", 4000), back, Endpoint(seed=2 * i + 2, **config))
        flows.append(Bulk(net, a, b))
        net.run_for(1)
    net.run_for(5)
    before = [f.got for f in flows]
    net.run_for(seconds)
    x, y = ((f.got - b) * 8 / seconds / 1e6 for f, b in zip(flows, before, strict=True))
    return x, y


def transfers(
    rtt: int, loss: float, size: int, seed: int, *, fec: bool, count: int = 20
) -> tuple[list[float], float]:
    """ms that short transfers take one after the other, on an association that carried a bulk flow for a
    second; and the bytes sent for each of theirs."""
    pair = Pair(seed, link=link(rtt, loss), congestion="bbr", stream_window=WINDOW, assoc_window=2 * WINDOW,
                max_ack_delay=MS, fec=fec)  # fmt: skip
    bulk = Bulk(pair, pair.a, pair.b)
    pair.run_for(1)
    pair.a.endpoint.reset(bulk.flow, 1)
    pair.a.on_acked = pair.b.on_data = None
    pair.run_for(0.5)
    sent, took = pair.forth.bytes, []
    for _ in range(count):
        before, start = set(pair.b.flows), pair.now
        flow = pair.a.endpoint.open(bulk.assoc, pair.now, committed=True)
        pair.a.endpoint.write(flow, bytes(size))
        pair.a.endpoint.fin(flow)
        pair.run(lambda before=before: any(f.fin for h, f in pair.b.flows.items() if h not in before))
        took.append((pair.now - start) / MS)
        for handle in set(pair.b.flows) - before:
            pair.b.endpoint.fin(handle)
        pair.run_for(0.2)
    return took, (pair.forth.bytes - sent) / size / count


def show_tail(seeds: int) -> None:
    for rtt in (20, 100):
        for loss in (0.01, 0.02, 0.05):
            for size in (10_000, 100_000, 1_000_000):
                for fec in (False, True):
                    took: list[float] = []
                    sent: list[float] = []
                    for seed in range(1, seeds + 1):
                        some, overhead = transfers(rtt, loss, size, seed, fec=fec)
                        took += some
                        sent.append(overhead)
                    cuts = statistics.quantiles(took, n=100, method="inclusive")
                    figures = " ".join(f"p{p} {cuts[p - 1]:.1f}" for p in (50, 95, 99))
                    what = f"{rtt} ms {loss:.0%} {size // 1000} KB {'with' if fec else 'without'} repairs"
                    mean, sent_for_each = statistics.mean(took), statistics.mean(sent)
                    print(
                        f"{what}: {figures} ms, mean {mean:.1f}; {sent_for_each:.2f} bytes sent for each",
                        flush=True,
                    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--congestion", nargs="+", default=["cubic", "bbr"])
    parser.add_argument("--fair", action="store_true", help="two flows on one bottleneck")
    parser.add_argument("--tail", action="store_true", help="short transfers, with and without repairs")
    parser.add_argument("--seeds", type=int, default=10, help="of --tail; 20 transfers each")
    parser.add_argument("--cold", action="store_true", help="only cold associations")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.tail:
        show_tail(args.seeds)
        return
    if args.fair:
        for rtt, queue in ((20, 1.0), (20, 0.25), (20, 4.0), (100, 1.0)):
            for name in args.congestion:
                x, y = shares(name, "cubic", rtt, queue, args.seconds)
                print(f"{rtt} ms, queue {queue} BDP: {name} {x:.1f}, beside cubic {y:.1f} Mbit/s", flush=True)
        return
    for name in args.congestion:
        for rtt, loss in CELLS:
            for warm in (False,) if args.cold else (False, True):
                rate, note = goodput(name, rtt, loss, args.seconds, warm=warm, seed=args.seed)
                how = "warm" if warm else "cold"
                print(f"{name:8} {rtt:3} ms {loss:4.0%} {how}: {rate:5.1f} Mbit/s  ({note})", flush=True)


if __name__ == "__main__":
    main()
