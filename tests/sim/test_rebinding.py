"""The peer's address changes: the association survives it, and nobody can make it change from elsewhere."""

from __future__ import annotations

import struct

import pytest
from sim.exchange import Exchange, finish, payload
from sim.network import MS, SECOND, A, Address, B, Link, Pair

PORT, ADDRESS = (A[0], 55_555), ("10.9.9.9", 4000)
STRANGER = ("10.66.6.6", 666)
MIB = 1 << 20


def runner(seed: int, **changes: object) -> Pair:
    link = Link(delay=15 * MS, rate=1.25e6, queue=25 * 1500)
    for name, value in changes.items():
        setattr(link, name, value)
    return Pair(seed, link=link, keepalive=SECOND)


def assoc_of(pair: Pair, name: str) -> int:
    (assoc,) = getattr(pair, name).endpoint.associations
    return assoc


def peer_of(pair: Pair, name: str) -> Address:
    return getattr(pair, name).endpoint.peer(assoc_of(pair, name))


def rebind(pair: Pair, to: Address, limit: float = 60) -> None:
    e = Exchange(pair, MIB, MIB)
    pair.after(0.5, lambda: setattr(pair.a, "address", to))
    finish(pair, [e], limit=limit)
    assert peer_of(pair, "b") == to
    assert pair.b.endpoint.stats(assoc_of(pair, "b"))["moves"] == 1
    assert pair.a.endpoint.stats(assoc_of(pair, "a"))["moves"] == 0
    assert pair.a.kinds().count("AssociationUp") == pair.b.kinds().count("AssociationUp") == 1
    assert pair.a.down_reasons() == pair.b.down_reasons() == []


@pytest.mark.parametrize("loss", [0.0, 0.02])
def test_rebind_port(loss: float) -> None:
    rebind(runner(1, loss=loss), PORT)


@pytest.mark.parametrize("loss", [0.0, 0.02])
def test_rebind_addr(loss: float) -> None:
    rebind(runner(1, loss=loss), ADDRESS)


@pytest.mark.parametrize("seed", range(6))
def test_rebinding_again_and_again(seed: int) -> None:
    pair = runner(seed, loss=0.01, jitter=4 * MS)
    e = Exchange(pair, 2 * MIB, 2 * MIB)
    for i in range(5):
        pair.after(0.4 + 0.7 * i, lambda i=i: setattr(pair.a, "address", (f"10.9.{i % 3}.1", 4000 + i)))
        pair.after(0.6 + 0.7 * i, lambda i=i: setattr(pair.b, "address", (f"10.8.{i % 2}.1", 5000)))
        pair.after(0.9 + 0.7 * i, lambda i=i: setattr(pair.b, "address", B))
    finish(pair, [e])
    assert pair.a.down_reasons() == pair.b.down_reasons() == []


def test_both_directions_of_an_idle_flow_find_the_new_address() -> None:
    pair = runner(1)
    flow, peer = pair.open()
    pair.run_for(1)
    pair.a.address = PORT
    pair.b.endpoint.write(peer, b"where are you?")
    pair.run(lambda: pair.a.flows[flow].received == b"where are you?", limit=4)
    assert peer_of(pair, "b") == PORT


