"""The size of datagrams follows the path: found, lost in black holes, found again; no window pays for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from sim.exchange import Exchange, exchange, finish, payload
from sim.network import IPV6, MS, SECOND, A, B, Link, Pair
from sim.wire import DATA, Frame, decode

MIB = 1 << 20
BASE, FULL, FULL6 = 1200, 1472, 1452  # UDP payload
STEP = 16  # bytes by which the search may miss
KEY = bytes(range(32))
ELSEWHERE = ("10.9.9.9", 4000)
UNREACHABLE = 0x10004


def stats(pair: Pair, name: str) -> dict[str, int]:
    endpoint = getattr(pair, name).endpoint
    return endpoint.stats(endpoint.associations[0])


def sizes(pair: Pair) -> tuple[int, int]:
    return stats(pair, "a")["datagram"], stats(pair, "b")["datagram"]


def narrow(pair: Pair, mtu: int) -> None:
    pair.forth.mtu = pair.back.mtu = mtu


def record(pair: Pair, name: str) -> list[bytes]:
    """What a host sends from now on."""
    host, seen = getattr(pair, name), []
    plain = host.flight

    def flight(now: int) -> list[tuple[bytes, tuple[str, int], int]]:
        out = plain(now)
        seen.extend(d for d, _, _ in out)
        return out

    host.flight = flight
    return seen


# --- the search


@pytest.mark.parametrize("keys", [(), (KEY,)])
def test_the_handshake_gives_a_clean_path_its_size_at_once(keys: tuple[bytes, ...]) -> None:
    pair = Pair(1, keys=keys)
    pair.connect()
    assert sizes(pair) == (FULL, FULL)
    exchange(pair, 200_000)
    assert stats(pair, "a")["mtu_probes"] == stats(pair, "b")["mtu_probes"] == 0


@pytest.mark.parametrize("keys", [(), (KEY,)])
@pytest.mark.parametrize("mtu", [1252, 1372, 1464, 1301, 1399, 1217, 1200])
def test_a_narrow_paths_size_is_found(mtu: int, keys: tuple[bytes, ...]) -> None:
    pair = Pair(1, link=Link(mtu=mtu), keys=keys)
    flow, peer = pair.open()
    assert pair.now < 150 * MS  # one INIT was too large
    pair.b.endpoint.write(peer, b"x")  # who sends nothing searches for nothing
    pair.run_for(3)
    for size in sizes(pair):
        assert mtu - STEP <= size <= mtu
    if mtu in (1252, 1372, 1464):  # common links, less the headers
        assert sizes(pair) == (mtu, mtu)
    seen = record(pair, "a")
    pair.a.endpoint.write(flow, payload(100_000))
    pair.run(lambda: len(pair.b.flows[peer].received) == 100_000)
    assert max(map(len, seen)) == sizes(pair)[0]


def test_each_direction_has_its_own_size() -> None:
    pair = Pair(1, link=Link(mtu=1372), back=Link(mtu=1252))
    _, peer = pair.open()
    pair.b.endpoint.write(peer, b"x")
    pair.run_for(3)
    assert sizes(pair) == (1372, 1252)


def test_a_handshake_that_lost_its_full_packet_by_chance_gets_the_full_size_by_one_probe() -> None:
    pair = Pair(1)
    pair.at(9 * MS, lambda: setattr(pair.forth, "mtu", BASE))
    pair.at(50 * MS, lambda: setattr(pair.forth, "mtu", 65535))
    pair.connect()
    assert sizes(pair) == (BASE, BASE)
    pair.run_for(0.1)
    assert stats(pair, "a")["datagram"] == FULL
    assert stats(pair, "a")["mtu_probes"] == 1


@pytest.mark.parametrize("congestion", ["newreno", "cubic", "bbr"])
def test_lost_probes_are_no_congestion(congestion: str) -> None:
    pair = Pair(1, link=Link(mtu=1301), congestion=congestion)
    pair.connect()
    before = stats(pair, "a")
    pair.run_for(3)
    after = stats(pair, "a")
    assert after["mtu_probes"] > 3
    assert after["cwnd"] >= before["cwnd"]
    assert after["packets_lost"] == 0


def test_lost_probes_of_a_busy_path_are_no_congestion_either() -> None:
    pair = Pair(1, link=Link(mtu=1301), congestion="newreno")
    flow, peer = pair.open()
    pair.a.endpoint.write(flow, payload(MIB))
    windows = []
    while len(pair.b.flows[peer].received) < MIB:
        pair.step()
        windows.append(stats(pair, "a")["cwnd"])
    assert windows == sorted(windows)
    assert stats(pair, "a")["packets_lost"] == 0
    assert stats(pair, "a")["mtu_probes"] > 3


def test_a_probe_is_a_ping_and_padding() -> None:
    pair = Pair(1, link=Link(mtu=1301))
    seen = record(pair, "a")
    pair.connect()
    pair.run_for(1)
    probes = [p for d in seen if len(d) > BASE and (p := decode(d)).kind == DATA]
    assert len(probes) == stats(pair, "a")["mtu_probes"]
    for probe in probes:
        assert probe.frames[0] == Frame("PING")
        assert set(probe.frames[1:]) == {Frame("PADDING")}


def test_a_size_is_refused_when_three_probes_of_it_were_lost() -> None:
    """MAX_PROBES, RFC 8899 5.1.2."""
    pair = Pair(1, link=Link(mtu=1301))
    seen = record(pair, "a")
    pair.connect()
    pair.run_for(3)
    tries = Counter(len(d) for d in seen if len(d) > BASE and decode(d).kind == DATA)
    assert {size for size, n in tries.items() if n == 1} == {size for size in tries if size <= 1301}
    assert {n for size, n in tries.items() if size > 1301} == {3}


def test_the_search_ends() -> None:
    pair = Pair(1, link=Link(mtu=1301))
    pair.open()
    pair.run_for(3)
    probes = stats(pair, "a")["mtu_probes"]
    pair.run_for(590)
    assert stats(pair, "a")["mtu_probes"] == probes <= 20


def test_a_path_that_widens_is_noticed_after_ten_minutes() -> None:
    """PMTU_RAISE_TIMER, RFC 8899 5.1.1."""
    pair = Pair(1, link=Link(mtu=1252))
    pair.open()
    pair.run_for(3)
    assert sizes(pair)[0] == 1252
    narrow(pair, 65535)
    pair.run_for(500)
    assert sizes(pair)[0] == 1252
    pair.run_for(110)
    assert sizes(pair)[0] == FULL


@pytest.mark.parametrize(("mtu", "size"), [(65535, 8952), (8472, 8472), (1472, 1472), (1452, 1452)])
def test_jumbo_frames_are_found_beyond_what_the_handshake_tries(mtu: int, size: int) -> None:
    pair = Pair(1, link=Link(mtu=mtu), max_datagram=8952, first_datagram=1452)
    pair.connect()
    assert sizes(pair) == (1452, 1452)
    exchange(pair, 8 * MIB)
    assert sizes(pair) == (size, size)
    assert stats(pair, "a")["mtu_probes"] <= 30


@pytest.mark.parametrize("congestion", ["newreno", "cubic", "bbr"])
def test_a_window_that_is_always_full_has_room_for_a_probe(congestion: str) -> None:
    """ACKs of two packets each never free what a probe of jumbo size needs, unless data leaves it alone."""
    path = Link(delay=10 * MS, rate=12.5e6, queue=200_000, mtu=1452)
    pair = Pair(1, link=path, max_datagram=8952, first_datagram=1452, congestion=congestion)
    flow, _ = pair.open()
    pair.run_for(599)
    path.mtu = 65535
    pair.a.endpoint.write(flow, payload(32 * MIB))
    pair.run(lambda: stats(pair, "a")["datagram"] == 8952, limit=2)
    assert pair.now > 600 * SECOND  # the transfer was long under way
    assert stats(pair, "a")["packets_lost"] > 50
    assert stats(pair, "a")["mtu_holes"] == 0  # a queue that overflows is none


def test_cubic_counts_its_window_anew_when_segments_grow() -> None:
    """W_max is in segments (RFC 9438 4.1.1): of six times the size, it would be six times the window."""
    path = Link(delay=20 * MS, rate=12.5e6, queue=100_000, mtu=1452)
    pair = Pair(1, link=path, max_datagram=8952, first_datagram=1452, congestion="cubic")
    flow, peer = pair.open()
    pair.a.endpoint.write(flow, payload(12 * MIB))
    pair.run(lambda: len(pair.b.flows[peer].received) == 12 * MIB)
    before = stats(pair, "a")
    assert before["packets_lost"] > 0
    path.mtu, path.queue = 65535, 1 << 30
    pair.run(lambda: stats(pair, "a")["datagram"] == 8952, limit=610)
    pair.a.endpoint.write(flow, payload(16 * MIB))
    pair.run_for(1)
    assert stats(pair, "a")["cwnd"] < 1.5 * before["cwnd"]


# --- black holes


@pytest.mark.parametrize("congestion", ["newreno", "cubic", "bbr"])
@pytest.mark.parametrize("keys", [(), (KEY,)])
def test_a_path_that_narrows_during_a_transfer(keys: tuple[bytes, ...], congestion: str) -> None:
    """It recovers in a few PTO, not by giving the association up."""
    pair = Pair(1, link=Link(delay=15 * MS, rate=2.5e6), keys=keys, congestion=congestion)
    e = Exchange(pair, 2 * MIB, 2 * MIB)
    pair.after(0.3, lambda: narrow(pair, 1252))
    pair.run_for(0.4)  # what was on its way arrives
    got = [len(f.received) for f in (pair.a.flows[e.flow], pair.b.flows[e.peer])]
    pair.run_for(0.6)
    for before, flow in zip(got, (pair.a.flows[e.flow], pair.b.flows[e.peer]), strict=True):
        assert len(flow.received) > before + 10_000
    finish(pair, [e], limit=20)
    pair.run_for(3)  # MAX_PROBES of each size take their time
    assert sizes(pair) == (1252, 1252)
    assert pair.a.down_reasons() == pair.b.down_reasons() == []
    for name in "ab":
        assert stats(pair, name)["mtu_holes"] == 1


def test_a_path_that_narrows_and_widens_again_and_again() -> None:
    pair = Pair(1, link=Link(delay=15 * MS, rate=2.5e6))
    e = Exchange(pair, 4 * MIB, 4 * MIB)
    for i in range(4):
        pair.after(0.3 + i, lambda i=i: narrow(pair, 1252 if i % 2 == 0 else 65535))
    finish(pair, [e], limit=30)


def test_one_small_flow_finds_its_way_out_of_a_black_hole() -> None:
    """A window's worth of losses is not there: one datagram at a time."""
    pair = Pair(1, link=Link(delay=15 * MS))
    flow, peer = pair.open()
    narrow(pair, BASE)
    for i in range(8):
        pair.a.endpoint.write(flow, bytes(1400))
        pair.run(lambda i=i: len(pair.b.flows[peer].received) == 1400 * (i + 1), limit=1)
    assert stats(pair, "a")["mtu_holes"] == 1
    assert stats(pair, "a")["datagram"] == BASE


