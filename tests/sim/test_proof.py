"""Proofs in OPEN and OPEN_ACK: the text of docs/vtl.md, 4.1, and what becomes of a wrong one."""

from __future__ import annotations

import struct

import pytest
from sim.network import MS, SECOND, Link, Pair
from sim.wire import Frame, decode, is_data

from hooker.vtl import events as ev
from hooker.vtl._parts import siphash
from hooker.vtl.sansio import Endpoint

KEY = bytes(range(16))
OTHER = bytes(range(1, 17))
UNPROVEN = 0x10009


def due(key: bytes, role: int, flags: int, stream: int, initiator: int, responder: int) -> int:
    return siphash(key, struct.pack("!BBHIQQ", role, flags, 0, stream, initiator, responder))


Sent = list[tuple[int, Frame]]


def exchange(ours: Endpoint, theirs: Endpoint, key: bytes) -> tuple[Sent, Sent, list[ev.VtlEvent]]:
    """All between two endpoints; the acceptor proves `key`. What each sent, to which ids; our events."""
    sent: tuple[Sent, Sent] = ([], [])
    events: list[ev.VtlEvent] = []
    for now in range(8):
        for source, sink, frames, address in (
            (ours, theirs, sent[0], ("10.0.0.1", 1)),
            (theirs, ours, sent[1], ("10.0.0.2", 1)),
        ):
            for data, _ in source.datagrams_to_send(now):
                if is_data(data):
                    packet = decode(data)
                    frames += [(packet.cid, f) for f in packet.frames if isinstance(f, Frame)]
                sink.receive_datagram(data, address, now)
        while (event := theirs.next_event()) is not None:
            if isinstance(event, ev.FlowOpened):
                theirs.prove(event, key)
                theirs.accept(event.flow)
        while (event := ours.next_event()) is not None:
            events.append(event)
    return *sent, events


def knowing(pair: Pair, key: bytes) -> None:
    """Host b accepts only who proves that he knows the key."""

    def answer(event: ev.FlowOpened) -> None:
        if pair.b.endpoint.prove(event, key):
            pair.b.endpoint.accept(event.flow)
        else:
            pair.b.endpoint.reject(event.flow, 1)

    pair.b.auto_accept = False
    pair.b.on_opened = answer


@pytest.mark.parametrize("committed", [False, True])
def test_the_proofs_are_those_of_the_specification(committed: bool) -> None:
    ours, theirs = Endpoint(seed=1), Endpoint(seed=2)
    assoc = ours.connect(("10.0.0.2", 1), 0)
    ours.open(assoc, 0, key=OTHER)
    flow = ours.open(assoc, 0, key=KEY, committed=committed)
    sent, answered, events = exchange(ours, theirs, KEY)
    (responder, first), (_, second) = [(cid, f) for cid, f in sent if f.name == "OPEN"]
    acks = {f.id: (cid, f.fields[0]) for cid, f in answered if f.name == "OPEN_ACK"}
    initiator = acks[second.id][0]
    assert (first.id, second.id) == (0, 2)
    assert second.fields == (siphash(KEY, bytes(24)), due(KEY, 1, committed, 2, initiator, responder))
    assert acks[2][1] == due(KEY, 2, 0, 2, initiator, responder)
    assert ev.FlowAccepted(assoc, flow) in events


def test_an_open_proves_its_key_association_stream_and_flag() -> None:
    pair = Pair(1)
    pair.b.auto_accept = False
    assoc = pair.connect()
    for key, committed in ((KEY, False), (KEY, True), (OTHER, False)):
        pair.a.endpoint.open(assoc, pair.now, key=key, locator=7, committed=committed)
    pair.run_for(1)
    plain, committed_one, other = (e for e in pair.b.events if isinstance(e, ev.FlowOpened))
    prove = pair.b.endpoint.prove
    assert prove(plain, KEY)
    assert prove(committed_one, KEY)
    assert prove(other, OTHER)
    assert not prove(other, KEY)
    for borrowed in (committed_one.proof, other.proof, 0):
        assert not prove(ev.FlowOpened(plain.assoc, plain.flow, 7, False, borrowed), KEY)
    assert not prove(ev.FlowOpened(plain.assoc, plain.flow, 7, True, plain.proof), KEY)


def test_the_same_flow_on_another_association_needs_another_proof() -> None:
    pair = Pair(1)
    pair.b.auto_accept = False
    first = pair.connect()
    pair.a.endpoint.open(first, pair.now, key=KEY)
    pair.run_for(1)
    pair.a.endpoint.close(first, 1, pair.now)
    pair.run_for(1)
    pair.a.endpoint.open(pair.connect(), pair.now, key=KEY)
    pair.run_for(1)
    one, two = (e for e in pair.b.events if isinstance(e, ev.FlowOpened))
    assert one.locator == two.locator
    assert one.proof != two.proof
    assert pair.b.endpoint.prove(two, KEY)
    assert not pair.b.endpoint.prove(ev.FlowOpened(two.assoc, two.flow, 0, False, one.proof), KEY)


@pytest.mark.parametrize("committed", [False, True])
def test_an_acceptor_that_does_not_know_the_key_counts_as_one_that_rejects(committed: bool) -> None:
    ours, theirs = Endpoint(seed=1), Endpoint(seed=2)
    assoc = ours.connect(("10.0.0.2", 1), 0)
    flow = ours.open(assoc, 0, key=KEY, committed=committed)
    _, _, events = exchange(ours, theirs, OTHER)
    assert ev.FlowRejected(assoc, flow, UNPROVEN) in events
    assert not any(isinstance(e, ev.FlowAccepted) for e in events)


def test_bytes_of_an_acceptor_that_does_not_know_the_key_are_not_delivered() -> None:
    pair = Pair(1, link=Link(delay=10 * MS))
    flow = pair.a.endpoint.open(pair.connect(), pair.now, key=KEY, committed=True)
    pair.run(lambda: any(isinstance(e, ev.FlowOpened) for e in pair.b.events))
    (opened,) = (e for e in pair.b.events if isinstance(e, ev.FlowOpened))
    pair.b.endpoint.accept(opened.flow)
    pair.b.endpoint.write(opened.flow, b"not theirs to say")
    pair.run_for(1)
    assert pair.a.flows[flow].received == b""
    assert pair.a.flows[flow].closed


@pytest.mark.parametrize("key", [KEY, OTHER])
def test_a_flow_opened_again_on_a_new_association_is_proven_anew(key: bytes) -> None:
    pair = Pair(1)
    pair.b.endpoint = Endpoint(seed=7, idle_after=3 * SECOND)
    knowing(pair, key)
    pair.connect()
    pair.run_for((3012 * MS - pair.now) / SECOND)  # b closes at 3015 ms; the OPEN comes after that
    (assoc,) = pair.a.endpoint.associations
    flow = pair.a.endpoint.open(assoc, pair.now, key=KEY, committed=True)
    pair.run(lambda: "AssociationDown" in pair.b.kinds())
    wanted = "FlowAccepted" if key == KEY else "FlowRejected"
    pair.run(lambda: wanted in pair.a.flows[flow].log)
    assert pair.a.flows[flow].log[0] == wanted
