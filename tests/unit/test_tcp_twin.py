"""A twin, call by call: what it says to the local TCP, what it hears from it, and what it never does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooker.tcp.fields import ACK, FIN, PSH, RST, SYN, URG, Heard, Segment
from hooker.tcp.sansio import TWIN_SIZE, Twin, build, parse

MS = 1_000_000  # ns
LOCAL, REMOTE = (b"\n\0\0\1", 40000), (b"\n\0\0\2", 80)
LOCAL_ISN, REMOTE_ISN = 0xFFFFFF00, 7000  # the local one wraps soon
MSS = 1000


def make(**changes: Any) -> Twin:
    settings: dict[str, Any] = {
        "local_isn": LOCAL_ISN,
        "remote_isn": REMOTE_ISN,
        "edge": 60_001,
        "window": 60_000,
        "mss": MSS,
        "timestamps": (100, 900),
    }
    return Twin(LOCAL, REMOTE, **{**settings, **changes})


def said(
    seq: int, ack: int = 1, flags: int = ACK, data: bytes = b"", window: int = 60_000, **more: Any
) -> bytes:
    """A packet of the local TCP; numbers are positions."""
    more.setdefault("timestamps", (100, 900))
    numbers = {"seq": (LOCAL_ISN + seq) & 0xFFFFFFFF, "ack": (REMOTE_ISN + ack) & 0xFFFFFFFF}
    ports = (LOCAL[0], REMOTE[0], LOCAL[1], REMOTE[1])
    return build(Segment(*ports, **numbers, flags=flags, window=window, data=data, **more), partial=True)


def hear(twin: Twin, *args: Any, now: int = 0, **more: Any) -> Heard:
    return twin.hear(said(*args, **more), now)


def places(packet: bytes) -> tuple[int, int]:
    """Position and acknowledged position of a packet of the twin's."""
    s = parse(packet)
    assert (s.src, s.src_port, s.dst, s.dst_port) == (*REMOTE, *LOCAL)
    return (s.seq - REMOTE_ISN) & 0xFFFFFFFF, (s.ack - LOCAL_ISN) & 0xFFFFFFFF


def test_a_twin_is_small() -> None:
    assert TWIN_SIZE <= 200


@pytest.mark.parametrize(
    "wrong",
    [
        {"acked": 0},
        {"acked": 5},
        {"edge": 0},
        {"edge": 1 << 31},
        {"received": 0},
        {"window": 1 << 31},
        {"mss": 10},
        {"local_wscale": 15},
        {"remote_wscale": 15},
    ],
)
def test_numbers_of_no_connection_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="cannot be those of a connection"):
        make(**wrong)


def test_a_segment_matches_by_both_addresses_and_ports() -> None:
    twin, packet = make(), said(1)
    assert twin.matches(packet)
    segment = parse(packet)
    other = {"src": b"\n\0\0\3", "dst": b"\n\0\0\3", "src_port": 1, "dst_port": 1}
    for name, value in other.items():
        assert not twin.matches(build(segment._replace(**{name: value})))
    assert not twin.matches(build(segment._replace(src=bytes(16), dst=bytes(16))))


# ---- what it hears ----------------------------------------------------------------------------------------


def test_bytes_are_heard_with_their_position_across_the_wrap() -> None:
    twin = make()
    at = 1
    for _ in range(10):
        h = hear(twin, at, data=b"x" * 100, flags=ACK | PSH)
        assert (h.position, h.data) == (at, b"x" * 100)
        assert h.what == {"data", "new", "push"}
        at += 100
    assert twin.numbers["up_seen"] == 1001


def test_what_the_local_tcp_repeats_is_not_new_and_what_is_acknowledged_is_cut_off() -> None:
    twin = make()
    hear(twin, 1, data=b"abcdef")
    assert hear(twin, 1, data=b"abcdef").what == {"data"}
    twin.acked(4, 70_000)
    h = hear(twin, 1, data=b"abcdef")
    assert (h.position, h.data, h.what) == (4, b"def", {"data"})


def test_what_was_acknowledged_is_answered_at_once() -> None:
    twin = make()
    hear(twin, 1, data=b"abc")
    twin.acked(4, 70_000)
    twin.ack()
    assert not twin.wants_ack
    assert hear(twin, 1, data=b"abc").what == {"stale"}
    assert twin.wants_ack
    assert places(twin.ack())[1] == 4


