"""Many connections held open: ``idle_peer.py serve|connect ADDRESS PORT NUMBER``

On each connection the client sends 64 bytes that no other connection sends and expects their SHA-256. When
all are open it prints a line, waits for one, asks once more on every connection, and prints what was right.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import select
import socket
import sys

SIZE = 64
WIDTH = 64  # connections opened at a time
PATIENCE = 60_000  # ms that may pass without an answer


def more_files(number: int) -> None:
    """Let this process have *number* connections."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (number + 100, max(number + 100, 4096)))


def serve(address: str, port: int, number: int) -> None:
    """Answer until killed."""
    listener = socket.create_server((address, port), backlog=1024)
    poll, clients = select.epoll(), {}
    asked: dict[int, bytes] = {}
    poll.register(listener, select.EPOLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                sock, _ = listener.accept()
                clients[sock.fileno()] = sock
                poll.register(sock, select.EPOLLIN)
                continue
            data = b""
            with contextlib.suppress(ConnectionError):
                data = clients[fd].recv(SIZE)
            if not data:
                clients.pop(fd).close()
                asked.pop(fd, None)
                continue
            asked[fd] = asked.get(fd, b"") + data
            if len(asked[fd]) == SIZE:
                clients[fd].sendall(hashlib.sha256(asked.pop(fd)).digest())


class Client:
    """All connections, and what is still expected on them."""

    def __init__(self, address: str, port: int) -> None:
        self.target = (address, port)
        self.poll = select.epoll()
        self.socks: dict[int, socket.socket] = {}
        self.expected: dict[int, bytes] = {}
        self.right = self.wrong = 0

    def open(self, number: int) -> None:
        """Open *number* connections, a few at a time, and ask on each."""
        for start in range(0, number, WIDTH):
            fresh = [socket.create_connection(self.target) for _ in range(min(WIDTH, number - start))]
            for sock in fresh:
                self.socks[sock.fileno()] = sock
                self.poll.register(sock, select.EPOLLIN)
            self.ask([sock.fileno() for sock in fresh])

    def ask(self, fds: list[int]) -> None:
        """Send a question on each of *fds* and check the answers."""
        for fd in fds:
            question = os.urandom(SIZE)
            self.expected[fd] = hashlib.sha256(question).digest()
            self.socks[fd].sendall(question)
        while self.expected:
            events = self.poll.poll(PATIENCE / 1000)
            if not events:
                self.wrong += len(self.expected)
                self.expected.clear()
            for fd, _ in events:
                self._answer(fd)

    def _answer(self, fd: int) -> None:
        """Take what came: what is still expected gets shorter, or the answer was wrong."""
        try:
            part = self.socks[fd].recv(SIZE)
        except ConnectionError:
            part = b""
        expected = self.expected.pop(fd, b"")
        if not part or not expected.startswith(part):
            self.wrong += 1
            self.poll.unregister(fd)
        elif part == expected:
            self.right += 1
        else:
            self.expected[fd] = expected[len(part) :]

    def report(self) -> None:
        """Say how it stands."""
        print(json.dumps({"open": len(self.socks), "right": self.right, "wrong": self.wrong}), flush=True)


def connect(address: str, port: int, number: int) -> None:
    """Open, report, wait for a line, ask again, report."""
    client = Client(address, port)
    client.open(number)
    client.report()
    sys.stdin.readline()
    client.ask(list(client.socks))
    client.report()
    sys.stdin.readline()


if __name__ == "__main__":
    more_files(int(sys.argv[4]))
    {"serve": serve, "connect": connect}[sys.argv[1]](sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
