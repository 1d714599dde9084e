"""Connections to a warm service through NAT: their first bytes go by the transport before the client knows.

A NAT answers what fits none of its connections with a RST: it was sent to its own address. So of flows
through a NAT nothing goes by the transport that the wire has not been shown.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from routed import MASQUERADE, STATEFUL, RoutedLab
from support import eventually, peer, result, same
from ways import Pair, end, engaged, open_way

pytestmark = pytest.mark.timeout(120)
PORT = 7995
SIZE = 9000  # bytes: some segments, and less than goes early at most
DEAF = "insert rule inet f pass iifname tob meta l4proto udp drop;"


@contextlib.contextmanager
def warm(before: str, after: str) -> Iterator[tuple[RoutedLab, Pair]]:
    """A service behind a router, with one connection that was engaged; then the router is given *after*."""
    with RoutedLab() as lab:
        lab.router.rules(STATEFUL + before)
        with open_way(lab, "segments") as pair:
            on = lab.tmp / "on"
            script = ("send:100", "recv:100", f"wait-file:{on}", "fin", "recv-all", "close")
            server = peer(pair.b, "serve", "0.0.0.0", PORT, *script)
            client = peer(pair.a, "connect", pair.b.v4, PORT, *script)
            eventually(lambda: engaged(pair) == 1)
            on.touch()
            same(result(client), result(server))
            if after:
                lab.router.rules(after)
            yield lab, pair


def transfer(lab: RoutedLab, pair: Pair, arrived: Path) -> tuple[object, object]:
    """A client that speaks first, and is answered when all has come; its engine hears nothing any more."""
    counting = ("--progress", str(arrived))
    server = peer(
        pair.b,
        "serve",
        "0.0.0.0",
        PORT,
        f"recv:{SIZE}",
        "send:5000",
        "fin",
        "recv-all",
        "close",
        options=counting,
    )
    lab.router.rules(DEAF)
    client = peer(pair.a, "connect", pair.b.v4, PORT, f"send:{SIZE}", "recv:5000", "close")
    return client, server


def hears(lab: RoutedLab) -> None:
    for line in lab.router.run("nft", "-a", "list", "chain", "inet", "f", "pass").splitlines():
        if "udp" in line and "drop" in line:
            lab.router.run("nft", "delete", "rule", "inet", "f", "pass", "handle", line.split()[-1])


def has_come(arrived: Path) -> bool:
    """Something; what goes early is one message."""
    return arrived.exists() and int(arrived.read_text()) > 0


def early(pair: Pair) -> int:
    return int(pair.client.status()["counters"]["early"])  # type: ignore[union-attr]


@pytest.mark.parametrize(("before", "after"), [(MASQUERADE, ""), ("", MASQUERADE)], ids=["known", "new"])
def test_a_client_that_is_not_answered_at_once(before: str, after: str) -> None:
    with warm(before, after) as (lab, pair):
        arrived = lab.tmp / "arrived"
        client, server = transfer(lab, pair, arrived)
        eventually(lambda: has_come(arrived), every=0.005)
        time.sleep(0.05)  # what acknowledges it has been on the wire, or not
        hears(lab)
        one, other = result(client), result(server)  # type: ignore[arg-type]
        assert early(pair) == 1
        assert one["error"] is other["error"] is None
        same(one, other)
        same(other, one)


@pytest.mark.parametrize(
    ("before", "after", "victims"),
    [
        pytest.param(MASQUERADE, "", "a", id="known-a", marks=pytest.mark.soak),
        pytest.param(MASQUERADE, "", "ab", id="known-ab"),
        pytest.param("", MASQUERADE, "a", id="new-a"),
        pytest.param("", MASQUERADE, "ab", id="new-ab", marks=pytest.mark.soak),
    ],
)
def test_a_client_whose_engine_is_killed_before_it_was_answered(
    before: str, after: str, victims: str
) -> None:
    with warm(before, after) as (lab, pair):
        arrived = lab.tmp / "arrived"
        client, server = transfer(lab, pair, arrived)
        eventually(lambda: has_come(arrived), every=0.005)
        end(pair, victims, kill=True)
        one, other = result(client), result(server)  # type: ignore[arg-type]
        assert one["error"] is other["error"] is None
        same(one, other)
        same(other, one)
