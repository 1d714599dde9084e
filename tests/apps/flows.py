"""A program with many TCP connections, which knows nothing of Hooker. One JSON line says what happened.

    flows.py echo ADDRESS PORT N                answers whatever comes (N at most), until it is terminated
    flows.py ask ADDRESS PORT N --until FILE    N connections that each ask for an echo, again and again
    flows.py ask ADDRESS PORT N --idle FILE     each asks once, rests until FILE is there, and asks once more
    flows.py hold ADDRESS PORT N --until FILE   accepts N connections, and reads only when FILE is there
    flows.py pour ADDRESS PORT N --size BYTES   N connections that each write so many bytes

``ask`` compares each answer and says how long the slowest took; ``hold`` and ``pour`` hash each connection.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import errno
import hashlib
import heapq
import json
import resource
import select
import socket
import struct
import time
from pathlib import Path
from typing import Any

from peer import pool, stream

LOOK = 0.02  # s between two looks whether a file is there
TURNS = 12  # times LOOK between two reads of a slow reader
SEND_BUFFER = 1 << 16  # bytes of each that pours: many of them are not to fill the machine
READ = 1 << 16
GREEDY = 100  # readers of a crowd that read on at once
ANSWERED = 60.0  # s: a question that takes longer is an error


def say(**result: object) -> None:
    print(json.dumps(result), flush=True)


def name_of(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, repr(error))


def connect(args: argparse.Namespace, wait: bool = True) -> socket.socket:
    family = socket.AF_INET6 if ":" in args.address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(wait)
    with contextlib.suppress(BlockingIOError):
        sock.connect((args.address, args.port))
    return sock


def listen(args: argparse.Namespace) -> socket.socket:
    family = socket.AF_INET6 if ":" in args.address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((args.address, args.port))
    sock.listen(4096)
    return sock


# ---- echo ---------------------------------------------------------------------------------------


def echo(args: argparse.Namespace) -> None:
    listener, poll = listen(args), select.epoll()
    poll.register(listener, select.EPOLLIN)
    socks: dict[int, socket.socket] = {}
    while True:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                sock, _ = listener.accept()
                socks[sock.fileno()] = sock
                poll.register(sock, select.EPOLLIN)
            elif not answer(socks[fd]):
                socks.pop(fd).close()


def answer(sock: socket.socket) -> bool:
    """Send back what there is; whether the connection goes on."""
    try:
        data = sock.recv(READ)
        sock.sendall(data)
    except OSError:
        return False
    return bool(data)


# ---- ask ----------------------------------------------------------------------------------------


class Asker:
    """One connection that asks."""

    def __init__(self, number: int, sock: socket.socket) -> None:
        self.number, self.sock, self.round = number, sock, 0
        self.expected = self.got = b""
        self.asked = 0.0

    def ask(self) -> None:
        size = 100 + (self.number * 7919 + self.round * 104729) % 4000
        at = (self.number * 65521 + self.round * 4099) % (len(pool()) - size)
        self.expected, self.got = struct.pack("!II", self.number, self.round) + pool()[at : at + size], b""
        self.round += 1
        self.asked = time.monotonic()
        self.sock.sendall(self.expected)

    def hear(self) -> bool:
        """Read; whether the answer is complete."""
        data = self.sock.recv(READ)
        if not data:
            raise OSError(errno.EPIPE, "end of stream")
        self.got += data
        return len(self.got) >= len(self.expected)


class Asking:
    """All that ask, and what became of them."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.every, self.until, self.idle = args.every, args.until, args.idle
        self.poll = select.epoll()
        self.askers: dict[int, Asker] = {}
        self.due: list[tuple[float, int]] = []
        self.answers = self.wrong = 0
        self.slowest = 0.0
        self.errors: collections.Counter[str] = collections.Counter()
        for number in range(args.flows):
            asker = Asker(number, connect(args))
            self.askers[asker.sock.fileno()] = asker
            self.poll.register(asker.sock, select.EPOLLIN)
            self.due.append((time.monotonic(), asker.sock.fileno()))

    def run(self) -> None:
        self.rounds(1 if self.idle else 0)
        if self.idle:
            Path(f"{self.idle}.resting").touch()
            while not self.idle.exists():
                time.sleep(LOOK)
            self.due = [(time.monotonic(), fd) for fd in self.askers]
            self.rounds(2)
        say(answers=self.answers, wrong=self.wrong, errors=self.errors, slowest=self.slowest)

    def rounds(self, last: int) -> None:
        """Ask until each has asked *last* times (0: until the file is there), and all is answered."""
        waiting: set[int] = set()
        look = 0.0
        while self.due or waiting:
            now = time.monotonic()
            if now > look:
                look = now + LOOK
                if self.until and self.until.exists():
                    self.due = []
                self.give_up(waiting, now)
            while self.due and self.due[0][0] <= now:
                fd = heapq.heappop(self.due)[1]
                if fd in self.askers and self.attempt(fd, Asker.ask) is not None:
                    waiting.add(fd)
            for fd, _ in self.poll.poll(LOOK / 2):
                if fd not in waiting:
                    self.fail(fd, "spoke unasked")
                elif (done := self.attempt(fd, Asker.hear)) is None:
                    waiting.discard(fd)
                elif done:
                    waiting.discard(fd)
                    self.note(self.askers[fd])
                    if not last or self.askers[fd].round < last:
                        heapq.heappush(self.due, (time.monotonic() + self.every, fd))

    def attempt(self, fd: int, what: object) -> bool | None:
        """Ask or hear; None: the connection has failed."""
        try:
            return bool(what(self.askers[fd]))  # type: ignore[operator]
        except OSError as error:
            self.fail(fd, name_of(error))
            return None

    def give_up(self, waiting: set[int], now: float) -> None:
        for fd in [fd for fd in waiting if now - self.askers[fd].asked > ANSWERED]:
            waiting.discard(fd)
            self.fail(fd, "no answer")

    def fail(self, fd: int, why: str) -> None:
        self.errors[why] += 1
        self.poll.unregister(fd)
        self.askers.pop(fd).sock.close()

    def note(self, asker: Asker) -> None:
        self.answers += 1
        self.wrong += asker.got != asker.expected
        self.slowest = max(self.slowest, time.monotonic() - asker.asked)


