"""Channels: blocks, control and the newest report arrive whatever the path does; all of it within bounds."""

from __future__ import annotations

import random

import pytest
from sim import wire
from sim.attacker import Attacker
from sim.channels import U32, Writer, arrived, finish, payload
from sim.network import MS, SECOND, A, Link, Pair
from sim.observer import Observer

from hooker.vtl.events import AssociationDown, ChannelDown
from hooker.vtl.sansio import Endpoint

KEY = bytes(range(32))
KB, MB = 1 << 10, 1 << 20
PATHS = {
    "clean": Link(),
    "loss": Link(loss=0.1, delay=20 * MS),
    "reordering": Link(jitter=20 * MS),
    "duplicates": Link(duplicate=0.5),
    "everything": Link(loss=0.1, jitter=10 * MS, duplicate=0.1, corrupt=0.01, rate=2e6, queue=40_000),
}


def data_packets(pair: Pair, now: int | None = None) -> list[wire.Packet]:
    """What a sends now, read; it does not arrive."""
    sent = pair.a.endpoint.datagrams_to_send(pair.now if now is None else now)
    return [wire.decode(data) for data, _ in sent if wire.is_data(data)]


def frames(packets: list[wire.Packet], kind: type) -> list[wire.AnyFrame]:
    return [f for p in packets for f in p.frames if isinstance(f, kind)]


def spy(pair: Pair) -> list[wire.Packet]:
    """The DATA packets of both from now on; each is checked by the specification."""
    seen: list[wire.Packet] = []
    observer = Observer()
    for link in (pair.forth, pair.back):

        def carry(data: bytes, *rest: object, plain=link.carry) -> object:
            observer.see(data)
            if wire.is_data(data):
                seen.append(wire.decode(data))
            return plain(data, *rest)

        link.carry = carry  # type: ignore[method-assign]
    return seen


# --- bytes


