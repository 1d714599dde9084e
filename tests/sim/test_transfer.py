"""Bytes arrive once, in order and complete, whatever the path does."""

from __future__ import annotations

import pytest
from sim.exchange import exchange
from sim.network import MS, SECOND, B, Link, Pair


@pytest.mark.parametrize("size", [0, 1, 1449, 1450, 1451, 100_000, 3_000_000])
def test_bulk_both_directions_on_a_clean_path(size: int) -> None:
    pair = Pair(size)
    exchange(pair, size)
    assert pair.a.endpoint.drops() == pair.b.endpoint.drops() == dict.fromkeys(pair.a.endpoint.drops(), 0)
    for host in (pair.a, pair.b):
        assert host.endpoint.stats(host.endpoint.associations[0])["packets_lost"] == 0


@pytest.mark.parametrize("congestion", ["cubic", "newreno", "fixed"])
@pytest.mark.parametrize("loss", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_loss_from_the_first_datagram_on(loss: float, seed: int, congestion: str) -> None:
    exchange(Pair(seed, link=Link(loss=loss), congestion=congestion), 150_000)


@pytest.mark.parametrize("seed", range(6))
def test_reordering(seed: int) -> None:
    exchange(Pair(seed, link=Link(jitter=20 * MS)), 300_000)


@pytest.mark.parametrize("seed", range(6))
def test_duplication(seed: int) -> None:
    pair = Pair(seed, link=Link(duplicate=0.5))
    exchange(pair, 300_000)
    assert pair.b.endpoint.drops()["duplicate"] > 0


@pytest.mark.parametrize("seed", range(6))
def test_everything_at_once(seed: int) -> None:
    exchange(Pair(seed, link=Link(loss=0.1, jitter=10 * MS, duplicate=0.1, rate=2e6, queue=40_000)), 300_000)


def test_a_narrow_link_with_a_short_queue() -> None:
    exchange(Pair(3, link=Link(rate=1.25e6, queue=30_000, delay=20 * MS)), 1_000_000)


def test_reordering_is_learned_and_does_not_cost_the_window() -> None:
    """Spurious losses raise the thresholds and are taken back."""

    def seconds(jitter: int) -> tuple[float, int, int]:
        pair = Pair(1, link=Link(delay=20 * MS, jitter=jitter))
        pair.connect()
        pair.run_for(1)
        flow, peer = pair.open()
        start = pair.now
        pair.a.endpoint.write(flow, bytes(4_000_000))
        pair.run(lambda: len(pair.b.flows[peer].received) == 4_000_000)
        stats = pair.a.endpoint.stats(pair.a.endpoint.associations[0])
        return (pair.now - start) / SECOND, stats["packets_lost"], stats["packets_spurious"]

    clean, lost, _ = seconds(0)
    assert lost == 0
    jittery, lost, spurious = seconds(8 * MS)
    assert spurious > 0.5 * lost
    assert lost < 300
    assert jittery < 2.5 * clean


@pytest.mark.parametrize("seed", range(6))
def test_data_that_overtakes_its_init_is_no_sign_of_congestion(seed: int) -> None:
    """Nobody knows it and it is lost; the path is not to blame, and slow start goes on."""
    pair = Pair(seed, link=Link(delay=20 * MS, jitter=8 * MS), congestion="cubic")
    flow, peer = pair.open()
    pair.a.endpoint.write(flow, bytes(2_000_000))
    pair.run(lambda: len(pair.b.flows[peer].received) == 2_000_000)
    assert pair.now < 1.9 * SECOND


def test_what_was_learned_of_reordering_is_forgotten() -> None:
    """RFC 8985 6.2; it stays while the path reorders, and goes in rounds whose losses are real."""
    pair = Pair(1, link=Link(delay=20 * MS, jitter=8 * MS, rate=2.5e6), back=Link(delay=20 * MS),
                stream_window=1 << 24, assoc_window=1 << 24)  # fmt: skip
    flow, _ = pair.open()
    (assoc,) = pair.a.endpoint.associations
    tolerance = []
    for jitter, loss in ((8 * MS, 0.0), (8 * MS, 0.0), (0, 0.0), (0, 0.02)):
        pair.forth.jitter, pair.forth.loss = jitter, loss
        pair.a.endpoint.write(flow, bytes(12_000_000))
        pair.run(lambda: pair.a.endpoint.unacked(flow) == 0)
        tolerance.append(pair.a.endpoint.stats(assoc)["reordering"])
    learned, kept, calm, forgotten = tolerance
    assert 3 < learned <= kept == calm <= 300
    assert forgotten == 3


def test_acks_stay_small_on_a_lossy_path() -> None:
    """Ranges the sender knows about are forgotten, so ACKs do not grow with every loss."""
    pair = Pair(
        1, link=Link(loss=0.05), back=Link(), congestion="cubic", stream_window=1 << 26, assoc_window=1 << 26
    )
    flow, peer = pair.open()
    pair.a.endpoint.write(flow, bytes(3_000_000))
    pair.run_for(0.2)
    before = pair.back.bytes, pair.back.sent
    pair.run(lambda: len(pair.b.flows[peer].received) == 3_000_000)
    assert (pair.back.bytes - before[0]) / (pair.back.sent - before[1]) < 150


@pytest.mark.parametrize("size", [700_000, 5000, 1000, 300, 64])
def test_a_bulk_stream_gives_full_datagrams_of_one_size(size: int) -> None:
    """What UDP GSO needs; also with an ACK in front, and with many small writes."""
    pair = Pair(1, congestion="fixed", max_datagram=1452)
    flow, peer = pair.open()
    pair.b.endpoint.write(peer, bytes(1000))
    for data, _ in pair.b.endpoint.datagrams_to_send(pair.now):
        pair.a.endpoint.receive_datagram(data, B, pair.now)
    for _ in range(700_000 // size):
        pair.a.endpoint.write(flow, bytes(size))
    sizes = [len(data) for data, _ in pair.a.endpoint.datagrams_to_send(pair.now)]
    assert len(sizes) > 400
    assert set(sizes[:-1]) == {1452}


@pytest.mark.parametrize("size", [1, 64, 100, 256])
def test_short_messages_of_many_flows_are_not_cut(size: int) -> None:
    """Programs that take one recv() for one message are wrong, and work over TCP."""
    pair = Pair(size)
    assoc = pair.connect()
    flows = dict(pair.open(assoc) for _ in range(200))
    seen: list[int] = []
    pair.b.on_data = lambda event: seen.append(len(event.data))
    for flow in flows:
        pair.a.endpoint.write(flow, bytes(size))
    pair.run(lambda: all(len(pair.b.flows[peer].received) == size for peer in flows.values()))
    assert seen == [size] * len(flows)
