"""The redirect socket alone: frames parsed per second, and messages and bytes per second through it."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from support import Pair, counts

from hooker.engine.frames import FrameParser
from hooker.lab import Lab
from hooker.lab.apps import start_iperf3

pytestmark = pytest.mark.timeout(120)

MAGIC = 0x4B4F4F48  # HK_FRAME_MAGIC
BUFFER = 1 << 20  # bytes, one read of the redirect socket
SECONDS = 2


@pytest.fixture(scope="module")
def redirecting() -> Iterator[Pair]:
    with Lab() as lab, Pair.open(lab, options=("--redirect", "always"), kind="messages") as made:
        start_iperf3(made.b)
        yield made


@pytest.mark.parametrize("payload", [64, 1448, 65536])
def test_frame_parsing(benchmark: Any, report: Any, payload: int) -> None:
    frame = struct.pack("=QII", 7, payload, MAGIC) + bytes(payload)
    count = max(1, BUFFER // len(frame))
    data, parser = frame * count, FrameParser()
    rows = benchmark(parser.parse, data)
    assert len(rows) == count
    report.rates.append((f"frames of {payload} B parsed", "M/s", count / benchmark.stats["median"] / 1e6))


@pytest.mark.parametrize("block", [64, 16384, 131072])
def test_redirect_path(benchmark: Any, report: Any, redirecting: Pair, block: int) -> None:
    """What a non-blocking writer (iperf3) gets through, and how many of its messages were redirected."""
    pair = redirecting
    assert pair.client
    before = counts(pair.client.status())
    command = ["iperf3", "-J", "-c", pair.b.v4, "-l", str(block), "-t", str(SECONDS)]
    done = benchmark.pedantic(lambda: pair.a.run(command, timeout=30), rounds=1)
    received = json.loads(done.stdout)["end"]["sum_received"]
    after = counts(pair.client.status())
    messages = after["kernel.message-redirected"] - before["kernel.message-redirected"]
    assert messages, "no message was redirected"
    report.rates.append((f"messages of {block} B redirected", "k/s", messages / received["seconds"] / 1e3))
    report.rates.append((f"goodput with messages of {block} B", "GB/s", received["bits_per_second"] / 8e9))