def test_a_fin_has_a_place_and_nothing_follows_it() -> None:
    twin = make()
    h = hear(twin, 1, data=b"abc", flags=ACK | FIN)
    assert (h.what, h.position, h.data) == ({"data", "new", "fin"}, 1, b"abc")
    assert twin.numbers["up_fin"] == 4
    assert hear(twin, 4, flags=ACK | FIN).what == {"data", "fin"}
    for nonsense in (said(4, data=b"more"), said(1, data=b"ab", flags=ACK | FIN), said(9)):
        assert twin.hear(nonsense, 0).what == {"dropped"}
    assert hear(twin, 5).what == set()


def test_acknowledgement_and_window_are_heard_once() -> None:
    twin = make(local_wscale=3)
    twin.deliver(1, b"x" * 5000, 0)
    h = hear(twin, 1, ack=5001, window=8000)
    assert (h.what, h.ack, h.edge) == ({"ack", "edge"}, 5001, 5001 + 64_000)
    assert hear(twin, 1, ack=5001, window=8000).what == set()
    h = hear(twin, 1, ack=4001, window=100)
    assert (h.what, h.ack, h.edge) == (set(), 5001, 69_001)
    assert hear(twin, 1, ack=5001, window=9000).what == {"edge"}


def test_bytes_that_came_by_the_wire_are_noticed() -> None:
    h = hear(make(), 1, ack=2001)
    assert h.what >= {"ack", "ahead"}


@pytest.mark.parametrize("garbage", [b"", b"?"])
def test_a_probe_is_heard_as_such_and_changes_nothing(garbage: bytes) -> None:
    twin = make(sent=500, acked=500)
    before = twin.numbers
    assert hear(twin, 499, data=garbage).what == {"probe"}
    assert twin.numbers == before
    assert not twin.wants_ack  # only its owner knows whether the far end is alive


def test_urgent_bytes_are_named_by_the_position_behind_them() -> None:
    h = hear(make(), 1, data=b"abc!", flags=ACK | URG, urgent=4)
    assert h.what == {"data", "new", "urgent"}
    assert h.urgent == 5


@pytest.mark.parametrize(
    ("seq", "ack"), [(2**31, 1), (2**30 + 2, 1), (1, 2**30 + 2), (-(2**30) - 2, 1), (1, -5)]
)
def test_what_is_far_away_changes_nothing(seq: int, ack: int) -> None:
    twin = make()
    before = twin.numbers
    assert hear(twin, seq, ack=ack, data=b"x").what == {"dropped"}
    assert twin.numbers == before


def test_a_syn_and_a_segment_without_ack_are_not_the_twins_business() -> None:
    twin = make()
    assert hear(twin, 0, flags=SYN).what == {"syn"}
    assert hear(twin, 1, flags=PSH, data=b"x").what == {"dropped"}


@pytest.mark.parametrize(("flags", "what"), [(RST | ACK, {"reset"}), (RST, {"reset", "no-socket"})])
def test_an_abort_ends_the_twin_and_a_missing_socket_is_told_apart(flags: int, what: set[str]) -> None:
    twin = make()
    assert hear(twin, 1, flags=flags).what == what
    assert twin.finished


def test_a_reset_outside_the_window_is_dropped() -> None:
    twin = make()
    hear(twin, 1, data=b"x" * 1000)
    twin.acked(1001, 61_001)
    twin.ack()
    for seq in (1000, 61_002):
        assert hear(twin, seq, flags=RST | ACK).what == {"dropped"}
    assert not twin.finished


# ---- what it says -----------------------------------------------------------------------------------------


def test_nothing_is_acknowledged_before_the_other_end_has() -> None:
    twin = make()
    hear(twin, 1, data=b"x" * 5000)
    assert places(twin.deliver(1, b"hello", 0)[0][0]) == (1, 1)
    assert places(twin.ack()) == (6, 1)
    assert twin.acked(3001, 80_000) in ("news", "due")
    assert places(twin.ack()) == (6, 3001)


