"""The way back: an engine dies, or is exchanged, and the applications go on over TCP without noticing.

Many programs work at once, and in the middle, at a random moment (of a seed), engines are killed: one host's,
the other's, both. Over plain TCP the same programs run undisturbed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import works
from apps.servers import running_postgres
from apps.what_tcp_shows import queue
from hands import Hands, received
from support import SLOWNESS, Pair, counts, eventually
from ways import (
    HOOKED,
    WAYS,
    end,
    engaged,
    flows,
    gone,
    open_way,
    options,
    outcome,
    revive,
)

from hooker.control import netns
from hooker.control import status_socket as control
from hooker.lab import Host, Lab
from hooker.lab.link import Link

pytestmark = [pytest.mark.timeout(120), pytest.mark.soak]

MB = 1 << 20
SEED = int(os.environ.get("HOOKER_KILL_SEED", "1"))
MOMENTS = int(os.environ.get("HOOKER_KILL_MOMENTS", "30"))
AT_ONCE = os.environ.get("HOOKER_KILL_WORKS", ",".join(works.NAMES)).split(",")
BACK = 10  # s until connections are hooked that begin after an engine is back
SILENCE = 1.5  # s that an application may wait longer than on TCP
CROWDED = 8.0  # the same where 250 connections go back to TCP at once, on a link that they fill
LINK = Link(rate=300e6, delay=0.01, queue=2_000_000)
GIGABYTE = 1_000_000_000  # bytes; over a wire as fast as the machine
KILLED_WITHIN = 1.5  # s after all have begun, and some are engaged


@dataclass
class Moments:
    """What has come of the kills under one program."""

    right: int = 0
    at_work: int = 0  # had not ended when engines were killed
    wrong: list[str] = field(default_factory=list)
    silences: list[float] = field(default_factory=list)  # s

    def row(self, name: str, victims: str) -> str:
        """As a table has it."""
        cells = [name, victims, f"{self.at_work}", f"{self.right} of {self.right + len(self.wrong)}"]
        if self.silences:
            cells += [f"{statistics.median(self.silences):.2f}", f"{max(self.silences):.2f}"]
        return f"| {' | '.join(cells)} |"


class Arena:
    """A lab with engines that may be killed and then are started again."""

    def __init__(self, way: str, pair: Pair, hands: Hands, size: int = works.SIZE) -> None:
        self.way, self.pair, self.hands = way, pair, hands
        self._ports = itertools.cycle(range(7720, 8000))
        self.works = works.Works(pair, size)
        self.found: dict[str, Moments] = defaultdict(Moments)

    def run(self, names: list[str], victims: str, moment: int) -> None:
        """Let these work and kill the engines of *victims* at a random moment: all end well, and soon."""
        chance = random.Random(f"{SEED} {victims} {moment}")
        family = "v6" if moment % 2 else "v4"
        chosen = {name: self.works[name] for name in names}
        before = engaged(self.pair) if self.pair.client else 0
        with self.pair.programs():
            for work in chosen.values():
                work.start(self.pair, self.hands, family)
            if self.pair.client and all(work.engages for work in chosen.values()):
                eventually(lambda: engaged(self.pair) > before, 5)
            within = KILLED_WITHIN if len(names) > 1 else chosen[names[0]].lasts
            time.sleep(chance.uniform(0, within))
            at_work = [name for name, work in chosen.items() if not work.over()]
            end(self.pair, victims, kill=True)
            for name, work in chosen.items():
                self.found[name].at_work += name in at_work
                self._check(name, work, f"{family} {victims} {moment}")
            gone(self.pair, victims)

    def _check(self, name: str, work: works.Work, when: str) -> None:
        """The other moments are tried though it goes wrong at one."""
        found = self.found[name]
        try:
            found.silences.append(work.check())
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            found.wrong.append(f"{when}: {error!r}")
            print(f"{when}: {name} is wrong: {error!r}", flush=True)
            return
        found.right += 1
        print(f"{when}: {name} {found.silences[-1]:.2f} s", flush=True)

    def kill_again_and_again(self, names: list[str], victims: str, silence: float) -> list[str]:
        """Run at each moment, each time with all engines. All of it ends right, and nobody waits for longer
        than *silence*, s, on a machine of the usual speed; the rows say how soon."""
        for moment in range(MOMENTS):
            self.run(names, victims, moment)
            revive(self.pair, self.way, victims)
            self.hooked_again()
        rows = [found.row(name, victims) for name, found in self.found.items()]
        print("\n".join(rows))
        wrong = [one for found in self.found.values() for one in found.wrong]
        assert not wrong, (rows, wrong)
        assert max(max(found.silences, default=0) for found in self.found.values()) < silence * SLOWNESS, rows
        return rows

    def hooked_again(self) -> None:
        """Assert that a new connection is engaged, soon after an engine is back."""
        before, began = engaged(self.pair), time.monotonic()

        def hooked() -> bool:
            for sock in self.hands.connected(next(self._ports), settle=0.1):
                sock.close()
            return engaged(self.pair) > before

        eventually(hooked, BACK)
        print(f"hooked again after {time.monotonic() - began:.1f} s")


@contextlib.contextmanager
def arena_of(way: str, link: Link | None, postgres: bool = True, size: int = works.SIZE) -> Iterator[Arena]:
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Lab(link=link))
        pair = stack.enter_context(open_way(lab, way))
        if postgres:
            stack.enter_context(running_postgres(lab))
        yield Arena(way, pair, stack.enter_context(Hands(lab)), size)


@pytest.fixture
def arena(request: pytest.FixtureRequest) -> Iterator[Arena]:
    with arena_of(request.param, LINK) as made:
        yield made


each_victim = pytest.mark.parametrize("victims", ["a", "b", "ab"])


@pytest.mark.parametrize("arena", ["plain"], indirect=True)
def test_all_that_runs_ends_well_over_tcp(arena: Arena) -> None:
    """What the tests below expect is possible."""
    arena.run(AT_ONCE, "", 0)
    assert [one for found in arena.found.values() for one in found.wrong] == []


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("arena", HOOKED, indirect=True)
@each_victim
def test_all_that_runs_goes_on_when_an_engine_is_killed(arena: Arena, victims: str) -> None:
    arena.kill_again_and_again(AT_ONCE, victims, CROWDED)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("way", HOOKED)
@pytest.mark.parametrize("name", works.ALONE)
@each_victim
def test_each_alone_goes_on_when_an_engine_is_killed(
    way: str, victims: str, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """And says so in a line: the program, whose engines, kills during its work, right ends, silences."""
    bound = CROWDED if name == "200 curls" else SILENCE
    with arena_of(way, LINK, postgres=name == "copy") as arena:
        rows = arena.kill_again_and_again([name], victims, bound)
    with capfd.disabled():
        print(f"\n{rows[0]}", flush=True)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", WAYS)
def test_a_crowd_that_nobody_disturbs(way: str, capfd: pytest.CaptureFixture[str]) -> None:
    """How long 200 curls wait for each other with no kill: a part of what they wait after one."""
    with arena_of(way, LINK, postgres=False) as arena:
        for moment in range(MOMENTS):
            arena.run(["200 curls"], "", moment)
        found = arena.found["200 curls"]
    with capfd.disabled():
        print(f"\n{found.row('200 curls', f'nobody, {way}')}", flush=True)
    assert found.wrong == []


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", HOOKED)
@pytest.mark.parametrize("name", ["curl down", "curl up"])
@each_victim
def test_a_gigabyte_arrives_when_an_engine_is_killed(
    way: str, victims: str, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with arena_of(way, None, postgres=False, size=GIGABYTE) as arena:
        rows = arena.kill_again_and_again([name], victims, SILENCE)
    with capfd.disabled():
        print(f"\n{rows[0]} 1 GB")


@pytest.mark.parametrize("arena", WAYS, indirect=True)
@pytest.mark.parametrize("thinking", [3, 30])
def test_an_acknowledgement_in_flight_is_no_loss(arena: Arena, thinking: float) -> None:
    """The request is there, its acknowledgement under way, A's engine is killed, and the server thinks."""
    pairs = [arena.hands.connected(port, family) for port, family in ((7710, "v4"), (7711, "v6"))]
    for client, server in pairs:
        client.sendall(b"think!")
        assert received(server, 6) == b"think!"
    killed = time.monotonic()
    if arena.way != "plain":
        end(arena.pair, "a", kill=True)
    for client, _ in pairs:
        eventually(lambda client=client: queue(client) == 0, SILENCE)
    time.sleep(max(0, killed + thinking - time.monotonic()))
    for client, server in pairs:
        thought = time.monotonic()
        server.sendall(b"done")
        assert received(client, 4) == b"done"
        assert time.monotonic() - thought < SILENCE
        for one, other in ((client, server), (server, client)):
            one.shutdown(socket.SHUT_WR)
            assert received(other, 1) == b""


