"""The life of a flow: opening, refusing, taking back, ending, stopping."""

from __future__ import annotations

import random

import pytest
from sim.network import MS, SECOND, A, B, Host, Link, Pair

from hooker.vtl import events as ev
from hooker.vtl.sansio import Endpoint


def others(log: list[str]) -> list[str]:
    return [name for name in log if name != "AssociationUp"]


def test_an_uncommitted_flow_is_opened_accepted_and_confirmed() -> None:
    pair = Pair(1)
    flow, peer = pair.open(locator=2**63 + 5)
    opened = next(e for e in pair.b.events if isinstance(e, ev.FlowOpened))
    assert (opened.locator, opened.committed) == (2**63 + 5, False)
    assert pair.a.flows[flow].log == ["FlowAccepted"]
    assert pair.b.flows[peer].log == ["FlowOpened", "FlowConfirmed"]


def test_a_cold_open_takes_two_round_trips() -> None:
    pair = Pair(1, link=Link(delay=50 * MS))
    assoc = pair.a.endpoint.connect(B, 0)
    flow = pair.a.endpoint.open(assoc, 0)
    pair.run(lambda: "FlowAccepted" in pair.a.flows[flow].log)
    assert pair.now == 200 * MS


def test_a_warm_open_takes_one_round_trip() -> None:
    pair = Pair(1, link=Link(delay=50 * MS))
    assoc = pair.connect()
    pair.run_for(1)
    start = pair.now
    flow = pair.a.endpoint.open(assoc, start)
    pair.run(lambda: "FlowAccepted" in pair.a.flows[flow].log)
    assert pair.now - start == 100 * MS


@pytest.mark.parametrize("seed", range(8))
def test_early_data_of_a_committed_flow_waits_for_the_acceptance(seed: int) -> None:
    pair = Pair(seed, link=Link(loss=0.1, jitter=10 * MS))
    pair.b.auto_accept = False
    assoc = pair.a.endpoint.connect(B, 0)
    flow = pair.a.endpoint.open(assoc, 0, committed=True)
    data = random.Random(seed).randbytes(100_000)
    pair.a.endpoint.write(flow, data)
    pair.a.endpoint.fin(flow)
    pair.run(lambda: pair.a.flows[flow].acked == len(data))
    (peer,) = pair.b.flows
    assert pair.b.flows[peer].log == ["FlowOpened"]
    assert not pair.b.flows[peer].received
    pair.b.endpoint.accept(peer)
    pair.b.endpoint.fin(peer)
    pair.run(lambda: pair.b.flows[peer].closed and pair.a.flows[flow].closed)
    assert pair.b.flows[peer].received == data
    assert pair.b.flows[peer].log == ["FlowOpened", "FlowConfirmed", "FinReceived", "FlowClosed"]


def test_bytes_that_overtake_the_confirmation_come_after_it() -> None:
    pair = Pair(1)
    pair.a.auto_confirm = False
    flow = pair.a.endpoint.open(pair.connect(), pair.now)
    pair.run(lambda: "FlowAccepted" in pair.a.flows[flow].log)
    (peer,) = pair.b.flows
    pair.a.endpoint.confirm(flow)
    confirm = pair.a.endpoint.datagrams_to_send(pair.now)
    pair.a.endpoint.write(flow, b"x" * 5000)
    for data, _ in pair.a.endpoint.datagrams_to_send(pair.now):
        assert pair.b.endpoint.receive_datagram(data, A, pair.now) == "ok"
    pair.settle()
    assert not pair.b.flows[peer].received
    for data, _ in confirm:
        pair.b.endpoint.receive_datagram(data, A, pair.now)
    pair.settle()
    assert pair.b.flows[peer].log == ["FlowOpened", "FlowConfirmed"]
    assert pair.b.flows[peer].received == b"x" * 5000


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("loss", [0, 0.3])
def test_reject_reaches_the_opener_and_closes_both(committed: bool, loss: float) -> None:
    pair = Pair(5, link=Link(loss=loss))
    pair.b.on_opened = lambda e: pair.b.endpoint.reject(e.flow, 42)
    assoc = pair.a.endpoint.connect(B, 0)
    flow = pair.a.endpoint.open(assoc, 0, committed=committed)
    if committed:
        pair.a.endpoint.write(flow, b"early" * 1000)
    pair.run(lambda: pair.a.flows[flow].closed and not pair.b.endpoint.flows)
    assert pair.a.flows[flow].log == ["FlowRejected", "FlowClosed"]
    assert [e.code for e in pair.a.events if isinstance(e, ev.FlowRejected)] == [42]
    assert others(pair.b.kinds()) == ["FlowOpened", "FlowClosed"]
    assert pair.a.endpoint.borrowed == 0