def test_what_is_told_beyond_the_local_tcps_bytes_is_dropped() -> None:
    twin = make()
    hear(twin, 1, data=b"abc")
    assert twin.acked(5, 80_000) == "beyond"
    assert twin.acked(2**31, 80_000) == "far"
    assert places(twin.ack())[1] == 1
    assert twin.acked(4, 2**40) == "news"
    assert twin.numbers["up_edge"] == 60_001


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("said"), st.integers(-5, 60), st.integers(0, 20)),
            st.tuples(st.just("told"), st.integers(-5, 2**33), st.integers(0, 2**33)),
            st.tuples(st.just("told"), st.integers(0, 60), st.integers(0, 100)),
            st.tuples(st.just("deliver"), st.integers(0, 90), st.integers(0, 20)),
        ),
        max_size=40,
    )
)
def test_in_no_order_of_calls_more_is_acknowledged_than_told_and_sent(
    calls: list[tuple[str, int, int]],
) -> None:
    twin = make(window=40)
    sent = told = 1
    for what, x, y in calls:
        if what == "said":
            before = twin.numbers["up_seen"]
            hear(twin, x, data=b"x" * y, window=40)
            sent = max(sent, twin.numbers["up_seen"])
            assert twin.numbers["up_seen"] in (before, x + y, x)
        elif what == "told" and x >= 0:
            twin.acked(x, y)
            told = max(told, x)
        elif what == "deliver":
            for packet in twin.deliver(x, b"y" * y, 0)[0]:
                assert places(packet)[1] <= min(sent, told)
                assert places(packet)[0] + len(parse(packet).data) <= 41
        assert places(twin.ack())[1] <= min(sent, told)


def test_acknowledging_is_due_seldom_and_else_left_to_idle_moments() -> None:
    twin = make(edge=1_000_001, remote_wscale=7)
    at, due = 1, 0
    for _ in range(50):
        hear(twin, at, data=b"x" * 10_000)
        at += 10_000
        if twin.acked(at, at + 1_000_000) == "due":
            due += 1
            twin.ack()
    assert due == 1
    assert twin.wants_ack


def test_an_acknowledgement_is_due_before_the_local_tcp_runs_out_of_window() -> None:
    twin = make(edge=20_001)
    hear(twin, 1, data=b"x" * 15_000)
    assert twin.acked(15_001, 35_001) == "due"


def test_an_opened_window_is_due() -> None:
    twin = make(edge=3001)
    hear(twin, 1, data=b"x" * 3000)
    assert twin.acked(3001, 3001) == "news"
    assert parse(twin.ack()).window == 0
    assert twin.acked(3001, 9001) == "due"
    assert parse(twin.ack()).window == 6000
    assert twin.acked(3001, 9001) == "nothing"


def test_an_acknowledged_fin_is_due() -> None:
    twin = make()
    hear(twin, 1, flags=ACK | FIN)
    assert twin.acked(2, 60_001) == "due"


def test_a_window_that_the_scale_rounds_down_is_said_once() -> None:
    twin = make(remote_wscale=7)
    hear(twin, 1, data=b"x" * 1000)
    twin.acked(1001, 61_004)
    twin.ack()
    assert not twin.wants_ack


def test_a_promise_is_taken_back_but_never_below_what_is_acknowledged() -> None:
    twin = make()
    twin.withdraw(0)
    assert twin.wants_ack
    assert parse(twin.ack()).window == 0
    assert twin.numbers["up_edge"] == 1


def test_bytes_go_out_in_segments_of_tso_with_push_and_fin_on_the_last() -> None:
    twin = make(window=200_000)
    packets, left = twin.deliver(1, b"x" * 150_000, 0, fin=True, push=True)
    segments = [parse(p) for p in packets]
    assert left == 0
    assert b"".join(s.data for s in segments) == b"x" * 150_000
    assert [s.flags for s in segments] == [ACK, ACK, ACK | PSH | FIN]
    assert all(s.gso_size == MSS and len(s.data) % MSS == 0 for s in segments)
    assert all(len(p) <= 65545 for p in packets)


@pytest.mark.parametrize("size", [48, 724, 1448, 9000, 64_000])
def test_bytes_go_out_in_segments_of_the_remote_tcp(size: int) -> None:
    """Its own are others, and it is by the size of what comes that a TCP opens a narrow window."""
    packets, left = make(window=200_000).deliver(1, b"x" * 150_000, 0, segment=size)
    segments = [parse(p) for p in packets]
    assert (left, sum(len(s.data) for s in segments)) == (0, 150_000)
    assert {s.gso_size or len(s.data) for s in segments[:-1]} == {size}
    assert all(len(s.data) % size == 0 for s in segments[:-1])