@pytest.mark.parametrize("way", HOOKED)
@each_victim
def test_a_connection_at_rest_is_used_again(lab: Lab, way: str, victims: str) -> None:
    """At once after the kill, by the client and by the server, and once more when all have noticed."""
    with open_way(lab, way) as pair, Hands(lab) as hands:
        (a, b), (c, d) = (hands.connected(port, family) for port, family in ((7712, "v4"), (7713, "v6")))
        eventually(lambda: engaged(pair) == 2)
        end(pair, victims, kill=True)
        for pause in (0, 2):
            time.sleep(pause)
            began = time.monotonic()
            for one, other in ((a, b), (d, c), (b, a), (c, d)):
                one.sendall(b"still there?")
                assert received(other, 12) == b"still there?"
            took = time.monotonic() - began
            print(f"{took:.2f} s")
            assert took < SILENCE
        gone(pair, victims)


# ---- upgrade ------------------------------------------------------------------------------------


class Crowd:
    """Flows over both families that ask all the time, until somebody says that it is over."""

    def __init__(self, pair: Pair, number: int, prefix: tuple[str, ...] = ()) -> None:
        self.number, self._until = number, pair.lab.tmp / "until"
        flows(pair.b, "echo", "::", 7711, str(number))
        half = (str(number // 2), "--until", str(self._until), "--every", "0.3")
        self._asking = [
            flows(pair.a, "ask", where, 7711, *half, prefix=prefix) for where in (pair.b.v4, pair.b.v6)
        ]

    def end(self) -> None:
        """Let all end: none was reset, no byte was wrong, nobody has waited long."""
        self._until.touch()
        done = [outcome(asking) for asking in self._asking]
        print(done)
        for one in done:
            assert not one["errors"]
            assert one["wrong"] == 0
            assert one["answers"] > 5 * (self.number // 2)
            assert one["slowest"] < CROWDED * SLOWNESS


@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", HOOKED)
@pytest.mark.parametrize("number", [200, pytest.param(1000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_an_upgrade_resets_nothing(lab: Lab, way: str, number: int, kill: bool) -> None:
    """A's engine is exchanged, then B's, then both at once, under flows that are all in use."""
    with open_way(lab, way) as pair:
        crowd = Crowd(pair, number)
        eventually(lambda: engaged(pair) >= number, 30)
        for hosts in ("a", "b", "ab"):
            end(pair, hosts, kill=kill)
            gone(pair, hosts)
            revive(pair, way, hosts)
            time.sleep(0.5)
        crowd.end()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", HOOKED)
@pytest.mark.parametrize("number", [200, pytest.param(1000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_flows_of_hooker_run_are_not_reset(lab: Lab, way: str, number: int, kill: bool) -> None:
    """The peer's engine is exchanged, then the engines of the commands end before their commands."""
    with open_way(lab, way) as pair:
        assert pair.client
        pair.client.stop()
        crowd = Crowd(pair, number, prefix=(sys.executable, "-m", "hooker", "run", *options(way), "--"))
        eventually(lambda: accepted(pair) >= number, 30)
        own = engines(pair.a)
        assert len(own) == 2
        end(pair, "b", kill=kill)
        gone(pair, "b")
        revive(pair, way, "b")
        time.sleep(0.5)
        for pid in own:
            os.kill(pid, signal.SIGKILL if kill else signal.SIGTERM)
        gone(pair, "a")
        time.sleep(0.5)
        crowd.end()


def accepted(pair: Pair) -> int:
    """Return how many flows the server's engine has engaged."""
    assert pair.server
    return counts(pair.server.status())["engaged"]


def engines(host: Host) -> list[int]:
    """Return the process ids of the engines in *host*'s namespace."""
    there, found = Path(netns.path(host.netns)).stat(), []
    for snapshot in control.snapshots():
        pid = snapshot["engine"]["pid"]
        with contextlib.suppress(OSError):  # somebody else's, and it has just ended
            if os.path.samestat(Path(f"/proc/{pid}/ns/net").stat(), there):
                found.append(pid)
    return found
