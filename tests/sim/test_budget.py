"""What peers make an endpoint hold, walk over or compute has a bound, and others are served meanwhile."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from functools import cache
from itertools import count, islice

import pytest
from sim.attacker import Attacker, opening, packed, reset, stream
from sim.network import MS, SECOND, A, Link, Pair

from hooker.vtl._parts import siphash
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


# ---- tables whose keys others choose ----

MANY = 1 << 13  # streams; as many buckets
PEERS = 1 << 8  # associations that a table has room for


@cache
def secret(seed: int) -> bytes:
    """What an endpoint of that seed draws first."""
    return random.Random(seed).randbytes(16)


@cache
def scatter(seed: int) -> int:
    return siphash(secret(seed), b"scatter") | 1


def bucket(seed: int, number: int) -> int:
    """Where a table of that endpoint puts a number, before the mask: multiplied with a secret."""
    return number * scatter(seed) % 2**64 >> 40


def mapped(ip: int) -> bytes:
    return bytes(10) + b"\xff\xff" + ip.to_bytes(4, "big")


def numbers_of_streams(seed: int) -> list[int]:
    """Flows whose streams share a bucket of that endpoint."""
    return list(islice((n for n in count() if bucket(seed, n << 1) % MANY == 0), 64))


def addresses(seed: int) -> Iterator[tuple[str, int]]:
    """Addresses of one host that share a bucket of that endpoint."""
    ip = 0x0A060606
    for port in range(1, 1 << 16):
        if siphash(secret(seed), mapped(ip) + port.to_bytes(2, "little")) % PEERS == 0:
            yield "10.6.6.6", port


def hosts(seed: int) -> Iterator[tuple[str, int]]:
    """Addresses whose sources share a bucket of that endpoint."""
    for ip in count(0x0A000001):
        if siphash(secret(seed), mapped(ip)) % PEERS == 0:
            yield ".".join(str(octet) for octet in ip.to_bytes(4, "big")), 1000


@pytest.mark.parametrize("known", [True, False], ids=["a known secret", "another secret"])
def test_who_does_not_know_the_secret_does_not_choose_a_bucket(known: bool) -> None:
    """That who knows it does shows that it is this secret which decides."""
    seed = 1 if known else 2
    endpoint = Endpoint(seed=seed)
    attacker = Attacker(endpoint, A)
    attacker.send_all(
        opening(flow) for flow in [*numbers_of_streams(1), *range(1 << 24, (1 << 24) + MANY - 64)]
    )
    longest = {"streams": endpoint.longest_chains()["streams"]}
    for name, those in (("addresses", addresses), ("sources", hosts)):
        endpoint = Endpoint(seed=seed)
        for address in islice(those(1), PEERS // 2 + 1):
            Attacker(endpoint, address, SECOND)
        longest[name] = endpoint.longest_chains()[name]
    endpoint = Endpoint(seed=seed)
    for n in range(PEERS // 2 + 1):
        Attacker(endpoint, (f"10.6.{n}.6", 1000), likes=lambda cid: bucket(1, cid) % PEERS < 8)
    longest["ids"] = endpoint.longest_chains()["ids"]
    print(longest)
    for name, length in longest.items():
        assert (length > 14) == known, (name, length)


@pytest.mark.parametrize("step", [1, 1 << 10, 1 << 17])
def test_ids_in_steps_do_not_share_a_bucket(step: int) -> None:
    endpoint = Endpoint(seed=1)
    Attacker(endpoint, A).send_all(opening(n * step) for n in range(MANY))
    assert endpoint.longest_chains()["streams"] < 16


def seconds_of_the_end(flows: int) -> float:
    """Processor time that a flow's end takes, with so many: resets, and what is left with the association."""
    taken = []
    for _ in range(3):
        endpoint = Endpoint(seed=1)
        attacker = Attacker(endpoint, A)
        attacker.send_all(opening(flow) for flow in range(flows))
        quarter = flows // 4
        acknowledged = list(packed(reset(flow) for flow in range(quarter)))
        unanswered = list(packed(reset(flow) for flow in range(quarter, flows)))
        begin = time.process_time()
        for datagram in acknowledged:
            attacker.send(datagram)
        attacker.acknowledge_all()
        left = len(endpoint.flows)
        for datagram in unanswered:
            attacker.send(datagram)
        endpoint.close(endpoint.associations[0], 1, 0)
        endpoint.datagrams_to_send(0)
        taken.append(time.process_time() - begin)
        assert (left, endpoint.flows) == (flows - quarter, ())
    return min(taken) / flows


def test_what_ends_is_not_looked_for_among_all_others() -> None:
    few, many = seconds_of_the_end(800), seconds_of_the_end(12_800)
    print(f"{few * 1e6:.2f} and {many * 1e6:.2f} us")
    assert many < 3 * few


def test_flows_that_wait_for_a_decision_are_so_many_and_each_source_has_a_quarter_of_what_is_left() -> None:
    endpoint = Endpoint(seed=1)  # memory is no matter here
    left = 1 << 16
    for host in range(3):
        attacker = Attacker(endpoint, (f"10.6.{host}.6", 1000))
        before = len(endpoint.flows)
        attacker.send_all(opening(flow) for flow in range(17_000))
        took = len(endpoint.flows) - before
        assert abs(took - left // 5) <= 60, "but for what shares a datagram with one that is refused"
        left -= took


def test_strangers_that_hold_almost_all_of_their_part_make_room_for_the_next() -> None:
    endpoint = server()
    for host in range(1500):
        attacker = Attacker(endpoint, (f"10.{host // 200}.{host % 200}.6", 1000))
        attacker.send_all(sparse(0))
    assert 0 < endpoint.counters()["evicted"] < 100
    assert held(endpoint) < BUDGET // 16 * 7 + MB
