"""One stream out of what was redirected and what the local TCP has: whatever comes first, is lost or ends."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim.flow.far_end import WRAP, Setup
from sim.flow.two_sources import Ways, run

from hooker.flow.face import Joined

FIN = 1
MOST_PARTS = 4096  # hooker/flow/joined.pxd
SHARES = st.sampled_from([0.0, 0.0, 0.05, 0.3])
SETUPS = st.builds(
    Setup,
    writes=st.lists(st.integers(1, 900), min_size=1, max_size=12).map(tuple),
    fin=st.booleans(),
    base=st.sampled_from([1, 77777, WRAP - 2000, WRAP - 1]),
    before=st.sampled_from([0, 0, 1500]),
    capacity=st.sampled_from([50, 300, 4000]),
    reads=st.sampled_from([100, 700]),
    spread=st.sampled_from([0.0, 0.05, 5.0]),
    stopped=st.sampled_from([0.0, 0.0, 3.0, 100.0]),
    shrinks=st.booleans(),
    loss=st.sampled_from([0.0, 0.0, 0.1]),
    doubled=st.sampled_from([0.0, 0.1]),
    jitter=st.sampled_from([0.0, 0.5, 4.0]),
    full=SHARES,
    repairs=st.booleans(),
    pause=st.just(0.01),
    delay=st.just(0.02),
    promise=st.just(0),
    forgets=st.just(1.0),
    delayed_ack=st.sampled_from([0.0, 0.04]),
    segment=st.sampled_from([100, 700, 65536]),
    seed=st.integers(0, 1 << 30),
)
FAIR = {
    "blocking": st.sampled_from([0.0, 0.2, 0.8]),
    "older": st.sampled_from([0.0, 0.1]),
    "gathered": st.sampled_from([0.0, 0.01, 0.5]),
    "cut": SHARES,
    "segment_delay": st.sampled_from([0.0, 0.005, 0.3]),
    "mss": st.sampled_from([50, 500]),
    "again": SHARES,
    "refused": SHARES,
    "credit": st.sampled_from([100, 1000, 20000]),
    "socket_gone": st.booleans(),
}
WAYS = st.builds(Ways, unkept=st.just(0.0), end_at=st.just(0.0), **FAIR)
ROUGH = st.builds(Ways, unkept=SHARES, end_at=st.sampled_from([0.0, 0.005, 0.05, 1.0]), **FAIR)


@settings(max_examples=60)
@given(SETUPS, WAYS)
def test_what_was_written_arrives_once_and_in_order(setup: Setup, ways: Ways) -> None:
    run(setup, ways)


@settings(max_examples=60)
@given(SETUPS, ROUGH)
def test_what_ends_has_sent_a_beginning_and_gives_all_memory_back(setup: Setup, ways: Ways) -> None:
    run(setup, ways)


def test_the_runs_above_see_what_they_are_for() -> None:
    kept = early_fins = spills = waits = 0
    for seed in range(40):
        rng = random.Random(seed)
        writes = tuple(rng.randint(1, 900) for _ in range(rng.choice((3, 20))))
        setup = Setup(writes, spread=0.2 * (seed % 4 > 0), before=1500 * (seed % 2), seed=seed)
        done = run(setup, Ways(gathered=0.1, credit=2000, older=0.05, blocking=0.2 * (seed % 3 > 0)))
        kept += done.kept
        early_fins += done.early_fins
        spills += done.kernel.spills
        waits += done.met_again
    assert min(kept, early_fins, spills, waits) > 8, (kept, early_fins, spills, waits)


# ---- one thing at a time -----------------------------------------------------------------------------------


@dataclass
class Flow:
    """A flow at position 1, and what the kernel program says of it."""

    at: Joined = field(default_factory=lambda: Joined(1, 1 << 20))
    spill_at: int = 0
    redirects: bool = True
    redirected: int = 0

    @property
    def turns(self) -> tuple[int, bool, int]:
        return self.spill_at, self.redirects, self.redirected

    def redirect(self, n: int) -> Flow:
        self.redirected += n
        return self

    def spill(self) -> Flow:
        self.spill_at, self.redirects = self.redirected, False
        return self

    def sent(self) -> list[tuple[int, bytes, int]]:
        """Position, bytes, whether FIN is there, of all that goes now."""
        self.at.settle(self.turns)
        found = []
        while piece := self.at.next(0.0):
            found.append((piece[0], piece[1], piece[2] & FIN))
        return found


def test_a_segment_waits_for_what_was_redirected_before_it() -> None:
    flow = Flow().redirect(3).spill()
    assert flow.at.segment(1, b"def", flow.turns) == "kept"
    assert flow.at.segment(1, b"def", flow.turns) == "none"
    assert (flow.sent(), flow.at.ack(1), flow.at.numbers["parts"]) == ([], 1, 1)
    flow.at.frame(b"ab")
    assert flow.sent() == [(1, b"ab", 0)]
    flow.at.frame(b"c")
    assert b"".join(data for _, data, _ in flow.sent()) == b"cdef"
    assert (flow.at.ack(1), flow.at.numbers["parts"]) == (4, 0)


def test_a_segment_does_not_overtake_those_that_are_kept() -> None:
    flow = Flow().redirect(1).spill()
    assert flow.at.segment(1, b"b", flow.turns) == "kept"
    flow.at.frame(b"a")
    assert flow.at.segment(2, b"c", flow.turns) == "kept"
    assert b"".join(data for _, data, _ in flow.sent()) == b"abc"


def test_what_tcp_gets_while_messages_are_redirected_is_behind_all_of_them() -> None:
    flow = Flow().redirect(3)
    assert flow.at.segment(1, b"de", flow.turns) == "kept"
    flow.at.frame(b"ab")
    assert flow.sent() == [(1, b"ab", 0)]
    flow.at.frame(b"c")
    assert b"".join(data for _, data, _ in flow.sent()) == b"cde"


def test_a_fin_waits_for_all_that_was_redirected() -> None:
    flow = Flow().redirect(3)
    flow.at.frame(b"ab")
    assert flow.at.segment(1, b"", flow.turns, fin=True) == "none"
    assert flow.sent() == [(1, b"ab", 0)]
    assert not flow.at.numbers["fin_taken"]
    flow.at.frame(b"c")
    assert flow.sent() == [(3, b"c", FIN)]


def test_a_fin_waits_for_what_is_kept() -> None:
    flow = Flow().redirect(1).spill()
    assert flow.at.segment(1, b"b", flow.turns, fin=True) == "kept"
    assert flow.sent() == []
    flow.at.frame(b"a")
    sent = flow.sent()
    assert (b"".join(data for _, data, _ in sent), sent[-1][2]) == (b"ab", FIN)


def test_a_fin_is_acknowledged_when_the_peers_kernel_has_it() -> None:
    flow = Flow()
    flow.at.segment(1, b"a", flow.turns, fin=True)
    assert flow.sent() == [(1, b"a", FIN)]
    assert flow.at.ack(1) == 2
    flow.at.acked(2, 1000, 0.0, serial=1)
    assert (flow.at.ack(2), flow.at.lives) == (2, True)
    flow.at.acked(3, 1000, 0.0, serial=2)
    assert (flow.at.ack(3), flow.at.lives, flow.at.done) == (3, False, True)


def test_below_the_base_only_the_peer_acknowledges() -> None:
    """10 bytes of the local TCP's own are under way when the sender begins; one segment has both."""
    flow = Flow(Joined(11, 1 << 20))
    assert [flow.at.below(*segment, una=1) for segment in ((1, 10), (5, 10), (11, 5), (20, 5))] == [
        10,
        6,
        0,
        0,
    ]
    assert flow.at.segment(5, b"below" + b"!" + b"ours", flow.turns) == "all"
    assert flow.sent() == [(11, b"ours", 0)]
    assert [flow.at.ack(una) for una in (1, 5, 10, 11)] == [1, 5, 10, 15]
    assert flow.at.below(1, 10, una=11) == 0  # once more, though acknowledged: nobody's
    far = 11 + (1 << 31) + 1  # gigabytes later, when positions compare the other way round
    assert (flow.at.below(far, 10, una=far), flow.at.ack(far)) == (0, 15)


