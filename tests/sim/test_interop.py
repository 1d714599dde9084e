"""The scenarios of the QUIC interop runner that concern a transport, under their names there.

Paths are the runner's: 15 ms each way, 10 Mbit/s and a queue of 25 datagrams, unless the scenario is
about something else. Bytes are compared at both ends.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest
from sim.exchange import Exchange, exchange, finish, payload
from sim.network import IPV6, MS, SECOND, A, Address, B, Host, Link, Pair

from hooker.vtl import events as ev
from hooker.vtl.sansio import ENCRYPTED_VERSIONS, Endpoint

RATE = 1.25e6  # bytes/s
KEY = bytes(range(32))
CHACHA20 = 0x103
KIB, MIB = 1 << 10, 1 << 20


def runner(seed: int, *, config: dict[str, object] | None = None, **changes: object) -> Pair:
    link = Link(delay=15 * MS, rate=RATE, queue=25 * 1500)
    return Pair(seed, link=replace(link, **changes), **(config or {}))


def test_handshake() -> None:
    pair = runner(1)
    exchange(pair, KIB)
    assert pair.now < 1000 * MS
    assert pair.a.kinds().count("AssociationUp") == pair.b.kinds().count("AssociationUp") == 1


def test_transfer() -> None:
    """Three files at once, with windows much smaller than they are."""
    pair = runner(1, config={"stream_window": 64 * KIB, "assoc_window": 128 * KIB})
    assoc = pair.connect()
    finish(pair, [Exchange(pair, 200, n * MIB, seed=n, assoc=assoc) for n in (2, 3, 5)])


def test_longrtt() -> None:
    """A round trip of 750 ms: nothing is taken for lost, and no handshake is begun twice."""
    pair = runner(1, delay=375 * MS)
    flow = pair.a.endpoint.open(pair.a.connect(B, 0), 0)
    pair.run(lambda: "FlowAccepted" in pair.a.flows[flow].log)
    assert pair.now < 4 * 375 * MS + 100 * MS
    pair.a.endpoint.cancel(flow)
    finish(pair, [Exchange(pair, MIB, MIB)], limit=60)
    assert pair.a.kinds().count("AssociationUp") == pair.b.kinds().count("AssociationUp") == 1


def test_multiplexing() -> None:
    """1,999 small files over one association; the reader of each sees its own."""
    pair = runner(1)
    assoc = pair.connect()
    data = {n: payload(32, n) for n in range(1999)}

    def serve(event: ev.FlowOpened) -> None:
        pair.b.endpoint.accept(event.flow)
        pair.b.endpoint.write(event.flow, data[event.locator])
        pair.b.endpoint.fin(event.flow)

    pair.b.on_opened = serve
    flows = {}
    for n in data:
        flows[n] = pair.a.endpoint.open(assoc, pair.now, locator=n, committed=True)
        pair.a.endpoint.write(flows[n], data[n][::-1])
        pair.a.endpoint.fin(flows[n])
    pair.run(lambda: all(pair.a.flows[f].closed for f in flows.values()) and not pair.b.endpoint.flows)
    assert all(pair.a.flows[flows[n]].received == data[n] for n in data)
    served = {e.flow: e.locator for e in pair.b.events if isinstance(e, ev.FlowOpened)}
    assert {bytes(pair.b.flows[f].received) for f in served} == {d[::-1] for d in data.values()}
    assert all(pair.b.flows[f].received == data[n][::-1] for f, n in served.items())
    assert len(pair.a.endpoint.associations) == 1


def test_retry() -> None:
    """Each association begins with a cookie of the responder, which keeps nothing before it is back."""
    pair = Pair(1, link=Link(delay=15 * MS))
    pair.a.connect(B, 0)
    pair.run(lambda: pair.now >= 30 * MS)
    assert pair.b.endpoint.associations == ()
    pair.run(lambda: bool(pair.b.endpoint.associations))
    assert pair.now == 45 * MS
    exchange(pair, KIB)


def test_resumption() -> None:
    """A second flow to a known host needs one round trip until it is accepted, not the handshake's two."""
    pair = Pair(1, link=Link(delay=15 * MS))
    finish(pair, [Exchange(pair, KIB, KIB)])
    pair.run_for(1)
    start = pair.now
    flow = pair.a.endpoint.open(pair.a.connect(B, start), start)
    pair.run(lambda: "FlowAccepted" in pair.a.flows[flow].log)
    assert pair.now - start == 30 * MS


def test_zerortt() -> None:
    """A committed flow on a warm association has its bytes at the peer after half a round trip."""
    pair = Pair(1, link=Link(delay=15 * MS))
    assoc = pair.connect()
    pair.run_for(1)
    start = pair.now
    flow = pair.a.endpoint.open(assoc, start, committed=True)
    pair.a.endpoint.write(flow, payload(5000))
    pair.a.endpoint.fin(flow)
    pair.run(lambda: any(f.fin for f in pair.b.flows.values()))
    assert pair.now - start == 15 * MS
    (seen,) = pair.b.flows.values()
    assert seen.received == payload(5000)


