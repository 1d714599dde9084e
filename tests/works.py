"""What applications do while engines are killed, and how to see that all of it went well.

Each :class:`Work` begins with ``start``; ``check`` waits for its end, compares every byte and returns the
longest silence that somebody has had to bear. :class:`Works` makes them by name, with the servers they need.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from apps.servers import SSH_PORT, postgres_options, start_sshd
from hands import WAIT, Hands, received
from support import PEER, SLOWNESS, Pair, address, any_address, eventually, peer, result, results, same, url

from hooker.control import netns
from hooker.lab.apps import sha256, start_nginx, start_redis, write_random

POST = PEER.with_name("post_server.py")
POST_PORT = 8090
END = 60.0 * SLOWNESS  # s: no work takes longer
MB = 1 << 20
SIZE = 60 * MB  # of what one curl moves, bytes


class Work:
    """Something that runs when engines are killed."""

    lasts = 1.5  # s in which it is surely at work, on a link of 300 Mbit/s and 20 ms
    engages = True  # some connection of it is waited for before

    def start(self, pair: Pair, hands: Hands, family: str) -> None:
        """Begin, over that address family."""
        raise NotImplementedError

    def check(self) -> float:
        """Wait for the end, assert that it is the right one, and return the longest silence, s."""
        raise NotImplementedError

    def over(self) -> bool:
        """Whether it has ended already."""
        return False


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


# ---- transfers ----------------------------------------------------------------------------------


class Bulk(Work):
    """One long transfer, hashed at both ends."""

    SIZE = 30_000_000  # bytes
    lasts = 0.7

    def __init__(self, port: int, up: bool) -> None:
        self.port, self.up = port, up

    def over(self) -> bool:
        return self.client.poll() is not None

    def start(self, pair: Pair, hands: Hands, family: str) -> None:
        send, receive = (f"send:{self.SIZE}", "close"), ("recv-all", "close")
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


class Download(Work):
    """One curl that gets a file from nginx; what it writes is hashed on its way."""

    def __init__(self, pair: Pair, web: Path, size: int) -> None:
        self.name = f"one{size}"
        self.digest = write_random(web / "www" / self.name, size)

    def start(self, pair: Pair, hands: Hands, family: str) -> None:
        command = ["curl", "-sS", "-f", url(pair.b, family, self.name)]
        self.curl = pair.a.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.silence, self.got = 0.0, hashlib.sha256()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        assert self.curl.stdout
        last = 0.0
        while data := self.curl.stdout.read1(MB):  # type: ignore[attr-defined]
            now = time.monotonic()
            self.silence, last = max(self.silence, now - (last or now)), now
            self.got.update(data)

    def over(self) -> bool:
        return self.curl.poll() is not None

    def check(self) -> float:
        self.thread.join(END)
        _, errors = self.curl.communicate(timeout=END)
        assert self.curl.returncode == 0, errors
        assert self.got.hexdigest() == self.digest
        return self.silence


class Curls(Work):
    """Downloads from nginx at once, by one curl."""

    def __init__(self, pair: Pair, web: Path, number: int, size: int) -> None:
        self.number, self.size = number, size
        self.name = f"file{size}"
        self.web, self.digest = web, write_random(web / "www" / self.name, size)

    def start(self, pair: Pair, hands: Hands, family: str) -> None:
        self.got = [self.web / f"{self.name}-{n}" for n in range(self.number)]
        for got in self.got:
            got.unlink(missing_ok=True)
        where, config = url(pair.b, family, self.name), self.web / f"{self.name}.curlrc"
        config.write_text("".join(f'url = "{where}"\noutput = "{got}"\n' for got in self.got))
        command: list[str | Path] = ["curl", "-sS", "-f", "--parallel", "--parallel-immediate", "-K", config]
        command += ["--parallel-max", str(self.number), "-H", "Connection: close"]
        self.curl = pair.a.popen(command, stderr=subprocess.PIPE)
        self.watch = Watch(self.got, self.size)

    def over(self) -> bool:
        return self.curl.poll() is not None

    def check(self) -> float:
        _, errors = self.curl.communicate(timeout=END)
        assert self.curl.returncode == 0, errors
        assert [sha256(got) for got in self.got] == [self.digest] * self.number
        return self.watch.end()


class Upload(Work):
    """One curl that posts a file to a server that hashes it, and says how long it has waited."""

    def __init__(self, pair: Pair, web: Path, size: int) -> None:
        self.file = web / "upload"
        self.digest = write_random(self.file, size)
        pair.b.popen(["python3", "-I", POST, "::", str(POST_PORT)])
        pair.b.wait_listening(POST_PORT)

    def start(self, pair: Pair, hands: Hands, family: str) -> None:
        where = url(pair.b, family, "", POST_PORT)
        command: list[str | Path] = ["curl", "-sS", "-f", "-T", self.file, "-X", "POST", "-H", "Expect:"]
        command += ["-w", " %header{longest-silence}", where]
        self.curl = pair.a.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def over(self) -> bool:
        return self.curl.poll() is not None

    def check(self) -> float:
        answer, errors = self.curl.communicate(timeout=END)
        assert self.curl.returncode == 0, errors
        digest, silence = answer.split()
        assert digest == self.digest
        return float(silence)


# ---- questions and answers ----------------------------------------------------------------------


class Redis(Work):
    """redis-benchmark; its longest request is the silence."""

    def __init__(self, pair: Pair) -> None:
        start_redis(pair.b)

    def start(self, pair: Pair, hands: Hands, family: str) -> None:
        load = ["-t", "set,get", "-n", "3000", "-c", "50", "--csv"]
        command = ["redis-benchmark", "-h", address(pair.b, family), *load]
        self.benchmark = pair.a.popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def over(self) -> bool:
        return self.benchmark.poll() is not None

    def check(self) -> float:
        output, _ = self.benchmark.communicate(timeout=END)
        assert self.benchmark.returncode == 0, output
        rows = re.findall(r'^"[SG]ET".*$', output, re.MULTILINE)
        longest = [float(line.split(",")[-1].strip('"')) for line in rows]
        assert len(longest) == 2, output
        return max(longest) / 1000


class Shell(Work):
    """An ssh session: one line is asked and answered after the other."""

    LINES, EVERY = 60, 0.03  # s

    def __init__(self, pair: Pair) -> None:
        self.options = start_sshd(pair.b, pair.lab.tmp / "ssh")

    def start(self, pair: Pair, hands: Hands, family: str) -> None:
        command = ["ssh", *self.options, "-p", str(SSH_PORT), f"root@{address(pair.b, family)}"]
        command.append("while read n; do echo $((n + 1)); done")
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.session = pair.a.popen(command, stderr=subprocess.PIPE, text=True, **pipes)
        self.silence, self.answers = 0.0, 0
        self.thread = threading.Thread(target=self._ask, daemon=True)
        self.thread.start()

    def _ask(self) -> None:
        asked, answered = self.session.stdin, self.session.stdout
        assert asked
        assert answered
        for n in range(self.LINES):
            began = time.monotonic()
            asked.write(f"{n}\n")
            asked.flush()
            if answered.readline() != f"{n + 1}\n":
                return
            if n:  # the first waits until the session is there
                self.silence = max(self.silence, time.monotonic() - began)
            self.answers += 1
            time.sleep(self.EVERY)

    def over(self) -> bool:
        return not self.thread.is_alive()

    def check(self) -> float:
        self.thread.join(END)
        _, errors = self.session.communicate(timeout=END)
        assert (self.answers, self.session.returncode) == (self.LINES, 0), errors
        return self.silence


class Copies(Work):
    """psql's COPY, rows in and the same rows out, at once. Needs a running server."""

    ROWS = 150_000
    lasts = 0.7

    def __init__(self, pair: Pair) -> None:
        self.file, self.out = pair.lab.tmp / "rows", pair.lab.tmp / "rows-out"
        row = "n, md5(n::text) || md5((n + 1)::text) || md5((n + 2)::text)"
        columns = "(n int, v text)"
        self._psql(pair, "v4", f"create table fixed {columns}; create table filled {columns}")
        self._psql(pair, "v4", f"insert into fixed select {row} from generate_series(1, {self.ROWS}) n")
        self.file.write_text(self._psql(pair, "v4", "copy fixed to stdout"))
        self.digest = sha256(self.file)

    def _command(self, pair: Pair, family: str, query: str) -> list[str]:
        where = postgres_options(address(pair.b, family))
        return ["psql", *where, "-v", "ON_ERROR_STOP=1", "-qAtc", query]

    def _psql(self, pair: Pair, family: str, query: str) -> str:
        return str(pair.b.run(self._command(pair, family, query), hooked=False, text=True).stdout)

    def start(self, pair: Pair, hands: Hands, family: str) -> None:
        self.compare: Callable[[], str] = lambda: self._psql(
            pair,
            family,
            "select count(*) from (select * from fixed except all select * from filled) as missing;"
            "select count(*) from filled",
        )
        self._psql(pair, family, "truncate filled")
        with self.file.open("rb") as rows, self.out.open("wb") as out:
            pipes: dict[str, Any] = {"stderr": subprocess.PIPE, "text": True}
            copy_in = self._command(pair, family, "copy filled from stdin")
            self.copies = [pair.a.popen(copy_in, stdin=rows, **pipes)]
            copy_out = self._command(pair, family, "copy fixed to stdout")
            self.copies.append(pair.a.popen(copy_out, stdout=out, **pipes))
        self.watch = Watch([self.out], self.file.stat().st_size)

    def over(self) -> bool:
        return all(copy.poll() is not None for copy in self.copies)

    def check(self) -> float:
        errors = [copy.communicate(timeout=END)[1] for copy in self.copies]
        silence = self.watch.end()
        assert [copy.returncode for copy in self.copies] == [0, 0], errors
        assert sha256(self.out) == self.digest
        assert self.compare() == f"0\n{self.ROWS}\n"
        return silence


