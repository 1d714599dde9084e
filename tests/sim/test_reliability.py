"""Reliability functions: what all of them keep, whatever the path does, and what each does its own way."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from sim import wire
from sim.attacker import Attacker
from sim.channels import Writer, arrived, finish, payload
from sim.exchange import Exchange
from sim.exchange import finish as finish_streams
from sim.network import MS, SECOND, A, B, Host, Link, Pair
from sim.observer import Observer

from hooker.vtl.events import BlockReceived
from hooker.vtl.reliability import codes, names
from hooker.vtl.sansio import Endpoint

KEY = bytes(range(32))
PLAIN = "selective-repeat"
REPAIRING = ["selective-repeat", "go-back-n", "stop-and-wait"]  # every byte arrives
PATHS = {
    "clean": Link(delay=MS),
    "loss": Link(loss=0.1, delay=20 * MS),
    "reordering": Link(jitter=10 * MS, delay=MS),
    "duplicates": Link(duplicate=0.5, delay=MS),
    "everything": Link(loss=0.05, jitter=3 * MS, duplicate=0.1, corrupt=0.01, rate=2e6, queue=40_000),
}


def pair_with(function: str, seed: int = 1, *, link: Link | None = None, **config: object) -> Pair:
    return Pair(seed, link=link, reliability=function, **config)


def both_up(pair: Pair) -> tuple[int, int]:
    """The association's handles, up at both hosts."""
    assoc = pair.connect()
    pair.run(lambda: bool(pair.b.endpoint.associations))
    return assoc, pair.b.endpoint.associations[0]


def spy(pair: Pair, link: Link) -> list[wire.Packet]:
    """DATA packets that are given to the link from now on, each checked by the specification."""
    seen: list[wire.Packet] = []

    def carry(data: bytes, *rest: object, plain=link.carry) -> object:
        if wire.is_data(data):
            seen.append(wire.decode(data))
        return plain(data, *rest)

    link.carry = carry  # type: ignore[method-assign]
    return seen


def watched(pair: Pair) -> Pair:
    """Everything both hosts say is checked by the specification."""
    observer = Observer()
    for link in (pair.forth, pair.back):
        link.carry = lambda *what, carry=link.carry: observer.see(what[0]) or carry(*what)  # type: ignore[method-assign]
    return pair


# --- the handshake


@pytest.mark.parametrize("keys", [(), (KEY,)], ids=["plain", "encrypted"])
@pytest.mark.parametrize("function", names())
def test_both_sides_run_the_function_that_both_have(function: str, keys: tuple[bytes, ...]) -> None:
    pair = pair_with(function, keys=keys)
    a, b = both_up(pair)
    assert pair.a.endpoint.reliability(a) == pair.b.endpoint.reliability(b) == function
    assert pair.a.endpoint.stats(a)["reliability"] == codes()[function]
    assert pair.a.endpoint.repairs(a) == pair.b.endpoint.repairs(b) == (function != "none")


@pytest.mark.parametrize("function", names())
def test_a_peer_that_does_not_take_it_has_selective_repeat(function: str) -> None:
    pair = Pair(1)
    pair.a.endpoint = Endpoint(seed=5, reliability=function)
    a, b = both_up(pair)
    assert pair.a.endpoint.reliability(a) == pair.b.endpoint.reliability(b) == PLAIN
    assert pair.a.connect(B, pair.now) == a, "it is found again by what it was to be"
    finish(pair, [Writer(pair, a, 1, payload(100_000))])
    assert arrived(pair.b, 1) == payload(100_000)


@pytest.mark.parametrize("function", names())
def test_selective_repeat_is_taken_by_everybody(function: str) -> None:
    pair = Pair(1)
    pair.b.endpoint = Endpoint(seed=5, reliability=function)
    a, b = both_up(pair)
    assert pair.a.endpoint.reliability(a) == pair.b.endpoint.reliability(b) == PLAIN


@pytest.mark.parametrize("function", names())
def test_a_peer_may_take_more_than_it_begins(function: str) -> None:
    pair = Pair(1)
    pair.b.endpoint = Endpoint(seed=5, accepts=(function,))
    assoc = pair.a.endpoint.connect(B, 0, reliability=function)
    pair.run(lambda: pair.a.endpoint.is_up(assoc))
    assert pair.a.endpoint.reliability(assoc) == function


def test_one_peer_may_have_an_association_for_each_function() -> None:
    pair = Pair(1, accepts=tuple(names()))
    assocs = {f: pair.a.endpoint.connect(B, 0, reliability=f) for f in names()}
    assert len(set(assocs.values())) == len(names())
    assert pair.a.connect(B, 0) == assocs[PLAIN]
    pair.run(lambda: all(pair.a.endpoint.is_up(a) for a in assocs.values()))
    for function, assoc in assocs.items():
        assert pair.a.endpoint.reliability(assoc) == function
        assert pair.a.endpoint.connect(B, pair.now, reliability=function) == assoc
    with pytest.raises(ValueError, match="unknown reliability function"):
        pair.a.endpoint.connect(B, 0, reliability="hope")


def test_both_at_once_settle_for_one_of_each_function() -> None:
    pair = pair_with("stop-and-wait", link=Link(delay=20 * MS), idle_after=8 * SECOND, accepts=(PLAIN,))
    ends = [(h, h.endpoint.connect(p.address, 0)) for h, p in ((pair.a, pair.b), (pair.b, pair.a))]
    plain = pair.a.endpoint.connect(B, 0, reliability=PLAIN)
    pair.run(lambda: all(h.endpoint.is_up(x) for h, x in ends) and pair.a.endpoint.is_up(plain))
    channel = pair.a.endpoint.channel_open(plain)
    pair.run_for(7)
    assert plain in pair.a.endpoint.associations
    pair.a.endpoint.channel_close(channel)