def test_bytes_stay_within_the_window_and_the_rest_is_left() -> None:
    twin = make(window=2500)
    packets, left = twin.deliver(1, b"x" * 4000, 0, fin=True)
    assert (sum(len(parse(p).data) for p in packets), left) == (2500, 1501)
    assert twin.deliver(5000, b"y", 0) == ([], 1)


def test_a_fin_takes_place_in_the_window() -> None:
    twin = make(window=1000)
    packets, left = twin.deliver(1, b"x" * 1000, 0, fin=True)
    assert ([parse(p).flags & FIN for p in packets], left) == ([0], 1)
    hear(twin, 1, ack=1001, window=1)
    packets, left = twin.deliver(1001, b"", 0, fin=True)
    assert ([parse(p).flags & FIN for p in packets], left) == ([FIN], 0)


def test_what_the_local_tcp_has_is_not_given_again() -> None:
    twin = make()
    twin.deliver(1, b"abcdef", 0)
    hear(twin, 1, ack=5)
    (packet,), _ = twin.deliver(1, b"abcdef", 0)
    assert (places(packet)[0], parse(packet).data) == (5, b"ef")
    hear(twin, 1, ack=7)
    assert twin.deliver(1, b"abcdef", 0) == ([], 0)
    twin.deliver(7, b"", 0, fin=True)
    hear(twin, 1, ack=8)
    assert twin.deliver(7, b"", 0, fin=True) == ([], 0)


def test_bytes_out_of_order_are_given_as_they_come() -> None:
    twin = make()
    assert places(twin.deliver(1001, b"b" * 1000, 0)[0][0])[0] == 1001
    assert twin.deadline is None  # what is missing is under way, not lost here
    assert places(twin.deliver(1, b"a" * 1000, 0)[0][0])[0] == 1
    assert places(twin.ack())[0] == 2001


def test_a_second_end_or_bytes_behind_the_end_are_cut_off() -> None:
    twin = make()
    twin.deliver(1, b"abc", 0, fin=True)
    packets, _ = twin.deliver(1, b"abcdef", 0, fin=True)
    assert [parse(p).data for p in packets] == [b"abc"]
    assert parse(packets[0]).flags & FIN == 0
    assert twin.deliver(4, b"def", 0) == ([], 0)


def test_far_bytes_are_not_given() -> None:
    assert make().deliver(2**31, b"x", 0) == ([], 0)


def test_urgent_bytes_are_given_as_such() -> None:
    twin = make()
    (packet,), _ = twin.deliver(1, b"abc!def", 0, urgent=5)
    s = parse(packet)
    assert s.flags & URG
    assert s.urgent == 4
    hear(twin, 1, ack=8)
    assert twin.deliver(8, b"", 0, urgent=5) == ([], 0)
    (packet,), _ = twin.deliver(8, b"", 0, urgent=9)  # announced while the window was closed
    assert (parse(packet).urgent, parse(packet).data) == (1, b"")


def test_congestion_is_carried_both_ways() -> None:
    twin = make()
    assert hear(twin, 1, data=b"x", ecn=3).ecn == 3
    assert parse(twin.deliver(1, b"x", 0, ce=True)[0][0]).ecn == 3
    assert parse(twin.ack(ece=True)).flags & 0x40


def test_sacks_are_carried_but_never_of_bytes_that_were_not_sent() -> None:
    twin = make()
    hear(twin, 1, data=b"x" * 5000)
    s = parse(twin.ack(sacks=[(2001, 3001), (9001, 9002), (4001, 3001)]))
    assert s.sacks == (((LOCAL_ISN + 2001) & 0xFFFFFFFF, (LOCAL_ISN + 3001) & 0xFFFFFFFF),)
    assert parse(make(sack=False).ack(sacks=[(0, 1)])).sacks == ()


def test_the_local_tcp_is_probed_just_before_both_windows() -> None:
    twin = make()
    twin.deliver(1, b"abc", 0)
    hear(twin, 1, ack=4, data=b"12345")
    twin.acked(6, 70_000)
    twin.ack()
    assert places(twin.probe()) == (3, 5)