# ---- connections at rest, that begin, that end ----------------------------------------------------


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


class Beginning(Work):
    """One connection in its handshake, or in what engines say of it then; half of them to a warm service."""

    SIZE = 20_000  # bytes each way
    lasts, engages = 0.1, False

    def __init__(self, port: int) -> None:
        self.port, self.numbers = port, itertools.count()

    def start(self, pair: Pair, hands: Hands, family: str) -> None:
        if next(self.numbers) & 2:
            for sock in hands.connected(self.port, family):
                sock.close()
        self.listener, self.client = hands.listening(self.port, family), hands.socket(pair.a, family)
        self.errors: list[BaseException] = []
        self.thread = threading.Thread(target=self._talk, args=((address(pair.b, family), self.port),))
        self.began = time.monotonic()
        self.thread.start()
        self.hands = hands

    def _talk(self, where: tuple[str, int]) -> None:
        try:
            self.client.connect(where)
            self.client.sendall(b"q" * self.SIZE)
            assert received(self.client, self.SIZE + 1) == b"a" * self.SIZE
        except (OSError, AssertionError) as error:
            self.errors.append(error)

    def check(self) -> float:
        with self.listener:
            server = self.hands.accepted(self.listener)
        with server, self.client:
            assert received(server, self.SIZE) == b"q" * self.SIZE
            server.sendall(b"a" * self.SIZE)
            server.shutdown(socket.SHUT_WR)
            self.thread.join(2 * WAIT)
            self.client.shutdown(socket.SHUT_WR)
            assert not self.errors, self.errors
            assert received(server, 1) == b""
        return time.monotonic() - self.began


