"""A TCP program that follows a script: ``peer.py serve|connect ADDRESS PORT ACTION…``

It knows nothing of Hooker. Each connection runs the actions in turn; at the end one JSON line says
what was sent and received (bytes, SHA-256), when (monotonic seconds), the longest silence between two reads,
and which error ended it.

Actions: ``send:N`` (blocking), ``send-async:N`` (asyncio, level-triggered), ``send-edge:N``
(edge-triggered epoll), ``send-until:PATH`` (until that is there), ``send-urgent:N``,
``inline`` (urgent data into the stream), ``recv:N``, ``recv-all``,
``recv-all-blocking`` (without poll), ``duplex-blocking:N`` (two threads), ``echo-all``,
``receive-buffer:N``, ``send-buffer:N`` (SO_RCVBUF and SO_SNDBUF of the connection),
``user-timeout:MS``, ``fin``, ``sleep:S``, ``wait-file:PATH``, ``touch:PATH``, ``congestion`` (note its name),
``rst`` (linger 0), ``close``, ``exit`` (without closing), ``wait-end``.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import functools
import hashlib
import itertools
import json
import os
import random
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

BLOCK = 65536  # bytes per send call
POOL = 1 << 22  # bytes of randomness that the stream is cut from
IPPROTO_MPTCP, TCP_FASTOPEN_CONNECT = 262, 30  # not in Python's socket module yet
WAIT = 60.0 * max(1, int(os.environ.get("HOOKER_TEST_SLOWNESS", "0")))  # s: no action takes longer


@functools.cache
def pool() -> bytes:
    """Return the randomness; making it takes long enough to spoil a measurement."""
    return random.Random(1).randbytes(POOL)


def stream(seed: int, block: int = BLOCK) -> Iterator[bytes]:
    """Yield the blocks of the endless byte stream *seed*; no two blocks are equal."""
    for n in itertools.count():
        at = n * 65521 % (POOL - BLOCK)
        yield (struct.pack("!QQ", n, seed) + pool()[at : at + block])[:block]


class Connection:
    """One connection and what became of it."""

    def __init__(self, sock: socket.socket, seed: int, progress: Path | None, block: int = BLOCK) -> None:
        self.sock = sock
        self.stream = stream(seed, block)
        self.progress_due = 0.0
        self.progress = progress
        self.sent_hash, self.received_hash = hashlib.sha256(), hashlib.sha256()
        self.result: dict[str, object] = {"sent": 0, "received": 0, "error": None, "at": None}
        self.result["connected"] = time.monotonic()

    def run(self, actions: list[str]) -> dict[str, object]:
        for action in actions:
            name, _, value = action.partition(":")
            try:
                getattr(self, "do_" + name.replace("-", "_"))(value)
            except OSError as exc:
                code = exc.errno or 0
                self.result |= {"error": errno.errorcode.get(code, repr(exc)), "at": action}
                break
        self.result |= {
            "sent_sha256": self.sent_hash.hexdigest(),
            "received_sha256": self.received_hash.hexdigest(),
            "ended": time.monotonic(),
        }
        return self.result

    def count_sent(self, data: bytes | memoryview) -> None:
        self.sent_hash.update(data)
        self.result["sent"] = int(str(self.result["sent"])) + len(data)
        self.note("sent")

    def note(self, what: str) -> None:
        """Let others see how far this is: bytes sent, or received if none were."""
        if self.progress and time.monotonic() > self.progress_due:
            self.progress_due = time.monotonic() + 0.01
            whole = self.progress.with_suffix(".new")
            whole.write_text(str(self.result[what]))
            whole.replace(self.progress)  # nobody sees it empty

    def count_received(self, data: bytes) -> None:
        now = time.monotonic()
        silence = now - float(str(self.result.get("last_byte", now)))
        self.result["silence"] = max(silence, float(str(self.result.get("silence", 0))))
        self.result.setdefault("first_byte", now)
        self.result["last_byte"] = now
        self.received_hash.update(data)
        self.result["received"] = int(str(self.result["received"])) + len(data)
        if not self.result["sent"]:
            self.note("received")

    def blocks(self, value: str) -> Iterator[bytes]:
        left = int(value)
        while left:
            block = next(self.stream)[:left]
            left -= len(block)
            yield block

    def do_send(self, value: str) -> None:
        for block in self.blocks(value):
            view = memoryview(block)
            while view:
                n = self.sock.send(view)
                self.count_sent(view[:n])
                view = view[n:]

    def do_send_until(self, value: str) -> None:
        """Send block after block until the file *value* is there."""
        while not Path(value).exists():
            self.do_send(str(BLOCK))

    def do_send_async(self, value: str) -> None:
        async def body() -> None:
            _, writer = await asyncio.open_connection(sock=self.sock.dup())
            for block in self.blocks(value):
                writer.write(block)
                await writer.drain()
                self.count_sent(block)
            await asyncio.wait_for(_flushed(writer), WAIT)

        asyncio.run(body())

    def do_send_edge(self, value: str) -> None:
        self.sock.setblocking(False)
        poll = select.epoll()
        poll.register(self.sock, select.EPOLLOUT | select.EPOLLET)
        for block in self.blocks(value):
            view = memoryview(block)
            while view:
                try:
                    n = self.sock.send(view)
                except BlockingIOError:
                    if not poll.poll(WAIT):
                        raise OSError(errno.ETIMEDOUT, "no edge came") from None
                    continue
                self.count_sent(view[:n])
                view = view[n:]
        poll.close()
        self.sock.setblocking(True)

    def read(self, size: int = 1 << 18) -> bytes:
        """Wait until there is something, as most programs do, then read."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        if not poll.poll(WAIT * 1000):
            raise OSError(errno.ETIMEDOUT, "nothing came")
        return self.sock.recv(size)

    def do_recv(self, value: str) -> None:
        left = int(value)
        while left:
            data = self.read(min(left, 1 << 18))
            if not data:
                raise OSError(errno.EPIPE, "end of stream")
            self.count_received(data)
            left -= len(data)

    def do_recv_all(self, _: str) -> None:
        while data := self.read():
            self.count_received(data)

    def do_recv_all_blocking(self, _: str) -> None:
        while data := self.sock.recv(1 << 18):
            self.count_received(data)

    def do_duplex_blocking(self, value: str) -> None:
        """Send in one thread, read to the end in another, both blocking."""
        errors: list[OSError] = []

        def write() -> None:
            try:
                self.do_send(value)
                self.do_fin("")
            except OSError as exc:
                errors.append(exc)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            self.do_recv_all_blocking("")
        finally:
            writer.join()
        if errors:
            raise errors[0]

    def do_echo_all(self, _: str) -> None:
        while data := self.read():
            self.count_received(data)
            self.sock.sendall(data)
            self.count_sent(data)

    def do_wait_end(self, _: str) -> None:
        """Wait until the peer is gone, reading what comes; the error, if any, is the result's."""
        self.do_recv_all("")

    def do_send_urgent(self, value: str) -> None:
        """Bytes of which the last is urgent."""
        for block in self.blocks(value):
            self.sock.send(block, socket.MSG_OOB)
            self.count_sent(block)

    def do_inline(self, _: str) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)

    def do_receive_buffer(self, value: str) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, int(value))

    def do_send_buffer(self, value: str) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, int(value))

    def do_user_timeout(self, value: str) -> None:
        """Milliseconds; in place of tcp_retries2 (tcp(7))."""
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(value))

    def do_fin(self, _: str) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def do_sleep(self, value: str) -> None:
        time.sleep(float(value))

    def do_touch(self, value: str) -> None:
        Path(value).touch()

    def do_wait_file(self, value: str) -> None:
        deadline = time.monotonic() + WAIT
        while not Path(value).exists():
            if time.monotonic() > deadline:
                raise OSError(errno.ETIMEDOUT, value)
            time.sleep(0.005)

    def do_congestion(self, _: str) -> None:
        name = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        self.result["congestion"] = name.rstrip(b"\0").decode()

    def do_rst(self, _: str) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def do_close(self, _: str) -> None:
        self.sock.close()

    def do_exit(self, _: str) -> None:
        report(self.run([]))
        os._exit(0)


