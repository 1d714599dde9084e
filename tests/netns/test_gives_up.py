"""A TCP that gives up says nothing: the far end hears of it when it speaks, by a reset."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support import KIND, PLAIN, SEGMENTS, Pair, counts

from hooker.lab import Lab

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.skipif(not (SEGMENTS or PLAIN), reason=f"{KIND}: the engine is the TCP that gives up"),
]
PORT = 8430
SERVER = """
import socket, sys
listener = socket.socket(socket.AF_INET6)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20000)
listener.bind(("::", int(sys.argv[1])))
listener.listen()
print("listens", flush=True)
s, _ = listener.accept()
s.settimeout(20)
for _ in range(8):
    s.sendall(s.recv(4))
sys.stdin.readline()
try:
    while s.recv(65536):
        pass
    print("closed")
except OSError as error:
    print(type(error).__name__)
"""
CLIENT = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
s.settimeout(None)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000)
for _ in range(8):
    s.sendall(b"ping")
    assert s.recv(4) == b"ping"
try:
    while True:
        s.sendall(bytes(65536))
except OSError as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_a_closed_window_and_a_user_timeout(lab: Lab, family: str) -> None:
    with Pair.open(lab) as pair:
        server = pair.b.popen(
            [sys.executable, "-c", SERVER, str(PORT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert server.stdin
        assert server.stdout
        assert server.stdout.readline() == "listens\n"
        to = pair.b.v4 if family == "v4" else pair.b.v6
        done = pair.a.run([sys.executable, "-c", CLIENT, to, str(PORT)], timeout=40, text=True)
        assert done.stdout.strip() == "TimeoutError"
        if not PLAIN:
            assert pair.server
            assert counts(pair.server.status())["engaged"] == 1
        server.stdin.write("\n")
        server.stdin.flush()
        assert server.stdout.readline().strip() == "ConnectionResetError"
