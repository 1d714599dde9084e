"""Properties of VTL's parts: range sets, reassembly, send buffer, codec, cookie hash, controllers."""

from __future__ import annotations

import itertools
import random
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hooker.vtl._parts import (
    Controller,
    Pages,
    RangeSet,
    Reassembly,
    SendBuffer,
    expand,
    frame_size,
    read_header,
    read_init,
    siphash,
    write_header,
    write_short_header,
)
from hooker.vtl.congestion import names

SPECIFICATION = Path(__file__).parents[2] / "docs" / "vtl.md"
U64 = st.integers(0, 2**64 - 1)
SPAN = st.tuples(st.integers(0, 300), st.integers(0, 40))
BOUNDED = settings(max_examples=200)
MS = 1_000_000  # ns


def as_ranges(numbers: set[int]) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for n in sorted(numbers):
        if out and out[-1][1] == n:
            out[-1] = (out[-1][0], n + 1)
        else:
            out.append((n, n + 1))
    return out


@BOUNDED
@given(st.integers(0, 2**32), st.sampled_from([8, 136, 504, 4096]))
def test_objects_lie_apart_and_empty_pages_go_back(seed: int, size: int) -> None:
    pages, chance, live = Pages(size), random.Random(seed), []
    in_one = ((1 << 16) - 48) // size
    for most in (3 * in_one, 10, 2 * in_one, 0):
        while len(live) < most:
            live.append(pages.take())
        assert len(set(live)) == len(live)
        assert not any(b - a < size for a, b in itertools.pairwise(sorted(live)))
        assert pages.pages <= max(1, len(live))
        chance.shuffle(live)
        while len(live) > most // 2:
            pages.give(live.pop())
    assert pages.pages == 1  # it is wanted again soon


@BOUNDED
@given(st.lists(st.tuples(st.sampled_from(["add", "add", "add", "trim"]), SPAN), max_size=60))
def test_a_range_set_is_a_set(operations: list[tuple[str, tuple[int, int]]]) -> None:
    ranges, model = RangeSet(), set()
    for what, (start, length) in operations:
        if what == "add":
            assert ranges.add(start, start + length)
            model |= set(range(start, start + length))
        else:
            ranges.trim(start)
            model = {n for n in model if n >= start}
        assert ranges.ranges() == as_ranges(model)
    assert all((n in ranges) == (n in model) for n in range(345))


def test_a_full_range_set_refuses_and_stays_as_it_was() -> None:
    ranges = RangeSet()
    assert all(ranges.add(10 * i, 10 * i + 5, 4) for i in range(4))
    before = ranges.ranges()
    assert not ranges.add(100, 105, 4)
    assert not ranges.add(7, 8, 4)
    assert ranges.ranges() == before
    assert ranges.add(5, 10, 4)
    assert ranges.ranges()[0] == (0, 15)


@pytest.mark.parametrize("seed", range(40))
def test_reassembly_gives_every_byte_once_and_in_order(seed: int) -> None:
    rng = random.Random(seed)
    size = rng.choice([1, 100, 16_384, 16_385, 200_000])
    stream = rng.randbytes(size)
    pieces = []
    at = 0
    while at < size:
        n = min(size - at, rng.randint(1, max(1, size // 20)))
        pieces.append((max(0, at - rng.randint(0, 50)), at + n))
        at += n
    pieces += rng.sample(pieces, len(pieces) // 3)
    rng.shuffle(pieces)
    buffer, got = Reassembly(), b""
    for start, end in pieces:
        assert buffer.store(start, stream[start:end])
        got += buffer.read()
    assert got == stream
    assert buffer.pages == 0


@BOUNDED
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("store"), st.integers(0, 70_000), st.integers(1, 9000)),
            st.tuples(st.just("read"), st.just(0), st.just(0)),
            st.tuples(st.just("direct"), st.integers(1, 3000), st.just(0)),
        ),
        max_size=40,
    )
)
def test_reassembly_is_a_bytearray_with_holes(operations: list[tuple[str, int, int]]) -> None:
    """Any pieces in any order, bytes that came in order between them, reads at any time."""
    stream = random.Random(1).randbytes(80_000)
    buffer, have, at = Reassembly(), bytearray(len(stream)), 0
    for what, x, n in operations:
        if what == "store":
            assert buffer.store(x, stream[x : x + n])
            have[x : x + n] = b"\1" * n
        elif what == "direct" and not have[at]:
            end = at + x
            have[at:end] = b"\1" * x
            buffer.advance(end)
            at = end
        else:
            end = have.find(0, at)
            assert buffer.read() == stream[at:end]
            at = end
    assert buffer.pages <= len(stream) // 16_384 + 1


