"""What peers make an endpoint hold, walk over or compute has a bound, and others are served meanwhile."""

from __future__ import annotations

import time

import pytest
from sim.attacker import Attacker, opening, reset, stream
from sim.network import MS, SECOND, A, Link, Pair

from hooker.vtl.sansio import Endpoint

KB, MB = 1 << 10, 1 << 20
BUDGET = 64 * MB
PAGE = 16 * KB


def server(**config: int) -> Endpoint:
    return Endpoint(seed=1, budget=BUDGET, stream_window=4 * MB, assoc_window=16 * MB, **config)


def held(endpoint: Endpoint) -> int:
    return endpoint.counters()["held"]


def sparse(flow: int) -> list[bytes]:
    """A byte in each page of a stream's window, the last one first."""
    return [stream(flow, 4 * MB - 1, b"x"), *(stream(flow, page * PAGE, b"x") for page in range(254, 0, -1))]


def test_scattered_bytes_of_one_source_fill_a_part_of_the_budget() -> None:
    """Its address counts, not its ports or associations: 16 MiB of windows each, in 20 KB of datagrams."""
    endpoint = server()
    for port in range(20):
        attacker = Attacker(endpoint, ("10.6.6.6", 1000 + port))
        for flow in range(4):
            attacker.send_all(sparse(flow))
    assert endpoint.counters()["over_budget"] > 0
    assert held(endpoint) <= BUDGET // 8


def test_scattered_bytes_of_many_sources_leave_half_of_the_budget() -> None:
    endpoint = server()
    for host in range(100):
        attacker = Attacker(endpoint, (f"2001:db8:0:{host:x}::1", 1000))
        for flow in range(4):
            attacker.send_all(sparse(flow))
    assert BUDGET // 4 < held(endpoint) <= BUDGET // 2 + MB


def test_an_ipv6_network_is_one_source() -> None:
    endpoint = server()
    for host in range(1, 40):
        Attacker(endpoint, (f"2001:db8:0:1::{host:x}", 1000)).send_all(sparse(0))
    assert held(endpoint) <= BUDGET // 8


def test_memory_goes_back_with_the_flow_and_with_the_association() -> None:
    endpoint = server(dead_after=1 * SECOND, idle_after=3 * SECOND)
    attacker = Attacker(endpoint, A)
    base = held(endpoint)
    attacker.send_all(sparse(0))
    assert held(endpoint) > base + MB
    attacker.send(reset(0, 4 * MB))  # our answer is never acknowledged
    endpoint.datagrams_to_send(0)
    assert held(endpoint) < base + 64 * KB
    attacker.send_all(sparse(1))
    for now in range(0, 10 * SECOND, 200 * MS):
        endpoint.handle_timer(now)
        endpoint.datagrams_to_send(now)
    assert endpoint.associations == ()
    assert held(endpoint) == 0


@pytest.mark.parametrize("accepted", [False, True])
def test_an_endpoint_under_attack_serves_others(accepted: bool) -> None:
    """Also if the attackers' flows are those of real connections."""
    pair = Pair(
        1, budget=BUDGET, stream_window=4 * MB, assoc_window=16 * MB, link=Link(delay=5 * MS, loss=0.02)
    )
    pair.b.auto_accept = accepted
    attackers = [Attacker(pair.b.endpoint, (f"10.6.{host}.6", 1000), pair.now) for host in range(40)]
    for attacker in attackers:
        attacker.send_all((opening(flow) for flow in range(50)), pair.now)
        pair.b.take_events()
        for flow in range(4):
            attacker.send_all(sparse(flow), pair.now)
    assert held(pair.b.endpoint) > BUDGET // (2 if accepted else 4)
    pair.b.auto_accept = True
    flow, peer = pair.open()
    pair.a.endpoint.write(flow, bytes(range(256)) * 8000)
    pair.run(lambda: len(pair.b.flows[peer].received) == 2048000, limit=20)
    assert bytes(pair.b.flows[peer].received) == bytes(range(256)) * 8000


@pytest.mark.parametrize("seed", range(3))
def test_a_flow_gets_through_a_budget_that_is_less_than_its_window(seed: int) -> None:
    """What does not fit is sent again; a hole is filled even if what lies behind it takes all there is."""
    pair = Pair(seed, budget=256 * KB, stream_window=MB, assoc_window=2 * MB,
                link=Link(rate=12.5e6, delay=5 * MS, loss=0.03))  # fmt: skip
    pair.b.auto_consume = False
    flow, peer = pair.open()
    pair.a.endpoint.write(flow, bytes(range(256)) * 4 * KB)
    taken = 0
    for _ in range(3000):
        pair.run_for(0.01)
        assert held(pair.b.endpoint) <= 300 * KB
        received = pair.b.flows[peer].received
        pair.b.endpoint.consumed(peer, len(received) - taken)
        taken = len(received)
        if taken == MB:
            break
    assert bytes(received) == bytes(range(256)) * 4 * KB


def test_flows_nobody_knows_leave_room_for_others() -> None:
    endpoint = server()
    refused = 0
    for host in range(8):
        attacker = Attacker(endpoint, (f"10.6.{host}.6", 1000))
        refused += attacker.send_all(opening(flow) for flow in range(20_000)).get("memory", 0)
    assert refused > 0
    honest = Attacker(endpoint, A)
    assert honest.send_all(opening(flow) for flow in range(500)).keys() == {"ok"}


def test_an_open_that_found_no_room_may_come_again() -> None:
    endpoint = Endpoint(seed=1, budget=4 * MB, stream_window=4 * MB, assoc_window=16 * MB)
    attacker = Attacker(endpoint, A)
    attacker.send_all(sparse(0))
    flow = 1
    while attacker.send(opening(flow)) == "ok":
        flow += 1
    attacker.send(reset(0, 4 * MB))
    before = len(endpoint.flows)
    assert attacker.send(opening(flow)) == "ok"
    assert len(endpoint.flows) == before + 1


def test_ids_that_a_peer_chooses_do_not_share_a_bucket() -> None:
    """Also: an association ends without a walk for each of its streams."""
    endpoint = Endpoint(seed=1)
    attacker = Attacker(endpoint, A)
    ids = [n << 17 for n in range(1 << 13)] + [n << 16 | 1 for n in range(1 << 14)]
    begin = time.perf_counter()
    for _ in range(2):
        attacker.send_all(opening(flow) for flow in ids)
    for _ in range(4):
        attacker.send_all(reset(flow) for flow in ids)
    endpoint.close(endpoint.associations[0], 1, 0)
    endpoint.datagrams_to_send(0)
    assert time.perf_counter() - begin < 3
    assert endpoint.flows == ()
