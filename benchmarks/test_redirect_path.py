"""The redirect socket alone: frames parsed per second, and messages and bytes per second through it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pytest
from support import Pair, counts, peer, result, same

from benchmarks.comparison import Report
from hooker.frames import FrameParser
from hooker.lab import Lab

pytestmark = pytest.mark.timeout(120)

MAGIC = 0x4B4F4F48  # HK_FRAME_MAGIC
BUFFER = 1 << 20  # bytes, one read of the redirect socket


@pytest.fixture(scope="module")
def redirecting() -> Iterator[Pair]:
    with Lab() as lab, Pair.open(lab, options=("--redirect", "always")) as made:
        yield made


@pytest.mark.parametrize("payload", [64, 1448, 65536])
def test_frame_parsing(benchmark: Any, report: Report, payload: int) -> None:
    frame = struct.pack("=QII", 7, payload, MAGIC) + bytes(payload)
    count = max(1, BUFFER // len(frame))
    data, parser = frame * count, FrameParser()
    rows = benchmark(parser.parse, data)
    assert len(rows) == count
    report.rates.append((f"frames of {payload} B parsed", "M/s", count / benchmark.stats["median"] / 1e6))


@pytest.mark.parametrize(("block", "size"), [(64, 10_000_000), (65536, 400_000_000)])
def test_redirect_path(benchmark: Any, report: Report, redirecting: Pair, block: int, size: int) -> None:
    pair = redirecting
    assert pair.client
    before = counts(pair.client.status())
    server = peer(pair.b, "serve", "0.0.0.0", 7800, "recv-all", "close")
    client = peer(
        *(pair.a, "connect", pair.b.v4, 7800, f"send-edge:{size}", "close"), options=("--block", str(block))
    )
    sent, received = benchmark.pedantic(lambda: (result(client), result(server)), rounds=1)
    same(sent, received)
    seconds = received["last_byte"] - sent["connected"]
    after = counts(pair.client.status())
    messages = after["kernel.message-redirected"] - before["kernel.message-redirected"]
    report.rates.append((f"messages of {block} B redirected", "k/s", messages / seconds / 1e3))
    report.rates.append((f"bytes in messages of {block} B", "GB/s", size / seconds / 1e9))
