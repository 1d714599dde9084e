"""Engines of the test's own process, one on each host of a lab, and one server and client between them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hooker import Hooker, Policy
from hooker.control import netns
from hooker.lab import Host, Lab
from hooker.tun import Lane

PORT = 5001
Install = Callable[..., None]
OTHER = 5002  # nobody listens there: it only makes the engines known to each other
SERVER = f"""
import socket
s = socket.create_server(("", {PORT})); print("up", flush=True)
while True:
    c, _ = s.accept(); n = 0
    while d := c.recv(1 << 16): n += len(d)
    c.sendall(str(n).encode()); c.close()
"""
CLIENT = f"""
import socket, sys
s = socket.create_connection((sys.argv[1], {PORT}), timeout=20)
s.sendall(bytes(300000)); s.shutdown(1); print(s.recv(100).decode())
"""


def started(host: Host, **options: Any) -> Hooker:
    chosen: dict[str, Any] = {
        "intercept": "messages",
        "control": False,
        "policy": Policy(ports=frozenset({PORT, OTHER})),
    } | options
    return netns.call(host.netns, lambda: Hooker(cgroup=host.cgroup, **chosen).start())


@contextlib.contextmanager
def engines(
    lab: Lab,
    b: dict[str, Any] | None = None,
    at_a: dict[str, Any] | None = None,
    install: Install | None = None,
    at: str = "b",
) -> Iterator[list[Hooker]]:
    """An engine on each host, and a server at b. The one ``at`` a host installs its rule by ``install``."""
    with contextlib.ExitStack() as stack:
        made = []
        for host, options in ((lab.a, at_a or {}), (lab.b, b or {})):
            with pytest.MonkeyPatch.context() as patch:
                if install is not None and host.letter == at:
                    patch.setattr(Lane, "install", install)
                made.append(started(host, **options))
            stack.callback(made[-1].close)
        serving(lab)
        yield made


def serving(lab: Lab) -> None:
    server = lab.b.popen([sys.executable, "-c", SERVER], stdout=-1)
    assert server.stdout is not None
    server.stdout.readline()


def transfer(lab: Lab, check: bool = True) -> str:
    """What the server at b says that it got."""
    done = lab.a.run([sys.executable, "-c", CLIENT, lab.b.v4], text=True, timeout=40, check=check)
    return str(done.stdout.strip())


def make_known(lab: Lab) -> None:
    """An association, without a flow at b: its engine tells PEER_UP, and wants no route yet."""
    program = f"import socket\ntry: socket.create_connection({(lab.b.v4, OTHER)!r}, 3)\nexcept OSError: pass"
    lab.a.run([sys.executable, "-c", program])
    time.sleep(0.5)


def rules(host: Host) -> int:
    done = subprocess.run(["ip", "-n", host.netns, "rule"], capture_output=True, text=True, check=True)
    return done.stdout.count("fwmark")


def until(condition: Callable[[], object], what: str, limit: float = 20) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
