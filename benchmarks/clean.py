"""Cells on a clean veth: bulk goodput and its CPU time, redis, HTTP, connections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.bed import Bed, Way, compared, iperf3, redis_get, serve_http, serve_iperf3, serve_redis, wrk
from benchmarks.measure import Cell, Effort, Quantity, foreign_cpu, in_turn, machine_cpu

BULK = (Quantity("bulk", "Gbit/s"), Quantity("cpu_per_gb", "CPU s/GB", more=False))
BULK_16 = (Quantity("bulk_16", "Gbit/s"),)
REDIS_1 = (
    Quantity("redis_c1_p50", "ms", more=False),
    Quantity("redis_c1_p99", "ms", more=False),
)
REDIS_50 = (Quantity("redis_c50", "1/s"), Quantity("redis_c50_p99", "ms", more=False))
HTTP = (Quantity("http_keep_alive", "1/s"),)
SHORT = (Quantity("short_connections", "1/s"),)


def bulk(effort: Effort) -> Iterator[Cell]:
    """iperf3 with one flow, and with 16."""
    with compared(effort, serve_iperf3) as ways:
        yield from in_turn(
            "bulk", BULK, {n: lambda w=w: bulk_once(*w, effort) for n, w in ways.items()}, effort
        )
        yield from in_turn(
            "bulk, 16 flows",
            BULK_16,
            {n: lambda w=w: {"bulk_16": rate_of_16(*w, effort)} for n, w in ways.items()},
            effort,
        )


def bulk_once(on: Bed, way: Way, effort: Effort) -> dict[str, float]:
    """One flow: Gbit/s, and CPU seconds of all that takes part for a GB."""
    used = machine_cpu() - foreign_cpu()
    done = iperf3(on, way, effort.seconds)
    used = machine_cpu() - foreign_cpu() - used
    return {"bulk": done["rate"], "cpu_per_gb": used / (done["bytes"] / 1e9)}


def rate_of_16(on: Bed, way: Way, effort: Effort) -> float:
    """16 flows: Gbit/s."""
    return iperf3(on, way, effort.seconds, "-P", "16")["rate"]


def redis(effort: Effort) -> Iterator[Cell]:
    """redis GET from one client: latency; from fifty: rate."""
    with compared(effort, serve_redis) as ways:
        yield from redis_of(ways, effort)


def redis_of(ways: Mapping[str, tuple[Bed, Way]], effort: Effort) -> Iterator[Cell]:
    """The same of these ways, by the names of their columns."""
    one, fifty = (2000, 5000) if effort.quick else (15000, 60000)

    def single(on: Bed, way: Way) -> dict[str, float]:
        got = redis_get(on, way, 1, one)
        return {"redis_c1_p50": got["p50"], "redis_c1_p99": got["p99"]}

    def many(on: Bed, way: Way) -> dict[str, float]:
        got = redis_get(on, way, 50, fifty)
        return {"redis_c50": got["rate"], "redis_c50_p99": got["p99"]}

    yield from in_turn("redis", REDIS_1, {n: lambda w=w: single(*w) for n, w in ways.items()}, effort)
    yield from in_turn(
        "redis, 50 clients", REDIS_50, {n: lambda w=w: many(*w) for n, w in ways.items()}, effort
    )


def http(effort: Effort) -> Iterator[Cell]:
    """1 KB pages over 16 connections: kept alive, and a new one for each."""
    with compared(effort, serve_http) as ways:
        for quantity, header in ((HTTP, "keep-alive"), (SHORT, "close")):
            (name,) = (q.name for q in quantity)

            def one(on: Bed, way: Way, name: str = name, header: str = header) -> dict[str, float]:
                return {name: wrk(on, way, header, effort.seconds)["rate"]}

            yield from in_turn(name, quantity, {n: lambda w=w: one(*w) for n, w in ways.items()}, effort)