def test_blackhole() -> None:
    """Two seconds of nothing, again and again."""
    pair = runner(1)
    e = Exchange(pair, 10 * MIB, 10)
    for n in range(6):
        pair.after(2 + 4 * n, lambda: pair.blackhole(2))
    finish(pair, [e], limit=60)
    assert pair.now > 10_000 * MS


@pytest.mark.parametrize("seed", range(50))
def test_handshakeloss(seed: int) -> None:
    """30 % loss each way, in bursts of three."""
    exchange(runner(seed, loss=0.3, burst=3), KIB)


@pytest.mark.parametrize("seed", range(10))
def test_transferloss(seed: int) -> None:
    exchange(runner(seed, loss=0.02, burst=3), 2 * MIB)


@pytest.mark.parametrize("seed", range(20))
def test_handshakecorruption(seed: int) -> None:
    """30 % of the datagrams have a bit flipped; UDP's checksum keeps them from us."""
    pair = runner(seed, corrupt=0.3)
    exchange(pair, KIB)
    assert pair.forth.corrupted + pair.back.corrupted > 0
    for host in (pair.a, pair.b):
        assert not {"short", "version", "type", "cookie"} & {k for k, n in host.endpoint.drops().items() if n}


@pytest.mark.parametrize("seed", range(5))
def test_transfercorruption(seed: int) -> None:
    exchange(runner(seed, corrupt=0.02), 2 * MIB)


@pytest.mark.parametrize("seed", range(20))
def test_corruption_that_no_checksum_sees_does_no_harm_but_to_its_bytes(seed: int) -> None:
    """Without any integrity of its own the plain mode cannot know; it must not crash, hang or keep memory."""
    pair = runner(seed, corrupt=0.1, checksum=False, config={"dead_after": 5 * SECOND})
    flow = pair.a.endpoint.open(pair.a.connect(B, 0), 0, committed=True)
    pair.a.endpoint.write(flow, payload(200_000))
    pair.a.endpoint.fin(flow)
    pair.b.on_opened = lambda event: (pair.b.endpoint.accept(event.flow), pair.b.endpoint.fin(event.flow))
    pair.run_for(30)
    for host in (pair.a, pair.b):
        for assoc in host.endpoint.associations:
            host.endpoint.close(assoc, 0, pair.now)
    pair.run_for(5)
    for host in (pair.a, pair.b):
        assert host.endpoint.borrowed == 0
        assert host.endpoint.flows == ()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("version", ENCRYPTED_VERSIONS)
def test_transfercorruption_that_no_checksum_sees_with_a_key(seed: int, version: int) -> None:
    """Nothing that was changed is taken, so every byte is right."""
    config = {"keys": (KEY,), "versions": (version,)}
    pair = runner(seed, corrupt=0.02, checksum=False, config=config)
    exchange(pair, MIB)
    assert pair.forth.corrupted > 10
    assert sum(h.endpoint.drops()["auth"] for h in (pair.a, pair.b)) > 10


def test_chacha20() -> None:
    pair = runner(1, config={"keys": (KEY,), "versions": (CHACHA20,)})
    assoc = pair.connect()
    finish(pair, [Exchange(pair, 3 * MIB, 3 * MIB)])
    assert pair.a.endpoint.stats(assoc)["version"] == CHACHA20


@pytest.mark.parametrize("loss", [0, 0.02])
def test_keyupdate(loss: float) -> None:
    """Early and often, in the middle of a transfer."""
    pair = runner(1, loss=loss, config={"keys": (KEY,), "key_update_after": 100})
    assoc = pair.connect()
    finish(pair, [Exchange(pair, 3 * MIB, MIB)])
    assert pair.a.endpoint.stats(assoc)["key_updates"] > 5
    assert not pair.a.endpoint.drops()["auth"] + pair.b.endpoint.drops()["auth"]


def test_amplificationlimit() -> None:
    """An unproven address gets at most three times the bytes it sent."""
    for size in range(1473):
        server = Endpoint(seed=1)
        client = Endpoint(seed=2)
        client.connect(B, 0)
        ((init, _),) = client.datagrams_to_send(0)
        for _ in range(3):
            server.receive_datagram(init[:size], A, 0)
        assert sum(len(d) for d, _ in server.datagrams_to_send(0)) <= 3 * size
    assert server.associations == ()


@pytest.mark.parametrize("lost", range(6))
def test_amplificationlimit_with_the_first_datagrams_lost(lost: int) -> None:
    pair = runner(1)
    carry, sent = pair.back.carry, []

    def lose(*what: object) -> list[object]:
        sent.append(what)
        return [] if len(sent) <= lost else carry(*what)

    pair.back.carry = lose
    exchange(pair, 20 * KIB)
    assert len(sent) > lost