def test_reassembly_after_bytes_that_came_in_order() -> None:
    buffer = Reassembly()
    buffer.store(40_000, b"c" * 10)
    buffer.advance(39_995)
    assert buffer.read() == b""
    buffer.store(39_990, b"b" * 12)
    assert buffer.read() == b"b" * 5 + b"c" * 10
    assert buffer.pages == 0


def test_bytes_once_stored_are_never_replaced() -> None:
    buffer = Reassembly()
    buffer.store(2, b"good")
    buffer.store(8, b"fine")
    buffer.store(0, b"XXXXXXXXXXXXXX")
    assert buffer.read() == b"XXgoodXXfineXX"


def test_reassembly_memory_does_not_grow_with_the_number_of_pieces() -> None:
    buffer = Reassembly()
    assert all(buffer.store(1 + 2 * i, b"x") for i in range(1024))
    assert not buffer.store(5000, b"x")
    assert buffer.pages == 1


@pytest.mark.parametrize("seed", range(60))
def test_a_send_buffer_sends_what_is_lost_and_releases_what_is_acknowledged(seed: int) -> None:
    rng = random.Random(seed)
    buffer, stream, borrowed = SendBuffer(), b"", {}
    in_flight: list[tuple[int, bytes]] = []
    peer: set[int] = set()
    for owner in range(1, rng.randint(2, 40)):
        piece = rng.randbytes(rng.randint(1, 300))
        buffer.write(piece, owner)
        borrowed[owner] = len(piece)
        stream += piece
        while rng.random() < 0.7 and (sent := buffer.send(2**62, rng.randint(1, 400))):
            assert stream[sent[0] : sent[0] + len(sent[1])] == sent[1]
            in_flight.append(sent)
        rng.shuffle(in_flight)
        while in_flight and rng.random() < 0.6:
            offset, part = in_flight.pop()
            if rng.random() < 0.3:
                buffer.on_lost(offset, len(part))
            else:
                buffer.on_acked(offset, len(part))
                peer |= set(range(offset, offset + len(part)))
    for _ in range(10_000):
        in_flight += iter(lambda: buffer.send(2**62, 500), None)
        if not in_flight:
            break
        for offset, part in in_flight:
            buffer.on_acked(offset, len(part))
            peer |= set(range(offset, offset + len(part)))
        in_flight = []
    assert peer == set(range(len(stream)))
    assert buffer.acked == buffer.end == len(stream)
    back = dict.fromkeys(borrowed, 0)
    for owner, n in buffer.released:
        back[owner] += n
    assert back == borrowed
    buffer.clear()


