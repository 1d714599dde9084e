"""How an association begins, lives through trouble, and ends."""

from __future__ import annotations

import random

import pytest
from sim.attacker import Attacker, opening
from sim.network import MS, SECOND, A, B, Link, Pair

from hooker.vtl import events as ev
from hooker.vtl.sansio import Endpoint

DEAD_AFTER = 5 * SECOND


def down(pair: Pair, host: str) -> list[int]:
    return [e.reason for e in getattr(pair, host).events if isinstance(e, ev.AssociationDown)]


def test_an_address_with_an_interface_is_refused() -> None:
    with pytest.raises(ValueError, match="interface"):
        Endpoint(seed=1).connect(("fe80::1%eth0", 6253), 0)


def test_no_state_before_the_cookie_returns() -> None:
    server = Endpoint(seed=1)
    for i in range(1000):
        client = Endpoint(seed=i + 10)
        client.connect(B, 0)
        ((init, _),) = client.datagrams_to_send(0)
        address = (f"10.1.{i // 250}.{i % 250}", 999)
        assert server.receive_datagram(init, address, 0) == "ok"
        ((cookie, to),) = server.datagrams_to_send(0)
        assert to == address
        assert len(cookie) * 3 <= len(init)
    assert server.associations == ()
    assert server.get_timer() is None


def test_a_forged_or_borrowed_cookie_is_refused() -> None:
    client, server = Endpoint(seed=1), Endpoint(seed=2)
    client.connect(B, 0)
    ((init, _),) = client.datagrams_to_send(0)
    server.receive_datagram(init, A, 0)
    ((cookie, _),) = server.datagrams_to_send(0)
    client.receive_datagram(cookie, B, 0)
    (second, *_) = [d for d, _ in client.datagrams_to_send(0)]
    forged = second[:60] + bytes([second[60] ^ 1]) + second[61:]
    assert server.receive_datagram(forged, A, 0) == "cookie"
    assert server.receive_datagram(second, ("10.0.0.9", 4000), 0) == "cookie"
    assert server.associations == ()
    assert server.receive_datagram(second, A, SECOND) == "ok"
    assert len(server.associations) == 1


def test_one_address_cannot_fill_the_endpoint_with_associations() -> None:
    server = Endpoint(seed=1)
    for i in range(60):
        client = Endpoint(seed=i + 10)
        client.connect(B, 0)
        server.receive_datagram(client.datagrams_to_send(0)[0][0], A, i)
        client.receive_datagram(server.datagrams_to_send(i)[0][0], B, 0)
        assert server.receive_datagram(client.datagrams_to_send(0)[0][0], A, i) == "ok"
        server.datagrams_to_send(i)
    assert len(server.associations) == 16
    assert client.is_up(client.associations[0]) is False
    gone = []
    while (event := server.next_event()) is not None:
        if isinstance(event, ev.AssociationDown):
            gone.append(event.assoc)
    assert gone == sorted(gone)
    assert min(server.associations) > max(gone)


def test_what_one_peer_begins_is_bounded_over_all_of_our_addresses() -> None:
    """Also if its flows are those of real connections, so that none is a stranger's."""
    server = Endpoint(seed=1)
    most = 256
    for i in range(most + 40):
        attacker = Attacker(server, A, local=f"10.7.{i // 250}.{i % 250 + 1}")
        assert attacker.send(opening(0)) == "ok"
        while not isinstance(event := server.next_event(), ev.FlowOpened):
            assert event is not None
        server.accept(event.flow)
    server.datagrams_to_send(0)  # the last one that had to go goes
    assert server.counters()["evicted"] == 40
    assert server.longest_chains()["addresses"] == len(server.associations) == most


def test_an_old_cookie_is_refused() -> None:
    client, server = Endpoint(seed=1), Endpoint(seed=2)
    client.connect(B, 0)
    server.receive_datagram(client.datagrams_to_send(0)[0][0], A, 0)
    client.receive_datagram(server.datagrams_to_send(0)[0][0], B, 0)
    second = client.datagrams_to_send(0)[0][0]
    assert server.receive_datagram(second, A, 60 * SECOND) == "cookie"
    assert server.associations == ()


