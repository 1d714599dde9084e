"""A host has several addresses: connections are hooked by each, or left to TCP at once, with the reason."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from hands import Hands, received
from support import KINDS, PLAIN, Pair, counts, eventually, peer, result, same

from hooker.lab import INTERFACE, Host, Lab

pytestmark = [pytest.mark.timeout(90), pytest.mark.skipif(PLAIN, reason="TCP has no engines")]
PORT, LATE_PORT = 8400, 8401
MANY = 20  # more than associations that one address and port may begin
FAMILIES = ("v4", "v6")


def give(host: Host, *addresses: str) -> None:
    for one in addresses:
        more = ["nodad"] if ":" in one else []
        host.run(["ip", "addr", "add", one, "dev", INTERFACE, *more], hooked=False)


def second(host: Host, family: str) -> str:
    """Preferred to none: the first stays what datagrams have that say nothing."""
    last = {"a": 1, "b": 2}[host.letter]
    return (
        f"10.77.{host.lab.subnet}.{100 + last}" if family == "v4" else f"fd77:{host.lab.subnet:x}::10{last}"
    )


@pytest.fixture(scope="module", params=KINDS)
def hosts(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """With a service that was there before b's engine."""
    with Lab() as lab:
        for host in lab.hosts:
            give(host, f"{second(host, 'v4')}/24", f"{second(host, 'v6')}/64")
        many = ("--connections", "1000", "--wait", "1800")  # others may have to be alone between two tests
        peer(lab.b, "serve", "::", LATE_PORT, "recv-all", "close", options=many)
        with Pair.open(lab, kind=request.param) as pair:
            yield pair


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("client", "server"), [(2, 1), (1, 2), (2, 2)])
def test_a_second_address_is_hooked(hosts: Pair, family: str, client: int, server: int) -> None:
    first = {"v4": hosts.b.v4, "v6": hosts.b.v6}[family]
    own = {"v4": hosts.a.v4, "v6": hosts.a.v6}[family]
    with Hands(hosts.lab) as hands:
        listener = hands.listening(PORT, family)
        made = hands.socket(hosts.a, family)
        made.bind((second(hosts.a, family) if client == 2 else own, 0))
        before = [counts(engine.status())["engaged"] for engine in hosts.engines]
        made.connect((second(hosts.b, family) if server == 2 else first, PORT))
        accepted = hands.accepted(listener)
        for one, other in ((made, accepted), (accepted, made)):
            one.sendall(b"?")
            assert received(other, 1) == b"?"
        eventually(
            lambda: (
                [counts(engine.status())["engaged"] for engine in hosts.engines] == [n + 1 for n in before]
            )
        )
        listener.close()


CONNECT = """
import socket, sys, time
began = time.monotonic()
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
s.bind((sys.argv[2], 0))
s.connect((sys.argv[1], int(sys.argv[3])))
s.settimeout(10)
s.sendall(b"x" * 1000)
s.shutdown(socket.SHUT_WR)
while s.recv(100):
    pass
print(time.monotonic() - began)
"""


@pytest.mark.parametrize("family", FAMILIES)
def test_a_client_whose_address_matters_is_refused_at_once(hosts: Pair, family: str) -> None:
    """The listener is older than its engine: no nonce of the server's says who has seen the handshake."""
    to = {"v4": hosts.b.v4, "v6": hosts.b.v6}[family]
    mine = {"v4": hosts.a.v4, "v6": hosts.a.v6}[family]
    # an association from one of them is there; the other one is the second, whichever the system prefers
    found = None

    def took(own: str) -> float:
        command = [sys.executable, "-c", CONNECT, to, own, str(LATE_PORT)]
        done = hosts.a.run(command, text=True, timeout=20, check=False)
        assert done.returncode == 0, done.stderr
        return float(done.stdout)

    for own in (mine, second(hosts.a, family)):
        assert hosts.server
        before = hosts.server.status()["reasons"].get("peer-at-another-address", 0)
        for _ in range(2):  # the first may be the one that brings the association about
            last = took(own)
            time.sleep(0.1)
        if hosts.server.status()["reasons"].get("peer-at-another-address", 0) > before:
            found, refused = last, own
    assert found is not None, "both addresses were believed"
    assert found < 0.25, "it waited for its hold"

    def is_told() -> bool:
        """A connection that ends before the answer comes is closed, not rejected."""
        assert hosts.client
        return "rejected-by-peer" in hosts.client.status()["reasons"] or not took(refused)

    eventually(is_told)


@pytest.mark.soak
def test_many_addresses_of_a_server_are_as_many_associations(lab: Lab) -> None:
    """One does not take another's place, though all have been begun by one address and port."""
    wide = [f"10.77.{lab.subnet}.{n}" for n in range(150, 150 + MANY)]
    give(lab.b, *(f"{one}/24" for one in wide))
    hold = (
        "import socket, sys, time\n"
        f"made = [socket.create_connection((to, {PORT})) for to in sys.argv[1:]]\n"
        "for s in made: s.sendall(b'x')\n"
        "print('up', flush=True); sys.stdin.readline()\n"
    )
    with Pair.open(lab) as pair:
        server = peer(
            pair.b, "serve", "0.0.0.0", PORT, "recv-all", "close", options=("--connections", str(MANY))
        )
        client = pair.a.popen(
            [sys.executable, "-c", hold, *wide], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert pair.client
        eventually(lambda: counts(pair.client.status())["engaged"] == MANY)  # type: ignore[union-attr]
        time.sleep(1)
        assert sum(flow["state"] == "engaged" for flow in pair.client.status()["flows"]) == MANY
        client.communicate("\n", timeout=20)
        server.wait(20)


def test_bytes_come_right_between_second_addresses(hosts: Pair) -> None:
    server = peer(hosts.b, "serve", "0.0.0.0", PORT + 5, "recv-all", "close")
    client = peer(hosts.a, "connect", second(hosts.b, "v4"), PORT + 5, "send:3000000", "close")
    same(result(client, 30), result(server, 30))
