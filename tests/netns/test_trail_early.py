"""Connections to a warm service through NAT: their first bytes go by the transport before the client knows.

A NAT answers what fits none of its connections with a RST: it was sent to its own address. So of flows
through a NAT nothing goes by the transport that the wire has not been shown.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from routed import MASQUERADE, STATEFUL, RoutedLab
from support import counts, eventually, peer, result, same
from ways import Pair, end, engaged, open_way

from hooker.lab.link import Link

LONG = partial(pytest.param, marks=pytest.mark.soak)  # of the runs that --soak adds
pytestmark = pytest.mark.timeout(120)
PORT = 7995
SIZE = 9000  # bytes: some segments, and less than goes early at most
ANSWERS = (f"recv:{SIZE}", "send:5000", "fin", "recv-all", "close")
DEAF = "insert rule inet f pass iifname tob meta l4proto udp drop;"


BULK = 8_000_000  # bytes each way
FAR = (LONG(0.01), 0.025, LONG(0.05))  # s one way


@contextlib.contextmanager
def warm(before: str, after: str, delay: float = 0) -> Iterator[tuple[RoutedLab, Pair]]:
    """A service behind a router, with one connection that was engaged; then the router is given *after*.

    Args:
        delay: of the wire behind the router, s.
    """
    link = Link(rate=200e6, delay=delay, queue=2_000_000) if delay else None
    with RoutedLab(link) as lab:
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
    server = peer(pair.b, "serve", "0.0.0.0", PORT, *ANSWERS, options=counting)
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
    return counted(pair, "early")


def counted(pair: Pair, what: str) -> int:
    """What the client's engine has counted."""
    assert pair.client
    return counts(pair.client.status())[what]


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
        LONG(MASQUERADE, "", "a", id="known-a"),
        pytest.param(MASQUERADE, "", "ab", id="known-ab"),
        pytest.param("", MASQUERADE, "a", id="new-a"),
        LONG("", MASQUERADE, "ab", id="new-ab"),
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


@pytest.mark.parametrize("delay", FAR)
def test_what_has_gone_early_goes_by_the_wire_when_a_nat_is_found(delay: float) -> None:
    """It was dropped there. The client's TCP repeats it without waiting for a second timeout."""
    with warm("", MASQUERADE, delay) as (_, pair):
        for number in range(3):
            server = peer(pair.b, "serve", "0.0.0.0", PORT, *ANSWERS)
            client = peer(pair.a, "connect", pair.b.v4, PORT, f"send:{SIZE}", "recv:5000", "close")
            one, other = result(client), result(server)
            print(delay, f"{one['last_byte'] - one['connected']:.3f} s")
            assert one["error"] is other["error"] is None
            same(one, other)
            same(other, one)
            assert early(pair) == number + 1
            assert counted(pair, "early_on_wire") == 1  # the others expect it


@pytest.mark.parametrize(
    ("before", "after", "victims"),
    [
        (MASQUERADE, "", "a"),
        LONG(MASQUERADE, "", "b"),
        LONG(MASQUERADE, "", "ab"),
        LONG("", MASQUERADE, "a"),
        LONG("", MASQUERADE, "b"),
        ("", MASQUERADE, "ab"),
    ],
    ids=lambda value: {"": "-", MASQUERADE: "nat"}.get(value, value),
)
@pytest.mark.parametrize("delay", FAR)
def test_a_transfer_over_a_long_way_goes_on_when_its_engine_is_killed(
    delay: float, before: str, after: str, victims: str
) -> None:
    with warm(before, after, delay) as (lab, pair):
        progress = lab.tmp / "progress"
        script = (f"recv:{BULK}", f"send:{BULK}", "fin", "recv-all", "close")
        counting = ("--progress", str(progress))
        server = peer(pair.b, "serve", "0.0.0.0", PORT, *script, options=counting)
        client = peer(pair.a, "connect", pair.b.v4, PORT, f"send:{BULK}", f"recv:{BULK}", "close")
        eventually(lambda: progress.exists() and int(progress.read_text() or 0) > BULK // 3, 30, 0.002)
        assert early(pair) == 1
        end(pair, victims, kill=True)
        one, other = result(client), result(server)
        print(delay, victims, f"{max(one['silence'], other['silence']):.2f} s")
        assert one["error"] is other["error"] is None
        same(one, other)
        same(other, one)