def test_parts_are_kept_up_to_a_bound() -> None:
    flow = Flow().redirect(1).spill()
    for n in range(MOST_PARTS):
        assert flow.at.segment(1 + n, b"x", flow.turns) == "kept"
    at = 1 + MOST_PARTS
    assert flow.at.segment(at, b"y", flow.turns, fin=True) == "not"
    assert (flow.at.numbers["parts"], flow.at.borrowed, flow.at.lost) == (MOST_PARTS, MOST_PARTS, False)
    flow.at.frame(b"a")
    assert b"".join(data for _, data, _ in flow.sent()) == b"a" + b"x" * MOST_PARTS
    assert flow.at.segment(at, b"y", flow.turns, fin=True) == "all"  # it comes again, and so does its FIN
    assert flow.sent() == [(at + 1, b"y", FIN)]


def test_a_frame_for_which_there_is_no_memory_ends_it_with_an_error() -> None:
    flow = Flow().redirect(2)
    flow.at.frame(b"a")
    flow.sent()
    assert not flow.at.frame(b"b", memory=False)
    assert flow.at.lost
    flow.at.segment(1, b"c", flow.turns, fin=True)
    assert flow.sent() == []  # neither bytes behind what is missing nor an end


def test_a_frame_behind_the_fin_ends_it_with_an_error() -> None:
    flow = Flow()
    flow.at.segment(1, b"", flow.turns, fin=True)
    flow.sent()
    assert not flow.at.frame(b"a")
    assert flow.at.lost


