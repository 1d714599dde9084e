"""The sender's numbers: what an ACKED, a REFUSED, a timeout does. The whole: tests/sim/flow."""

from __future__ import annotations

import pytest

from hooker.flow.face import Sender

FIN, PSH = 1, 2
WRAP = 1 << 32
NOT, SAME, MORE = 0, 1, 2


def sent(s: Sender, now: float = 0.0) -> list[tuple[int, int]]:
    """Position and length of all that may go."""
    found = []
    while piece := s.next(now):
        found.append((piece[0], len(piece[1])))
    return found


def under_way(n: int = 1000, edge: int = 100000, **config: float) -> Sender:
    s = Sender(1, edge, segment=100, **config)
    s.write(bytes(n))
    s.fin()
    sent(s)
    return s


def test_the_timer_is_that_of_rfc_6298() -> None:
    s = under_way(100, least_rto=0.0, granularity=0.001)
    assert s.deadline == 1.0  # 2.1
    assert s.acked(101, 100000, 0.2) == MORE
    # FIN went with the last byte and was timed with it: no sample yet
    assert s.numbers["srtt"] == 0
    assert s.acked(102, 100000, 0.2) == MORE
    assert (s.numbers["srtt"], s.numbers["rttvar"], s.numbers["rto"]) == (200e6, 100e6, 600e6)  # 2.2
    assert (s.done, s.deadline) == (True, None)  # 5.2


def test_a_second_round_trip_is_weighed() -> None:
    s = Sender(1, 100000, least_rto=0.0)
    s.write(b"a")
    sent(s, 0.0)
    s.acked(2, 100000, 0.2)
    s.write(b"b")
    sent(s, 1.0)
    s.acked(3, 100000, 1.1)
    assert (s.numbers["srtt"], s.numbers["rttvar"]) == (187.5e6, 100e6)  # 2.3


def test_a_timeout_sends_the_oldest_again_and_doubles() -> None:
    s = under_way()
    at = []
    for _ in range(8):
        at.append(s.deadline)
        assert s.timer(at[-1]) == "bytes"
        assert sent(s, at[-1]) == [(1, 100)]
    assert at == [1, 3, 7, 15, 31, 63, 123, 183]


def test_it_gives_up_as_tcp_does() -> None:
    s = under_way(tries=15)
    for _ in range(15):
        assert s.timer(s.deadline) == "bytes"
        sent(s)
    assert s.timer(s.deadline) == "end"
    assert s.deadline is None


def test_of_what_was_sent_twice_no_round_trip_is_measured() -> None:
    s = under_way()
    s.timer(1.0)
    sent(s, 1.0)
    s.acked(1001, 100000, 1.001)
    s.acked(1002, 100000, 1.001)
    assert s.numbers["srtt"] == 0


def test_a_transport_that_repairs_is_asked_first() -> None:
    s = under_way(repairs=True)
    assert s.timer(1.0) == "probe"
    assert sent(s) == []
    assert s.timer(3.0) == "bytes"
    assert sent(s) == [(1, 100)]
    s = under_way(repairs=True)
    for serial in range(5):  # it only reorders
        s.acked(1, 100000, 0.1, duplicates=serial, sack=[(201, 301)])
    assert sent(s) == []


def test_after_a_timeout_the_first_word_of_the_kernel_says_what_is_missing() -> None:
    s = under_way()
    s.timer(1.0)
    assert sent(s, 1.0) == [(1, 100)]
    s.acked(101, 100000, 1.1, sack=[(301, 401)])
    assert sent(s, 1.1) == [(p, 100) for p in (101, 201, 401, 501, 601, 701, 801, 901)]
    s.acked(201, 100000, 1.2)
    assert sent(s, 1.2) == []  # each once


def test_sack_shows_holes_and_lies_show_nothing() -> None:
    s = under_way()
    s.acked(101, 100000, 0.1, duplicates=2, sack=[(301, 401)])
    assert sent(s, 0.1) == []
    s.acked(101, 100000, 0.1, duplicates=3, sack=[(301, 401), (601, 9000), (500, 450), (201, 251)])
    assert sent(s, 0.1) == [(101, 100), (251, 50)]
    s.acked(101, 100000, 0.1, duplicates=9, sack=[(5, 50), (301, 401)])
    assert sent(s, 0.1) == []


def test_bytes_are_kept_until_the_kernel_has_them() -> None:
    s = Sender(WRAP - 150, 100000, segment=100)
    s.write(bytes(100), bytes(100), bytes(100))
    sent(s)
    assert (s.borrowed, s.held) == (300, 300 + 3 * 32)
    assert s.acked(WRAP - 1, 100000, 0) == MORE
    assert (s.borrowed, s.held, s.acknowledged) == (151, 151 + 2 * 32, 149)
    assert s.acked(150, 100000, 0) == MORE
    assert (s.borrowed, s.held, s.acknowledged) == (0, 0, 300)


