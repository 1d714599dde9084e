"""The tap shows what applications send, over the engine's own memory, and the data arrives all the same."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest
from in_process import OTHER, engines, until

from hooker import Hooker, Policy
from hooker.control import netns
from hooker.lab import Lab

SERVER = """
import socket, hashlib
s = socket.create_server(("", 5001)); print("up", flush=True)
c, _ = s.accept(); h = hashlib.sha256()
while d := c.recv(1 << 16): h.update(d)
c.sendall(h.hexdigest().encode())
"""
CLIENT = """
import socket, sys, hashlib, os
d = os.urandom(3_000_000); s = socket.create_connection((sys.argv[1], 5001), timeout=20)
for i in range(0, len(d), 7000): s.sendall(d[i:i + 7000])
s.shutdown(1); answer = s.recv(100).decode()
print(hashlib.sha256(d).hexdigest(), answer)
"""


@pytest.mark.parametrize("redirect", ["never", "always"])
@pytest.mark.timeout(60)
def test_a_tap_sees_every_byte_in_order_and_may_keep_views(lab: Lab, redirect: str) -> None:
    seen = hashlib.sha256()
    kept: list[memoryview] = []

    def tap(frames: Any, payload: memoryview) -> None:
        for row in frames:
            seen.update(payload[int(row["offset"]) : int(row["offset"]) + int(row["length"])])
        if len(kept) < 5:
            kept.append(payload)

    policy = Policy(ports=frozenset({5001}))

    def start(cgroup: Path, **options: Any) -> Hooker:
        return Hooker(
            cgroup=cgroup, policy=policy, intercept="messages", control=False, redirect=redirect, **options
        ).start()

    engines = [
        (lab.a, netns.call(lab.a.netns, lambda: start(lab.a.cgroup, tap=tap))),
        (lab.b, netns.call(lab.b.netns, lambda: start(lab.b.cgroup))),
    ]
    try:
        server = lab.b.popen([sys.executable, "-c", SERVER], stdout=-1)
        assert server.stdout is not None
        server.stdout.readline()
        done = lab.a.run([sys.executable, "-c", CLIENT, lab.b.v4], text=True)
        sent, arrived = done.stdout.split()
        assert sent == arrived == seen.hexdigest()
        assert engines[0][1].counters()["engaged"] == 1
        with pytest.raises(TypeError):
            kept[0][0] = 1  # type: ignore[index]
    finally:
        kept.clear()
        for host, engine in engines:
            netns.call(host.netns, engine.close)


COUNTING = """
import socket, threading
s = socket.create_server(("", 5001)); print("up", flush=True)
def count(c):
    n = 0
    while d := c.recv(1 << 20): n += len(d)
    c.sendall(str(n).encode()); c.close()
while True: threading.Thread(target=count, args=(s.accept()[0],)).start()
"""
SENDING = """
import socket, sys
s = socket.create_connection((sys.argv[1], 5001), timeout=50)
for _ in range(60): s.sendall(bytes(1 << 20))
s.shutdown(1); print(s.recv(100).decode())
"""


@pytest.mark.timeout(90)
def test_flows_that_find_no_slab_since_a_tap_keeps_them_go_on(lab: Lab) -> None:
    """Unseen by the tap, which is counted."""
    kept: list[memoryview] | None = []

    def tap(frames: Any, payload: memoryview) -> None:
        if kept is not None:
            kept.append(payload)

    with engines(lab, at_a={"tap": tap}) as (at_a, _):
        server = lab.b.popen([sys.executable, "-c", COUNTING.replace("5001", str(OTHER))], stdout=-1)
        assert server.stdout is not None
        server.stdout.readline()
        sending = [sys.executable, "-c", SENDING.replace("5001", str(OTHER)), lab.b.v4]
        clients = [lab.a.popen(sending, stdout=-1, text=True) for _ in range(4)]
        until(lambda: at_a.counters()["slabs_exhausted"] >= 3, "the slabs were enough")
        kept = None
        for client in clients:
            assert client.communicate(timeout=40)[0] == f"{60 << 20}\n"
        assert at_a.counters()["tap_missed"] > 0
