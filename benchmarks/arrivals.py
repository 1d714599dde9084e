"""The ways in which VTL's packets reach the engine: by sockets of UDP and of IP, with hk_ingress or without.

On a clean veth. With hk_ingress in native mode a veth hands over packets one by one. What leaves goes
by sockets in each of the ways but the last.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from benchmarks.bed import Bed, Way, bed, serve_iperf3, serve_redis
from benchmarks.clean import BULK, BULK_16, bulk_once, rate_of_16, redis_of
from benchmarks.flood_sender import polled
from benchmarks.measure import HOOKED, Cell, Effort, Quantity, in_turn
from hooker.control import netns
from hooker.lab import INTERFACE

WAYS = {
    "udp": (),
    "udp, xdp": ("--xdp", INTERFACE),
    "ip, raw sockets": ("--transport", "vtl+ip"),
    "ip, AF_XDP": ("--transport", "vtl+ip", "--xdp", INTERFACE),
    "ip, AF_XDP both ways": ("--transport", "vtl+ip:frames=1", "--xdp", INTERFACE),
}
PACKETS = Quantity("packets", "1/s")  # datagrams that the server's engine has received; TCP's are not counted


@contextlib.contextmanager
def ways() -> Iterator[dict[str, tuple[Bed, Way]]]:
    """Direct TCP, and each of the ways over a pair of hosts of its own."""
    with contextlib.ExitStack() as stack:
        beds = {name: stack.enter_context(bed(options=options)) for name, options in WAYS.items()}
        for on in beds.values():
            serve_iperf3(on)
            serve_redis(on)
            for host in on.lab.hosts:
                netns.call(host.netns, lambda: polled(INTERFACE))
        first = beds["udp"]
        direct = {way.name: (first, way) for way in first.ways() if not way.hooked}
        yield direct | {f"{HOOKED} {n}": (on, Way(f"{HOOKED} {n}", hooked=True)) for n, on in beds.items()}


def arrivals(effort: Effort) -> Iterator[Cell]:
    """Bulk goodput with its packets and CPU time, one flow and 16, and redis."""
    with ways() as there:
        yield from in_turn(
            "bulk", (*BULK, PACKETS), {n: lambda w=w: _bulk(*w, effort) for n, w in there.items()}, effort
        )
        yield from in_turn(
            "bulk, 16 flows",
            BULK_16,
            {n: lambda w=w: {"bulk_16": rate_of_16(*w, effort)} for n, w in there.items()},
            effort,
        )
        yield from redis_of(there, effort)


def _bulk(on: Bed, way: Way, effort: Effort) -> dict[str, float]:
    before, began = _packets(on), time.monotonic()
    found = bulk_once(on, way, effort)
    if way.hooked:
        found[PACKETS.name] = (_packets(on) - before) / (time.monotonic() - began)
    return found


def _packets(on: Bed) -> int:
    counters = on.engines[1].status()["counters"]
    return sum(n for name, n in counters.items() if name.endswith("datagrams_received"))