@pytest.mark.parametrize("keys", [(), (KEY,)], ids=["plain", "encrypted"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("seed", range(3))
def test_every_byte_arrives_and_all_memory_comes_back(path: str, seed: int, keys: tuple[bytes, ...]) -> None:
    link = Link(**vars(PATHS[path]))
    pair = Pair(seed, link=link, keys=keys, channel_queue=256 * KB)
    assoc = pair.connect()
    sizes = (1, 700, 60_000, 300_000)
    writers = [Writer(pair, assoc, i, payload(n, i), block=7000 * i + 1448) for i, n in enumerate(sizes)]
    finish(pair, writers)
    for i, n in enumerate(sizes):
        assert arrived(pair.b, i) == payload(n, i)
    pair.a.datagrams(pair.now)
    assert pair.a.endpoint.borrowed == 0


def test_both_directions_at_once() -> None:
    pair = Pair(1, link=Link(loss=0.05, delay=5 * MS))
    assoc = pair.connect()
    pair.run(lambda: bool(pair.b.endpoint.associations))
    (back,) = pair.b.endpoint.associations
    there, here = payload(300_000, 1), payload(300_000, 2)
    finish(pair, [Writer(pair, assoc, 1, there), Writer(pair, back, 2, here, host=pair.b)])
    assert (arrived(pair.b, 1), arrived(pair.a, 2)) == (there, here)


def test_streams_and_channels_share_an_association() -> None:
    """Neither keeps the other from sending."""
    pair = Pair(1, link=Link(rate=1.25e6, delay=5 * MS, queue=50_000))
    assoc = pair.connect()
    flow, peer = pair.open(assoc)
    pair.a.endpoint.write(flow, payload(MB, 1))
    writer = Writer(pair, assoc, 1, payload(MB, 2))
    writer.fill()
    pair.run_for(0.5)
    stream, blocks = len(pair.b.flows[peer].received), len(arrived(pair.b, 1))
    assert min(stream, blocks) > 0.4 * (stream + blocks)
    finish(pair, [writer])
    pair.run(lambda: len(pair.b.flows[peer].received) == MB)


def test_positions_begin_anew_after_32_bits() -> None:
    pair = Pair(1, link=Link(loss=0.1, delay=10 * MS))
    finish(pair, [Writer(pair, pair.connect(), 9, payload(200_000), first=U32 - 100_000)])
    assert arrived(pair.b, 9, U32 - 100_000) == payload(200_000)


def test_flags_and_epoch_go_with_the_last_byte() -> None:
    pair = Pair(1)
    assoc = pair.connect()
    channel = pair.a.endpoint.channel_open(assoc)
    send = pair.a.endpoint.channel_send
    assert send(channel, 7, 1, payload(10_000), epoch=200, flags=0x3F)
    assert send(channel, 7, 10_001, b"", epoch=201, flags=1)
    assert send(channel, 7, 10_001, b"abc", epoch=202, flags=0xC0)  # two bits more than there are
    pair.run(lambda: pair.a.endpoint.channel_unacked(channel) == 0)
    pair.settle()
    first = [b for b in pair.b.blocks if b.epoch == 200]
    assert len(first) > 6
    assert {b.flags for b in first[:-1]} == {0x20}
    assert (first[-1].flags, first[-1].position + len(first[-1].data)) == (0x3F, 10_001)
    rest = [(b.epoch, b.flags, b.position, b.data) for b in pair.b.blocks[len(first) :]]
    assert rest == [(201, 1, 10_001, b""), (202, 0, 10_001, b"abc")]


def test_blocks_that_touch_become_one_frame_unless_one_has_flags() -> None:
    pair = Pair(1)
    channel = pair.a.endpoint.channel_open(pair.connect())
    flags = (0, 0, 2, 0, 0)
    for i, flag in enumerate(flags):
        pair.a.endpoint.channel_send(channel, 1, i, bytes([i]), flags=flag)
    pair.a.endpoint.channel_send(channel, 1, 9, b"9")  # a hole before it
    pair.a.endpoint.channel_send(channel, 1, 10, b"x", epoch=1)
    got = [(b.position, b.data, b.flags, b.epoch) for b in frames(data_packets(pair), wire.Block)]
    assert got == [(0, b"\0\1\2", 2, 0), (3, b"\3\4", 0, 0), (9, b"9", 0, 0), (10, b"x", 0, 1)]


@pytest.mark.parametrize("block", [700_000, 65_160, 5000, 1448, 64])
def test_bulk_gives_full_datagrams_of_one_size(block: int) -> None:
    """What UDP GSO needs; 23 bytes beside those of the flow."""
    pair = Pair(1, congestion="fixed", max_datagram=1452)
    writer = Writer(pair, pair.connect(), 1, bytes(600_000), block=block)
    writer.fill()
    sent = [d for d, _ in pair.a.endpoint.datagrams_to_send(pair.now)]
    assert len(sent) > 300
    assert {len(d) for d in sent[:-1]} == {1452}
    lone = [p for p in map(wire.decode, sent) if len(p.frames) == 1]
    assert len(lone) > 0.9 * len(sent)
    assert {len(p.frames[0].data) for p in lone[:-1]} == {1452 - 23}  # type: ignore[union-attr]


@pytest.mark.parametrize("size", [1, 64, 100, 256])
def test_short_blocks_of_many_channels_share_datagrams_and_are_not_cut(size: int) -> None:
    pair = Pair(size)
    assoc = pair.connect()
    for i in range(200):
        pair.a.endpoint.channel_send(pair.a.endpoint.channel_open(assoc), i, 0, bytes(size), flags=1)
    before = pair.forth.sent
    pair.run(lambda: len({b.id for b in pair.b.blocks}) == 200)
    assert [len(b.data) for b in pair.b.blocks] == [size] * 200
    assert pair.forth.sent - before <= 200 * (size + 12) / 1000 + 5


def test_datagrams_that_become_smaller_cut_lost_blocks_anew() -> None:
    pair = Pair(3, link=Link(delay=5 * MS))
    writer = Writer(pair, pair.connect(), 1, payload(MB))
    writer.fill()
    pair.run(lambda: len(arrived(pair.b, 1)) > 100_000)
    pair.forth.mtu = pair.back.mtu = 1252
    finish(pair, [writer])
    assert arrived(pair.b, 1) == payload(MB)
    (assoc,) = pair.a.endpoint.associations
    assert pair.a.endpoint.stats(assoc)["datagram"] <= 1252


@pytest.mark.parametrize("host", ["10.0.0.1", "10.0.9.9"])
def test_another_address_of_the_sender_loses_nothing(host: str) -> None:
    pair = Pair(2, link=Link(delay=10 * MS, loss=0.01))
    writer = Writer(pair, pair.connect(), 1, payload(MB))
    writer.fill()
    pair.run(lambda: len(arrived(pair.b, 1)) > 100_000)
    pair.a.address = (host, 4999)
    finish(pair, [writer])
    assert arrived(pair.b, 1) == payload(MB)
    pair.a.datagrams(pair.now)
    assert pair.a.endpoint.borrowed == 0


def test_a_lost_block_without_another_behind_it_is_probed_for() -> None:
    pair = Pair(1, link=Link(delay=10 * MS))
    assoc = pair.connect()
    channel, other = (pair.a.endpoint.channel_open(assoc) for _ in range(2))
    pair.run_for(0.5)
    pair.a.endpoint.channel_send(channel, 1, 0, b"lost once")
    assert frames(data_packets(pair), wire.Block)
    pair.a.endpoint.channel_send(other, 2, 0, bytes(3 * MB))
    pair.forth.down = True
    start = pair.now
    pair.run_for(0.01)
    pair.forth.down = False
    pair.run(lambda: any(b.id == 1 for b in pair.b.blocks), limit=1)
    assert pair.now - start < 200 * MS


def test_a_probe_repeats_the_oldest_block_before_others() -> None:
    pair = Pair(1, link=Link(delay=10 * MS))
    assoc = pair.connect()
    pair.run_for(0.5)
    oldest, other = (pair.a.endpoint.channel_open(assoc) for _ in range(2))
    pair.a.endpoint.channel_send(oldest, 1, 0, b"oldest")
    data_packets(pair)
    pair.a.endpoint.channel_send(other, 2, 0, bytes(MB))
    while data_packets(pair):
        pass  # as much as the window takes
    at = pair.a.timer()
    assert at is not None
    while not (probes := data_packets(pair, at)):
        pair.a.on_timer(at)
        at = pair.a.timer() or 0
    assert frames(probes, wire.Block)[0].data == b"oldest"  # type: ignore[union-attr]


def test_one_lost_packet_comes_back_by_a_repair() -> None:
    pair = Pair(
        1, link=Link(rate=12.5e6, delay=25 * MS, queue=625_000, loss=0.02), congestion="bbr", max_ack_delay=MS
    )
    assoc = pair.connect()
    finish(pair, [Writer(pair, assoc, 1, payload(2 * MB))])
    for i in range(100):
        finish(pair, [Writer(pair, assoc, 2 + i, payload(10_000, i))])
        assert arrived(pair.b, 2 + i) == payload(10_000, i)
    assert pair.b.endpoint.counters()["packets_repaired"] > 5


def test_the_receiver_holds_nothing() -> None:
    """The bytes are the engine's from the moment they arrive, in order or not."""
    endpoint = Endpoint(seed=1, budget=64 * MB)
    attacker = Attacker(endpoint, A)
    before = endpoint.counters()["held"]
    for i in range(2000):
        assert attacker.send(wire.encode(wire.Block(i, i * 1_000_003 % U32, 1, 0, bytes(1000)))) == "ok"
    assert endpoint.counters()["held"] == before
    while (event := endpoint.next_event()) is not None:
        assert len(getattr(event, "data", b"")) in (0, 1000)


# --- control and reports


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("seed", range(3))
def test_control_arrives_and_stops_to_be_repeated(path: str, seed: int) -> None:
    pair = Pair(seed, link=Link(**vars(PATHS[path])))
    assoc = pair.a.connect(pair.b.address, 0)
    assert pair.a.endpoint.say(assoc, b"hello")
    channel = pair.a.endpoint.channel_open(assoc)
    words = [b"%d" % i * 32 for i in range(20)]
    assert all(pair.a.endpoint.channel_say(channel, w) for w in words)
    pair.run(lambda: {b"hello", *words} <= set(pair.b.messages))
    assert set(pair.b.messages) == {b"hello", *words}
    pair.run_for(3)
    assert pair.a.endpoint.stats(assoc)["bytes_in_flight"] == 0


def test_control_needs_no_round_trip_of_its_own() -> None:
    """It goes out behind the second INIT."""
    pair = Pair(1, link=Link(delay=50 * MS))
    pair.a.endpoint.say(pair.a.connect(pair.b.address, 0), b"hello")
    pair.run(lambda: pair.b.messages == [b"hello"])
    assert pair.now < 160 * MS


def test_control_comes_before_the_blocks_that_wait() -> None:
    pair = Pair(1)
    assoc = pair.connect()
    first, second = (pair.a.endpoint.channel_open(assoc) for _ in range(2))
    pair.a.endpoint.channel_send(first, 1, 0, bytes(MB))
    pair.a.endpoint.channel_say(second, b"now")
    pair.a.endpoint.channel_report(second, b"this too")
    packet = data_packets(pair)[0]
    assert [type(f) for f in packet.frames] == [wire.Message, wire.Message, wire.Block]


@pytest.mark.parametrize("seed", range(8))
def test_the_newest_report_wins(seed: int) -> None:
    """It arrives whatever was lost before it; what was superseded is not repeated."""
    pair = Pair(seed, link=Link(loss=0.3, delay=20 * MS, jitter=5 * MS))
    channel = pair.a.endpoint.channel_open(pair.connect())
    for i in range(50):
        pair.a.endpoint.channel_report(channel, b"%03d" % i)
        pair.run_for(0.005)
    pair.run(lambda: b"049" in pair.b.messages)
    late = len(pair.b.messages)
    pair.run_for(2)
    assert set(pair.b.messages[late:]) <= {b"049"}
    (assoc,) = pair.a.endpoint.associations
    assert pair.a.endpoint.stats(assoc)["bytes_in_flight"] == 0


def test_reports_of_a_batch_are_one() -> None:
    pair = Pair(1)
    channel = pair.a.endpoint.channel_open(pair.connect())
    for i in range(10):
        pair.a.endpoint.channel_report(channel, b"%d" % i)
    assert [m.data for m in frames(data_packets(pair), wire.Message)] == [b"9"]  # type: ignore[union-attr]
    pair.a.endpoint.channel_report(channel, b"")  # nothing to say after all
    assert not data_packets(pair)


def test_a_report_that_was_superseded_is_not_repeated_when_it_is_lost() -> None:
    pair = Pair(1, link=Link(delay=10 * MS))
    channel = pair.a.endpoint.channel_open(pair.connect())
    pair.run_for(0.3)
    pair.forth.down = True
    pair.a.endpoint.channel_report(channel, b"old")
    pair.run_for(0.001)
    pair.forth.down = False
    seen = spy(pair)
    pair.a.endpoint.channel_report(channel, b"new")
    pair.run_for(1)
    assert [m.data for m in frames(seen, wire.Message)] == [b"new"]  # type: ignore[union-attr]
    assert pair.b.messages == [b"new"]


# --- turns


def test_channels_take_turns_by_bytes() -> None:
    """Whatever their blocks' sizes, and however many have less than a turn to send."""
    pair = Pair(1, link=Link(rate=2.5e6, delay=5 * MS, queue=100_000))
    assoc = pair.connect()
    blocks = (100, 1448, 9000, 65_000)
    writers = [Writer(pair, assoc, i, bytes(2 * MB), block=n) for i, n in enumerate(blocks)]
    while pair.now < 1.2 * SECOND:
        for w in writers:
            w.fill()
        pair.step()
    got = [sum(len(b.data) for b in pair.b.blocks if b.id == i) for i in range(len(blocks))]
    assert min(got) > 400_000
    assert max(got) - min(got) < 60_000


def test_a_short_block_does_not_wait_for_long_queues() -> None:
    pair = Pair(1, link=Link(rate=12.5e6, delay=1 * MS, queue=200_000), congestion="newreno")
    assoc = pair.connect()
    writers = [Writer(pair, assoc, i, bytes(2 * MB)) for i in range(10)]
    for w in writers:
        w.fill()
    pair.run_for(0.05)
    channel = pair.a.endpoint.channel_open(assoc)
    pair.a.endpoint.channel_send(channel, 99, 0, b"short", flags=2)
    start = pair.now
    pair.run(lambda: any(b.id == 99 for b in pair.b.blocks))
    assert pair.now - start < 40 * MS  # ten turns of 16 KiB and the link's queue; in all there are 1.6 s


# --- bounds


def test_a_queue_is_full_at_its_limit_and_has_room_again() -> None:
    pair = Pair(1, channel_queue=100_000)
    channel = pair.a.endpoint.channel_open(pair.connect())
    send = pair.a.endpoint.channel_send
    assert send(channel, 1, 0, bytes(60_000))
    assert not send(channel, 1, 60_000, bytes(60_000))
    assert send(channel, 1, 60_000, bytes(20_000))
    assert pair.a.endpoint.channel_unacked(channel) == 80_000
    pair.run(lambda: pair.a.endpoint.channel_unacked(channel) == 0)
    assert send(channel, 1, 80_000, bytes(2 * MB)), "one block alone may be larger"
    assert not send(channel, 1, 0, b"")


def test_records_of_tiny_blocks_count() -> None:
    pair = Pair(1, channel_queue=100_000)
    channel = pair.a.endpoint.channel_open(pair.connect())
    n = 0
    while pair.a.endpoint.channel_send(channel, 1, 2 * n, b"x", flags=1):
        n += 1
    assert 500 < n < 2000


def test_a_block_larger_than_any_is_refused() -> None:
    pair = Pair(1)
    channel = pair.a.endpoint.channel_open(pair.connect())
    assert not pair.a.endpoint.channel_send(channel, 1, 0, bytes((16 << 20) + 1))
    assert pair.a.endpoint.borrowed == 0


def test_control_that_nobody_acknowledges_is_bounded() -> None:
    pair = Pair(1)
    assoc = pair.connect()
    channel = pair.a.endpoint.channel_open(assoc)
    assert [pair.a.endpoint.channel_say(channel, b"x") for _ in range(40)].count(True) == 32
    assert [pair.a.endpoint.say(assoc, b"x") for _ in range(300)].count(True) == 256
    for wrong in (b"", bytes(97)):
        assert not pair.a.endpoint.say(assoc, wrong)
    pair.run(lambda: pair.b.messages.count(b"x") == 32 + 256)
    pair.run_for(1)
    assert pair.a.endpoint.say(assoc, bytes(96))
    assert pair.a.endpoint.channel_say(channel, bytes(96))


def test_control_of_channels_comes_out_of_their_peers_budget_and_goes_back() -> None:
    """A peer with many flows that acknowledges nothing: each may have 32 messages, all their part."""
    pair = Pair(1, budget=1 * MB)
    assoc = pair.connect()
    idle = pair.a.endpoint.counters()["held"]
    channels = [pair.a.endpoint.channel_open(assoc) for _ in range(400)]
    said = sum(pair.a.endpoint.channel_say(c, bytes(96)) for c in channels for _ in range(32))
    assert 1000 < said < 6000
    assert idle + 192 * said <= pair.a.endpoint.counters()["held"] <= 1 * MB
    for channel in channels[:200]:  # what they have said still goes out, as far as there is room
        pair.a.endpoint.channel_close(channel)
    pair.run_for(5)
    assert pair.a.endpoint.counters()["held"] < idle + 100 * 192


def test_answers_to_strangers_come_out_of_their_budget() -> None:
    """Who asks much and acknowledges nothing gets fewer answers, and others still theirs."""
    endpoint = Endpoint(seed=1, budget=4 * MB)
    said = 0
    for port in range(60):
        Attacker(endpoint, ("10.6.6.6", 1000 + port))
        for _ in range(256):
            said += endpoint.say(endpoint.associations[-1], bytes(96))
        endpoint.datagrams_to_send(0)
    assert said < 60 * 256
    assert endpoint.counters()["held"] < 2 * MB
    Attacker(endpoint, ("10.7.7.7", 1000))
    assert endpoint.say(endpoint.associations[-1], b"hello")


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (b"\x08", "short"),
        (b"\x08\x00", "protocol"),
        (b"\x08\x05abcd", "short"),
        (b"\x08\x61" + bytes(97), "protocol"),
        (b"\x80" + bytes(8), "short"),
        (b"\xc0" + bytes(9) + b"\0", "short"),
        (b"\xc0" + bytes(9) + b"\0\x05abcd", "short"),
        (b"\x09" + bytes(20), "type"),
        (b"\x20" + bytes(20), "type"),
    ],
)
def test_malformed_frames_are_dropped(frame: bytes, why: str) -> None:
    endpoint = Endpoint(seed=1)
    attacker = Attacker(endpoint, A)
    packet = wire.data_packet(attacker.cid, 77, [wire.Frame("PING")]) + frame
    assert endpoint.receive_datagram(packet, A, 0) == why