@pytest.mark.parametrize("loss", [0, 0.3])
def test_cancel_reaches_the_acceptor_and_closes_both(loss: float) -> None:
    pair = Pair(9, link=Link(loss=loss))
    pair.a.auto_confirm = False
    assoc = pair.a.endpoint.connect(B, 0)
    flow = pair.a.endpoint.open(assoc, 0)
    pair.run(lambda: "FlowAccepted" in pair.a.flows[flow].log)
    pair.a.endpoint.cancel(flow)
    pair.run(lambda: pair.a.flows[flow].closed and not pair.b.endpoint.flows)
    assert others(pair.b.kinds()) == ["FlowOpened", "FlowCancelled", "FlowClosed"]
    assert pair.a.flows[flow].log == ["FlowAccepted", "FlowClosed"]


def test_cancel_before_the_open_left_needs_no_packet() -> None:
    pair = Pair(1, link=Link(down=True))
    assoc = pair.a.endpoint.connect(B, 0)
    flow = pair.a.endpoint.open(assoc, 0)
    pair.a.endpoint.cancel(flow)
    pair.settle()
    assert pair.a.flows[flow].log == ["FlowClosed"]


@pytest.mark.parametrize("seed", range(6))
def test_reset_reaches_the_peer_and_closes_both(seed: int) -> None:
    pair = Pair(seed, link=Link(loss=0.2))
    flow, peer = pair.open()
    pair.a.endpoint.write(flow, b"x" * 300_000)
    pair.b.endpoint.write(peer, b"y" * 300_000)
    pair.run(lambda: len(pair.b.flows[peer].received) > 50_000)
    pair.b.endpoint.reset(peer, 99)
    pair.run(lambda: pair.a.flows[flow].closed and pair.b.flows[peer].closed)
    assert pair.a.flows[flow].resets == [99]
    assert pair.b.flows[peer].resets == []
    assert pair.a.endpoint.borrowed == pair.b.endpoint.borrowed == 0


def test_reset_after_our_fin_still_reaches_the_peer() -> None:
    pair = Pair(1)
    flow, peer = pair.open()
    pair.a.endpoint.fin(flow)
    pair.run(lambda: pair.b.flows[peer].fin)
    pair.run_for(1)
    pair.a.endpoint.reset(flow, 7)
    pair.run(lambda: pair.a.flows[flow].closed and pair.b.flows[peer].closed)
    assert pair.b.flows[peer].resets == [7]


def test_half_close_leaves_the_other_direction_open() -> None:
    pair = Pair(1)
    flow, peer = pair.open()
    pair.a.endpoint.fin(flow)
    pair.run(lambda: pair.b.flows[peer].fin)
    pair.run_for(30)
    assert not pair.a.flows[flow].closed
    pair.b.endpoint.write(peer, b"z" * 100_000)
    pair.b.endpoint.fin(peer)
    pair.run(lambda: pair.a.flows[flow].closed and pair.b.flows[peer].closed)
    assert pair.a.flows[flow].received == b"z" * 100_000


def test_a_lost_fin_is_sent_again() -> None:
    pair = Pair(1)
    flow, peer = pair.open()
    pair.run_for(1)
    pair.forth.down = True
    pair.a.endpoint.fin(flow)
    pair.run_for(0.001)
    pair.forth.down = False
    pair.run(lambda: pair.b.flows[peer].fin, limit=2)


def test_both_ends_may_open() -> None:
    pair = Pair(1)
    pair.open()
    assoc = pair.b.endpoint.associations[0]
    flow = pair.b.endpoint.open(assoc, pair.now)
    pair.run(lambda: "FlowAccepted" in pair.b.flows[flow].log)
    assert pair.b.endpoint.flow_id(flow) & 1 == 1
    pair.b.endpoint.write(flow, b"hello")
    pair.run(lambda: any(f.received == b"hello" for f in pair.a.flows.values()))


