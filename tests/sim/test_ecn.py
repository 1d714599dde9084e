"""ECN: validated packet by packet, given up where the path does not keep it, and taken for congestion."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sim.bulk import Bulk, link
from sim.network import Host, Pair

ECT0, CE = 2, 3
Router = Callable[[int, int], int]  # the bits of the n-th datagram, and what becomes of them


class Marking(Pair):
    """A router rewrites the ECN bits of what a sends."""

    def __init__(self, router: Router, congestion: str = "cubic") -> None:
        window = 1 << 24
        super().__init__(
            1, link=link(20, 0), congestion=congestion, stream_window=window, assoc_window=window
        )
        self.router = router
        self.bits: list[int] = []
        self.bulk = Bulk(self, self.a, self.b)

    def send(self, host: Host) -> None:
        for data, address, ecn in host.endpoint.datagrams_to_send(self.now, ecn=True):
            to = self._host_at(address)
            assert to is not None
            if host is self.a:
                self.bits.append(ecn)
                ecn = self.router(ecn, len(self.bits))
            for at, copy, _ in host.uplink.carry(data, self.now, self.rng):
                self.at(
                    at,
                    lambda to=to, copy=copy, ecn=ecn: to.endpoint.receive_datagram(
                        copy, host.address, self.now, ecn
                    ),
                )

    @property
    def stats(self) -> dict[str, int]:
        return dict(self.a.endpoint.stats(self.bulk.assoc))  # type: ignore[arg-type]


def test_a_path_that_keeps_the_bits_is_found_capable() -> None:
    path = Marking(lambda ecn, _: ecn)
    path.run_for(0.5)
    assert path.stats["ecn"] == 1
    assert path.stats["packets_marked"] == 0
    assert path.bits[-1] == ECT0


@pytest.mark.parametrize(
    ("name", "router"),
    [("bleached", lambda ecn, _: 0), ("rewritten", lambda ecn, _: 1), ("half", lambda ecn, n: ecn * (n % 2))],
)
def test_a_path_that_does_not_is_sent_no_more_marks(name: str, router: Router) -> None:
    path = Marking(router)
    path.run_for(0.5)
    assert path.stats["ecn"] == 0
    assert path.bits.count(ECT0) <= 20
    assert not any(path.bits[-50:])
    assert path.bulk.got > 100_000


def test_a_path_that_begins_to_bleach_is_noticed() -> None:
    path = Marking(lambda ecn, _: ecn)
    path.run_for(0.5)
    path.router = lambda ecn, _: 0
    path.run_for(0.5)
    assert path.stats["ecn"] == 0
    assert path.bits[-1] == 0


@pytest.mark.parametrize("congestion", ["cubic", "newreno"])
def test_a_mark_cuts_the_window_and_nothing_is_sent_again(congestion: str) -> None:
    windows = {}
    for mark in (False, True):
        path = Marking(lambda ecn, _: ecn, congestion)
        path.run_for(0.1)
        path.router = lambda ecn, _, mark=mark: CE if ecn and mark else ecn
        path.run_for(0.03)
        path.router = lambda ecn, _: ecn
        path.run_for(0.02)
        assert bool(path.stats["packets_marked"]) == mark
        assert path.stats["packets_lost"] == 0
        assert path.stats["ecn"] == 1
        windows[mark] = path.stats["cwnd"]
    assert windows[True] < 0.8 * windows[False]


def test_bbr_takes_marks_for_congestion() -> None:
    got = {}
    for mark in (False, True):
        path = Marking(lambda ecn, n, mark=mark: CE if mark and ecn and n % 50 == 0 else ecn, "bbr")
        path.run_for(3)
        got[mark] = path.bulk.got
        assert bool(path.stats["packets_marked"]) == mark
        assert path.stats["ecn"] == 1
    assert got[True] < 0.8 * got[False]