def once(**changes: int) -> tuple[Pair, Callable[[int, int], None]]:
    """A path of 1,472 bytes over which blocks leave once, one each 10 ms, if nothing comes in between."""
    options = {"first_datagram": 1400, "max_datagram": 8972, "idle_after": 10**14, **changes}
    pair = Pair(1, link=Link(delay=50 * MS, mtu=65535), reliability="none", **options)
    pair.forth.mtu = 1472
    assoc = pair.connect()
    pair.run(lambda: bool(pair.b.endpoint.associations))
    channel = pair.a.endpoint.channel_open(assoc)

    def send(blocks: int, size: int) -> None:
        for _ in range(blocks):
            pair.a.endpoint.channel_send(channel, 1, 0, bytes(size))
            pair.run_for(0.01)

    return pair, send


def test_a_window_that_holds_nothing_back_does_not_end_the_search() -> None:
    """It does not grow either: a probe of jumbo frames is larger than it, and smaller ones come after it."""
    pair, send = once()
    send(1000, 1000)
    assert stats(pair, "a")["datagram"] == 1472
    pair.forth.mtu = 1250
    send(1000, 1380)
    assert stats(pair, "a")["mtu_holes"] == 1
    assert 1200 < stats(pair, "a")["datagram"] <= 1250


def test_a_probe_that_is_forgotten_with_what_is_never_acknowledged_is_sent_again() -> None:
    pair, send = once(max_datagram=1472)
    pair.forth.mtu = 1430
    while stats(pair, "a")["mtu_probes"] == 0:
        send(1, 100)
    (assoc,) = pair.a.endpoint.associations
    channel = pair.a.endpoint.channel_open(assoc)
    for n in range(17_000):  # while it is under way
        pair.a.endpoint.channel_send(channel, 1, n, bytes(1000))
        if n % 100 == 99:
            pair.a.endpoint.datagrams_to_send(pair.now)  # and these are lost
    send(1000, 1000)
    assert 1400 < stats(pair, "a")["datagram"] <= 1430


