"""Acknowledgments against a model: what is in flight, and what counts as lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from sim.channels import Writer
from sim.network import MS, B, Link, Pair
from sim.wire import DATA, Ack, data_packet, decode

THRESHOLD = 3  # packets, RFC 9002 6.1.1


def ranges(numbers: set[int]) -> tuple[tuple[int, int], ...]:
    out: list[tuple[int, int]] = []
    for n in sorted(numbers, reverse=True):
        if out and out[-1][0] == n + 1:
            out[-1] = (n, out[-1][1])
        else:
            out.append((n, n))
    return tuple(out)


@given(st.integers(1, 60), st.lists(st.sets(st.integers(0, 59), min_size=1), min_size=1, max_size=6))
def test_what_is_in_flight_is_what_was_sent_and_neither_acknowledged_nor_lost(
    packets: int, acknowledged: list[set[int]]
) -> None:
    """ACKs of any subsets, at one moment: only the packet threshold counts."""
    pair = Pair(1, link=Link(delay=0), congestion="fixed")
    flow, _ = pair.open()
    pair.run_for(1)
    assoc, e = pair.a.endpoint.associations[0], pair.a.endpoint
    assert e.stats(assoc)["bytes_in_flight"] == 0
    lost_before = e.stats(assoc)["packets_lost"]
    sizes: dict[int, int] = {}
    replies = e.stats(assoc)["packets_received"]
    for _ in range(packets):
        e.write(flow, bytes(1000))
        for data, _to in e.datagrams_to_send(pair.now):
            packet = decode(data)
            assert packet.kind == DATA
            sizes[packet.number] = len(data)
    numbers = sorted(sizes)
    cid = own_cid(pair)
    gone: set[int] = set()
    lost: set[int] = set()
    for i, wish in enumerate(acknowledged):
        acked = {numbers[k] for k in wish if k < len(numbers)}
        if not acked:
            continue
        reply = data_packet(cid, replies + 1000 + i, [Ack(0, ranges(acked))])
        assert e.receive_datagram(reply, B, pair.now) == "ok"
        gone |= acked
        largest = max(gone)
        lost |= {n for n in numbers if n not in gone and n + THRESHOLD <= largest}
        # a late acknowledgment of a lost one raises the threshold, so from then on the model knows less
        if acked & lost:
            return
        flying = [sizes[n] for n in numbers if n not in gone and n not in lost]
        stats = e.stats(assoc)
        assert stats["bytes_in_flight"] == sum(flying)
        assert stats["packets_lost"] - lost_before == len(lost)


def own_cid(pair: Pair) -> int:
    """The connection id a is addressed by."""
    peer = next(iter(pair.b.endpoint.flows))
    pair.b.endpoint.write(peer, b"x")
    ((data, _),) = pair.b.endpoint.datagrams_to_send(pair.now)
    return decode(data).cid


def test_full_packets_are_not_full_of_acknowledgements() -> None:
    """The peer says what it has taken with each third packet, and hears of that within the ACK delay."""
    pair = Pair(1, link=Link(rate=12.5e6, delay=10 * MS), max_ack_delay=MS)
    assoc = pair.connect()
    writer = Writer(pair, assoc, 1, bytes(8 << 20), block=14_480)
    theirs = pair.b.endpoint.associations[0]
    back, said = pair.b.endpoint.channel_open(theirs), 0
    while not writer.done():
        assert pair.step()
        while said < len(pair.b.blocks) // 3:
            pair.b.endpoint.channel_report(back, bytes(20))
            said += 1
    pair.settle()
    sent = pair.a.endpoint.stats(assoc)
    assert said > 1500
    assert sent["bytes_sent"] - sent["stream_bytes_sent"] < 34 * sent["packets_sent"]  # 22, and a part of 44
    heard = pair.b.endpoint.stats(theirs)
    assert heard["srtt_ns"] < 30 * MS  # with the queue that the transfer makes
    assert heard["packets_lost"] == heard["pto_count"] == 0