def change(host: object, kind: int, at: int, to: int) -> None:
    """The byte `at` that place in a host's handshake packets of that type."""
    plain = host.flight  # type: ignore[attr-defined]

    def flight(now: int) -> list[tuple[bytes, tuple[str, int], int]]:
        return [
            (d[:at] + bytes([to]) + d[at + 1 :] if d[0] == 0x20 | kind else d, where, ecn)
            for d, where, ecn in plain(now)
        ]

    host.flight = flight  # type: ignore[attr-defined]


@pytest.mark.parametrize("side", ["old initiator", "old responder"])
def test_who_sends_and_reads_nothing_there_has_selective_repeat(side: str) -> None:
    """The fields were reserved: sent as 0, not looked at."""
    pair = pair_with("go-back-n")
    change(pair.a, wire.INIT, 21, 0)
    if side == "old responder":
        change(pair.b, wire.INIT_ACK, 45, 0)
    a, b = both_up(pair)
    assert pair.a.endpoint.reliability(a) == pair.b.endpoint.reliability(b) == PLAIN


@pytest.mark.parametrize("answer", [2, 99])
def test_a_function_that_was_not_asked_for_is_refused(answer: int) -> None:
    pair = pair_with("go-back-n", accepts=tuple(names()))
    change(pair.b, wire.INIT_ACK, 45, answer)
    pair.a.connect(B, 0)
    pair.run(lambda: "AssociationDown" in pair.a.kinds(), limit=15)
    assert pair.a.down_reasons() == [0x10006]
    assert pair.a.endpoint.drops()["protocol"] == 2


def test_a_forged_function_is_noticed_with_a_key() -> None:
    pair = pair_with("go-back-n", keys=(KEY,), handshake_timeout=SECOND)
    change(pair.a, wire.INIT, 21, 0)
    pair.a.connect(B, 0)
    pair.run(lambda: "AssociationDown" in pair.a.kinds(), limit=15)
    assert pair.b.endpoint.associations == ()


@pytest.mark.parametrize(
    "config", [{"reliability": "hope"}, {"accepts": ("hope",)}, {"window": -1}, {"window": 1 << 17}]
)
def test_a_wrong_configuration_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"reliability function|window"):
        Endpoint(**config)  # type: ignore[arg-type]


# --- what all keep


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("function", REPAIRING)
@pytest.mark.parametrize("seed", range(3))
def test_every_byte_arrives_and_all_memory_comes_back(function: str, path: str, seed: int) -> None:
    pair = watched(pair_with(function, seed, link=Link(**vars(PATHS[path])), channel_queue=64 << 10))
    assoc, back = both_up(pair)
    sizes = (1, 700, 30_000)
    writers = [Writer(pair, assoc, i, payload(n, i), block=7000 * i + 1448) for i, n in enumerate(sizes)]
    writers.append(Writer(pair, back, 9, payload(10_000, 9), host=pair.b))
    for writer in writers:
        writer.endpoint.channel_say(writer.channel, b"word of %d" % writer.flow)
    finish(pair, writers)
    for i, n in enumerate(sizes):
        assert arrived(pair.b, i) == payload(n, i)
    assert arrived(pair.a, 9) == payload(10_000, 9)
    pair.run(lambda: {b"word of %d" % i for i in range(3)} <= set(pair.b.messages))
    pair.run(lambda: b"word of 9" in pair.a.messages)
    for host in (pair.a, pair.b):
        host.datagrams(pair.now)
        assert host.endpoint.borrowed == 0


@pytest.mark.parametrize("keys", [(), (KEY,)], ids=["plain", "encrypted"])
@pytest.mark.parametrize("function", names())
def test_streams_are_complete_with_every_function(function: str, keys: tuple[bytes, ...]) -> None:
    pair = pair_with(function, link=Link(loss=0.05, delay=5 * MS, jitter=MS), keys=keys)
    assoc, _ = both_up(pair)
    finish_streams(pair, [Exchange(pair, 40_000, 10_000, seed=i, assoc=assoc) for i in range(2)])


@pytest.mark.parametrize("function", names())
def test_a_peer_that_vanishes_ends_it_and_everything_is_given_back_once(function: str) -> None:
    pair = pair_with(function, link=Link(delay=5 * MS), dead_after=2 * SECOND, keepalive=SECOND)
    assoc, _ = both_up(pair)
    writer = Writer(pair, assoc, 1, payload(3_000_000))
    pair.run_for(0.02)
    writer.fill()
    pair.run_for(0.02)
    pair.forth.down = pair.back.down = True
    start = pair.now
    while "AssociationDown" not in pair.a.kinds():
        writer.fill()
        pair.step()
        assert pair.now < start + 5 * SECOND
    assert pair.a.down_reasons() == [0x10003]
    assert pair.a.endpoint.borrowed == 0


@pytest.mark.parametrize("function", names())
def test_a_silent_peer_makes_nobody_hold_more_than_the_limits(function: str) -> None:
    """Who shakes hands and then answers nothing: the queue, and records of packets out of the budget."""
    endpoint = Endpoint(
        seed=1, budget=4 << 20, channel_queue=100_000, accepts=tuple(names()), dead_after=60 * SECOND
    )
    Attacker(endpoint, A, function=codes()[function])
    (assoc,) = endpoint.associations
    assert endpoint.reliability(assoc) == function
    channel = endpoint.channel_open(assoc)
    at = now = 0
    for i in range(20_000):
        at += endpoint.channel_send(channel, 1, at, bytes(1000))
        endpoint.channel_say(channel, b"%d" % i)
        if i % 10 == 0:
            now += 10 * MS
            endpoint.handle_timer(now)
            endpoint.datagrams_to_send(now)
        assert endpoint.borrowed <= 110_000
    assert endpoint.counters()["held"] <= 4 << 20