def test_a_cookie_makes_one_association_once() -> None:
    """Else an INIT that comes late makes another, which the initiator takes for the one it knows."""
    client, server = Endpoint(seed=1), Endpoint(seed=2)
    client.connect(B, 0)
    server.receive_datagram(client.datagrams_to_send(0)[0][0], A, 0)
    client.receive_datagram(server.datagrams_to_send(0)[0][0], B, 0)
    second = client.datagrams_to_send(0)[0][0]
    assert server.receive_datagram(second, A, 0) == "ok"
    server.close(server.associations[0], 1, 0)
    server.datagrams_to_send(0)
    assert server.associations == ()
    assert server.receive_datagram(second, A, 0) == "cookie"
    assert server.associations == ()


@pytest.mark.parametrize("seed", range(10))
def test_handshake_through_thirty_percent_loss(seed: int) -> None:
    pair = Pair(seed, link=Link(loss=0.3))
    flow, peer = pair.open()
    pair.a.endpoint.write(flow, b"hello")
    pair.run(lambda: pair.b.flows[peer].received == b"hello")


def test_handshake_gives_up_in_time_and_resets_its_flows() -> None:
    pair = Pair(1, link=Link(down=True), handshake_timeout=3 * SECOND)
    assoc = pair.a.endpoint.connect(B, 0)
    flow = pair.a.endpoint.open(assoc, 0)
    pair.run(lambda: bool(down(pair, "a")))
    assert pair.now == 3 * SECOND
    assert pair.a.flows[flow].log == ["FlowReset", "FlowClosed"]
    assert pair.a.endpoint.associations == ()
    assert pair.a.endpoint.connect(B, pair.now) != assoc


def test_a_path_error_that_quotes_our_init_ends_a_handshake_at_once() -> None:
    pair = Pair(1, link=Link(down=True))
    flow = pair.a.endpoint.open(pair.a.endpoint.connect(B, 0), 0)
    ((init, _),) = pair.a.endpoint.datagrams_to_send(pair.now)
    pair.a.endpoint.path_error(B, pair.now, init[:20])
    pair.settle()
    assert pair.a.flows[flow].log == ["FlowReset", "FlowClosed"]
    assert down(pair, "a") == [0x10004]


def spoofed(seed: int) -> list[bytes]:
    """What somebody may quote who has seen none of our datagrams."""
    rng = random.Random(seed)
    return [
        b"",
        bytes(8),
        *(bytes([0x20 | kind]) + rng.randbytes(43) for kind in range(16) for _ in range(20)),
    ]


def test_a_spoofed_path_error_does_not_end_a_handshake() -> None:
    pair = Pair(1, link=Link(delay=50 * MS))
    assoc = pair.a.endpoint.connect(B, 0)
    pair.a.endpoint.open(assoc, 0)
    for _ in range(30):
        for quoted in spoofed(1):
            pair.a.endpoint.path_error(B, pair.now, quoted)
        pair.run_for(0.01)
    assert pair.a.endpoint.is_up(assoc)
    assert pair.a.endpoint.counters()["unproven_errors"] == 30 * len(spoofed(1))
    assert down(pair, "a") == []


def last_data(pair: Pair, flow: int) -> bytes:
    pair.a.endpoint.write(flow, b"x")
    ((datagram, _),) = pair.a.endpoint.datagrams_to_send(pair.now)
    return datagram


def test_a_path_error_on_a_live_association_is_only_a_question() -> None:
    pair = Pair(1)
    flow, _ = pair.open()
    pair.a.endpoint.path_error(B, pair.now, last_data(pair, flow))
    pair.run_for(2)
    assert down(pair, "a") == []


def test_a_path_error_and_silence_end_the_association_quickly() -> None:
    pair = Pair(1)
    flow, _ = pair.open()
    pair.run_for(1)
    pair.forth.down = True
    start = pair.now
    pair.a.endpoint.path_error(B, start, last_data(pair, flow))
    pair.run(lambda: bool(down(pair, "a")))
    assert pair.now - start <= 310 * MS
    assert pair.a.flows[flow].log[-2:] == ["FlowReset", "FlowClosed"]