def ask(args: argparse.Namespace) -> None:
    Asking(args).run()


# ---- hold and pour ------------------------------------------------------------------------------


class Holding:
    """Connections that are not read; every second one perhaps a little."""

    def __init__(self, args: argparse.Namespace) -> None:
        listener = listen(args)
        self.until, self.trickle = args.until, args.trickle
        self.left = {sock.fileno(): sock for sock in (listener.accept()[0] for _ in range(args.flows))}
        self.hashes: dict[int, Any] = {fd: hashlib.sha256() for fd in self.left}
        self.errors: list[str] = []
        for sock in self.left.values():
            sock.setblocking(False)

    def read(self, fd: int, size: int) -> None:
        try:
            data = self.left[fd].recv(size)
        except BlockingIOError:
            return
        except OSError as error:
            self.errors.append(name_of(error))
            data = b""
        self.hashes[fd].update(data)
        if not data:
            self.left.pop(fd).close()

    def rest(self) -> None:
        """Each trickler has its turn once in TURNS: all at once, their windows would open in one burst."""
        tricklers = list(self.left)[1::2] if self.trickle else []
        began, turn = time.monotonic(), 0
        while not self.until.exists():
            time.sleep(LOOK)
            while turn * LOOK < time.monotonic() - began:
                for fd in set(tricklers[turn % TURNS :: TURNS]) & set(self.left):
                    self.read(fd, self.trickle)
                turn += 1

    def run(self) -> None:
        self.rest()
        poll = select.epoll()
        waiting, reading = list(self.left), 0
        while self.left:
            while waiting and reading < GREEDY:
                poll.register(waiting.pop(), select.EPOLLIN)
                reading += 1
            for fd, _ in poll.poll():
                self.read(fd, READ)
                reading -= fd not in self.left
        say(hashes=sorted(digest.hexdigest() for digest in self.hashes.values()), errors=self.errors)


def hold(args: argparse.Namespace) -> None:
    Holding(args).run()


def pour(args: argparse.Namespace) -> None:
    """Each writes its own bytes, until one fails; the file ``--progress`` says how many have left."""
    poll, errors, start, sent = select.epoll(), [], time.monotonic(), 0
    pouring: dict[int, Any] = {}
    hashes = []
    while (pouring or len(hashes) < args.flows) and not errors:
        while len(hashes) < args.flows and time.monotonic() >= start + len(hashes) * args.pace:
            sock, digest = (
                connect(args, wait=False),
                hashlib.sha256(),
            )  # a full queue makes it slower than the pace
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            pouring[sock.fileno()] = (sock, stream(len(hashes)), digest, [args.size, b""])
            hashes.append(digest)
            poll.register(sock, select.EPOLLOUT)
        for fd, _ in poll.poll(LOOK if len(hashes) < args.flows else 1):
            sock, blocks, digest, state = pouring[fd]
            state[1] = state[1] or next(blocks)[: state[0]]
            try:
                n = sock.send(state[1])
            except BlockingIOError:
                continue
            except OSError as error:
                errors.append((name_of(error), time.monotonic() - start))
                break  # its reader may wait for ever
            digest.update(state[1][:n])
            sent += n
            state[0], state[1] = state[0] - n, state[1][n:]
            if not state[0]:
                del pouring[fd]
                sock.close()
        if args.progress:
            whole = args.progress.with_suffix(".new")
            whole.write_text(str(sent))
            whole.replace(args.progress)  # nobody sees it empty
    say(hashes=sorted(digest.hexdigest() for digest in hashes), errors=errors, sent=sent)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["echo", "ask", "hold", "pour"])
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("flows", type=int, nargs="?", default=1)
    parser.add_argument("--until", type=Path)
    parser.add_argument("--idle", type=Path)
    parser.add_argument(
        "--every", type=float, default=0.2, help="seconds between an answer and the next question"
    )
    parser.add_argument("--size", type=int, default=1 << 20)
    parser.add_argument("--progress", type=Path)
    parser.add_argument("--pace", type=float, default=0, help="seconds between two that begin to pour")
    parser.add_argument("--trickle", type=int, default=0, help="bytes")
    args = parser.parse_args()
    most = max(args.flows + 100, *resource.getrlimit(resource.RLIMIT_NOFILE))
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    pool()
    globals()[args.role](args)


if __name__ == "__main__":
    main()