@pytest.mark.parametrize("function", REPAIRING)
@pytest.mark.parametrize("seed", range(4))
def test_another_address_loses_nothing(function: str, seed: int) -> None:
    pair = pair_with(function, seed, link=Link(delay=5 * MS, loss=0.02))
    writer = Writer(pair, both_up(pair)[0], 1, payload(60_000))
    writer.fill()
    pair.run(lambda: len(arrived(pair.b, 1)) > 10_000)
    pair.a.address = ("10.0.9.9" if seed % 2 else "10.0.0.1", 4999)
    finish(pair, [writer])
    assert arrived(pair.b, 1) == payload(60_000)


@pytest.mark.parametrize("function", names())
@pytest.mark.parametrize("seed", range(25))
def test_random_channels_over_a_random_path(function: str, seed: int) -> None:
    """Filled at both ends, closed at any moment, with blackholes and new addresses: nothing is kept."""
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
    pair = pair_with(function, seed, link=link, channel_queue=rng.choice([10_000, 200_000]),
                     keys=rng.choice([(), (KEY,)]), congestion=rng.choice(["auto", "cubic", "newreno"]),
                     dead_after=40 * SECOND, repeats=rng.choice([0, 2, 255]), window=rng.choice([0, 2, 20]),
                     deadline=rng.choice([0, 50 * MS]))  # fmt: skip
    assoc, back = both_up(pair)
    ends = [(pair.a, pair.b, assoc), (pair.b, pair.a, back)]
    kept: list[tuple[Writer, Host]] = []
    for flow in range(rng.randrange(1, 6)):
        host, peer, at = rng.choice(ends)
        writer = Writer(pair, at, flow, payload(rng.choice([1, 3000, 20_000]), flow),
                        block=rng.choice([100, 1448, 20_000]), host=host)  # fmt: skip
        writer.fill()
        host.endpoint.channel_say(writer.channel, b"%d" % flow)
        host.endpoint.channel_report(writer.channel, b"r%d" % flow)
        pair.run_for(rng.choice([0, 0.001, 0.1]))
        if rng.random() < 0.3:
            host.endpoint.channel_close(writer.channel)
        else:
            kept.append((writer, peer))
        if rng.random() < 0.2:
            pair.a.address = (f"10.0.1.{rng.randrange(1, 9)}", 4000 + flow)
            pair.a.endpoint.say(assoc, b"here")
    if rng.random() < 0.3:
        pair.blackhole(rng.uniform(0.1, 3))
    finish(pair, [w for w, _ in kept])
    pair.run(lambda: all(w.endpoint.channel_at_rest(w.channel) for w, _ in kept))
    for writer, peer in kept if function in REPAIRING else []:
        assert arrived(peer, writer.flow) == writer.data
    for host in (pair.a, pair.b):
        host.datagrams(pair.now)
        assert host.endpoint.borrowed == 0


# --- stop-and-wait


def in_flight(pair: Pair, assoc: int) -> int:
    return pair.a.endpoint.stats(assoc)["bytes_in_flight"]