def test_a_spoofed_path_error_makes_no_outage_shorter() -> None:
    """It asks, at most every 300 ms; an outage of 2 s is still outlived."""
    pair = Pair(1, dead_after=DEAD_AFTER)
    flow, peer = pair.open()
    pair.run_for(1)
    pair.forth.down = pair.back.down = True
    sent = pair.a.endpoint.stats(pair.a.endpoint.associations[0])["packets_sent"]
    for _ in range(200):
        for quoted in spoofed(2):
            pair.a.endpoint.path_error(B, pair.now, quoted)
        pair.run_for(0.01)
    assert pair.a.endpoint.stats(pair.a.endpoint.associations[0])["packets_sent"] - sent < 25
    pair.forth.down = pair.back.down = False
    pair.a.endpoint.write(flow, b"still here")
    pair.run(lambda: bytes(pair.b.flows[peer].received) == b"still here")
    assert down(pair, "a") == []


@pytest.mark.parametrize("hosts", [1, 100])
def test_a_flood_of_handshakes_keeps_nobody_out(hosts: int) -> None:
    """More than could be remembered one by one in a tick of the clock; and a used cookie stays used."""
    pair = Pair(1, link=Link(delay=5 * MS))
    pair.run_for(1)
    made = [
        Attacker(pair.b.endpoint, (f"10.6.{n % hosts}.6", 1000 + n // hosts), pair.now) for n in range(4000)
    ]
    begun = sum(a.answer == "ok" for a in made)
    assert begun == 1000 if hosts == 1 else begun >= 3900, "one source begins no more at once"
    assoc = pair.a.endpoint.connect(B, pair.now)
    pair.run(lambda: pair.a.endpoint.is_up(assoc), limit=0.5)
    if hosts == 1:
        assert len(pair.b.endpoint.associations) <= 257
        pair.run_for(3)
        again = [pair.b.endpoint.receive_datagram(a.second, a.address, pair.now) for a in made[:500]]
        assert set(again) == {"cookie"}


def test_one_source_begins_so_many_associations_a_second_and_no_other_has_fewer() -> None:
    server = Endpoint(seed=1)

    def begun(source: str, now: int) -> int:
        made = [Attacker(server, (source, 1000 + n), now) for n in range(1200)]
        return sum(a.answer == "ok" for a in made)

    assert begun("10.6.6.6", SECOND) == 1000
    assert begun("10.6.6.6", SECOND + 200 * MS) == 100
    assert begun("10.6.6.7", SECOND + 200 * MS) == 1000
    assert begun("2001:db8:0:1::6", SECOND + 200 * MS) == 1000
    assert begun("2001:db8:0:1::7", SECOND + 200 * MS) == 0, "the same network"


def test_used_cookies_of_long_ago_refuse_nobody() -> None:
    """The filter is emptied when what it holds is too old to count: else it would be full some day."""
    server = Endpoint(seed=1)
    for age in range(4):
        now = 2 * age * 16 << 30  # ns: a cookie lives 16 ticks of 2^30 ns; there are two filters
        hosts = [(f"10.{age}.{n % 100}.6", 1000 + n // 100) for n in range(20_000)]
        refused = sum(Attacker(server, host, now).answer != "ok" for host in hosts)
    assert refused < 20


@pytest.mark.parametrize("writes", [True, False])
def test_a_vanished_peer_resets_flows_within_dead_after(writes: bool) -> None:
    pair = Pair(1, dead_after=DEAD_AFTER, keepalive=2 * SECOND)
    flow, peer = pair.open()
    pair.run_for(1)
    pair.forth.down = pair.back.down = True
    start = pair.now
    if writes:
        pair.a.endpoint.write(flow, bytes(50_000))
    pair.run(lambda: bool(down(pair, "a")) and bool(down(pair, "b")))
    assert pair.now - start <= DEAD_AFTER + 2 * SECOND
    for host, handle in ((pair.a, flow), (pair.b, peer)):
        assert host.flows[handle].log[-2:] == ["FlowReset", "FlowClosed"]
        assert host.endpoint.borrowed == 0
        assert host.endpoint.associations == ()


def test_a_short_blackhole_is_survived() -> None:
    pair = Pair(1, dead_after=DEAD_AFTER)
    flow, peer = pair.open()
    pair.a.endpoint.write(flow, bytes(500_000))
    pair.run(lambda: len(pair.b.flows[peer].received) > 100_000)
    pair.forth.down = pair.back.down = True
    pair.run_for(3)
    pair.forth.down = pair.back.down = False
    pair.run(lambda: len(pair.b.flows[peer].received) == 500_000, limit=5)


def test_keepalive_keeps_a_silent_flow() -> None:
    pair = Pair(1, keepalive=SECOND, dead_after=2 * SECOND)
    pair.open()
    pair.run_for(60)
    assert down(pair, "a") == down(pair, "b") == []


def test_an_idle_association_closes_at_both_ends() -> None:
    pair = Pair(1, idle_after=5 * SECOND)
    flow, peer = pair.open()
    pair.a.endpoint.fin(flow)
    pair.b.endpoint.fin(peer)
    pair.run_for(4)
    assert down(pair, "a") == down(pair, "b") == []
    pair.run_for(3)
    assert down(pair, "a") == down(pair, "b") == [0x10001]


def test_close_resets_flows_at_both_ends_with_its_reason() -> None:
    pair = Pair(1)
    flow, peer = pair.open()
    assoc = pair.a.endpoint.associations[0]
    pair.a.endpoint.close(assoc, 321, pair.now)
    pair.run(lambda: bool(down(pair, "b")))
    assert down(pair, "a") == down(pair, "b") == [321]
    assert pair.a.flows[flow].log[-2:] == pair.b.flows[peer].log[-2:] == ["FlowReset", "FlowClosed"]


def test_a_lost_close_is_made_good_by_a_stateless_reset() -> None:
    pair = Pair(1, keepalive=SECOND)
    _, peer = pair.open()
    pair.forth.down = True
    pair.a.endpoint.close(pair.a.endpoint.associations[0], 1, pair.now)
    pair.run_for(0.1)
    pair.forth.down = False
    pair.run(lambda: bool(down(pair, "b")), limit=2)
    assert down(pair, "b") == [0x10005]
    assert pair.b.flows[peer].log[-2:] == ["FlowReset", "FlowClosed"]


def test_a_restarted_peer_answers_with_a_stateless_reset() -> None:
    pair = Pair(1)
    flow, _ = pair.open()
    pair.run_for(1)
    pair.b.endpoint = Endpoint(seed=99)
    start = pair.now
    pair.a.endpoint.write(flow, b"anyone?")
    pair.run(lambda: bool(down(pair, "a")))
    assert pair.now - start == 10 * MS
    assert pair.a.flows[flow].log[-2:] == ["FlowReset", "FlowClosed"]


def test_stateless_resets_are_rate_limited() -> None:
    server = Endpoint(seed=1)
    data = bytes([0x28]) + (7).to_bytes(8, "big") + (1).to_bytes(4, "big") + b"\x01"
    for _ in range(1000):
        assert server.receive_datagram(data, A, SECOND) == "no_assoc"
    answers = server.datagrams_to_send(SECOND)
    assert 0 < len(answers) <= 100
    assert all(len(d) < len(data) for d, _ in answers)


def test_a_stateless_reset_needs_the_connection_id_and_a_packet_number() -> None:
    pair = Pair(1)
    pair.open()
    pair.run_for(1)
    sniffed: list[bytes] = []
    pair.a.endpoint.write(next(iter(pair.a.endpoint.flows)), b"x")
    sniffed = [d for d, _ in pair.a.endpoint.datagrams_to_send(pair.now)]
    cid, number = sniffed[0][1:9], sniffed[0][9:13]
    wrong_cid = bytes([cid[0] ^ 1]) + cid[1:]
    future = (int.from_bytes(number, "big") + 1000).to_bytes(4, "big")
    for forged in (wrong_cid + number, cid + future):
        packet = bytes([0x2A]) + forged
        assert pair.a.endpoint.receive_datagram(packet, B, pair.now) in ("no_assoc", "protocol")
    assert pair.a.endpoint.associations


@pytest.mark.parametrize("seed", range(8))
def test_both_hosts_connect_at_the_same_time(seed: int) -> None:
    pair = Pair(seed, link=Link(loss=0.1 * (seed % 3)))
    x = pair.a.endpoint.open(pair.a.endpoint.connect(B, 0), 0)
    y = pair.b.endpoint.open(pair.b.endpoint.connect(A, 0), 0)
    pair.run(lambda: "FlowAccepted" in pair.a.flows[x].log and "FlowAccepted" in pair.b.flows[y].log)
    pair.a.endpoint.write(x, b"from a")
    pair.b.endpoint.write(y, b"from b")
    pair.run(
        lambda: (
            any(f.received == b"from a" for f in pair.b.flows.values())
            and any(f.received == b"from b" for f in pair.a.flows.values())
        )
    )


@pytest.mark.parametrize("seed", range(4))
def test_of_two_associations_made_at_the_same_time_one_stays(seed: int) -> None:
    pair = Pair(seed, keepalive=SECOND, dead_after=DEAD_AFTER)
    x = pair.a.endpoint.open(pair.a.endpoint.connect(B, 0), 0)
    y = pair.b.endpoint.open(pair.b.endpoint.connect(A, 0), 0)
    pair.run(lambda: "FlowAccepted" in pair.a.flows[x].log and "FlowAccepted" in pair.b.flows[y].log)
    assert len(pair.a.endpoint.associations) == len(pair.b.endpoint.associations) == 2
    pair.run_for(0.1)
    chosen = [h.endpoint.connect(to, pair.now) for h, to in ((pair.a, B), (pair.b, A))]
    _, peer = pair.open(chosen[0])  # both prefer the same one
    (opened,) = [e for e in pair.b.events if isinstance(e, ev.FlowOpened) and e.flow == peer]
    assert opened.assoc == chosen[1]
    for host in (pair.a, pair.b):
        for handle in host.endpoint.flows:
            host.endpoint.fin(handle)
    pair.run_for(2)
    assert len(pair.a.endpoint.associations) == len(pair.b.endpoint.associations) == 2
    pair.run_for(10)
    assert [list(h.endpoint.associations) for h in (pair.a, pair.b)] == [[c] for c in chosen]
    assert pair.a.down_reasons() == pair.b.down_reasons() == [0x10001]


def test_connect_again_gives_the_same_association() -> None:
    pair = Pair(1)
    assoc = pair.connect()
    assert pair.a.endpoint.connect(B, pair.now) == assoc


def test_versions_without_overlap_end_the_handshake() -> None:
    pair = Pair(1)
    pair.b.endpoint = Endpoint(seed=1, versions=(2,))
    pair.a.endpoint.connect(B, 0)
    pair.run(lambda: bool(down(pair, "a")))
    assert down(pair, "a") == [0x10006]
    assert pair.now == 10 * MS


@pytest.mark.parametrize(("there", "back"), [(1300, 1300), (1300, 1500), (1500, 1300)])
def test_a_path_that_drops_full_datagrams_gets_smaller_ones(there: int, back: int) -> None:
    pair = Pair(1, link=Link(mtu=there), back=Link(mtu=back))
    flow, peer = pair.open()
    pair.a.endpoint.write(flow, bytes(100_000))
    assert pair.now < 150 * MS  # one INIT was too large, and repeated after 60 ms
    pair.run(lambda: len(pair.b.flows[peer].received) == 100_000, limit=5)
    assert pair.a.endpoint.stats(pair.a.endpoint.associations[0])["packets_lost"] == 0


def test_a_long_round_trip() -> None:
    pair = Pair(1, link=Link(delay=375 * MS))
    flow, peer = pair.open()
    pair.a.endpoint.write(flow, bytes(300_000))
    pair.run(lambda: len(pair.b.flows[peer].received) == 300_000, limit=20)
    assert pair.a.endpoint.stats(pair.a.endpoint.associations[0])["packets_lost"] == 0


@pytest.mark.parametrize("committed", [False, True])
def test_a_flow_opened_while_the_peer_closes_idle_is_not_lost(committed: bool) -> None:
    pair = Pair(1)
    pair.b.endpoint = Endpoint(seed=7, idle_after=3 * SECOND)
    pair.connect()
    data = bytes(range(256)) * 200
    pair.run_for((3012 * MS - pair.now) / SECOND)  # b closes at 3015 ms; the OPEN comes after that
    assoc = pair.a.endpoint.associations[0]
    flow = pair.a.endpoint.open(assoc, pair.now, committed=committed)
    if committed:
        pair.a.endpoint.write(flow, data)
        pair.a.endpoint.fin(flow)
    pair.run(lambda: bool(down(pair, "b")))
    pair.run(lambda: any("FlowConfirmed" in f.log for f in pair.b.flows.values()))
    assert down(pair, "a") == []
    if not committed:
        pair.a.endpoint.write(flow, data)
        pair.a.endpoint.fin(flow)
    (peer,) = pair.b.flows
    pair.run(lambda: pair.b.flows[peer].fin)
    assert pair.b.flows[peer].received == data
    assert pair.a.endpoint.associations == (assoc,)


def test_a_flow_opened_towards_a_restarted_peer_is_opened_again_and_older_ones_are_reset() -> None:
    pair = Pair(1)
    old, _ = pair.open()
    pair.run_for(1)
    pair.b.endpoint = Endpoint(seed=99)
    pair.b.flows.clear()
    assoc = pair.a.endpoint.associations[0]
    new = pair.a.endpoint.open(assoc, pair.now)
    pair.run(lambda: "FlowAccepted" in pair.a.flows[new].log)
    assert pair.a.flows[old].log[-2:] == ["FlowReset", "FlowClosed"]
    assert pair.a.flows[new].log == ["FlowAccepted"]
    assert down(pair, "a") == []


def test_a_peer_that_forgets_again_and_again_is_given_up() -> None:
    pair = Pair(1)
    assoc = pair.connect()
    pair.b.auto_accept = False
    flow = pair.a.endpoint.open(assoc, pair.now)
    for i in range(10):
        pair.run_for(0.5)
        pair.b.take_events()
        pair.b.endpoint = Endpoint(seed=100 + i)
        if flow in pair.a.endpoint.flows:
            pair.a.endpoint.path_error(B, pair.now)
    assert pair.a.flows[flow].log == ["FlowReset", "FlowClosed"]
    assert down(pair, "a") == [0x10005]


def test_a_clock_that_jumps_back_does_no_harm() -> None:
    pair = Pair(1)
    flow, peer = pair.open()
    pair.run_for(5)
    for jump in (4 * SECOND, 1 * SECOND, 5 * SECOND):
        pair.a.endpoint.write(flow, b"x" * 1000)
        for data, _ in pair.a.endpoint.datagrams_to_send(pair.now - jump):
            assert pair.b.endpoint.receive_datagram(data, A, pair.now - jump) == "ok"
        pair.run_for(0.2)
    assert len(pair.b.flows[peer].received) == 3000
    assert down(pair, "a") == down(pair, "b") == []


def test_a_lost_init_ack_costs_one_retry_and_no_probe_timeout() -> None:
    pair = Pair(1)
    flow = pair.a.endpoint.open(pair.a.endpoint.connect(B, 0), 0)
    pair.run(lambda: pair.now == 10 * MS)
    pair.back.down = True
    pair.run(lambda: bool(pair.b.endpoint.associations))
    pair.back.down = False
    pair.run(lambda: "FlowAccepted" in pair.a.flows[flow].log)
    assert pair.now < 120 * MS