class Ending(Work):
    """One connection in its close: a last question, the end of both directions, one after the other."""

    SIZE = 20_000  # bytes each way
    lasts, engages = 0.1, False  # it is engaged before it ends

    def __init__(self, port: int) -> None:
        self.port = port

    def start(self, pair: Pair, hands: Hands, family: str) -> None:
        self.hosts = pair.lab.hosts
        self.client, self.server = hands.connected(self.port, family, settle=0.4)
        self.errors: list[BaseException] = []
        self.threads = [threading.Thread(target=talk) for talk in (self._serve, self._ask)]
        self.began = time.monotonic()
        for thread in self.threads:
            thread.start()

    def _ask(self) -> None:
        with self.client as sock:
            self._talk(sock, b"q", b"a", first=True)

    def _serve(self) -> None:
        with self.server as sock:
            self._talk(sock, b"a", b"q", first=False)

    def _talk(self, sock: socket.socket, own: bytes, other: bytes, first: bool) -> None:
        try:
            for turn in (first, not first):
                if turn:
                    sock.sendall(own * self.SIZE)
                    sock.shutdown(socket.SHUT_WR)
                else:
                    assert received(sock, self.SIZE + 1) == other * self.SIZE
        except (OSError, AssertionError) as error:
            self.errors.append(error)

    def check(self) -> float:
        for thread in self.threads:
            thread.join(2 * WAIT)
        took = time.monotonic() - self.began
        assert not self.errors, self.errors
        for host in self.hosts:  # both FINs are acknowledged
            eventually(lambda host=host: not _unended(host.netns, self.port), 60)  # type: ignore[misc]
        return took