@pytest.mark.parametrize("congestion", ["cubic", "newreno"])
def test_ecn(congestion: str) -> None:
    """A queue that marks instead of dropping: the bytes come without one loss."""
    pair = runner(1, queue=200_000, mark=20_000, config={"congestion": congestion})
    assoc = pair.connect()
    e = Exchange(pair, 5 * MIB, 10)
    pair.run(e.done)
    e.check()
    stats = pair.a.endpoint.stats(assoc)
    assert stats["ecn"] == 1
    assert stats["packets_marked"] > 10
    assert stats["packets_lost"] == 0


def test_ecn_on_a_path_that_clears_it() -> None:
    pair = runner(1, bleach=True)
    assoc = pair.connect()
    exchange(pair, MIB)
    assert pair.a.endpoint.stats(assoc)["ecn"] == 0


def test_ipv6() -> None:
    pair = runner(1, config={"addresses": IPV6})
    exchange(pair, MIB)
    up = [e for h in (pair.a, pair.b) for e in h.events if isinstance(e, ev.AssociationUp)]
    assert [e.peer for e in up] == [IPV6[1], IPV6[0]]
    assert [h.endpoint.stats(h.endpoint.associations[0])["datagram"] for h in (pair.a, pair.b)] == [
        1452,
        1452,
    ]


def test_goodput() -> None:
    pair = runner(1)
    start = pair.now
    finish(pair, [Exchange(pair, 10 * MIB, 10)])
    assert 10 * MIB / ((pair.now - start) / 1e9) > 0.75 * RATE


def test_crosstraffic() -> None:
    """Another association's bulk flow holds the same bottleneck; both end, and neither starves."""
    pair = runner(1)
    c = pair.add("c", ("10.0.0.3", 4000), pair.forth, Endpoint(seed=11))
    d = pair.add("d", ("10.0.0.4", 4000), pair.back, Endpoint(seed=12))
    other = c.endpoint.open(c.connect(d.address, 0), 0, committed=True)
    c.endpoint.write(other, payload(25 * MIB, 5))
    c.endpoint.fin(other)
    d.on_opened = lambda event: (d.endpoint.accept(event.flow), d.endpoint.fin(event.flow))
    pair.run_for(3)
    alone = received(d)
    assert alone > 0.7 * 3 * RATE
    e = Exchange(pair, 5 * MIB, 10)
    pair.run(e.done, limit=60)
    e.check()
    pair.run(lambda: c.flows[other].closed, limit=60)
    (seen,) = d.flows.values()
    assert seen.received == payload(25 * MIB, 5)


def received(host: Host) -> int:
    return sum(len(f.received) for f in host.flows.values())


def moving(
    pair: Pair, host: Host, addresses: Iterator[Address], *, every: float = 1.0, times: int = 20
) -> None:
    """The host's NAT gives it a new address again and again."""
    for n in range(times):
        pair.after(every * (n + 1), lambda: setattr(host, "address", next(addresses)))


@pytest.mark.parametrize("seed", range(2))
def test_rebind_port(seed: int) -> None:
    """A new port each second, while bytes go both ways."""
    pair = runner(seed)
    moving(pair, pair.a, ((A[0], port) for port in itertools.count(5000)))
    finish(pair, [Exchange(pair, 10 * MIB, MIB)], limit=60)
    assert pair.a.address[1] >= 5005
    assert pair.a.down_reasons() == pair.b.down_reasons() == []


@pytest.mark.parametrize("seed", range(2))
def test_rebind_addr(seed: int) -> None:
    """A new address each second; only the other host has much to send.

    When the moved host has nothing left to acknowledge, its keepalive says where it is."""
    pair = runner(seed, config={"keepalive": SECOND})
    moving(pair, pair.a, ((f"10.0.1.{n}", 4000 + n) for n in itertools.count(1)))
    finish(pair, [Exchange(pair, 10, 10 * MIB)], limit=60)
    assert pair.a.address[1] >= 4005
    assert pair.a.down_reasons() == pair.b.down_reasons() == []


@pytest.mark.parametrize("seed", range(2))
def test_connectionmigration(seed: int) -> None:
    """From one network to another, with other rates and delays."""
    pair = runner(seed)
    e = Exchange(pair, 5 * MIB, 5 * MIB)

    def move() -> None:
        pair.a.address = ("192.168.7.7", 40_000)
        pair.forth.delay = pair.back.delay = 60 * MS
        pair.forth.rate = pair.back.rate = 4 * RATE

    pair.after(2, move)
    finish(pair, [e], limit=60)
    assert pair.a.down_reasons() == pair.b.down_reasons() == []
    up = [x for h in (pair.a, pair.b) for x in h.kinds() if x == "AssociationUp"]
    assert len(up) == 2


def test_versionnegotiation() -> None:
    """No common version: both know at once, and nothing is kept."""
    pair = runner(1)
    pair.b.endpoint = Endpoint(seed=1, versions=(2,))
    pair.a.connect(B, 0)
    pair.run(lambda: bool(pair.a.down_reasons()))
    assert pair.a.down_reasons() == [0x10006]
    assert pair.a.endpoint.associations == pair.b.endpoint.associations == ()