async def _flushed(writer: asyncio.StreamWriter) -> None:
    while writer.transport.get_write_buffer_size():
        await asyncio.sleep(0.001)


def report(result: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def make_socket(args: argparse.Namespace) -> socket.socket:
    family = socket.AF_INET6 if ":" in args.address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM, IPPROTO_MPTCP if args.kind == "mptcp" else 0)
    if args.receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, args.receive_buffer)
    return sock


def bound(sock: socket.socket) -> socket.socket:
    """Keep *sock* blocking, but let no call wait for ever."""
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(WAIT), 0))
    return sock


def connect(args: argparse.Namespace) -> None:
    """Make the connections one after the other."""
    for n in range(args.connections):
        connect_once(args, n)


def connect_once(args: argparse.Namespace, n: int) -> None:
    started = time.monotonic()
    try:
        sock = bound(make_socket(args))
        if args.kind == "fastopen":
            sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
        sock.connect((args.address, args.port))
    except OSError as exc:
        report({"error": errno.errorcode.get(exc.errno or 0, repr(exc)), "at": "connect"})
        return
    conn = Connection(sock, args.seed + n, args.progress, args.block)
    conn.result["started"] = started
    report(conn.run(args.actions))


def serve(args: argparse.Namespace) -> None:
    listener = make_socket(args)
    if args.kind == "fastopen":
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
    if args.kind == "deferred":
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 10)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind((args.address, args.port))
    listener.listen(args.backlog)
    if args.kind == "deferred-late":
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 10)
    listener.settimeout(args.wait)
    time.sleep(args.accept_after)
    threads = []
    for n in range(args.connections):
        sock, _ = listener.accept()
        conn = Connection(bound(sock), args.seed + n, args.progress, args.block)
        thread = threading.Thread(target=lambda conn=conn: report(conn.run(args.actions)))  # type: ignore[misc]
        thread.start()
        threads.append(thread)
    listener.close()
    for thread in threads:
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["serve", "connect"])
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("actions", nargs="*")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--wait", type=float, default=WAIT)  # s, for each connection
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--progress", type=Path)
    parser.add_argument(
        "--kind", choices=["tcp", "mptcp", "fastopen", "deferred", "deferred-late"], default="tcp"
    )
    parser.add_argument("--backlog", type=int, default=512)
    parser.add_argument("--accept-after", type=float, default=0, help="seconds")
    parser.add_argument("--receive-buffer", type=int, help="bytes, set before listen() and connect()")
    parser.add_argument("--block", type=int, default=BLOCK, help="bytes of one send call")
    args = parser.parse_args()
    pool()
    roles: dict[str, Callable[[argparse.Namespace], None]] = {"serve": serve, "connect": connect}
    roles[args.role](args)


if __name__ == "__main__":
    main()