def _unended(name: str, port: int) -> list[str]:
    """Return the connections of that port that are in another state than TIME_WAIT."""
    rows: list[str] = []
    for table in ("tcp", "tcp6"):
        file = Path(f"/proc/thread-self/net/{table}")
        rows += netns.call(name, file.read_text).splitlines()[1:]
    ports = [(row, [end.split(":")[1] for end in row.split()[1:3]]) for row in rows]
    return [row for row, both in ports if f"{port:04X}" in both and row.split()[3] not in ("06", "0A")]


class Conversations(Work):
    """Connections that begin one after the other: some are in their handshake, some in their close."""

    NUMBER, EVERY, SIZE = 120, 0.015, 20_000

    def __init__(self, port: int) -> None:
        self.port = port

    def start(self, pair: Pair, hands: Hands, family: str) -> None:
        script = (f"recv:{self.SIZE}", f"send:{self.SIZE}", "recv-all", "send:1000", "close")
        number = ("--connections", str(self.NUMBER))
        self.server = peer(pair.b, "serve", any_address(family), self.port, *script, options=number)
        self.times: list[float] = []
        self.errors: list[str] = []
        self.threads = []
        where, begin = (address(pair.b, family), self.port), time.monotonic()
        for n in range(self.NUMBER):
            arguments = (hands.socket(pair.a, family), where, begin + n * self.EVERY)
            self.threads.append(threading.Thread(target=self._talk, args=arguments, daemon=True))
            self.threads[-1].start()

    def _talk(self, sock: socket.socket, where: tuple[str, int], begin: float) -> None:
        time.sleep(max(0, begin - time.monotonic()))
        started = time.monotonic()
        try:
            sock.connect(where)
            sock.sendall(bytes(self.SIZE))
            assert len(received(sock, self.SIZE)) == self.SIZE
            sock.shutdown(socket.SHUT_WR)
            assert len(received(sock, 2000)) == 1000  # and the end
            sock.close()
        except (OSError, AssertionError) as error:
            self.errors.append(f"after {started - begin:.2f} + {time.monotonic() - started:.2f} s: {error!r}")
        self.times.append(time.monotonic() - started)

    def over(self) -> bool:
        return not any(thread.is_alive() for thread in self.threads)

    def check(self) -> float:
        for thread in self.threads:
            thread.join(30 * SLOWNESS)
        assert not self.errors, self.errors
        assert len(self.times) == self.NUMBER
        served = results(self.server)
        errors = [one["error"] for one in served]
        assert errors == [None] * self.NUMBER, errors
        return max(self.times)


NAMES = (  # in this order they are checked
    "idle",
    "bulk down",
    "bulk up",
    "curl down",
    "curl up",
    "200 curls",
    "redis",
    "ssh",
    "copy",
    "conversations",
)
ALONE = (*NAMES, "handshake", "close")  # what makes sense only if nobody else is at work, too


class Works:
    """Makes works, and starts the servers that they need; PostgreSQL (``apps.servers``) must run already.

    Args:
        size: of what one curl moves, bytes.
    """

    def __init__(self, pair: Pair, size: int = SIZE) -> None:
        self.pair, self.size = pair, size
        self._made: dict[str, Work] = {}

    def __getitem__(self, name: str) -> Work:
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    @functools.cached_property
    def web(self) -> Path:
        """The directory of nginx, which runs."""
        web = self.pair.lab.tmp / "web"
        web.mkdir()
        start_nginx(self.pair.b, web)
        return web

    def _make(self, name: str) -> Work:
        makers: dict[str, Callable[[], Work]] = {
            "idle": lambda: Idle(7703),
            "bulk down": lambda: Bulk(7701, up=False),
            "bulk up": lambda: Bulk(7702, up=True),
            "curl down": lambda: Download(self.pair, self.web, self.size),
            "curl up": lambda: Upload(self.pair, self.web, self.size),
            "200 curls": lambda: Curls(self.pair, self.web, 200, MB // 4),
            "redis": lambda: Redis(self.pair),
            "ssh": lambda: Shell(self.pair),
            "copy": lambda: Copies(self.pair),
            "conversations": lambda: Conversations(7704),
            "handshake": lambda: Beginning(7705),
            "close": lambda: Ending(7706),
        }
        return makers[name]()