def test_a_stopped_reader_blocks_the_writer_and_nobody_else() -> None:
    pair = Pair(1, stream_window=64 * 1024)
    pair.b.auto_consume = False
    data = random.Random(1).randbytes(500_000)
    (stopped, peer), (other, other_peer) = pair.open(), pair.open()
    pair.a.endpoint.write(stopped, data)
    pair.a.endpoint.write(other, b"free" * 10_000)
    pair.run_for(10)
    assert len(pair.b.flows[peer].received) == 64 * 1024
    assert len(pair.b.flows[other_peer].received) == 40_000
    assert pair.a.flows[stopped].acked == 64 * 1024
    pair.b.auto_consume = True
    pair.b.endpoint.consumed(peer, 64 * 1024)
    pair.run(lambda: len(pair.b.flows[peer].received) == len(data))
    assert pair.b.flows[peer].received == data


def test_without_credit_of_the_association_nothing_is_sent() -> None:
    pair = Pair(1, stream_window=64 * 1024, assoc_window=96 * 1024)
    pair.b.auto_consume = False
    flows = [pair.open() for _ in range(3)]
    for flow, _ in flows:
        pair.a.endpoint.write(flow, bytes(64 * 1024))
    pair.run_for(1)
    sent = pair.forth.sent
    pair.run_for(5)
    assert pair.forth.sent == sent
    assert sum(len(f.received) for f in pair.b.flows.values()) == 96 * 1024
    pair.b.auto_consume = True
    for _, peer in flows:
        pair.b.endpoint.consumed(peer, len(pair.b.flows[peer].received))
    pair.run(lambda: all(len(pair.b.flows[peer].received) == 64 * 1024 for _, peer in flows))


def test_the_first_probe_repairs_a_lost_tail() -> None:
    pair = Pair(1)
    flow, peer = pair.open()
    pair.run_for(1)
    pair.a.endpoint.write(flow, b"gone")
    start = pair.now
    pair.forth.down = True
    pair.send(pair.a)
    pair.forth.down = False
    stats = pair.a.endpoint.stats(pair.a.endpoint.associations[0])
    pto = stats["srtt_ns"] + max(4 * stats["rttvar_ns"], MS) + 5 * MS
    pair.run(lambda: pair.b.flows[peer].received == b"gone")
    assert pair.now - start == pto + 5 * MS


def test_borrowed_bytes_of_a_reset_flow_stay_until_the_next_build() -> None:
    """Datagrams built before may still point to them."""
    pair = Pair(1)
    flow, _ = pair.open()
    pair.a.endpoint.write(flow, bytes(10_000_000))
    pair.a.endpoint.reset(flow, 1)
    assert pair.a.endpoint.borrowed == 10_000_000
    pair.run(lambda: pair.a.flows[flow].closed)
    assert pair.a.endpoint.borrowed == 0


@pytest.mark.parametrize("seed", range(4))
def test_association_credit_is_given_back_by_flows_that_end_early(seed: int) -> None:
    """Resets, rejections and unread bytes must not use up the association's window for good."""
    pair = Pair(seed, link=Link(loss=0.1), stream_window=32 * 1024, assoc_window=48 * 1024)
    pair.b.auto_consume = False
    for i in range(12):
        flow, peer = pair.open()
        pair.a.endpoint.write(flow, b"q" * 40_000)
        pair.run_for(0.1)
        if i % 2:
            pair.a.endpoint.reset(flow, 1)
        else:
            pair.b.endpoint.reset(peer, 1)
        pair.run(lambda f=flow, p=peer: pair.a.flows[f].closed and pair.b.flows[p].closed)
    pair.b.auto_consume = True
    flow, peer = pair.open()
    pair.a.endpoint.write(flow, b"w" * 200_000)
    pair.run(lambda: len(pair.b.flows[peer].received) == 200_000)


@pytest.mark.parametrize("loss", [0, 0.02])
def test_three_hundred_streams_at_once(loss: float) -> None:
    pair = Pair(4, link=Link(loss=loss))
    assoc = pair.connect()
    rng = random.Random(4)
    data = {}
    for _ in range(300):
        flow = pair.a.endpoint.open(assoc, pair.now, locator=len(data), committed=True)
        data[flow] = rng.randbytes(rng.choice([0, 1, 100, 5000, 30_000]))
        if data[flow]:
            pair.a.endpoint.write(flow, data[flow])
        pair.a.endpoint.fin(flow)

    def echo(event: ev.FlowOpened) -> None:
        pair.b.endpoint.accept(event.flow)
        pair.b.endpoint.fin(event.flow)

    pair.b.on_opened = echo
    pair.run(lambda: len(data) == sum(f.closed for f in pair.b.flows.values()))
    pair.run(lambda: all(pair.a.flows[f].closed for f in data))
    by_nonce = {e.locator: e.flow for e in pair.b.events if isinstance(e, ev.FlowOpened)}
    for nonce, flow in enumerate(data):
        assert pair.b.flows[by_nonce[nonce]].received == data[flow]