def test_stop_and_wait_has_one_packet_on_its_way() -> None:
    pair = pair_with("stop-and-wait", link=Link(delay=10 * MS), max_datagram=1200)
    assoc, _ = both_up(pair)
    pair.run_for(1)
    writer = Writer(pair, assoc, 1, payload(30_000))
    writer.fill()
    start, most = pair.now, 0
    while not writer.done():
        pair.step()
        most = max(most, in_flight(pair, assoc))
    assert most == 1200
    packets = -(-30_000 // 1177)
    assert packets * 20 * MS <= pair.now - start < packets * 20 * MS + 100 * MS  # acknowledged at once


def test_stop_and_wait_repeats_a_lost_packet_after_a_timeout() -> None:
    pair = pair_with("stop-and-wait", link=Link(delay=10 * MS), max_datagram=1200)
    assoc, _ = both_up(pair)
    pair.run_for(1)
    seen = spy(pair, pair.forth)
    writer = Writer(pair, assoc, 1, payload(5000))
    pair.forth.down = True
    writer.fill()
    pair.run_for(0.005)
    pair.forth.down = False
    finish(pair, [writer])
    assert arrived(pair.b, 1) == payload(5000)
    blocks = [f for p in seen for f in p.frames if isinstance(f, wire.Block)]
    positions = [b.position for b in blocks]
    assert positions[:2] == [0, 0]
    assert positions[1:] == sorted(set(positions))


# --- go-back-n


class Ordered:
    """A sender that numbers and orders its packets as it likes."""

    def __init__(self, function: str = "go-back-n", congestion: str = "newreno") -> None:
        self.endpoint = Endpoint(seed=1, accepts=tuple(names()), congestion=congestion)
        self.attacker = Attacker(self.endpoint, A, function=codes()[function])
        self.endpoint.datagrams_to_send(0)
        while self.endpoint.next_event() is not None:
            pass

    def send(self, number: int, *frames: wire.AnyFrame) -> str:
        return self.endpoint.receive_datagram(wire.data_packet(self.attacker.cid, number, list(frames)), A, 0)

    def ordered(self, number: int, back: int) -> str:
        return self.send(number, wire.Order(back), wire.Block(1, number, 0, 0, b"x"))

    def taken(self) -> list[int]:
        out = []
        while (event := self.endpoint.next_event()) is not None:
            out += [event.position] if isinstance(event, BlockReceived) else []
        return out

    def answers(self, now: int = 0) -> list[tuple[int, ...]]:
        sent = [wire.decode(d) for d, _ in self.endpoint.datagrams_to_send(now) if wire.is_data(d)]
        return [f.fields for p in sent for f in p.frames if isinstance(f, wire.Frame) and f.name == "GO_BACK"]


def test_go_back_n_takes_packets_in_order_only() -> None:
    peer = Ordered()
    assert peer.ordered(1, 0) == "ok"
    assert peer.ordered(3, 1) == "order"  # 2 is missing
    assert peer.ordered(4, 1) == "order"
    assert peer.answers() == [(1, 3, 4)]
    assert peer.ordered(5, 1) == "order"
    assert peer.answers() == [(1, 5, 5)]
    assert peer.ordered(2, 1) == "ok"  # late
    assert peer.ordered(3, 1) == "ok"  # a copy of what was dropped
    assert peer.taken() == [1, 2, 3]
    assert peer.ordered(9, 0) == "ok"  # a new base
    assert peer.ordered(4, 1) == "order"  # of the run before
    assert peer.answers() == []
    assert peer.ordered(20, 11) == "ok"  # packets without ORDER in between
    assert peer.ordered(9, 0) == "duplicate"
    assert peer.ordered(12, 0) == "order"  # a base that is late
    assert peer.answers() == []
    assert peer.ordered(21, 1) == "ok"
    assert peer.taken() == [9, 20, 21]
    assert peer.endpoint.drops()["order"] == 5


def test_what_is_dropped_is_not_acknowledged() -> None:
    peer = Ordered()
    peer.ordered(1, 0)
    peer.ordered(7, 3)
    (packet,) = [wire.decode(d) for d, _ in peer.endpoint.datagrams_to_send(0) if wire.is_data(d)]
    acks = [f for f in packet.frames if isinstance(f, wire.Ack)]
    assert [a.ranges for a in acks] == [((1, 1),)]


def test_what_is_dropped_shows_that_the_peer_is_there() -> None:
    peer = Ordered()
    (assoc,) = peer.endpoint.associations
    channel = peer.endpoint.channel_open(assoc)
    peer.endpoint.channel_send(channel, 1, 0, bytes(100))
    for i in range(1, 25):  # longer than dead_after
        now = i * SECOND // 2
        packet = wire.data_packet(peer.attacker.cid, 10 + i, [wire.Order(5), wire.Frame("PING")])
        assert peer.endpoint.receive_datagram(packet, A, now) == "order"
        peer.endpoint.datagrams_to_send(now)
        peer.endpoint.handle_timer(now)
    assert peer.endpoint.is_up(assoc)
    for i in range(25, 40):
        peer.endpoint.handle_timer(i * SECOND // 2)
        peer.endpoint.datagrams_to_send(i * SECOND // 2)
    assert assoc not in peer.endpoint.associations


def test_acknowledgements_in_a_packet_that_is_dropped_count() -> None:
    peer = Ordered()
    (assoc,) = peer.endpoint.associations
    channel = peer.endpoint.channel_open(assoc)
    peer.endpoint.channel_send(channel, 1, 0, bytes(100))
    numbers = [wire.decode(d).number for d, _ in peer.endpoint.datagrams_to_send(0) if wire.is_data(d)]
    assert numbers
    ack = wire.Ack(0, ((1, numbers[-1]),))
    assert peer.send(5, ack, wire.Order(1), wire.Frame("PING")) == "order"
    assert peer.endpoint.channel_unacked(channel) == 0


def test_a_truncated_packet_does_not_move_the_order() -> None:
    peer = Ordered()
    assert peer.ordered(1, 0) == "ok"
    bad = wire.data_packet(peer.attacker.cid, 2, [wire.Order(1)]) + b"\x08\x05ab"
    assert peer.endpoint.receive_datagram(bad, A, 0) == "short"
    assert peer.ordered(3, 1) == "order"
    assert peer.ordered(2, 1) == "ok"


@pytest.mark.parametrize("back", [0, 1, 5, 0xFFFFFFFF])
def test_a_base_may_jump_and_costs_the_receiver_nothing(back: int) -> None:
    peer = Ordered()
    assert peer.send(1, wire.Frame("PING"), wire.Frame("PING")) == "ok"
    peer.send(3, wire.Frame("PING"))
    peer.answers()
    held = peer.endpoint.counters()["held"]  # its record of packets sent
    for i in range(1, 3000):
        assert peer.ordered(i * 1000, back) in ("ok", "order")
        peer.answers()
    assert peer.endpoint.counters()["held"] <= held
    assert len(peer.taken()) == (2999 if back == 0 else 0)


def outstanding(peer: Ordered, n: int = 20) -> list[int]:
    """Numbers of the packets that the endpoint has sent: nine or more."""
    (assoc,) = peer.endpoint.associations
    channel = peer.endpoint.channel_open(assoc)
    peer.endpoint.channel_send(channel, 1, 0, bytes(n * 1449))
    sent = [wire.decode(d) for d, _ in peer.endpoint.datagrams_to_send(0) if wire.is_data(d)]
    numbers = [p.number for p in sent if any(isinstance(f, wire.Order) for f in p.frames)]
    assert len(numbers) >= 9
    return numbers


def test_an_answer_makes_the_sender_go_back() -> None:
    peer = Ordered()
    numbers = outstanding(peer)
    third = numbers[2]
    answer = wire.Frame("GO_BACK", 0, (numbers[1], numbers[4], numbers[5]))
    assert peer.send(1, wire.Ack(0, ((1, numbers[1]),)), answer) == "ok"
    (assoc,) = peer.endpoint.associations
    stats = peer.endpoint.stats(assoc)
    assert stats["packets_lost"] == 2  # those before the first that arrived in vain
    sent = [wire.decode(d) for d, _ in peer.endpoint.datagrams_to_send(MS) if wire.is_data(d)]
    assert sent[0].frames[-2] == wire.Order(0) or wire.Order(0) in sent[0].frames
    assert [f.back for p in sent[1:] for f in p.frames if isinstance(f, wire.Order)] == [1] * (len(sent) - 1)
    first = next(f for f in sent[0].frames if isinstance(f, wire.Block))
    assert first.position == 2 * (128 - 13 - 5 - 10)  # no larger than the INIT
    assert peer.send(2, answer) == "ok"  # about the run before
    assert peer.endpoint.stats(assoc)["packets_lost"] == 2
    assert third < sent[0].number


@pytest.mark.parametrize(
    "fields",
    [
        lambda n: (n[-1], n[-1] + 1, n[-1] + 1),
        lambda n: (0, 1, 1 << 63),
        lambda n: (n[2], n[2], n[3]),
        lambda n: (n[3], n[2], n[4]),
        lambda n: (n[0], n[4], n[3]),
        lambda n: (1 << 63, n[3], n[4]),
    ],
)
def test_an_answer_that_cannot_be_is_dropped(fields: Callable[[list[int]], tuple[int, ...]]) -> None:
    peer = Ordered()
    numbers = outstanding(peer)
    assert peer.send(1, wire.Frame("GO_BACK", 0, fields(numbers))) == "protocol"
    assert peer.endpoint.stats(peer.endpoint.associations[0])["packets_lost"] == 0


def test_who_says_that_all_arrived_in_vain_makes_the_sender_slower() -> None:
    """Else a packet a round trip could make us send as fast as the machine can."""
    peer = Ordered()
    numbers = outstanding(peer, 500)
    (assoc,) = peer.endpoint.associations
    cwnd = [peer.endpoint.stats(assoc)["cwnd"]]
    total = now = 0
    for i in range(1, 50):
        now += MS
        peer.send(i, wire.Frame("GO_BACK", 0, (numbers[0] - 1, numbers[0], numbers[-1])))
        sent = [wire.decode(d) for d, _ in peer.endpoint.datagrams_to_send(now) if wire.is_data(d)]
        numbers = [p.number for p in sent if any(isinstance(f, wire.Order) for f in p.frames)] or numbers
        total += len(sent)
        cwnd.append(peer.endpoint.stats(assoc)["cwnd"])
    assert min(cwnd) < cwnd[0] / 2
    assert total < 200


def test_the_window_bounds_the_packets_on_their_way() -> None:
    for window, most in ((4, 4), (0, 256)):
        endpoint = Endpoint(seed=1, accepts=tuple(names()), window=window, congestion="fixed")
        Attacker(endpoint, A, function=codes()["go-back-n"])
        endpoint.datagrams_to_send(0)
        channel = endpoint.channel_open(endpoint.associations[0])
        endpoint.channel_send(channel, 1, 0, bytes(1 << 20))
        endpoint.datagrams_to_send(0)
        in_flight = endpoint.stats(endpoint.associations[0])["bytes_in_flight"]
        assert (most - 2) * 128 < in_flight <= most * 128


@pytest.mark.parametrize("function", ["selective-repeat", "stop-and-wait"])
def test_frames_of_another_function_are_not_understood(function: str) -> None:
    peer = Ordered(function)
    assert peer.ordered(1, 0) == "type"
    assert peer.send(2, wire.Frame("GO_BACK", 0, (0, 1, 1))) == "type"


@pytest.mark.parametrize("frame", [b"\x09\0\0", b"\x0a" + bytes(30)])
def test_truncated_frames_are_dropped(frame: bytes) -> None:
    peer = Ordered()
    packet = wire.data_packet(peer.attacker.cid, 77, [wire.Frame("PING")]) + frame
    assert peer.endpoint.receive_datagram(packet, A, 0) == "short"


@pytest.mark.parametrize("seed", range(3))
def test_go_back_n_gets_on_where_packets_overtake_each_other(seed: int) -> None:
    """What was taken before the sender went back is acknowledged after it, and counts."""
    pair = pair_with("go-back-n", seed, link=Link(delay=100 * MS, jitter=5 * MS), congestion="fixed")
    assoc, _ = both_up(pair)
    finish(pair, [Writer(pair, assoc, 1, payload(100_000))], limit=30)
    assert arrived(pair.b, 1) == payload(100_000)


def test_go_back_n_sends_all_behind_a_lost_packet_again() -> None:
    pair = pair_with("go-back-n", link=Link(delay=20 * MS), congestion="fixed")
    assoc, _ = both_up(pair)
    pair.run_for(1)
    seen = spy(pair, pair.forth)
    lost: list[int] = []

    def carry(data: bytes, *rest: object, plain=pair.forth.carry) -> object:
        if (
            wire.is_data(data)
            and not lost
            and any(getattr(f, "position", -1) > 20_000 for f in wire.decode(data).frames)
        ):
            lost.append(len(seen))
            seen.append(wire.decode(data))
            return []
        return plain(data, *rest)

    pair.forth.carry = carry  # type: ignore[method-assign]
    start = pair.now
    finish(pair, [Writer(pair, assoc, 1, payload(100_000))])
    assert pair.now - start < 150 * MS  # one answer, no timeout
    assert arrived(pair.b, 1) == payload(100_000)
    blocks = [f.position for p in seen for f in p.frames if isinstance(f, wire.Block)]
    assert blocks.count(0) == 1
    assert [n for n in set(blocks) if blocks.count(n) == 2] == [
        n for n in set(blocks) if n >= blocks[lost[0]]
    ]
    assert pair.a.endpoint.stats(assoc)["packets_lost"] == 1
    positions = [b.position for b in pair.b.blocks]
    assert positions == sorted(set(positions))


# --- none


def blocks_of(packets: list[wire.Packet]) -> list[wire.Block]:
    return [f for p in packets for f in p.frames if isinstance(f, wire.Block)]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("seed", range(3))
def test_none_sends_each_block_once_in_a_datagram_of_its_own(path: str, seed: int) -> None:
    pair = watched(pair_with("none", seed, link=Link(**vars(PATHS[path]))))
    assoc, _ = both_up(pair)
    seen = spy(pair, pair.forth)
    channel = pair.a.endpoint.channel_open(assoc)
    blocks = [(i * 1448, payload(1 + 997 * i % 1150, i)) for i in range(300)]
    for i in range(0, 300, 10):
        for position, data in blocks[i : i + 10]:
            assert pair.a.endpoint.channel_send(channel, 1, position, data, flags=2)
        pair.run_for(0.01)
        pair.a.datagrams(pair.now)
        assert pair.a.endpoint.borrowed == 0
    pair.run_for(2)
    assert [(b.position, b.data, b.flags) for b in blocks_of(seen)] == [(p, d, 2) for p, d in blocks]
    assert max(len(blocks_of([p])) for p in seen) == 1
    got = {b.position: b.data for b in pair.b.blocks}
    assert got.items() <= dict(blocks).items()
    assert len(got) > (200 if pair.forth.loss or pair.forth.rate else 299)
    assert pair.a.endpoint.channel_at_rest(channel)
    assert pair.a.endpoint.stats(assoc)["stream_bytes_retransmitted"] == 0


def test_none_keeps_nothing_back() -> None:
    """Neither a window nor pacing: the applications' TCP has both."""
    pair = pair_with("none", link=Link(delay=50 * MS), congestion="newreno")
    assoc, _ = both_up(pair)
    channel = pair.a.endpoint.channel_open(assoc)
    for i in range(1000):
        assert pair.a.endpoint.channel_send(channel, 1, 1000 * i, bytes(1000))
    sent = pair.a.datagrams(pair.now)
    assert sum(bool(blocks_of([wire.decode(d)])) for d, _ in sent if wire.is_data(d)) == 1000


def test_none_cuts_only_what_no_datagram_has_room_for() -> None:
    pair = pair_with("none", max_datagram=1200)
    assoc, _ = both_up(pair)
    seen = spy(pair, pair.forth)
    channel = pair.a.endpoint.channel_open(assoc)
    room = 1200 - 13 - 10 - 1
    for i, n in enumerate((room, room + 1, 500, 500, 0)):
        if i != 1:
            pair.a.endpoint.channel_say(channel, b"%d" % i)
        pair.a.endpoint.channel_send(channel, 1, i, bytes(n), flags=1)
        pair.run_for(0.1)
    assert [len(b.data) for b in blocks_of(seen)] == [room, room, 1, 500, 500, 0]
    assert [b.flags for b in blocks_of(seen)] == [1, 0, 1, 1, 1, 1]
    assert {b"0", b"2", b"3", b"4"} <= set(pair.b.messages)


def test_none_does_not_repeat_what_a_channel_says_but_the_associations_own_words() -> None:
    pair = pair_with("none", link=Link(delay=5 * MS))
    assoc, _ = both_up(pair)
    pair.run_for(0.5)
    channel = pair.a.endpoint.channel_open(assoc)
    pair.forth.down = True
    pair.a.endpoint.channel_say(channel, b"once")
    pair.a.endpoint.channel_report(channel, b"report")
    pair.a.endpoint.say(assoc, b"greeting")
    pair.run_for(0.001)
    pair.forth.down = False
    pair.run_for(2)
    assert pair.b.messages == [b"greeting"]
    assert pair.a.endpoint.stats(assoc)["bytes_in_flight"] == 0
    for i in range(200):  # no bound is reached when nothing is acknowledged
        assert pair.a.endpoint.channel_say(channel, b"%d" % i)
        pair.settle()
    assert pair.a.endpoint.channel_at_rest(channel)


def test_none_is_acknowledged_once_a_round_trip() -> None:
    pair = pair_with("none", link=Link(delay=25 * MS))
    assoc, _ = both_up(pair)
    pair.run_for(1)
    acks = spy(pair, pair.back)
    channel = pair.a.endpoint.channel_open(assoc)
    for i in range(1000):
        pair.a.endpoint.channel_send(channel, 1, i, b"x", flags=1)
        pair.run_for(0.001)
    assert 10 <= len(acks) <= 25
    stats = pair.a.endpoint.stats(assoc)
    assert 50 * MS <= stats["srtt_ns"] < 60 * MS
    assert stats["bytes_in_flight"] < 200


def test_none_finds_what_the_path_carries_and_that_it_narrows() -> None:
    pair = pair_with("none", link=Link(delay=5 * MS, mtu=1400))
    assoc, _ = both_up(pair)
    channel = pair.a.endpoint.channel_open(assoc)

    def datagram() -> int:
        pair.a.endpoint.channel_send(channel, 1, 0, bytes(1400))
        return pair.a.endpoint.stats(assoc)["datagram"]

    end = pair.now + 20 * SECOND
    while datagram() < 1350 and pair.now < end:
        pair.run_for(0.01)
    assert 1350 < datagram() <= 1400
    pair.forth.mtu = 1300
    end = pair.now + 20 * SECOND
    while datagram() > 1300 and pair.now < end:
        pair.run_for(0.01)
    assert datagram() <= 1300


def test_none_with_an_answer_outstanding_does_not_record_without_end() -> None:
    peer = Ordered("none")
    (assoc,) = peer.endpoint.associations
    channel = peer.endpoint.channel_open(assoc)
    for i in range(40_000):
        assert peer.endpoint.channel_send(channel, 1, i, b"x")
        if i % 100 == 99:
            peer.endpoint.datagrams_to_send(0)
    assert peer.endpoint.stats(assoc)["packets_sent"] >= 40_000
    assert peer.endpoint.counters()["held"] < 3 << 19


def test_none_elicits_no_ack_by_blocks_and_messages() -> None:
    for function, acks in (("none", 0), ("selective-repeat", 1)):
        peer = Ordered(function)
        for i in range(1, 9):
            assert peer.send(i, wire.Block(1, i, 0, 0, b"x"), wire.Message(b"m")) == "ok"
        sent = [wire.decode(d) for d, _ in peer.endpoint.datagrams_to_send(0) if wire.is_data(d)]
        assert sum(isinstance(f, wire.Ack) for p in sent for f in p.frames) == acks
        assert len(peer.taken()) == 8


# --- partial


class Filled:
    """What a receiver has of a flow, with zeros where the sender gave up."""

    def __init__(self, pair: Pair, flow: int) -> None:
        blocks = [b for b in pair.b.blocks if b.id == flow]
        self.holes = [h for h in pair.b.holes if h.id == flow]
        self.size = max(b.position + len(b.data) for b in blocks)
        self.bytes, self.known = bytearray(self.size), bytearray(self.size)
        for hole in self.holes:
            self.known[hole.position : hole.position + hole.size] = b"h" * hole.size
        for b in blocks:
            self.bytes[b.position : b.position + len(b.data)] = b.data
            self.known[b.position : b.position + len(b.data)] = b"b" * len(b.data)


@pytest.mark.parametrize(
    "limits", [{"repeats": 0}, {"repeats": 1}, {"deadline": 60 * MS}, {"repeats": 3, "deadline": 30 * MS}]
)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("seed", range(3))
def test_partial_delivers_or_reports_every_byte(path: str, seed: int, limits: dict[str, int]) -> None:
    pair = watched(
        pair_with("partial", seed, link=Link(**vars(PATHS[path])), channel_queue=100_000, **limits)
    )
    assoc, _ = both_up(pair)
    sizes = (1, 3000, 200_000)
    writers = [Writer(pair, assoc, i, payload(n, i), block=7000 * i + 1448) for i, n in enumerate(sizes)]
    finish(pair, writers)
    pair.run(lambda: all(pair.a.endpoint.channel_at_rest(w.channel) for w in writers))
    pair.settle()
    lost = 0
    for i, n in enumerate(sizes):
        got = Filled(pair, i)
        assert got.size == n, "the tail always arrives"
        assert 0 not in got.known
        want = bytes(x if k == ord("b") else 0 for x, k in zip(payload(n, i), got.known, strict=True))
        assert got.bytes == want
        assert all(h.position + h.size < n for h in got.holes)
        lost += got.known.count(b"h")
    pair.a.datagrams(pair.now)
    assert pair.a.endpoint.borrowed == 0
    given_up = pair.a.endpoint.stats(assoc)["bytes_given_up"]
    assert given_up >= lost
    in_repairs = (
        1472 * pair.b.endpoint.counters()["packets_repaired"]
    )  # they bring back what was given up, too
    none_lost = lost == 0 and given_up <= in_repairs
    assert (
        (given_up > 0) == (lost > 0)
        or none_lost
        or pair.forth.duplicate
        or pair.forth.jitter
        or pair.forth.rate
    )
    if path == "loss" and limits == {"repeats": 0}:
        assert 0.05 * 200_000 < lost < 0.2 * 200_000
    if path == "clean":
        assert lost == given_up == 0


def hold_back(pair: Pair, condition: Callable[[wire.Packet], bool]) -> list[wire.Packet]:
    """DATA packets of a for which it holds are lost from now on."""
    lost: list[wire.Packet] = []

    def carry(data: bytes, *rest: object, plain=pair.forth.carry) -> object:
        if wire.is_data(data) and condition(wire.decode(data)):
            lost.append(wire.decode(data))
            return []
        return plain(data, *rest)

    pair.forth.carry = carry  # type: ignore[method-assign]
    return lost


@pytest.mark.parametrize("repeats", [0, 1, 4])
def test_partial_repeats_so_often_and_no_more(repeats: int) -> None:
    pair = pair_with("partial", link=Link(delay=10 * MS), repeats=repeats, fec=False)
    assoc, _ = both_up(pair)
    pair.run_for(0.5)
    lost = hold_back(
        pair, lambda p: any(b.position <= 50_000 < b.position + len(b.data) for b in blocks_of([p]))
    )
    writer = Writer(pair, assoc, 1, payload(200_000))
    while not writer.done():
        pair.step()
    pair.run(lambda: bool(pair.b.holes), limit=10)
    assert len(lost) == repeats + 1
    (hole,) = pair.b.holes
    assert hole.position <= 50_000 < hole.position + hole.size <= 52_000
    assert pair.b.endpoint.stats(pair.b.endpoint.associations[0])["bytes_missing"] == hole.size
    assert Filled(pair, 1).size == 200_000


def test_partial_gives_up_after_the_deadline() -> None:
    pair = pair_with("partial", link=Link(delay=10 * MS), deadline=100 * MS, fec=False)
    assoc, _ = both_up(pair)
    pair.run_for(0.5)
    lost = hold_back(
        pair, lambda p: any(b.position <= 50_000 < b.position + len(b.data) for b in blocks_of([p]))
    )
    writer = Writer(pair, assoc, 1, payload(200_000))
    start = pair.now
    while not pair.b.holes:
        writer.fill()
        pair.step()
    assert 100 * MS <= pair.now - start < 250 * MS
    assert len(lost) > 1


def test_the_tail_is_never_given_up() -> None:
    pair = pair_with("partial", link=Link(delay=10 * MS), repeats=0, deadline=MS, dead_after=60 * SECOND)
    assoc, _ = both_up(pair)
    pair.run_for(0.5)
    lost = hold_back(pair, lambda p: bool(blocks_of([p])) and pair.now < 4 * SECOND)
    finish(pair, [Writer(pair, assoc, 1, payload(1000))])
    assert len(lost) > 4
    assert (arrived(pair.b, 1), pair.b.holes) == (payload(1000), [])
    hold_back(pair, lambda p: any(b.position < 3000 for b in blocks_of([p])))
    finish(pair, [Writer(pair, assoc, 2, payload(5000))])
    pair.run_for(1)
    assert {h.id for h in pair.b.holes} == {2}
    assert Filled(pair, 2).size == 5000


def test_a_hole_is_told_until_it_is_acknowledged() -> None:
    pair = pair_with("partial", link=Link(delay=10 * MS), repeats=0, fec=False)
    assoc, _ = both_up(pair)
    pair.run_for(0.5)
    told: list[int] = []

    def unlucky(p: wire.Packet) -> bool:
        if any(isinstance(f, wire.Hole) for f in p.frames):
            told.append(pair.now)
            return len(told) <= 3
        return any(b.position <= 20_000 < b.position + len(b.data) for b in blocks_of([p]))

    hold_back(pair, unlucky)
    writer = Writer(pair, assoc, 1, payload(60_000))
    finish(pair, [writer])
    pair.run(lambda: bool(pair.b.holes), limit=10)
    pair.run(lambda: pair.a.endpoint.channel_at_rest(writer.channel), limit=10)
    assert len(told) >= 4
    assert [h.position <= 20_000 < h.position + h.size for h in pair.b.holes].count(True) == 1


def test_holes_side_by_side_become_one() -> None:
    pair = pair_with("partial", link=Link(delay=10 * MS), repeats=0, fec=False, congestion="fixed")
    assoc, _ = both_up(pair)
    pair.run_for(0.5)
    hold_back(pair, lambda p: any(20_000 <= b.position < 190_000 for b in blocks_of([p])))
    finish(pair, [Writer(pair, assoc, 1, payload(200_000))])
    pair.run(lambda: sum(h.size for h in pair.b.holes) >= 168_000, limit=10)
    assert 3 <= len(pair.b.holes) <= 6
    assert max(h.size for h in pair.b.holes) <= 65_535


def test_a_channel_of_another_epoch_begins_with_no_byte_behind_a_hole() -> None:
    """What arrived of the flow's engagement before says nothing of this one's tail."""
    pair = pair_with("partial", link=Link(delay=10 * MS), repeats=0, fec=False)
    assoc, _ = both_up(pair)
    pair.run_for(0.5)
    channel = pair.a.endpoint.channel_open(assoc)
    pair.a.endpoint.channel_send(channel, 1, 5000, payload(1000), epoch=1)
    pair.run(lambda: pair.a.endpoint.channel_unacked(channel) == 0)
    lost = hold_back(pair, lambda p: pair.now < 3 * SECOND and bool(blocks_of([p])))
    pair.a.endpoint.channel_send(channel, 1, 100, b"tail", epoch=2)
    pair.run(lambda: pair.a.endpoint.channel_unacked(channel) == 0, limit=10)
    assert lost
    assert not pair.b.holes
    assert pair.b.blocks[-1].data == b"tail"


def test_holes_of_what_was_never_sent_are_handed_on_and_kept_nowhere() -> None:
    """They are for who knows the flow to judge, as a block of zeros would be."""
    peer = Ordered("partial")
    held = peer.endpoint.counters()["held"]
    for i in range(1, 500):
        holes = [wire.Hole(7, i * 7919, 3, 0x21, 65_535)] * 80
        assert peer.send(i, *holes) == "ok"
    assert peer.endpoint.counters()["held"] <= held
    event = peer.endpoint.next_event()
    assert (event.id, event.position, event.epoch, event.flags, event.size) == (7, 7919, 3, 0x21, 65_535)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("function", "frame", "why"),
    [
        ("partial", wire.encode(wire.Hole(1, 1, 1, 0, 0)), "protocol"),
        ("partial", wire.encode(wire.Hole(1, 1, 1, 0, 5))[:-1], "short"),
        ("selective-repeat", wire.encode(wire.Hole(1, 1, 1, 0, 5)), "type"),
        ("none", wire.encode(wire.Hole(1, 1, 1, 0, 5)), "type"),
        ("partial", wire.encode(wire.Order(0)) + b"\x01", "type"),
    ],
)
def test_holes_that_cannot_be_are_dropped(function: str, frame: bytes, why: str) -> None:
    peer = Ordered(function)
    packet = wire.data_packet(peer.attacker.cid, 77, []) + frame
    assert peer.endpoint.receive_datagram(packet, A, 0) == why


def test_holes_of_a_channel_that_is_closed_are_forgotten() -> None:
    pair = pair_with("partial", link=Link(delay=10 * MS), repeats=0, fec=False)
    assoc, _ = both_up(pair)
    pair.run_for(0.5)
    hold_back(pair, lambda p: any(b.position <= 20_000 < b.position + len(b.data) for b in blocks_of([p]))
              or any(isinstance(f, wire.Hole) for f in p.frames))  # fmt: skip
    writer = Writer(pair, assoc, 1, payload(60_000))
    finish(pair, [writer])
    assert not pair.a.endpoint.channel_at_rest(writer.channel)
    pair.a.endpoint.channel_close(writer.channel)
    pair.run_for(2)
    assert pair.a.endpoint.borrowed == 0
    assert pair.a.endpoint.stats(assoc)["bytes_in_flight"] == 0