def test_nothing_is_believed_of_what_cannot_be() -> None:
    s = under_way(100)
    for position in (103, 200, WRAP // 2, 2 + (1 << 30) + 1):
        assert s.acked(position, 10**6, 0) == NOT
    assert s.acked(51, 100000, 0) == MORE
    assert s.acked(50, 10**6, 0) == NOT
    assert s.acked(51, 51 + (1 << 30), 0) == SAME  # and no window
    s.refused(5000, 0)
    assert sent(s) == []


def test_the_window_counts() -> None:
    s = Sender(1, 251, segment=100)
    s.write(bytes(1000))
    assert sent(s) == [(1, 100), (101, 100)]  # behind them is a morsel, with more under way
    s.acked(101, 251, 0.1)
    assert sent(s) == []
    s.acked(201, 251, 0.1)
    assert sent(s) == [(201, 50)]
    s.acked(251, 301, 0.2)
    assert sent(s) == [(251, 50)]
    s.acked(301, 301, 0.2)
    assert sent(s) == []
    at = []
    for _ in range(30):  # for ever, if it answers
        assert s.timer(s.deadline) == "probe"
        at.append(s.deadline)
        s.acked(301, 301, at[-1])
    assert at[-1] - at[-2] == 60
    s.acked(301, 501, at[-1] + 1)
    assert sent(s, at[-1] + 1) == [(301, 100), (401, 100)]
    assert s.deadline == at[-1] + 2


def test_what_is_written_to_a_closed_window_is_probed_for() -> None:
    s = Sender(1, 1)
    assert sent(s) == []
    assert s.deadline is None
    s.write(b"a")
    assert sent(s, 5.0) == []
    assert s.timer(6.0) == "probe"


def test_a_window_that_was_taken_back_is_probed_and_not_filled() -> None:
    s = under_way(300)
    s.acked(101, 101, 0.1)
    assert s.timer(s.deadline) == "probe"
    assert sent(s, 2) == []


def test_a_fin_needs_no_window() -> None:
    s = Sender(1, 101, segment=100)
    s.write(bytes(100))
    s.fin()
    assert s.next(0) == (1, bytes(100), PSH, False)
    assert s.next(0) == (101, b"", FIN, False)
    assert s.snd_nxt == 102
    assert s.acked(101, 101, 0.1) == MORE
    assert s.timer(s.deadline) == "bytes"
    assert s.next(2) == (101, b"", FIN, True)
    assert s.acked(102, 102, 2.1) == MORE
    assert s.done
    with pytest.raises(BufferError):
        s.write(b"x")


def test_what_is_before_the_first_byte_is_the_kernels_and_its_window_counts() -> None:
    s = Sender(1001, 1001, segment=100)
    s.write(bytes(300))
    assert sent(s) == []
    assert s.acked(501, 1101, 0) == SAME
    assert sent(s) == [(1001, 100)]
    assert s.acked(901, 1301, 0.1) == SAME
    assert sent(s) == [(1101, 100), (1201, 100)]


def test_what_was_refused_goes_again_once_in_a_round_trip_then_in_two() -> None:
    s = Sender(1, 100000, rtt=0.1, segment=100)
    s.write(bytes(1000))
    sent(s, 0.9)
    s.refused(501, 1.0)
    assert [p for p, _ in sent(s, 1.0)] == [501, 601, 701, 801, 901]
    for _ in range(1000):
        s.refused(701, 1.05)
    assert sent(s, 1.05) == []
    s.refused(401, 1.06)  # new: from there to what was sent again
    assert sent(s, 1.06) == [(401, 100)]
    assert (s.deadline, s.timer(1.2)) == (1.2, "bytes")  # twice the round trip
    assert len(sent(s, 1.2)) == 6
    s.refused(401, 1.25)
    assert s.deadline == 1.6
    s.acked(1001, 100000, 1.3)
    assert s.deadline is None


def test_refusals_do_not_keep_the_timer_from_what_is_lost() -> None:
    s = under_way(500, rtt=0.1)
    found: list[tuple[int, int]] = []
    now = 0.5
    while now < 8:
        s.refused(201, now)
        now = min(s.deadline, now + 0.1)
        s.timer(now)
        found += sent(s, now)
    assert found.count((1, 100)) == 3  # 1, 3 and 7 s


def test_the_transport_may_be_full() -> None:
    s = Sender(1, 100000)
    s.write(b"ab")
    assert s.next(0, taken=False) == s.next(0, taken=False) == (1, b"ab", PSH, False)
    assert s.deadline is None
    assert s.next(1) == (1, b"ab", PSH, False)
    assert s.deadline == 2


def test_credit_grows_with_what_a_round_trip_takes() -> None:
    s = Sender(1, 1 << 29, least_credit=1000, most_credit=8000, floor_credit=100)
    assert s.credit == 1000
    position = 1
    for _ in range(20):
        n = s.credit
        s.write(bytes(n))
        sent(s)
        position += n
        s.acked(position, position + (1 << 29), 0)
    assert s.credit == 8000


def test_credit_is_a_share_of_the_budget_and_small_writes_cost() -> None:
    s = Sender(1, 1 << 29, least_credit=1000, floor_credit=100, budget=2000)
    assert s.credit == 500
    s.write(*[b"x"] * 12)
    assert s.held == 12 * 33
    assert s.credit == 12 * 33 + (2000 - 12 * 33) // 4 - 12 * 32
    s = Sender(1, 1 << 29, least_credit=1000, floor_credit=100, budget=0)
    assert s.credit == 100
    s.write(*[b"x"] * 4)
    assert s.credit == 4  # and four are there


def test_positions_go_round() -> None:
    """More than 4 GiB through one flow."""
    chunk = bytes(1 << 24)
    s = Sender(WRAP - 5, 1 << 24, segment=1 << 24)
    position = WRAP - 5
    for i in range(280):
        s.write(chunk)
        piece = s.next(i)
        assert piece is not None
        assert (piece[0], len(piece[1])) == (position, 1 << 24)
        position = (position + (1 << 24)) % WRAP
        assert s.acked(position, (position + (1 << 25)) % WRAP, i) == MORE
    assert (s.acknowledged, s.held, s.deadline) == (280 << 24, 0, None)


def test_what_there_is_not_is_an_error() -> None:
    with pytest.raises(KeyError):
        Sender(1, 1, speed=3)