def test_small_streams_are_not_stuck_behind_a_bulk_stream() -> None:
    pair = Pair(1, link=Link(rate=12.5e6, delay=5 * MS))
    bulk, _ = pair.open()
    small, peer = pair.open()
    pair.a.endpoint.write(bulk, bytes(20_000_000))
    pair.run_for(0.5)
    start = pair.now
    pair.a.endpoint.write(small, b"ping")
    pair.run(lambda: pair.b.flows[peer].received == b"ping")
    assert pair.now - start < 60 * MS


def test_equal_seeds_give_equal_runs() -> None:
    def trace(seed: int) -> list[tuple[int, int]]:
        pair = Pair(seed, link=Link(loss=0.1, jitter=5 * MS))
        flow, peer = pair.open()
        pair.a.endpoint.write(flow, bytes(50_000))
        pair.run(lambda: len(pair.b.flows[peer].received) == 50_000)
        return [(pair.now, pair.forth.bytes), (pair.steps, pair.back.bytes)]

    assert trace(3) == trace(3)
    assert trace(3) != trace(4)


def test_misuse_is_named() -> None:
    with pytest.raises(ValueError, match=r"unknown congestion controller 'vegas'; known: .*cubic"):
        Endpoint(congestion="vegas")
    with pytest.raises(TypeError, match="unknown configuration"):
        Endpoint(windw=1)
    with pytest.raises(KeyError, match="no flow 12"):
        Endpoint().fin(12)
    assert SECOND == 1000 * MS


def lose_what_leaves(pair: Pair, host: Host, link: Link) -> None:
    link.down = True
    pair.send(host)
    link.down = False


def test_a_lost_acceptance_outlives_its_stream() -> None:
    """All else of a short flow may be through before the loss is noticed."""
    pair = Pair(1)
    assoc = pair.connect()
    pair.run_for(1)
    pair.b.auto_accept = False
    flow = pair.a.endpoint.open(assoc, pair.now, committed=True)
    pair.a.endpoint.fin(flow)
    pair.run_for(0.1)
    (peer,) = pair.b.flows
    pair.b.endpoint.accept(peer)
    lose_what_leaves(pair, pair.b, pair.back)
    pair.b.endpoint.fin(peer)
    pair.run(lambda: pair.a.flows[flow].closed and pair.b.flows[peer].closed, limit=5)
    assert pair.a.flows[flow].log == ["FlowAccepted", "FinReceived", "FlowClosed"]


def test_a_lost_confirmation_outlives_its_stream() -> None:
    pair = Pair(1)
    pair.a.auto_confirm = False
    flow = pair.a.endpoint.open(pair.connect(), pair.now)
    pair.run(lambda: "FlowAccepted" in pair.a.flows[flow].log)
    (peer,) = pair.b.flows
    pair.b.endpoint.fin(peer)
    pair.run_for(0.1)
    pair.a.endpoint.confirm(flow)
    lose_what_leaves(pair, pair.a, pair.forth)
    pair.a.endpoint.fin(flow)
    pair.run(lambda: pair.a.flows[flow].closed and pair.b.flows[peer].closed, limit=5)
    assert pair.b.flows[peer].log == ["FlowOpened", "FlowConfirmed", "FinReceived", "FlowClosed"]


@pytest.mark.parametrize("how", ["cancel", "reset"])
def test_an_opener_that_leaves_when_the_peers_fin_is_here_already_closes(how: str) -> None:
    """Nobody reads the bytes and the FIN that wait for the acceptance; they must not keep the flow."""
    pair = Pair(1)
    assoc = pair.connect()
    pair.run_for(1)
    pair.b.auto_accept = False
    flow = pair.a.endpoint.open(assoc, pair.now)
    pair.run_for(0.02)
    (peer,) = pair.b.flows
    pair.b.endpoint.accept(peer)
    lose_what_leaves(pair, pair.b, pair.back)
    pair.b.endpoint.write(peer, b"x" * 500)
    pair.b.endpoint.fin(peer)
    pair.run(lambda: pair.a.endpoint.stats(assoc)["stream_bytes_received"] == 500)
    assert pair.a.flows[flow].log == []
    pair.a.endpoint.cancel(flow) if how == "cancel" else pair.a.endpoint.reset(flow, 1)
    pair.run(lambda: pair.a.flows[flow].closed and pair.b.flows[peer].closed, limit=5)
