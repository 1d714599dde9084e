"""What was sent right before an abort has arrived, as on a wire that loses nothing: the reset follows it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support import KIND, PLAIN, SEGMENTS, Pair, counts

from hooker.lab import Lab, Link

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.skipif(not (SEGMENTS or PLAIN), reason=f"{KIND}: redirected bytes end with their socket"),
]
PORT, TIMES = 8420, 6
SERVER = """
import json, socket, sys
listener = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("listens", flush=True)
for _ in range(int(sys.argv[2])):
    s, _ = listener.accept()
    for _ in range(8):
        s.sendall(s.recv(4))
    got, end = b"", "closed"
    try:
        while part := s.recv(65536):
            got += part
    except OSError as error:
        end = type(error).__name__
    print(json.dumps([len(got), end]), flush=True)
"""
CLIENT = """
import socket, struct, sys
for _ in range(int(sys.argv[3])):
    s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
    for _ in range(8):
        s.sendall(b"ping")
        assert s.recv(4) == b"ping"
    s.setblocking(False)
    s.send(bytes(20))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()
"""


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_bytes_before_an_abort(family: str) -> None:
    with Lab(link=Link(delay=0.002)) as lab, Pair.open(lab) as pair:
        server = pair.b.popen(
            [sys.executable, "-c", SERVER, str(PORT), str(TIMES)], stdout=subprocess.PIPE, text=True
        )
        assert server.stdout
        assert server.stdout.readline() == "listens\n"
        to = pair.b.v4 if family == "v4" else pair.b.v6
        pair.a.run([sys.executable, "-c", CLIENT, to, str(PORT), str(TIMES)], timeout=60)
        assert [json.loads(server.stdout.readline()) for _ in range(TIMES)] == [
            [20, "ConnectionResetError"]
        ] * TIMES
        if not PLAIN:
            assert pair.client
            assert counts(pair.client.status())["engaged"] >= TIMES - 1