@pytest.mark.parametrize("changes", [{"loss": 0.05}, {"loss": 0.05, "burst": 4}, {"queue": 20_000}])
def test_losses_of_other_kinds_are_no_black_hole(changes: dict[str, float]) -> None:
    link = Link(delay=15 * MS, rate=1.25e6, queue=50_000)
    for name, value in changes.items():
        setattr(link, name, value)
    pair = Pair(1, link=link)
    exchange(pair, 2 * MIB)
    assert stats(pair, "a")["packets_lost"] > 20
    assert stats(pair, "a")["mtu_holes"] == 0
    assert sizes(pair) == (FULL, FULL)


def test_an_outage_leaves_the_size_what_it_was() -> None:
    pair = Pair(1, link=Link(delay=15 * MS, rate=1.25e6))
    e = Exchange(pair, MIB, MIB)
    pair.after(0.3, lambda: pair.blackhole(1.0))
    finish(pair, [e])
    assert sizes(pair) == (FULL, FULL)


def moved_to_a_path_below_the_base() -> Pair:
    pair = Pair(1, link=Link(delay=15 * MS), keepalive=SECOND, dead_after=5 * SECOND)
    flow, _ = pair.open()
    narrow(pair, 1100)
    pair.a.address = ELSEWHERE
    pair.a.endpoint.write(flow, b"x")
    pair.run(lambda: stats(pair, "b")["moves"] == 1, limit=1)
    return pair


