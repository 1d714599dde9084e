"""A congestion controller written in Python sees what the compiled ones see, and decides."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sim.bulk import WINDOW, Bulk, link
from sim.network import MS, Pair

from hooker.vtl import congestion
from hooker.vtl.sansio import Endpoint

PAGE = Path(__file__).parents[2] / "docs" / "congestion.md"
CONFIG = {"stream_window": WINDOW, "assoc_window": WINDOW}


class Probe:
    """Keeps what it is told; a constant window and rate."""

    made: ClassVar[list[Probe]] = []

    def __init__(self, mss: int) -> None:
        self.cwnd, self.pacing_rate = 100 * mss, 5_000_000
        self.acks: list[congestion.Ack] = []
        self.lost: list[congestion.Loss] = []
        self.events: list[int] = []
        self.restarts: list[int] = []
        self.sizes = [mss]
        Probe.made.append(self)

    def on_ack(self, ack: congestion.Ack) -> None:
        self.acks.append(ack)

    def on_packet_lost(self, loss: congestion.Loss) -> None:
        self.lost.append(loss)

    def on_loss(self, now: int) -> None:
        self.events.append(now)

    def on_restart(self, now: int) -> None:
        self.restarts.append(now)

    def on_resize(self, mss: int) -> None:
        self.sizes.append(mss)


@pytest.fixture
def probe() -> Iterator[type[Probe]]:
    congestion.register("probe", Probe)
    Probe.made.clear()
    yield Probe
    congestion.unregister("probe")
    assert "probe" not in congestion.names()


def run(name: str, loss: float = 0.0, seconds: float = 2) -> tuple[Pair, Bulk]:
    pair = Pair(1, link=link(20, loss), congestion=name, **CONFIG)
    bulk = Bulk(pair, pair.a, pair.b)
    pair.run_for(seconds)
    return pair, bulk


def test_its_window_and_rate_are_obeyed(probe: type[Probe]) -> None:
    pair, bulk = run("probe")
    assert bulk.got / 2 == pytest.approx(5_000_000, rel=0.1)
    assert pair.a.endpoint.stats(bulk.assoc)["cwnd"] == 100 * 1472
    mine = probe.made[0]
    mine.cwnd = 1
    pair.run_for(0.5)
    assert pair.a.endpoint.stats(bulk.assoc)["cwnd"] == 2 * 1472


def test_it_sees_rates_rounds_and_losses(probe: type[Probe]) -> None:
    pair, bulk = run("probe", loss=0.02)
    mine = probe.made[0]
    stats = pair.a.endpoint.stats(bulk.assoc)
    assert len(mine.lost) == stats["packets_lost"] > 50
    assert 0 < len(mine.events) < len(mine.lost)
    assert sum(a.lost for a in mine.acks) == pytest.approx(sum(p.bytes for p in mine.lost), abs=5 * 1472)
    assert all(x.delivered + y.bytes == y.delivered for x, y in zip(mine.acks, mine.acks[1:], strict=False))
    rates = sorted(a.rate for a in mine.acks if a.rate and not a.app_limited)
    assert rates[len(rates) // 2] == pytest.approx(5_000_000, rel=0.1)
    assert sum(a.round_start for a in mine.acks) == pytest.approx(2 / 0.0205, rel=0.15)
    assert mine.acks[-1].min_rtt == pytest.approx(20 * MS, rel=0.05)
    assert mine.restarts


def test_it_hears_of_another_size_of_datagrams(probe: type[Probe]) -> None:
    pair, _ = run("probe", seconds=0.2)
    pair.forth.mtu = 1252
    pair.run_for(3)
    assert probe.made[0].sizes == [1472, 1200, 1252]


def test_what_it_raises_is_reported_and_the_transfer_goes_on(
    probe: type[Probe], monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", raised.append)

    def bad(self: Probe, ack: congestion.Ack) -> None:
        raise ZeroDivisionError("mine")

    monkeypatch.setattr(probe, "on_ack", bad)
    _, bulk = run("probe", seconds=0.3)
    assert bulk.got > 500_000
    assert {str(r.exc_value) for r in raised} == {"mine"}
    assert len(raised) <= 2  # one of each association, of some hundred


def test_it_lives_as_long_as_its_association(probe: type[Probe]) -> None:
    pair, _ = run("probe", seconds=0.1)
    alive = weakref.ref(probe.made[0])
    probe.made.clear()
    gc.collect()
    assert alive() is not None
    del pair, _
    gc.collect()
    assert alive() is None


def test_an_endpoint_keeps_the_controller_whose_name_was_taken_back(probe: type[Probe]) -> None:
    pair = Pair(1, link=link(20, 0.0), congestion="probe", **CONFIG)
    congestion.unregister("probe")  # before there is an association
    try:
        bulk = Bulk(pair, pair.a, pair.b)
        pair.run_for(0.5)
        pair.a.address = ("192.0.2.77", 1)  # the path's estimates are made again
        pair.run_for(1)
        assert bulk.got > 500_000
        assert len([one for one in probe.made if one.acks]) >= 2
    finally:
        congestion.register("probe", Probe)


@pytest.mark.parametrize("name", ["cubic", "", "sixteen-letters-"])
def test_a_name_that_is_taken_or_does_not_fit_is_refused(name: str) -> None:
    before = congestion.names()
    with pytest.raises(ValueError, match=r"congestion controller|controller's name"):
        congestion.register(name, Probe)
    assert congestion.names() == before
    with pytest.raises(KeyError):
        congestion.unregister(name)


def test_the_example_of_the_documentation_works() -> None:
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert code is not None
    exec(code[1], {})
    try:
        _, bulk = run("gentle")
        assert bulk.got > 1_000_000
        with pytest.raises(ValueError, match="gentle"):
            Endpoint(congestion="nosuch")
    finally:
        congestion.unregister("gentle")