# --- ends


def test_memory_goes_back_with_the_next_build_and_not_before() -> None:
    """A datagram of the batch before may still point to it."""
    pair = Pair(1)
    channel = pair.a.endpoint.channel_open(pair.connect())
    pair.run_for(0.5)
    pair.a.endpoint.channel_send(channel, 1, 0, bytes(1000))
    for data, _ in pair.a.datagrams(pair.now):
        pair.b.receive(data, pair.a.address, pair.now)
    pair.b.on_timer(pair.now + SECOND // 2)
    for data, _ in pair.b.datagrams(pair.now + SECOND // 2):
        pair.a.receive(data, pair.b.address, pair.now + SECOND // 2)
    assert pair.a.endpoint.channel_unacked(channel) == 0
    assert pair.a.endpoint.borrowed == 1000
    pair.a.datagrams(pair.now + SECOND // 2)
    assert pair.a.endpoint.borrowed == 0


@pytest.mark.parametrize("sent", [False, True])
def test_a_closed_channel_gives_everything_back_but_what_it_said_goes_out(sent: bool) -> None:
    pair = Pair(1, link=Link(delay=10 * MS))
    assoc = pair.connect()
    channel = pair.a.endpoint.channel_open(assoc)
    pair.run_for(0.5)
    pair.a.endpoint.channel_send(channel, 1, 0, bytes(MB))
    pair.a.endpoint.channel_say(channel, b"last words")
    pair.a.endpoint.channel_report(channel, b"report")
    if sent:
        pair.forth.down = True
        pair.settle()
        pair.forth.down = False
    pair.a.endpoint.channel_close(channel)
    assert pair.a.endpoint.borrowed == MB
    pair.a.datagrams(pair.now)
    assert pair.a.endpoint.borrowed == 0
    with pytest.raises(KeyError):
        pair.a.endpoint.channel_say(channel, b"x")
    pair.run(lambda: b"last words" in pair.b.messages or not sent, limit=5)
    pair.run_for(1)
    assert not pair.b.blocks
    assert pair.a.endpoint.stats(assoc)["bytes_in_flight"] == 0
    finish(pair, [Writer(pair, assoc, 2, payload(100_000))])  # its packets' records hurt nobody


def test_an_association_with_channels_is_kept_alive_and_without_is_closed() -> None:
    pair = Pair(1, keepalive=SECOND, idle_after=6 * SECOND)
    assoc = pair.connect()
    pair.run(lambda: bool(pair.b.endpoint.associations))
    (back,) = pair.b.endpoint.associations
    channels = pair.a.endpoint.channel_open(assoc), pair.b.endpoint.channel_open(back)
    pair.run_for(30)
    assert pair.a.endpoint.is_up(assoc)
    assert pair.a.endpoint.stats(assoc)["channels"] == 1
    pair.a.endpoint.channel_close(channels[0])
    pair.b.endpoint.channel_close(channels[1])
    pair.run(lambda: not pair.a.endpoint.associations, limit=8)


def test_a_flow_at_rest_gives_its_channel_back_and_holds_its_association() -> None:
    pair = Pair(1, keepalive=SECOND, idle_after=6 * SECOND)
    assoc = pair.connect()
    endpoint = pair.a.endpoint
    channel = endpoint.channel_open(assoc)
    assert endpoint.channel_at_rest(channel)
    endpoint.channel_send(channel, 1, 0, b"block")
    assert not endpoint.channel_at_rest(channel)
    pair.run(lambda: endpoint.channel_at_rest(channel), limit=5)
    for use in (
        lambda: endpoint.channel_say(channel, b"word"),
        lambda: endpoint.channel_report(channel, b"r"),
    ):
        use()
        assert not endpoint.channel_at_rest(channel)
        pair.run(lambda: endpoint.channel_at_rest(channel), limit=5)
    endpoint.hold(assoc)
    (back,) = pair.b.endpoint.associations
    pair.b.endpoint.hold(back)  # its engine's flow rests, too
    endpoint.channel_close(channel)
    pair.run_for(30)
    assert endpoint.is_up(assoc)
    channel = endpoint.channel_open(assoc)
    endpoint.let_go(assoc)
    endpoint.channel_send(channel, 1, 5, b"again")
    pair.run(lambda: endpoint.channel_at_rest(channel), limit=5)
    assert sum(len(block.data) for block in pair.b.blocks) == 10
    endpoint.channel_close(channel)
    pair.b.endpoint.let_go(back)
    pair.run(lambda: not endpoint.associations, limit=15)


@pytest.mark.parametrize("how", ["silence", "closed here", "closed there"])
def test_channels_are_told_that_their_association_is_down(how: str) -> None:
    pair = Pair(1, link=Link(delay=5 * MS), dead_after=2 * SECOND)
    assoc = pair.connect()
    endpoint = pair.a.endpoint
    channels = [endpoint.channel_open(assoc) for _ in range(3)]
    for channel in channels:
        endpoint.channel_send(channel, channel, 0, bytes(100_000))
        endpoint.channel_say(channel, b"x")
    pair.run_for(0.012)
    if how == "silence":
        pair.forth.down = pair.back.down = True
    elif how == "closed here":
        endpoint.close(assoc, 3, pair.now)
    else:
        pair.b.endpoint.close(pair.b.endpoint.associations[0], 3, pair.now)
    pair.run(lambda: "AssociationDown" in pair.a.kinds(), limit=10)
    ends = [e for e in pair.a.events if isinstance(e, ChannelDown | AssociationDown)]
    reason = 0x10003 if how == "silence" else 3
    assert {(e.channel, e.reason) for e in ends[:3]} == {(c, reason) for c in channels}  # type: ignore[union-attr]
    assert isinstance(ends[3], AssociationDown)
    assert endpoint.borrowed == 0
    for channel in channels:
        assert not endpoint.channel_send(channel, 1, 0, b"x")
        assert not endpoint.channel_say(channel, b"x")
        endpoint.channel_report(channel, b"x")
        assert endpoint.channel_unacked(channel) == 0
    for channel in channels[:2]:  # the third is left to the endpoint
        endpoint.channel_close(channel)
    with pytest.raises(KeyError):
        endpoint.channel_open(assoc)


def test_no_channel_of_an_association_that_is_closing() -> None:
    pair = Pair(1)
    assoc = pair.connect()
    pair.a.endpoint.close(assoc, 3, pair.now)
    with pytest.raises(ConnectionError):
        pair.a.endpoint.channel_open(assoc)
    assert not pair.a.endpoint.say(assoc, b"x")


def test_what_was_said_survives_a_new_handshake() -> None:
    """The peer forgot the association while a flow's OPEN was on its way; greetings go out again, too."""
    pair = Pair(1, link=Link(delay=20 * MS))
    assoc = pair.connect()
    pair.run(lambda: bool(pair.b.endpoint.associations))
    pair.run_for(0.2)
    pair.b.endpoint.close(pair.b.endpoint.associations[0], 0x10001, pair.now)
    pair.a.endpoint.say(assoc, b"sent")
    pair.a.endpoint.open(assoc, pair.now)
    pair.settle()
    pair.a.endpoint.say(assoc, b"waits")
    pair.run(lambda: "FlowConfirmed" in pair.b.kinds())
    pair.run(lambda: {b"sent", b"waits"} <= set(pair.b.messages), limit=5)


@pytest.mark.parametrize("seed", range(200))
def test_random_channels_over_a_random_path(seed: int) -> None:
    """Opened, filled, closed and opened again at any moment, at both ends, with keys or without."""
    rng = random.Random(seed)
    link = Link(
        delay=rng.choice([0, MS, 30 * MS]),
        jitter=rng.choice([0, 0, 5 * MS]),
        loss=rng.choice([0, 0.02, 0.2]),
        duplicate=rng.choice([0, 0.2]),
        rate=rng.choice([0, 0, 1.25e6]),
        queue=30_000,
        mtu=rng.choice([65535, 1300]),
    )
    pair = Pair(seed, link=link, channel_queue=rng.choice([10_000, 200_000]), keys=rng.choice([(), (KEY,)]),
                congestion=rng.choice(["auto", "cubic", "newreno"]), dead_after=40 * SECOND)  # fmt: skip
    assoc = pair.connect()
    pair.run(lambda: bool(pair.b.endpoint.associations))
    ends = [(pair.a, pair.b, assoc), (pair.b, pair.a, pair.b.endpoint.associations[0])]
    kept: list[tuple[Writer, object]] = []
    words: dict[str, set[bytes]] = {"a": set(), "b": set()}
    for flow in range(rng.randrange(1, 9)):
        host, peer, at = rng.choice(ends)
        first = rng.choice([0, U32 - 5000])
        writer = Writer(pair, at, flow, payload(rng.choice([1, 3000, 60_000]), flow), first=first,
                        block=rng.choice([100, 1448, 20_000]), host=host)  # fmt: skip
        writer.fill()
        word = b"%d" % flow
        if host.endpoint.channel_say(writer.channel, word):
            words[peer.name].add(word)
        host.endpoint.channel_report(writer.channel, b"r%d" % flow)
        pair.run_for(rng.choice([0, 0.001, 0.1]))
        if rng.random() < 0.3:
            host.endpoint.channel_close(writer.channel)
        else:
            kept.append((writer, peer))
    if rng.random() < 0.3:
        pair.blackhole(rng.uniform(0.1, 3))
    finish(pair, [w for w, _ in kept])
    pair.run(lambda: words["a"] <= set(pair.a.messages) and words["b"] <= set(pair.b.messages))
    pair.run(lambda: all(h.endpoint.stats(x)["bytes_in_flight"] == 0 for h, _, x in ends))
    for writer, peer in kept:
        assert arrived(peer, writer.flow, writer.first) == writer.data  # type: ignore[arg-type]
    for host in (pair.a, pair.b):
        host.datagrams(pair.now)
        assert host.endpoint.borrowed == 0