def test_a_path_that_does_not_even_carry_the_base_ends_the_association() -> None:
    """Small packets still pass, so nothing else would."""
    pair = moved_to_a_path_below_the_base()
    pair.run(lambda: bool(pair.b.down_reasons()), limit=10)
    assert pair.b.down_reasons() == [UNREACHABLE]


def test_a_path_that_does_not_carry_the_base_for_a_while() -> None:
    pair = moved_to_a_path_below_the_base()
    pair.run_for(3)
    assert stats(pair, "b")["mtu_probes"] > 3
    narrow(pair, 65535)
    pair.run(lambda: stats(pair, "b")["datagram"] == FULL, limit=2)
    pair.run_for(6)
    assert pair.a.down_reasons() == pair.b.down_reasons() == []


# --- other paths


@pytest.mark.parametrize("keys", [(), (KEY,)])
def test_another_ip_address_begins_with_the_base_another_port_does_not(keys: tuple[bytes, ...]) -> None:
    for to, again, size in (((A[0], 55_555), False, FULL), (ELSEWHERE, True, FULL), (IPV6[0], True, FULL6)):
        pair = Pair(1, link=Link(delay=15 * MS), keepalive=SECOND, keys=keys)
        flow, peer = pair.open()
        pair.b.endpoint.write(peer, payload(200_000))
        pair.run(lambda pair=pair, flow=flow: len(pair.a.flows[flow].received) == 200_000)
        pair.a.address = to
        pair.a.endpoint.write(flow, b"x")
        pair.run(lambda pair=pair: stats(pair, "b")["moves"] == 1, limit=1)
        assert sizes(pair)[1] == (BASE if again else FULL)
        seen = record(pair, "b")
        pair.b.endpoint.write(peer, payload(200_000))
        pair.run(lambda pair=pair, flow=flow: len(pair.a.flows[flow].received) == 400_000)
        assert (max(map(len, seen[:5])) <= BASE) is again
        assert sizes(pair) == (FULL, size)
        assert stats(pair, "b")["mtu_probes"] == (2 if again else 0)  # the base, and the largest


def test_a_move_to_a_narrow_path() -> None:
    pair = Pair(1, link=Link(delay=15 * MS, rate=2.5e6), keepalive=SECOND)
    e = Exchange(pair, 2 * MIB, 2 * MIB)

    def move() -> None:
        pair.a.address = ELSEWHERE
        narrow(pair, 1252)

    pair.after(0.5, move)
    finish(pair, [e], limit=20)
    assert sizes(pair) == (1252, 1252)


# --- who would make it small


def test_a_repeated_init_that_was_cut_makes_nothing_small() -> None:
    pair = Pair(1)
    seen = record(pair, "a")
    pair.connect()
    pair.run_for(0.1)
    inits = [d for d in seen if decode(d).kind == 1 and len(d) == FULL]
    pair.b.receive(inits[0][:128], A, pair.now)
    answers = pair.b.datagrams(pair.now)
    assert [len(d) for d, _ in answers] == [128]
    assert sizes(pair)[1] == BASE
    _, peer = pair.open()
    pair.b.endpoint.write(peer, b"x")  # acknowledged: the handshake is over
    pair.run_for(1)
    assert sizes(pair)[1] == FULL
    pair.b.receive(inits[0][:128], A, pair.now)
    assert [len(d) for d, _ in pair.b.datagrams(pair.now)] == [128]
    assert sizes(pair)[1] == FULL


def test_icmp_changes_no_size() -> None:
    pair = Pair(1)
    pair.open()
    pair.a.endpoint.path_error(B, pair.now)
    pair.run_for(2)
    assert sizes(pair) == (FULL, FULL)
