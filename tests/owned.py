"""Hosts whose engines are stand-ins (segments_owner.py): the test says what a flow's records hold.

What comes out of their devices is passed on to the wire: every connection is an ordinary one.
"""

from __future__ import annotations

import array
import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import eventually

from hooker.lab import Host, Lab

OWNER = Path(__file__).parent / "netns" / "segments_owner.py"
PORT = 8080
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
ESTABLISHED, CLOSED = 2, 3  # HK_EVENT_*


@dataclass
class Engine:
    """The stand-in of one host."""

    host: Host
    process: subprocess.Popen[str]

    def ask(self, command: str, *arguments: Any) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps([command, *arguments]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def event(self, kind: int, port: int) -> dict[str, int]:
        """The next of this kind, of the socket with this port; older ones of it are dropped."""
        found: list[dict[str, int]] = []

        def look() -> bool:
            found.extend(e for e in self.ask("take", "events") if e["type"] == kind)
            return any(port in (0, e["local_port"]) for e in found)

        eventually(look)
        return next(e for e in found if port in (0, e["local_port"]))

    def segments(self, port: int) -> list[dict[str, int]]:
        return [s for s in self.ask("take", "segments") if s["port"] == port]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def start(host: Host, kind: str) -> Engine:
    command = [sys.executable, str(OWNER), host.netns, str(host.cgroup), str(PORT), kind]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return Engine(host, subprocess.Popen(command, **pipes))


@contextlib.contextmanager
def engines(lab: Lab, hosts: str = "ab", kind: str = "segments") -> Iterator[dict[str, Engine]]:
    found = {h.letter: start(h, kind) for h in lab.hosts if h.letter in hosts}
    try:
        for engine in found.values():
            assert engine.process.stdout
            assert engine.process.stdout.readline() == '"ready"\n'
        yield found
    finally:
        for engine in found.values():
            with contextlib.suppress(OSError):
                engine.process.stdin.close()  # type: ignore[union-attr]
            try:
                engine.process.wait(10)
            finally:
                engine.kill()
                engine.process.stdout.close()  # type: ignore[union-attr]


@dataclass
class Bed:
    lab: Lab
    engines: dict[str, Engine] = field(default_factory=dict)


SEND_A_SOCKET = """
import array, socket, sys
with socket.socket(int(sys.argv[1])) as s, socket.socket(fileno=int(sys.argv[2])) as to:
    to.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [s.fileno()]))])
"""


def hooked_socket(host: Host, family: int) -> socket.socket:
    """A socket belongs to the cgroup of the process that made it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-c", SEND_A_SOCKET, str(int(FAMILY[family])), str(theirs.fileno())]
        host.run(command, pass_fds=(theirs.fileno(),))
        _, (message, *_), _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4))
    (descriptor,) = array.array("i", message[2][:4])
    return socket.socket(fileno=descriptor)


def used(host: Host, port: int) -> str:
    """The congestion control of the one connection with this port, as the kernel says, not as it is shown."""
    found = host.run(
        ["ss", "-tinH", "state", "established", f"( sport = {port} or dport = {port} )"], hooked=False
    ).stdout
    (only,) = {"bbr", "reno", "cubic"} & set(found.decode().split())
    return only


@dataclass
class End:
    """A socket and its engine's view of it."""

    engine: Engine
    socket: socket.socket
    port: int
    begun: dict[str, int]

    @property
    def slot(self) -> int:
        return self.begun["slot"]

    @property
    def record(self) -> dict[str, int]:
        found: dict[str, int] = self.engine.ask("record", self.slot)
        return found

    def want(self, what: int) -> None:
        self.engine.ask("want", self.slot, what)

    @property
    def redirect(self) -> dict[str, int]:
        """What goes with the record where messages are redirected."""
        found: dict[str, int] = self.engine.ask("redirect_record", self.slot)
        return found

    def set_redirect(self, **fields: int) -> None:
        self.engine.ask("set_redirect", self.slot, fields)

    def segments(self) -> list[dict[str, int]]:
        return self.engine.segments(self.port)

    def through_device(self, other: End) -> bool:
        """Whether a word to the other end goes by the device."""
        self.segments()
        say(self, other)
        return any(s["length"] for s in self.segments())


def say(one: End, other: End, text: bytes = b"a word") -> None:
    """One that is read meanwhile: it may be more than the buffers hold."""
    writer = threading.Thread(target=one.socket.sendall, args=(text,), daemon=True)
    writer.start()
    assert receive(other, len(text)) == text
    writer.join(20)


def receive(end: End, size: int) -> bytes:
    found = b""
    while len(found) < size:
        piece = end.socket.recv(size - len(found))
        assert piece
        found += piece
    return found


@contextlib.contextmanager
def connection(bed: Bed, family: int = 4, defer: bool = False) -> Iterator[tuple[End, End]]:
    a, b = bed.lab.a, bed.lab.b
    with hooked_socket(b, family) as listener, hooked_socket(a, family) as client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if defer:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 10)
        listener.bind(({4: b.v4, 6: b.v6}[family], PORT))
        listener.listen()
        client.settimeout(20)
        client.connect(({4: b.v4, 6: b.v6}[family], PORT))
        if defer:
            client.sendall(b"a word")
        server, _ = listener.accept()
        with server:
            server.settimeout(20)
            port = client.getsockname()[1]
            one = End(bed.engines["a"], client, port, bed.engines["a"].event(ESTABLISHED, port))
            other = End(bed.engines["b"], server, PORT, bed.engines["b"].event(ESTABLISHED, PORT))
            yield one, other