def test_a_probe_has_no_timestamp_and_perhaps_a_byte() -> None:
    """An old timestamp might have it dropped unanswered; without a byte its answers are limited in rate."""
    twin = make()
    assert parse(twin.probe()).timestamps is None
    assert parse(twin.probe()).data == b""
    old = parse(twin.probe(byte=True))
    assert len(old.data) == 1
    assert (old.seq - REMOTE_ISN + 1) & 0xFFFFFFFF == 0  # ends before what it awaits: 1


def test_a_reset_is_said_again_where_the_local_tcp_says_it_stands() -> None:
    twin = make()
    twin.deliver(1, b"abc", 0)
    first = parse(twin.reset())
    assert first.flags & RST
    assert places(twin.reset())[0] == 1
    assert "challenge" in hear(twin, 1, ack=3).what
    assert places(twin.reset())[0] == 3
    assert twin.deadline is None


# ---- timestamps -------------------------------------------------------------------------------------------


def stamps(packet: bytes) -> tuple[int, int]:
    got = parse(packet).timestamps
    assert got is not None
    return got


def test_the_remote_timestamp_is_what_the_local_tcp_has_seen_and_never_older() -> None:
    twin = make()
    assert stamps(twin.ack())[0] == 900
    hear(twin, 1, timestamps=(101, 950))
    assert stamps(twin.ack())[0] == 950
    hear(twin, 1, timestamps=(102, 940))
    assert stamps(twin.ack())[0] == 950
    twin.stamp(960)
    twin.stamp(955)
    assert stamps(twin.ack())[0] == 960


def test_timestamps_wrap() -> None:
    twin = make(timestamps=(100, 0xFFFFFFF0))
    hear(twin, 1, timestamps=(101, 5))
    assert stamps(twin.ack())[0] == 5


def test_the_echo_is_that_of_the_segment_whose_bytes_are_acknowledged() -> None:
    twin = make()
    for at, ts in ((1, 200), (1001, 210), (2001, 220)):
        hear(twin, at, data=b"x" * 1000, timestamps=(ts, 900))
    assert stamps(twin.ack())[1] == 200
    twin.acked(2001, 70_000)
    assert stamps(twin.ack())[1] == 210
    hear(twin, 1001, data=b"x" * 1000, timestamps=(300, 900))  # repeated: says nothing about the path
    twin.acked(3001, 70_000)
    assert stamps(twin.ack())[1] == 210


def test_what_is_repeated_is_echoed_when_it_is_acknowledged_not_before() -> None:
    twin = make()
    for at, ts in ((1, 200), (1001, 210), (2001, 220)):
        hear(twin, at, data=b"x" * 1000, timestamps=(ts, 900))
    twin.acked(1001, 70_000)
    assert stamps(twin.ack())[1] == 200
    for at, ts in ((1001, 300), (2001, 310), (1001, 320), (2001, 330)):
        hear(twin, at, data=b"x" * 1000, timestamps=(ts, 900))
        twin.repeated(ts, at + 1000)
    twin.repeated(331, 1001)  # never said
    assert stamps(twin.ack())[1] == 200, "it has just been sent: nothing has answered it"
    twin.acked(1002, 70_000)
    assert stamps(twin.ack())[1] == 200, "not all of it"
    twin.acked(2001, 70_000)
    assert stamps(twin.ack())[1] == 320, "the newest copy of the first that is missing"
    hear(twin, 1, data=b"x" * 1000, timestamps=(340, 900))
    twin.repeated(340, 1001)
    assert stamps(twin.ack())[1] == 320, "acknowledged long since, so not for this copy"
    hear(twin, 2001, data=b"x" * 1000, timestamps=(350, 900))
    twin.repeated(350, 3001)
    twin.acked(3001, 70_000)
    assert stamps(twin.ack())[1] == 350


def test_the_timestamp_of_a_bare_ack_is_echoed_a_round_trip_later() -> None:
    """What comes earlier was under way when the ACK was sent: it says nothing of the distance."""
    twin = make(away_us=50_000)
    hear(twin, 1, timestamps=(200, 900), now=10 * MS)
    hear(twin, 1, timestamps=(230, 900), now=40 * MS)
    packets, _ = twin.deliver(1, b"x" * 100, 59 * MS)
    assert stamps(packets[0])[1] == 50, "what it said a round trip before the twin began"
    packets, _ = twin.deliver(101, b"x" * 100, 60 * MS)
    assert stamps(packets[0])[1] == 200
    hear(twin, 1, timestamps=(260, 900), now=70 * MS)
    hear(twin, 1, timestamps=(311, 900), now=121 * MS)
    assert stamps(twin.ack())[1] == 260, "one at a time, each for a round trip"
    hear(twin, 1, data=b"y", timestamps=(320, 900), now=130 * MS)
    assert stamps(twin.ack())[1] == 320, "of bytes it is the acknowledgement that counts"