def test_an_older_word_of_the_peer_is_not_believed_unless_it_acknowledges_more() -> None:
    flow = Flow(Joined(1, 3))
    flow.at.segment(1, b"abcdef", flow.turns)
    assert flow.sent() == [(1, b"ab", 0)]
    flow.at.acked(2, 2, 0.0, serial=65535)
    flow.at.acked(2, 4, 0.0, serial=65534)  # a window that was overtaken
    assert flow.sent() == []
    flow.at.acked(2, 4, 0.0, serial=0)
    assert flow.sent() == [(3, b"c", 0)]
    flow.at.acked(4, 5, 0.0, serial=65533)  # late, and news all the same
    assert flow.sent() == [(4, b"d", 0)]


@pytest.mark.parametrize("late", [False, True], ids=["kept", "sent"])
def test_what_is_over_takes_and_sends_nothing(late: bool) -> None:
    flow = Flow().redirect(1).spill()
    flow.at.segment(1, b"b", flow.turns)
    if late:
        flow.at.frame(b"a")
        flow.sent()
    flow.at.end()
    assert (flow.at.borrowed, flow.at.held, flow.at.deadline, flow.at.lives) == (0, 0, None, False)
    assert not flow.at.frame(b"a")
    assert flow.at.segment(2, b"c", flow.turns, fin=True) == "none"
    assert flow.at.acked(3, 1000, 0.0, serial=1) == 0
    assert (flow.sent(), flow.at.borrowed, flow.at.lost) == ([], 0, False)


def test_fifteen_tries_without_an_answer_end_it() -> None:
    """Whether its socket is there or not: nobody else tries."""
    flow = Flow(Joined(1, 1 << 20, repairs=True))
    flow.at.segment(1, b"a", flow.turns, fin=True)
    flow.sent()
    due: list[str] = []
    while "end" not in due:
        assert flow.at.deadline is not None
        due.append(flow.at.timer(flow.at.deadline))
        if due[-1] == "bytes":
            assert flow.sent() == [(1, b"a", FIN)]
    assert due == ["probe"] + ["bytes"] * 14 + ["end"]


def test_credit_ends_when_the_share_of_the_peer_does() -> None:
    flow = Flow(Joined(1, 1 << 20, least_credit=1000, floor_credit=100))
    assert flow.at.credit == 1000
    flow.at.frame(b"a" * 600)
    assert (flow.at.numbers["queued"], flow.at.numbers["consumed"]) == (600, 0)
    flow.sent()
    flow.at.acked(401, 1 << 20, 0.0, serial=1)
    assert (flow.at.numbers["queued"], flow.at.numbers["consumed"]) == (200, 400)
