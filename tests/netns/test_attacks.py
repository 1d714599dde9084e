"""Who can reach the engine's port, and has no key, stops nobody else: benchmarks/attacks.py, in short."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from support import Pair, peer, result, same

from benchmarks import attacks
from hooker.lab import Lab

pytestmark = [pytest.mark.timeout(90), pytest.mark.alone]
MB = 1 << 20
SECONDS = 3.0
FLOWS, MOST = 14, 24  # a flow's credit is 1 MiB at least: two slabs


@pytest.mark.parametrize("name", ["sparse", "opens", "inits"])
def test_honest_flows_outlive_an_attack(name: str) -> None:
    row = attacks.run(name, SECONDS)
    print(row)
    assert row["sent_MB"] > 0.5, "the attack did not take place"
    assert (row["failed"], row["resets"]) == (0, 0)
    assert row["hooked"] > 10
    done, tried = map(int, str(row["handshakes"]).split(" of "))
    assert done >= tried - 1
    assert row["grew_MiB"] < 160  # half of the budget, and what malloc adds
    assert row["kept_MiB"] != "died"
    assert row["kept_MiB"] < 120
    if name == "opens":
        assert row["cpu_s"] < SECONDS / 3, "unknown flows are walked"


@pytest.mark.parametrize("name", ["inits", "deaf"])
def test_honest_flows_of_segments_outlive_an_attack(name: str) -> None:
    row = attacks.run(name, SECONDS)
    print(row)
    assert (row["failed"], row["resets"]) == (0, 0)
    assert row["kept_MiB"] != "died"
    assert row["grew_MiB"] < 200  # slabs, copies, and what malloc adds
    assert row["hooked"] > 1


def test_a_spoofed_icmp_error_keeps_no_peer_on_tcp() -> None:
    row = attacks.run("icmp", SECONDS)
    print(row)
    assert (row["failed"], row["resets"]) == (0, 0)
    assert row["hooked"] > 10


def test_slabs_go_back_to_the_system_after_a_peak(lab: Lab) -> None:
    """Of redirected messages the engine keeps what the peer has not acknowledged."""
    with Pair.open(lab, options=("--redirect", "always"), kind="messages") as pair:
        assert pair.client
        begin, go = pair.lab.tmp / "begin", pair.lab.tmp / "go"
        send, take = f"send-edge:{10 * MB}", "recv-all"
        clients, servers = [], []
        for port in range(7600, 7600 + MOST):
            servers.append(peer(pair.b, "serve", "0.0.0.0", port, f"wait-file:{go}", take, "close"))
            clients.append(peer(pair.a, "connect", pair.b.v4, port, f"wait-file:{begin}", send, "close"))
            if len(clients) >= FLOWS and _engaged(pair, len(clients)) >= FLOWS:
                break
        begin.touch()
        peak = _slabs_until(pair, lambda n: n >= 24)
        go.touch()
        for client, server in zip(clients, servers, strict=True):
            same(result(client, 60), result(server, 60))
        left = _slabs_until(pair, lambda n: n <= 12)
        print(f"{peak} slabs at the peak, {left} after it")


def _engaged(pair: Pair, flows: int) -> int:
    """How many of the flows are, when all are decided about: on a busy machine some are held in vain."""
    assert pair.client
    deadline = time.monotonic() + 15
    while True:
        status = pair.client.status()
        engaged: int = status["counters"]["engaged"]
        if engaged + sum(status["reasons"].values()) >= flows:
            return engaged
        assert time.monotonic() < deadline, f"{engaged} of {flows}: {status['reasons']}"
        time.sleep(0.1)


def _slabs_until(pair: Pair, good: Callable[[int], bool], limit: float = 15) -> int:
    deadline = time.monotonic() + limit
    while True:
        assert pair.client
        number: int = pair.client.status()["counters"]["slabs"]
        if good(number):
            return number
        assert time.monotonic() < deadline, f"{number} slabs"
        time.sleep(0.3)