def test_an_owner_that_knows_better_says_which_timestamp_is_echoed() -> None:
    twin = make()
    h = hear(twin, 1, data=b"x" * 1000, timestamps=(200, 900))
    assert h.timestamps == (200, 900)
    hear(twin, 1, data=b"x" * 1000, timestamps=(400, 900))
    twin.echo(401)  # never said
    assert stamps(twin.ack())[1] == 200
    twin.echo(400)
    assert stamps(twin.ack())[1] == 400
    twin.echo(300)
    assert stamps(twin.ack())[1] == 400


def test_bytes_may_carry_the_timestamp_that_came_with_them_but_no_older_one() -> None:
    twin = make()
    assert stamps(twin.deliver(1, b"a", 0, timestamp=950)[0][0])[0] == 950
    assert stamps(twin.deliver(2, b"b", 0, timestamp=850)[0][0])[0] == 900
    assert stamps(twin.ack())[0] == 900  # an ACK must not make bytes old that it overtakes


def test_without_timestamps_none_are_said() -> None:
    twin = make(timestamps=None)
    hear(twin, 1, data=b"x")
    assert parse(twin.ack()).timestamps is None


# ---- what the local TCP did not take ----------------------------------------------------------------------


def test_what_is_not_acknowledged_is_asked_for_again_later_and_later() -> None:
    twin = make()
    twin.deliver(1, b"x" * 3000, 0)
    assert twin.deadline == 300 * MS
    assert twin.expired(299 * MS) is None
    assert twin.expired(300 * MS) == (1, 3001)
    assert twin.deadline == 900 * MS
    waits, now = [], 300 * MS
    for _ in range(8):
        waits.append((twin.deadline - now) // MS)
        now = twin.deadline
        twin.expired(now)
    assert waits == [600, 1200, 2400, 4800, 9600, 9600, 9600, 9600]
    hear(twin, 1, ack=1001, now=now)
    assert twin.deadline == now + 300 * MS
    hear(twin, 1, ack=3001, now=now)
    assert twin.deadline is None


def test_what_lies_below_a_block_is_asked_for_at_once_and_once() -> None:
    """The device keeps the order: what came later is there, so this was dropped."""
    twin = make()
    twin.deliver(1, b"x" * 5000, 0)
    block = ((REMOTE_ISN + 2001, REMOTE_ISN + 5001),)
    heard = [hear(twin, 1, sacks=block) for _ in range(4)]
    assert [h.again for h in heard] == [(1, 2001), None, None, None]
    assert all("duplicate" in h.what and h.sacks == ((2001, 5001),) for h in heard)
    assert twin.deadline is None
    twin.deliver(1, b"x" * 2000, 7 * MS)
    assert twin.deadline == 307 * MS
    assert hear(twin, 1, ack=5001).again is None


def test_what_it_was_given_beyond_a_hole_and_has_dropped_is_asked_for_when_the_hole_is_filled() -> None:
    """A TCP may drop what it has out of order, also if it has said that it has it (RFC 2018, 8)."""
    twin = make()
    twin.deliver(1001, b"x" * 4000, 0)
    twin.deliver(1, b"x" * 1000, 5 * MS)
    assert hear(twin, 1, ack=1001, now=6 * MS).again is None
    assert twin.deadline == 306 * MS
    twin.deliver(5001, b"x" * 1000, 7 * MS)
    assert hear(twin, 1, ack=1001, sacks=((REMOTE_ISN + 5001, REMOTE_ISN + 6001),)).again == (1001, 5001)
    twin = make()
    twin.deliver(1001, b"x" * 4000, 0)
    twin.deliver(1, b"x" * 1000, 5 * MS)
    hear(twin, 1, ack=1001, now=6 * MS)
    assert twin.expired(306 * MS) == (1001, 5001)  # nothing follows that would have told it


@pytest.mark.parametrize(
    ("pieces", "handed"),
    [
        (((11, 10), (21, 10)), 31),
        (((21, 10), (11, 10)), 31),
        (((11, 10), (15, 20)), 35),
        (((15, 20), (11, 10)), 35),
        (((21, 10), (41, 10)), 11),  # a hole is left, that of the lowest range
        (((41, 10), (11, 10)), 21),
        (((11, 10), (41, 10), (21, 20)), 41),  # what the higher one has is not known
        (((11, 10), (11, 10)), 21),
    ],
)
def test_what_follows_a_hole_counts_as_given_once_it_is_filled(
    pieces: tuple[tuple[int, int], ...], handed: int
) -> None:
    twin = make()
    for position, n in pieces:
        twin.deliver(position, b"x" * n, 0)
    assert twin.numbers["down_handed"] == 1
    twin.deliver(1, b"x" * 10, 0)
    assert twin.numbers["down_handed"] == handed
    twin = make()
    for position, n in pieces:
        twin.deliver(position, b"x" * n, 0)
    hear(twin, 1, ack=11)  # the wire has filled it
    assert twin.numbers["down_handed"] == handed


def test_a_window_that_ends_before_what_was_given_says_that_it_was_dropped() -> None:
    """Linux, when the socket's buffer is full: a window of 0, and later one that is smaller than before."""
    twin = make()
    twin.deliver(1, b"x" * 5000, 0)
    assert hear(twin, 1, ack=1001, window=0).again == (1001, 5001)
    assert hear(twin, 1, ack=1001, window=3000).again is None
    twin.deliver(1001, b"x" * 1000, 0)
    assert hear(twin, 1, ack=2001, window=0).again is None  # all that was given again is there


def test_so_says_one_that_ends_before_what_was_given_behind_a_hole() -> None:
    """The wire has filled the hole: the twin hears of that only now."""
    twin = make()
    twin.deliver(1001, b"x" * 4000, 0)
    assert hear(twin, 1, ack=1001, window=0).again == (1001, 5001)
    assert hear(twin, 1, ack=1001, window=0).again is None
    twin.deliver(1001, b"x" * 4000, 0)
    assert hear(twin, 1, ack=3001, window=0).again == (3001, 5001)


@pytest.mark.parametrize(("window", "block"), [(0, ()), (2000, ()), (3000, ((2501, 5001),))])
def test_an_ack_stands_within_a_window_that_has_become_smaller(
    window: int, block: tuple[tuple[int, int], ...]
) -> None:
    """Beyond it the local TCP would drop it, and what it acknowledges with it (RFC 9293 3.10.7.4)."""
    twin = make()
    twin.deliver(1, b"x" * 5000, 0)
    assert places(twin.ack())[0] == 5001
    hear(twin, 1, window=window, sacks=tuple((REMOTE_ISN + one, REMOTE_ISN + end) for one, end in block))
    assert places(twin.ack())[0] == 1 + window


def test_three_duplicates_without_blocks_ask_for_one_segment() -> None:
    twin = make(sack=False)
    twin.deliver(1, b"x" * 5000, 0)
    heard = [hear(twin, 1).again for _ in range(4)]
    assert heard == [None, None, (1, 1 + MSS), None]


def test_a_hole_that_the_transport_left_is_not_asked_for() -> None:
    twin = make()
    twin.deliver(2001, b"x" * 3000, 0)
    block = ((REMOTE_ISN + 2001, REMOTE_ISN + 5001),)
    assert all(hear(twin, 1, sacks=block).again is None for _ in range(5))


# ---- the end ----------------------------------------------------------------------------------------------


def test_a_twin_is_finished_when_both_ends_are_acknowledged() -> None:
    twin = make()
    hear(twin, 1, data=b"bye", flags=ACK | FIN)
    twin.deliver(1, b"ciao", 0, fin=True)  # both close at once
    assert not twin.finished
    hear(twin, 5, ack=6)
    assert not twin.finished
    twin.acked(5, 70_000)
    assert twin.finished
    assert hear(twin, 1, data=b"bye", flags=ACK | FIN, ack=6).what == {"stale"}  # our last ACK was lost
    assert places(twin.ack()) == (6, 5)


def test_one_direction_stays_open_after_the_other_has_closed() -> None:
    twin = make()
    hear(twin, 1, flags=ACK | FIN)
    twin.acked(2, 70_000)
    packets, left = twin.deliver(1, b"still here", 0)
    assert (len(packets), left) == (1, 0)
    assert places(packets[0]) == (1, 2)
    assert not twin.finished
