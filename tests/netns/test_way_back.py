"""The way back: an engine dies, or is exchanged, and the applications go on over TCP without noticing.

Many programs work at once, and in the middle, at a random moment (of a seed), engines are killed: one host's,
the other's, both. Over plain TCP the same programs run undisturbed.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from apps.what_tcp_shows import queue
from hands import Hands, received
from support import Pair, address, any_address, eventually, peer, result, results, same, url
from ways import (
    HOOKED,
    WAYS,
    end,
    engaged,
    flows,
    gone,
    open_way,
    outcome,
    revive,
)

from hooker.lab import Lab
from hooker.lab.apps import sha256, start_nginx, start_redis, write_random
from hooker.lab.link import Link

pytestmark = [pytest.mark.timeout(120), pytest.mark.soak]

SEED = int(os.environ.get("HOOKER_KILL_SEED", "1"))
MOMENTS, SOAK_MOMENTS = 3, 30
BACK = 10  # s until connections are hooked that begin after an engine is back
SILENCE = 1.5  # s that an application may wait longer than on TCP
LINK = Link(rate=300e6, delay=0.01, queue=2_000_000)
BULK = 30_000_000  # bytes: it takes longer than the latest moment
KILLED_WITHIN = (0.1, 0.7)  # s after all have begun, and some are engaged
MB = 1 << 20


class Work:
    """Programs that run when engines are killed. ``check`` waits for their end, and returns the longest
    silence, s."""

    def start(self, pair: Pair, hands: Hands, family: str) -> None:
        raise NotImplementedError

    def check(self) -> float:
        raise NotImplementedError


class Bulk(Work):
    """One long transfer, hashed at both ends."""

    def __init__(self, port: int, up: bool) -> None:
        self.port, self.up = port, up

    def start(self, pair: Pair, hands: Hands, family: str) -> None:
        send, receive = (f"send:{BULK}", "close"), ("recv-all", "close")
        serve, connect = (receive, send) if self.up else (send, receive)
        self.server = peer(pair.b, "serve", any_address(family), self.port, *serve)
        self.client = peer(pair.a, "connect", address(pair.b, family), self.port, *connect)

    def check(self) -> float:
        client, server = result(self.client), result(self.server)
        assert client["error"] is None, client
        assert server["error"] is None, server
        sent, got = (client, server) if self.up else (server, client)
        same(sent, got)
        return float(got["silence"])


class Curls(Work):
    """Twenty downloads at once from nginx."""

    NUMBER, SIZE = 20, MB

    def __init__(self, pair: Pair) -> None:
        base = pair.lab.tmp / "web"
        base.mkdir()
        self.digest = write_random(start_nginx(pair.b, base) / "file", self.SIZE)

    def start(self, pair: Pair, hands: Hands, family: str) -> None:
        base = pair.lab.tmp / "web"
        self.got = [base / f"got{n}" for n in range(self.NUMBER)]
        for got in self.got:
            got.unlink(missing_ok=True)
        where = url(pair.b, family, "file")
        config = "".join(f'url = "{where}"\noutput = "{got}"\n' for got in self.got)
        (base / "curlrc").write_text(config)
        command = ["curl", "-sS", "-f", "--parallel", "--parallel-immediate", "-K", base / "curlrc"]
        command += ["--parallel-max", str(self.NUMBER), "-H", "Connection: close"]
        self.curl = pair.a.popen(command, stderr=subprocess.PIPE)
        self.watch = Watch(self.got, self.SIZE)

    def check(self) -> float:
        _, errors = self.curl.communicate(timeout=60)
        assert self.curl.returncode == 0, errors
        assert [sha256(got) for got in self.got] == [self.digest] * self.NUMBER
        return self.watch.end()


class Watch:
    """The longest time that one of some growing files has not grown, seen every 10 ms."""

    def __init__(self, files: list[Path], size: int) -> None:
        self.files, self.size = files, size
        self.silence = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        sizes, since = dict.fromkeys(self.files, 0), dict.fromkeys(self.files, time.monotonic())
        while not self._over.wait(0.01):
            now = time.monotonic()
            for file in self.files:
                size = file.stat().st_size if file.exists() else 0
                if 0 < sizes[file] < self.size:
                    self.silence = max(self.silence, now - since[file])
                if size != sizes[file]:
                    sizes[file], since[file] = size, now

    def end(self) -> float:
        self._over.set()
        self._thread.join()
        return self.silence


class Redis(Work):
    """redis-benchmark; its longest request is the silence."""

    def __init__(self, pair: Pair) -> None:
        start_redis(pair.b)

    def start(self, pair: Pair, hands: Hands, family: str) -> None:
        command = [
            "redis-benchmark",
            "-h",
            address(pair.b, family),
            "-t",
            "set,get",
            "-n",
            "1000",
            "-c",
            "20",
            "--csv",
        ]
        self.benchmark = pair.a.popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def check(self) -> float:
        output, _ = self.benchmark.communicate(timeout=60)
        assert self.benchmark.returncode == 0, output
        longest = [
            float(line.split(",")[-1].strip('"')) for line in re.findall(r'^"[SG]ET".*$', output, re.M)
        ]
        assert len(longest) == 2, output
        return max(longest) / 1000


class Idle(Work):
    """A connection at rest that is used once more when all is over."""

    def __init__(self, port: int) -> None:
        self.port = port

    def start(self, pair: Pair, hands: Hands, family: str) -> None:
        self.client, self.server = hands.connected(self.port, family, settle=0)

    def check(self) -> float:
        started = time.monotonic()
        for one, other in ((self.client, self.server), (self.server, self.client)):
            one.sendall(b"still there?")
            assert received(other, 12) == b"still there?"
        return time.monotonic() - started


class Conversations(Work):
    """Connections that begin one after the other: some are in their handshake, some in their close."""

    NUMBER, EVERY, SIZE = 60, 0.015, 20_000

    def __init__(self, port: int) -> None:
        self.port = port

    def start(self, pair: Pair, hands: Hands, family: str) -> None:
        script = (f"recv:{self.SIZE}", f"send:{self.SIZE}", "recv-all", "send:1000", "close")
        number = ("--connections", str(self.NUMBER))
        self.server = peer(pair.b, "serve", any_address(family), self.port, *script, options=number)
        self.times: list[float] = []
        self.threads = []
        where, begin = (address(pair.b, family), self.port), time.monotonic()
        for n in range(self.NUMBER):
            arguments = (hands.socket(pair.a, family), where, begin + n * self.EVERY)
            self.threads.append(threading.Thread(target=self._talk, args=arguments, daemon=True))
            self.threads[-1].start()

    def _talk(self, sock: socket.socket, where: tuple[str, int], begin: float) -> None:
        time.sleep(max(0, begin - time.monotonic()))
        started = time.monotonic()
        sock.connect(where)
        sock.sendall(bytes(self.SIZE))
        assert len(received(sock, self.SIZE)) == self.SIZE
        sock.shutdown(socket.SHUT_WR)
        assert len(received(sock, 2000)) == 1000  # and the end
        sock.close()
        self.times.append(time.monotonic() - started)

    def check(self) -> float:
        for thread in self.threads:
            thread.join(30)
        assert len(self.times) == self.NUMBER
        served = results(self.server)
        assert [one["error"] for one in served] == [None] * self.NUMBER
        return max(self.times)


WORKS = ["idle", "bulk down", "bulk up", "curls", "redis", "conversations"]  # in this order they are checked


class Arena:
    """A lab with engines that may be killed and then are started again."""

    def __init__(self, way: str, pair: Pair, hands: Hands) -> None:
        self.way, self.pair, self.hands = way, pair, hands
        self._ports = itertools.count(7720)
        self.works: dict[str, Work] = {
            "bulk down": Bulk(7701, up=False),
            "bulk up": Bulk(7702, up=True),
            "curls": Curls(pair),
            "redis": Redis(pair),
            "idle": Idle(7703),
            "conversations": Conversations(7704),
        }

    def run(self, names: list[str], victims: str, moment: int) -> None:
        """Let these work and kill the engines of *victims* at a random moment: all end well, and soon."""
        chance = random.Random(f"{SEED} {victims} {moment}")
        family = "v6" if moment % 2 else "v4"
        works = {name: self.works[name] for name in names}
        before = engaged(self.pair) if self.pair.client else 0
        with self.pair.programs():
            for work in works.values():
                work.start(self.pair, self.hands, family)
            if self.pair.client:
                eventually(lambda: engaged(self.pair) > before, 5)
            time.sleep(chance.uniform(*KILLED_WITHIN))
            end(self.pair, victims, kill=True)
            silences = {name: work.check() for name, work in works.items()}
            gone(self.pair, victims)
        print(
            f"{victims} {moment}:", ", ".join(f"{name} {silence:.2f} s" for name, silence in silences.items())
        )
        assert max(silences.values()) < SILENCE, silences

    def kill_again_and_again(self, names: list[str], victims: str, moments: range) -> None:
        """Run at each of these moments, each time with all engines."""
        for moment in moments:
            self.run(names, victims, moment)
            revive(self.pair, self.way, victims)
            self.hooked_again()

    def hooked_again(self) -> None:
        """Assert that a new connection is engaged, soon after an engine is back."""
        before, began = engaged(self.pair), time.monotonic()

        def hooked() -> bool:
            for sock in self.hands.connected(next(self._ports), settle=0.1):
                sock.close()
            return engaged(self.pair) > before

        eventually(hooked, BACK)
        print(f"hooked again after {time.monotonic() - began:.1f} s")


@pytest.fixture
def arena(request: pytest.FixtureRequest) -> Iterator[Arena]:
    with Lab(link=LINK) as lab, open_way(lab, request.param) as pair, Hands(lab) as hands:
        yield Arena(request.param, pair, hands)


each_victim = pytest.mark.parametrize("victims", ["a", "b", "ab"])


@pytest.mark.parametrize("arena", ["plain"], indirect=True)
def test_all_that_runs_ends_well_over_tcp(arena: Arena) -> None:
    """What the tests below expect is possible."""
    arena.run(WORKS, "", 0)


@pytest.mark.parametrize("arena", HOOKED, indirect=True)
@each_victim
def test_all_that_runs_goes_on_when_an_engine_is_killed(arena: Arena, victims: str) -> None:
    arena.kill_again_and_again(WORKS, victims, range(MOMENTS))


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("arena", HOOKED, indirect=True)
@each_victim
def test_all_that_runs_goes_on_at_many_moments(arena: Arena, victims: str) -> None:
    arena.kill_again_and_again(WORKS, victims, range(MOMENTS, SOAK_MOMENTS))


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("arena", HOOKED, indirect=True)
@pytest.mark.parametrize("name", WORKS)
@each_victim
def test_each_alone_goes_on_at_many_moments(arena: Arena, victims: str, name: str) -> None:
    arena.kill_again_and_again([name], victims, range(SOAK_MOMENTS))


@pytest.mark.parametrize("arena", WAYS, indirect=True)
def test_an_acknowledgement_in_flight_is_no_loss(arena: Arena) -> None:
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
    time.sleep(max(0, killed + 3 - time.monotonic()))
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


@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", HOOKED)
@pytest.mark.parametrize("number", [200, pytest.param(1000, marks=pytest.mark.soak)])
def test_an_upgrade_resets_nothing(lab: Lab, way: str, number: int) -> None:
    """A's engine is exchanged, then B's, then both at once, under flows that are all in use."""
    until = lab.tmp / "until"
    with open_way(lab, way) as pair:
        flows(pair.b, "echo", "0.0.0.0", 7711, str(number))
        asking = flows(pair.a, "ask", pair.b.v4, 7711, str(number), "--until", str(until), "--every", "0.3")
        eventually(lambda: engaged(pair) >= number, 30)
        for hosts in ("a", "b", "ab"):
            end(pair, hosts, kill=False)
            gone(pair, hosts)
            revive(pair, way, hosts)
            time.sleep(0.5)
        until.touch()
        done = outcome(asking)
    print(done)
    assert not done["errors"]
    assert done["wrong"] == 0
    assert done["answers"] > 5 * number
    assert done["slowest"] < SILENCE
