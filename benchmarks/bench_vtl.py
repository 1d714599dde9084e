"""What VTL's core costs by itself: building, receiving and acknowledging datagrams, in memory.

``extra_info["datagrams_per_s"]`` is the figure to look at; the times are per megabyte of payload.
"""

from __future__ import annotations

from time import perf_counter

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from hooker.vtl._loopback import Loopback

SHAPES = {
    "one bulk stream": {"streams": 1, "chunk": 65536},
    "sixteen bulk streams": {"streams": 16, "chunk": 65536},
    "a thousand small writers": {"streams": 1000, "chunk": 100},
}

CIPHERS = {"plain": 1, "aes-128-gcm": 0x101, "aes-256-gcm": 0x102, "chacha20-poly1305": 0x103}


def transfer(loop: Loopback) -> tuple[int, float, float, float]:
    """One block of 1 MiB there, acknowledged; datagrams, and seconds to build, receive and acknowledge."""
    loop.write()
    datagrams, build, receive, ack = 0, 0.0, 0.0, 0.0
    while True:
        start = perf_counter()
        n = loop.build(0)
        build += perf_counter() - start
        if n == 0:
            break
        datagrams += n
        loop.carry()
        start = perf_counter()
        dropped = loop.receive(1)
        receive += perf_counter() - start
        assert dropped == 0
        start = perf_counter()
        loop.step(1)
        ack += perf_counter() - start
    return datagrams, build, receive, ack


@pytest.mark.parametrize("version", CIPHERS.values(), ids=CIPHERS)
def test_encryption(benchmark: BenchmarkFixture, version: int) -> None:
    """``extra_info["payload_gb_per_s"]``: one core, sealing and opening apart."""
    loop = Loopback(version=version)
    best = [float("inf")] * 2

    def once() -> None:
        _, build, receive, _ = transfer(loop)
        best[0], best[1] = min(best[0], build), min(best[1], receive)

    benchmark(once)
    assert loop.received == loop.acked
    gb = (1 << 20) / 1e9
    benchmark.extra_info["payload_gb_per_s"] = {"build": gb / best[0], "receive": gb / best[1]}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("congestion", [b"fixed", b"cubic"], ids=["fixed", "cubic"])
def test_core(benchmark: BenchmarkFixture, shape: str, congestion: bytes) -> None:
    loop = Loopback(congestion=congestion, **SHAPES[shape])
    totals = [0, 0.0, 0.0, 0.0]

    def once() -> None:
        for i, value in enumerate(transfer(loop)):
            totals[i] += value

    benchmark(once)
    datagrams, build, receive, ack = totals
    assert loop.received == loop.acked
    benchmark.extra_info["datagrams_per_s"] = {
        "build": round(datagrams / build),
        "receive": round(datagrams / receive),
        "acknowledge": round(datagrams / ack),
    }
