"""From connect() to the first byte at the far application: no flow waits for a TCP timer."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest
from support import EACH_FAMILY, Pair, address, any_address, peer, results, same

pytestmark = [pytest.mark.timeout(90), pytest.mark.alone]
MB = 1 << 20
NO_TIMER = 0.150  # s: below TCP's smallest retransmission timeout plus its first backoff
ROUNDS = 10

Record = Callable[[str, object], None]


def report(record: Record, name: str, times: list[float]) -> None:
    """Attach median and maximum to the test's result, and print them."""
    median, most = statistics.median(times) * 1e3, max(times) * 1e3
    record(f"{name}_median_ms", round(median, 3))
    record(f"{name}_max_ms", round(most, 3))
    print(f"{name}: median {median:.2f} ms, max {most:.2f} ms, n={len(times)}")


@pytest.mark.parametrize("size", [1, 5 * MB])
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_data_sent_at_once(pair: Pair, record_property: Record, family: str, size: int) -> None:
    many = ("--connections", str(ROUNDS))
    with pair.engaged(payload=ROUNDS * size, flows=ROUNDS):
        server = peer(pair.b, "serve", any_address(family), 7300, "recv-all", "close", options=many)
        sent = results(
            peer(*(pair.a, "connect", address(pair.b, family), 7300, f"send:{size}", "close"), options=many)
        )
        received = results(server)
    received.sort(key=lambda r: float(r["connected"]))
    for one, other in zip(sent, received, strict=True):
        same(one, other)
    pairs = list(zip(sent, received, strict=True))
    first = [r["first_byte"] - s["started"] for s, r in pairs]
    report(record_property, "first_byte", first)
    report(record_property, "last_byte", [r["last_byte"] - s["started"] for s, r in pairs])
    assert max(first) < NO_TIMER


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_a_banner_of_the_server(pair: Pair, record_property: Record, family: str) -> None:
    many = ("--connections", str(ROUNDS))
    with pair.engaged(flows=ROUNDS):
        server = peer(
            pair.b, "serve", any_address(family), 7301, "send:100", "recv-all", "close", options=many
        )
        got = results(
            peer(*(pair.a, "connect", address(pair.b, family), 7301, "recv:100", "close"), options=many)
        )
        results(server)
    times = [r["first_byte"] - r["started"] for r in got]
    report(record_property, "banner", times)
    assert max(times) < NO_TIMER