def test_the_one_that_receives_only_is_found_by_its_keepalive() -> None:
    pair = runner(1)
    flow, peer = pair.open()
    data = payload(MIB)
    pair.b.endpoint.write(peer, data)
    pair.run(lambda: len(pair.a.flows[flow].received) > MIB // 4)
    pair.a.address = ADDRESS
    pair.run(lambda: pair.a.flows[flow].received == data, limit=5)


def test_another_address_begins_with_a_new_window_another_port_does_not() -> None:
    for to, reset in ((PORT, False), (ADDRESS, True)):
        pair = Pair(1, link=Link(delay=15 * MS), keepalive=SECOND)
        flow, peer = pair.open()
        pair.b.endpoint.write(peer, bytes(4 * MIB))
        pair.run(lambda pair=pair, flow=flow: len(pair.a.flows[flow].received) == 4 * MIB)
        pair.run_for(0.1)
        before = pair.b.endpoint.stats(assoc_of(pair, "b"))
        pair.a.address = to
        pair.a.endpoint.write(flow, b"x")
        pair.run(lambda pair=pair, to=to: peer_of(pair, "b") == to, limit=1)
        after = pair.b.endpoint.stats(assoc_of(pair, "b"))
        assert (after["cwnd"] < before["cwnd"]) is reset
        assert after["srtt_ns"] == 30 * MS if reset else before["srtt_ns"]


def test_an_association_is_found_at_its_new_address() -> None:
    pair = runner(1)
    flow, _ = pair.open()
    pair.a.address = ADDRESS
    pair.a.endpoint.write(flow, b"x")
    pair.run(lambda: peer_of(pair, "b") == ADDRESS, limit=1)
    pair.run_for(1)
    assoc = assoc_of(pair, "b")
    assert pair.b.endpoint.connect(ADDRESS, pair.now) == assoc
    assert pair.b.endpoint.connect(A, pair.now) != assoc


def test_a_close_from_a_new_address_is_believed() -> None:
    pair = runner(1)
    pair.open()
    pair.a.address = ADDRESS
    pair.a.endpoint.close(assoc_of(pair, "a"), 7, pair.now)
    pair.run(lambda: pair.b.down_reasons() == [7], limit=1)


# --- who would steal it


def stolen(pair: Pair, frames: bytes, ahead: int = 1) -> bytes:
    """What one who sees the path makes of a packet from a to b: the next number, his frames."""
    flow = next(iter(pair.a.endpoint.flows))
    pair.a.endpoint.write(flow, b"!")
    ((data, _),) = pair.a.endpoint.datagrams_to_send(pair.now)
    pair.b.receive(data, A, pair.now)
    return data[:9] + struct.pack("!I", struct.unpack("!I", data[9:13])[0] + ahead) + frames


def test_a_packet_with_a_forged_source_moves_nothing_and_stalls_nothing() -> None:
    pair = Pair(1, link=Link(delay=15 * MS), keepalive=SECOND)
    flow, peer = pair.open()
    pair.run_for(1)
    pair.a.endpoint.write(flow, b"!")
    ((packet, _),) = pair.a.datagrams(pair.now)
    assert pair.b.receive(packet, STRANGER, pair.now) == "ok"
    data = payload(200_000)
    pair.b.endpoint.write(peer, data)
    start = pair.now
    pair.run(lambda: pair.a.flows[flow].received == data, limit=1)
    assert pair.now - start < 300 * MS
    pair.run_for(5)
    assert peer_of(pair, "b") == A
    assert pair.b.endpoint.counters()["paths_failed"] == 1
    assert pair.b.endpoint.counters()["paths_proven"] == 0


def test_amplification_limit_of_a_forged_address() -> None:
    """Whatever a stranger claims to be gets three times what he sent, at most (RFC 9000 8)."""
    for padding in (0, 10, 40, 400, 1400):
        pair = Pair(1, link=Link(delay=15 * MS), keepalive=SECOND)
        pair.open()
        pair.run_for(1)
        packet = stolen(pair, b"\x01" + bytes(padding), 50)
        pair.b.receive(packet, STRANGER, pair.now)
        sent = 0
        for _ in range(100):
            sent += sum(len(d) for d, to in pair.b.datagrams(pair.now) if to == STRANGER)
            pair.now = pair.b.timer() or pair.now
            pair.b.on_timer(pair.now)
        assert sent <= 3 * len(packet)
        assert sent > 0
        assert padding > 400 or pair.b.endpoint.counters()["amplification_limited"] > 0


def test_packets_that_are_refused_are_not_answered_at_a_forged_address() -> None:
    """They do not count for what may be sent there; so much less than nothing would be without end."""
    pair = Pair(1, link=Link(delay=15 * MS), keepalive=SECOND)
    pair.open()
    pair.run_for(1)
    first = stolen(pair, b"\x01\0\0", 50)
    again = first[:9] + struct.pack("!I", struct.unpack("!I", first[9:13])[0] + 1)
    received = sent = 0
    for packet in (first, *[again + b"\x04" + bytes(7) + b"A" * 8 + b"\x0c"] * 3):  # no frame has that type
        received += len(packet)
        pair.b.receive(packet, STRANGER, pair.now)
        sent += sum(len(d) for d, to in pair.b.datagrams(pair.now) if to == STRANGER)
    for _ in range(100):
        sent += sum(len(d) for d, to in pair.b.datagrams(pair.now) if to == STRANGER)
        pair.now = pair.b.timer() or pair.now
        pair.b.on_timer(pair.now)
    assert 0 < sent <= 3 * len(first) < received


def test_one_who_forwards_a_packet_and_the_challenge_loses_the_association_again() -> None:
    """RFC 9000 9.3.3: the old path is challenged too, and its answer is newer."""
    pair = Pair(1, link=Link(delay=15 * MS), keepalive=SECOND)
    flow, peer = pair.open()
    pair.run_for(1)
    pair.a.endpoint.write(flow, b"!")
    ((packet, _),) = pair.a.datagrams(pair.now)
    pair.b.receive(packet, STRANGER, pair.now)
    ((challenge, _),) = [d for d in pair.b.datagrams(pair.now) if d[1] == STRANGER]
    pair.a.receive(challenge, STRANGER, pair.now)
    answers = [d for d, to in pair.a.datagrams(pair.now) if to == STRANGER]
    for answer in answers:
        pair.b.receive(answer, STRANGER, pair.now)
    assert peer_of(pair, "b") == STRANGER
    data = payload(100_000)
    pair.b.endpoint.write(peer, data)
    pair.run(lambda: pair.a.flows[flow].received == data, limit=2)
    assert peer_of(pair, "b") == A


def test_an_answer_that_nobody_asked_for_proves_nothing() -> None:
    pair = Pair(1, link=Link(delay=15 * MS))
    pair.open()
    pair.run_for(1)
    guess = struct.pack("!BBHIQ", 5, 0, 0, 0, 12345)
    pair.b.receive(stolen(pair, b"\x01" + guess, 50), STRANGER, pair.now)
    pair.b.datagrams(pair.now)
    pair.b.receive(stolen(pair, guess, 60), STRANGER, pair.now)
    assert peer_of(pair, "b") == A
    assert pair.b.endpoint.counters()["paths_proven"] == 0


def test_a_packet_that_only_probes_starts_nothing() -> None:
    pair = Pair(1, link=Link(delay=15 * MS))
    pair.open()
    pair.run_for(1)
    probe = struct.pack("!BBHIQ", 4, 0, 0, 0, 77) + bytes(1000)
    packet = stolen(pair, probe, 50)
    assert pair.b.receive(packet, STRANGER, pair.now) == "ok"
    sent = [d for d, to in pair.b.datagrams(pair.now) if to == STRANGER]
    assert [d[13] for d in sent] == [5]  # PATH_RESPONSE, to whoever asked, not larger than the question
    assert sent[0][28:36] == packet[28:36]
    assert len(sent[0]) == len(packet)
    pair.run_for(3)
    assert pair.b.endpoint.counters()["paths_failed"] == 0


@pytest.mark.parametrize("ms", range(1, 100, 7))
@pytest.mark.parametrize("to", [PORT, ADDRESS])
def test_an_initiator_that_moves_during_the_handshake_keeps_its_flows(ms: int, to: Address) -> None:
    """Once, too: an association half made is not made a second time, with its flows opened again."""
    pair = runner(1)
    flow = pair.a.endpoint.open(pair.a.connect(B, 0), 0, locator=1, committed=True)
    pair.a.endpoint.write(flow, payload(50_000, 1))
    pair.a.endpoint.fin(flow)
    pair.after(ms / 1000, lambda: setattr(pair.a, "address", to))
    pair.run(lambda: any(f.fin for f in pair.b.flows.values()), limit=10)
    (peer,) = pair.b.flows
    pair.b.endpoint.fin(peer)
    pair.run(lambda: pair.a.flows[flow].closed and pair.b.flows[peer].closed, limit=10)
    assert pair.b.flows[peer].received == payload(50_000, 1)
    assert not pair.a.flows[flow].resets
