"""The redirect socket, switched on: order and bytes across every change between it and the twin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support import (
    FAMILIES,
    PLAIN,
    Pair,
    address,
    any_address,
    counts,
    eventually,
    peer,
    result,
    same,
    thinned,
)

from hooker.lab import Lab

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.skipif(PLAIN, reason="needs engines"),
]
MB = 1 << 20
SLOW = ["recv:100000", "sleep:0.1"] * 20


@pytest.fixture(scope="module")
def redirecting() -> Iterator[Pair]:
    with Lab() as lab, Pair.open(lab, options=("--redirect", "always"), kind="messages") as made:
        yield made


@pytest.fixture
def both(redirecting: Pair) -> Iterator[Pair]:
    with redirecting.programs():
        yield redirecting


def moved(
    pair: Pair, *actions: str, family: str = "v4", size: int, block: int, how: str, within: float = 60
) -> dict[str, int]:
    """Send *size* bytes to a server that reads as *actions* say; return how the client's counters grew."""
    assert pair.client
    before = counts(pair.client.status())
    with pair.engaged(payload=size):
        server = peer(pair.b, "serve", any_address(family), 7700, *actions, "recv-all", "close")
        client = peer(
            *(pair.a, "connect", address(pair.b, family), 7700, f"{how}:{size}", "close"),
            options=("--block", str(block)),
        )
        sent, received = result(client, within), result(server, within)
    same(sent, received)
    assert received["error"] is None
    after = counts(pair.client.status())
    return {name: value - before.get(name, 0) for name, value in after.items()}


@pytest.mark.parametrize(
    ("family", "block", "how"),
    thinned(FAMILIES, [17, 1000, 65536], ["send-async", "send-edge"]),
)
def test_messages_of_all_sizes_arrive_in_order(both: Pair, family: str, block: int, how: str) -> None:
    size = min(60 * MB, block * 20_000)
    grown = moved(both, family=family, size=size, block=block, how=how)
    assert grown["kernel.message-redirected"] > 0


@pytest.mark.parametrize("block", [500, 65536])
def test_a_reader_that_comes_and_goes_makes_the_flow_change_over(both: Pair, block: int) -> None:
    grown = moved(both, *SLOW, size=40 * MB, block=block, how="send-edge")
    assert grown["kernel.message-redirected"] > 0
    assert grown["kernel.message-passed"] > 0


def test_a_blocking_writer_stays_with_the_twin(both: Pair) -> None:
    grown = moved(both, size=20 * MB, block=65536, how="send")
    assert grown["kernel.message-redirected"] == 0


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_messages_change_over_after_more_bytes_than_half_of_32_bits_count(both: Pair) -> None:
    """What the kernel's TCP has then is still the sender's, and its FIN is acknowledged."""
    far = 2300 * MB
    grown = moved(both, f"recv:{far}", *SLOW, size=far + 40 * MB, block=65536, how="send-edge", within=400)
    assert grown["kernel.message-redirected"] > 0
    assert grown["kernel.message-passed"] > 0
    waiting = ["ss", "-tnH", "state", "fin-wait-1", "dport", "=", "7700"]
    eventually(lambda: not both.a.run(waiting, hooked=False).stdout.strip())
