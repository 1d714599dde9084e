"""Readers that stop or dawdle hold up their own writers, as over TCP, and nobody else."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support import SLOWNESS, Pair, eventually, peer, result, same
from ways import HOOKED, engaged, flows, open_way, outcome

from hooker.lab import Lab
from hooker.lab.link import Link

pytestmark = [pytest.mark.timeout(120), pytest.mark.soak]

# Decides the bystander's speed, not the processor.
LINK = Link(rate=120e6 / SLOWNESS, delay=0.001, queue=500_000)
RETRIES = "3"  # net.ipv4.tcp_retries2: whom nobody answers gives up after about 3 s
# The kernel's own. A crowd that begins or goes on at once overfills the queue: some lose several tries in a
# row, and with three of them most of 2,000 have given up on plain TCP, too.
PATIENT = "15"
PACE = 0.03 * SLOWNESS  # s between two of a crowd: the link brings twice what the buffers of both ends hold
CROWD, DEEP = 200, 4_000_000  # more do not begin at once, and have a queue that holds a segment of each
SETTLED = 3.0  # s in which the writers get rid of less than a fifth of what the link brings
SETTLES = 60.0  # s until then
BACKED_OFF = 10.0  # s more: of a crowd, some have lost tries in a row, and try again
STOPPED, SOAKED = 5.0, 45.0  # s
SIZE = 300_000  # bytes of each writer: more than the buffers of both ends hold
MEASURED = 3.0  # s of the bystander's progress
WINDOWS = 5  # of it: other work on the machine spoils one or the other
DRAINED = 240  # s for what 2,000 writers have left, 600 MB on this link
KEPT = 0.9  # of the bystander's speed alone
BUDGET = 64 << 20  # bytes that an engine may grow by
MB = 1 << 20
soak = pytest.mark.soak


@pytest.mark.parametrize(
    ("way", "number", "trickle", "stopped"),
    [
        ("plain", 16, 0, STOPPED),
        pytest.param("plain", 2000, 100, SOAKED, marks=soak),
        *(
            pytest.param(way, *rest, marks=marks)
            for way in HOOKED
            for rest, marks in (
                ((1, 0, STOPPED), []),
                ((16, 500, STOPPED), []),
                ((200, 0, STOPPED), []),
                ((1, 0, SOAKED), [soak]),
                ((16, 500, SOAKED), [soak]),
                ((200, 500, SOAKED), [soak]),
                ((2000, 0, SOAKED), [soak]),
                ((2000, 100, SOAKED), [soak]),
            )
        ),
    ],
)
@pytest.mark.timeout(600)
def test_stopped_readers_hold_up_nobody_else(way: str, number: int, trickle: int, stopped: float) -> None:
    with (
        Lab(link=replace(LINK, queue=DEEP) if number > CROWD else LINK) as lab,
        open_way(lab, way, "--congestion", "cubic") as pair,
    ):  # steady in a narrow link
        patient(lab, PATIENT)
        bystander = Bystander(pair)
        alone = statistics.median(bystander.speed() for _ in range(WINDOWS))
        memory = [engine.rss() for engine in pair.engines]
        go = lab.tmp / "go"
        options = ("--until", str(go), "--trickle", str(trickle // SLOWNESS))
        readers = flows(pair.b, "hold", "0.0.0.0", 7900, str(number), *options)
        progress = lab.tmp / "poured"
        pace = PACE if number > CROWD else 0.0
        options = ("--size", str(SIZE), "--progress", str(progress), "--pace", str(pace))
        writers = flows(pair.a, "pour", pair.b.v4, 7900, str(number), *options)
        time.sleep(number * pace)
        settled(progress)
        if pace:
            time.sleep(BACKED_OFF)
        patient(lab, RETRIES)
        moved = engaged(pair) if pair.client else 0
        windows = WINDOWS if stopped > WINDOWS * MEASURED else 1
        time.sleep(stopped - windows * MEASURED)
        beside = statistics.median(bystander.speed() for _ in range(windows))
        held = number * SIZE - int(progress.read_text())
        assert 0 < held < number * SIZE, "nobody is held up"
        grown = [engine.rss() - before for engine, before in zip(pair.engines, memory, strict=True)]
        patient(lab, PATIENT)
        bystander.end()
        go.touch()
        began = time.monotonic()
        poured = outcome(writers, DRAINED)
        assert poured["errors"] == []  # else a reader may wait for ever
        read = outcome(readers, DRAINED)
        print(
            f"bystander {alone / MB:.1f}, beside {beside / MB:.1f} MiB/s,"
            f" engines + {[g / MB for g in grown]} MiB,"
            f" {held / MB:.0f} MiB held, drained in {time.monotonic() - began:.1f} s, moved {moved}"
        )
    assert read["errors"] == []
    assert poured["hashes"] == read["hashes"]
    assert beside > KEPT * alone
    assert all(growth < BUDGET for growth in grown)


def patient(lab: Lab, retries: str) -> None:
    """How often TCP repeats what nobody acknowledges, on both hosts, from now on."""
    for host in lab.hosts:
        host.sysctl("net.ipv4.tcp_retries2", retries)


def settled(progress: Path) -> None:
    """Wait until the writers are held up: both ends' buffers are full."""
    eventually(lambda: arrived(progress) > 0, SETTLES)
    before = -LINK.rate

    def slow() -> bool:
        nonlocal before
        now = arrived(progress)
        grown, before = now - before, now
        return grown < LINK.rate / 8 / 5 * SETTLED

    eventually(slow, SETTLES, every=SETTLED)


class Bystander:
    """Another flow between the same hosts, that moves all the time; the same engines carry it."""

    def __init__(self, pair: Pair) -> None:
        self._progress, self._until = pair.lab.tmp / "bystander", pair.lab.tmp / "over"
        seen = ("--progress", str(self._progress))
        self._server = peer(pair.b, "serve", "0.0.0.0", 7901, "recv-all", "close", options=seen)
        # 2,000 writers fill the queue so that three tries may be lost in a row, on plain TCP, too
        script = ("user-timeout:60000", f"send-until:{self._until}", "close")
        self._client = peer(pair.a, "connect", pair.b.v4, 7901, *script)
        eventually(lambda: arrived(self._progress) > MB)
        time.sleep(1)

    def speed(self) -> float:
        """Return what arrives now, bytes/s."""
        start, before = time.monotonic(), arrived(self._progress)
        time.sleep(MEASURED)
        return (arrived(self._progress) - before) / (time.monotonic() - start)

    def end(self) -> None:
        self._until.touch()
        same(result(self._client), result(self._server))


def arrived(progress: Path) -> int:
    return int(progress.read_text()) if progress.exists() else 0
