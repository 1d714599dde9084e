"""Sockets of a lab's hosts in the hands of this process: both ends of a connection in one function.

A process of each host makes them, in its hooked cgroup, and hands them over. A socket keeps the network
namespace and the cgroup of its maker, so what happens to it is what happens to that host's applications.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import subprocess
import sys
import time
from types import TracebackType

from support import SLOWNESS, address, any_address

from hooker.lab import Host, Lab

Socket = socket.socket  # `Hands` has a method of that name
WAIT = 10.0 * SLOWNESS  # s: no call on a socket takes longer
_families = {"v4": socket.AF_INET, "v6": socket.AF_INET6, "mapped": socket.AF_INET6}

_MAKE = """
import socket, sys
with socket.socket(fileno=int(sys.argv[1])) as control:
    while family := control.recv(1):
        with socket.socket(family[0], socket.SOCK_STREAM) as made:
            socket.send_fds(control, [b"!"], [made.fileno()])
"""


class Hands:
    """Makes sockets of both hosts.

    Usage:
        with Hands(lab) as hands:
            client, server = hands.connected(7000)
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._controls: dict[str, socket.socket] = {}
        self._makers: list[subprocess.Popen[bytes]] = []
        self._made: list[socket.socket] = []

    def __enter__(self) -> Hands:
        for host in self.lab.hosts:
            ours, theirs = socket.socketpair()
            with theirs:
                fd = theirs.fileno()
                maker = host.popen([sys.executable, "-I", "-c", _MAKE, str(fd)], pass_fds=[fd])
            self._makers.append(maker)
            self._controls[host.letter] = ours
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in (*self._made, *self._controls.values()):
            sock.close()
        for maker in self._makers:
            maker.wait(10)

    def socket(self, host: Host, family: str = "v4") -> Socket:
        """Return a new TCP socket of *host*, blocking, no call longer than ``WAIT``."""
        control = self._controls[host.letter]
        control.send(bytes([_families[family]]))
        _, (fd,), _, _ = socket.recv_fds(control, 1, 1)
        made = socket.socket(fileno=fd)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            made.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(WAIT), 0))
        self._made.append(made)
        return made

    def listening(self, port: int, family: str = "v4", host: Host | None = None) -> Socket:
        """Return a socket that listens on *port* of *host* (b)."""
        listener = self.socket(host or self.lab.b, family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((any_address(family), port))
        listener.listen(512)
        return listener

    def connected(self, port: int, family: str = "v4", settle: float = 0.2) -> tuple[Socket, Socket]:
        """Return both ends of a new connection from a to *port* of b, used once both ways and at rest.

        Args:
            settle: s that it rests, so that engines have agreed on it.
        """
        client = self.socket(self.lab.a, family)
        with contextlib.closing(self.listening(port, family)) as listener:
            client.connect((address(self.lab.b, family), port))
            server = self.accepted(listener)
        for one, other in ((client, server), (server, client)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one.sendall(b"?")
            assert received(other, 1) == b"?"
        time.sleep(settle)
        return client, server

    def accepted(self, listener: Socket) -> Socket:
        """Accept a connection; its calls are bounded as the listener's are."""
        server, _ = listener.accept()
        server.setblocking(True)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            server.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(WAIT), 0))
        self._made.append(server)
        return server


def talk_until_adopted(ends: tuple[socket.socket, socket.socket]) -> None:
    """Both say enough for the engines to adopt the sockets, which do not block from now on."""
    for sock in ends:
        sock.setblocking(False)
    for _ in range(8):
        for one, other in (ends, ends[::-1]):
            one.send(b"to be adopted")
            assert received(other, 13) == b"to be adopted"


def received(sock: Socket, size: int) -> bytes:
    """Read *size* bytes, or up to the end.

    Raises:
        TimeoutError: they did not come.
    """
    parts: list[bytes] = []
    while size:
        if not ready(sock, select.POLLIN, WAIT):
            raise TimeoutError(f"{size} bytes did not come")
        part = sock.recv(min(size, 1 << 18))
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def ready(sock: Socket, events: int, timeout: float) -> int:
    """Wait for one of poll's *events*, an error or a hang-up; return what is there, 0 after *timeout* s."""
    poll = select.poll()
    poll.register(sock, events)
    found = poll.poll(max(0, timeout) * 1000)
    return found[0][1] if found else 0