class SendBufferMachine(RuleBasedStateMachine):
    """The model: for each byte, whether it flies, is lost, or acknowledged; and who lent it."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = SendBuffer()
        self.stream = b""
        self.flying: list[tuple[int, int]] = []
        self.lost: set[int] = set()
        self.acked: set[int] = set()
        self.next = 0
        self.lent: dict[int, int] = {}

    @rule(data=st.binary(min_size=1, max_size=400))
    def write(self, data: bytes) -> None:
        owner = len(self.lent) + 1
        assert self.buffer.write(data, owner) == 0
        self.lent[owner] = len(data)
        self.stream += data

    @rule(limit=st.integers(0, 3000), most=st.integers(1, 500))
    def send(self, limit: int, most: int) -> None:
        sent = self.buffer.send(limit, most)
        if sent is None:
            assert not self.lost - self.acked
            assert self.next >= min(limit, len(self.stream))
            return
        offset, part = sent
        assert part == self.stream[offset : offset + len(part)]
        assert 0 < len(part) <= most
        numbers = set(range(offset, offset + len(part)))
        if self.lost - self.acked:  # what is lost goes first, from the front
            assert offset == min(self.lost - self.acked)
            assert numbers <= self.lost - self.acked
            self.lost -= numbers
        else:
            assert offset == self.next
            assert offset + len(part) <= limit
            self.next += len(part)
        self.flying.append((offset, len(part)))

    @precondition(lambda self: self.flying)
    @rule(pick=st.integers(0, 100), twice=st.booleans())
    def acknowledge(self, pick: int, twice: bool) -> None:
        i = pick % len(self.flying)
        offset, n = self.flying[i] if twice else self.flying.pop(i)
        self.buffer.on_acked(offset, n)
        self.acked |= set(range(offset, offset + n))

    @precondition(lambda self: self.flying)
    @rule(pick=st.integers(0, 100))
    def lose(self, pick: int) -> None:
        offset, n = self.flying.pop(pick % len(self.flying))
        self.buffer.on_lost(offset, n)
        self.lost |= set(range(offset, offset + n)) - self.acked

    @invariant()
    def the_acknowledged_prefix_is_given_back(self) -> None:
        prefix = next(i for i in itertools.count() if i not in self.acked)
        assert self.buffer.acked == prefix
        assert self.buffer.end == len(self.stream)
        back = dict.fromkeys(self.lent, 0)
        for owner, n in self.buffer.released:
            back[owner] += n
        assert sum(back.values()) == prefix
        assert all(back[owner] <= n for owner, n in self.lent.items())

    def teardown(self) -> None:
        self.buffer.clear()
        assert sum(n for _, n in self.buffer.released) == len(self.stream)


TestSendBufferMachine = SendBufferMachine.TestCase
TestSendBufferMachine.settings = settings(max_examples=60, stateful_step_count=60)


def test_a_send_buffer_respects_credit_and_prefers_what_was_lost() -> None:
    buffer = SendBuffer()
    buffer.write(b"abcdef", 1)
    assert buffer.send(4, 3) == (0, b"abc")
    assert buffer.send(4, 3) == (3, b"d")
    assert buffer.send(4, 3) is None
    buffer.on_lost(1, 2)
    assert buffer.send(6, 100) == (1, b"bc")
    assert buffer.send(6, 100) == (4, b"ef")
    buffer.on_lost(1, 2)
    buffer.on_acked(2, 1)
    assert buffer.send(6, 100) == (1, b"b")
    assert buffer.send(6, 100) is None
    buffer.clear()
    assert sum(n for _, n in buffer.released) == 6


@BOUNDED
@given(st.integers(0, 7), U64, U64)
def test_a_header_reads_as_written(kind: int, dcid: int, number: int) -> None:
    data = write_header(kind, dcid, number)
    assert data == struct.pack("!BBHQQ", 0x20 | kind, 0, 0, dcid, number)
    assert read_header(data) == (2, kind, dcid, number)
    assert all(read_header(data[:n]) is None for n in range(20))


@BOUNDED
@given(st.sampled_from([8, 10]), U64, U64)
def test_a_short_header_has_the_lower_half_of_the_number(kind: int, dcid: int, number: int) -> None:
    data = write_short_header(kind, dcid, number)
    assert data == struct.pack("!BQI", 0x20 | kind, dcid, number % 2**32)
    assert read_header(data) == (2, kind, dcid, number % 2**32)
    assert all(read_header(data[:n]) is None for n in range(13))


@BOUNDED
@given(U64, st.integers(-(2**31), 2**31 - 1))
def test_half_a_number_is_completed_near_another(near: int, away: int) -> None:
    number = near + away
    if 0 <= number < 2**62:
        assert expand(number % 2**32, near) == number


def test_frame_sizes_are_those_of_the_specification() -> None:
    row = re.compile(r"^\| 0x(\w\w)(?: to 0x(\w\w))? \| \w+ \| (\d+)", re.MULTILINE)
    rows = [(int(a, 16), int(b or a, 16), int(n)) for a, b, n in row.findall(SPECIFICATION.read_text())]
    assert len(rows) == 25
    specified = {t: n for first, last, n in rows for t in range(first, last + 1)}
    assert {t: s for t in range(256) if (s := frame_size(t))} == specified


@BOUNDED
@given(st.binary(max_size=200))
def test_any_bytes_are_a_whole_init_or_none(body: bytes) -> None:
    init = read_init(body)
    if len(body) < 48 or len(body) < 48 + 4 * body[0]:
        assert init is None
    else:
        assert len(init["versions"]) == body[0]
        assert init["cookie_mac"] == int.from_bytes(body[40:48], "big")


def test_siphash_gives_the_published_vectors() -> None:
    key = bytes(range(16))
    vectors = {0: "310e0edd47db6f72", 1: "fd67dc93c539f874", 7: "37d1018bf50002ab", 8: "6224939a79f5f593",
               15: "e545be4961ca29a1", 63: "724506eb4c328a95"}  # fmt: skip
    for n, expected in vectors.items():
        assert siphash(key, bytes(range(n))).to_bytes(8, "little").hex() == expected


@pytest.mark.parametrize("name", ["cubic", "newreno"])
def test_slow_start_doubles_and_a_loss_event_cuts_once(name: str) -> None:
    c = Controller(name, 1000)
    assert c.cwnd == 10_000
    for i in range(1, 5):
        c.on_ack(i * 10 * MS, c.cwnd, i * 10 * MS - 10 * MS + 1, 10 * MS)
    assert c.cwnd == 160_000
    c.on_loss(50 * MS, 60 * MS)
    cut = c.cwnd
    assert cut == {"cubic": 112_000, "newreno": 80_000}[name]
    c.on_loss(55 * MS, 61 * MS)
    assert c.cwnd == cut
    c.on_loss(70 * MS, 80 * MS)
    assert c.cwnd < cut


@pytest.mark.parametrize("name", ["cubic", "newreno"])
def test_an_unused_window_does_not_grow(name: str) -> None:
    c = Controller(name, 1000)
    for i in range(1, 50):
        c.on_ack(i * 10 * MS, 1000, i * 10 * MS - 5 * MS, 10 * MS, limited=True)
    assert c.cwnd == 10_000


@pytest.mark.parametrize("name", ["cubic", "newreno"])
def test_an_event_without_a_real_loss_is_taken_back(name: str) -> None:
    c = Controller(name, 1000)
    c.on_ack(1, 90_000, 1, 10 * MS)
    before = c.cwnd, c.ssthresh
    c.on_loss(2 * MS, 3 * MS, packets=3)
    c.on_loss(2 * MS, 4 * MS, packets=1)
    assert c.cwnd < before[0]
    c.on_spurious(3)
    assert c.cwnd < before[0]
    c.on_spurious(1)
    assert (c.cwnd, c.ssthresh) == before


@pytest.mark.parametrize("name", ["cubic", "newreno"])
def test_persistent_congestion_collapses_the_window(name: str) -> None:
    c = Controller(name, 1000)
    c.on_loss(1 * MS, 2 * MS, persistent=True)
    assert c.cwnd == 2000


def test_cubic_is_concave_to_the_old_maximum_and_convex_beyond() -> None:
    """RFC 9438 figure 1: W(K) is the window before the cut, K = cbrt(W (1 - beta) / C)."""
    c = Controller("cubic", 1000)
    rtt = 100 * MS
    c.on_ack(1, 1_990_000, 1, rtt)
    assert c.cwnd == 2_000_000
    c.on_loss(2, 3)
    trace, now = [], rtt
    for _ in range(200):
        c.on_ack(now, c.cwnd, now - 1, rtt)
        now += rtt
        trace.append(c.cwnd)
    k = (2000 * 0.3 / 0.4) ** (1 / 3)  # s
    at_k = trace[round(k * 10) - 1]
    assert at_k == pytest.approx(2_000_000, rel=0.02)
    steps = [b - a for a, b in itertools.pairwise(trace)]
    assert steps[5] > steps[40] > 0
    assert steps[190] > steps[140] > 0


def test_slow_start_ends_when_the_round_trip_grows() -> None:
    """HyStart++, RFC 9406: no overshoot into a long queue."""
    c = Controller("cubic", 1000)
    now = 0
    for rnd in range(12):
        rtt = (20 + max(0, rnd - 3) * 8) * MS
        sent, share = now, c.cwnd // 20
        now += rtt
        for i in range(20):
            c.on_ack(now + i, share, sent + i, rtt)
    assert c.ssthresh < 2**63
    assert c.cwnd < 10_000 * 2**9


def test_controllers_are_registered_by_name() -> None:
    assert {"fixed", "newreno", "cubic"} <= set(names())
    with pytest.raises(ValueError, match="unknown congestion controller"):
        Controller("nosuch")
