"""Nothing of a flow outlives it on the application's socket: used again, it behaves as TCP's own would."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import textwrap
import time

import pytest
from support import KIND, PLAIN, SEGMENTS, Pair, address, any_address, counts, eventually, peer, result, same

from hooker.lab import Host, Lab

pytestmark = pytest.mark.timeout(120)
PORT = 7970
SO_MARK = 36

SERVER = textwrap.dedent("""
    import socket, sys
    host, port, says, once = sys.argv[1:5]
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, int(port)))
    listener.listen(99)
    while True:
        s, _ = listener.accept()
        try:
            if once:
                s.recv(10)
                s.sendall(says.encode())
                break
            s.sendall(says.encode())
            while s.recv(1000):
                pass
        except OSError:
            pass
        s.close()
""")

CLIENT = textwrap.dedent("""
    import ctypes, json, os, socket, sys, time
    host, port, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    s.settimeout(8)
    before = s.getsockopt(6, 13, 16).rstrip(b"\\0").decode()
    s.connect((host, port))
    got = [s.recv(100).decode()]
    if how == "ended":
        s.shutdown(socket.SHUT_WR)
        while s.recv(100):
            pass
    if how == "reset":
        s.send(b"x")
        while not os.path.exists(sys.argv[4]):
            time.sleep(0.02)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.connect(s.fileno(), (ctypes.c_char * 28)(), 28) == 0      # AF_UNSPEC
    mark = s.getsockopt(1, 36)
    after = s.getsockopt(6, 13, 16).rstrip(b"\\0").decode()
    if how == "listen":
        s.bind(("", 7971))
        s.listen(1)
        print("listening", flush=True)
        child, _ = s.accept()
        child.settimeout(8)
        child.sendall(child.recv(100))
        child.close()
    else:
        try:
            s.connect((host, port))
            got.append(s.recv(100).decode())
        except OSError as error:
            got.append(repr(error))
    print(json.dumps({"got": got, "mark": mark, "congestion": [before, after]}))
""")


def start_server(host: Host, address: str, says: str = "from b", *, once: bool = False, **how: bool) -> None:
    """One that serves until it is ended, or one connection, which it closes first."""
    command = [sys.executable, "-c", SERVER, address, str(PORT), says, "once" if once else ""]
    host.popen(command, **how)
    host.wait_listening(PORT)


def again(pair: Pair, family: str, how: str) -> dict[str, object]:
    command = [sys.executable, "-c", CLIENT, address(pair.b, family), str(PORT), how]
    done = pair.a.run(command, timeout=40)
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("how", ["ended", "aborted"])
@pytest.mark.parametrize("family", ["v4", "v6"])
def test_a_socket_that_is_used_again_reaches_the_peer(pair: Pair, family: str, how: str) -> None:
    """And not whoever listens on that port on its own host."""
    start_server(pair.b, any_address(family))
    start_server(pair.a, any_address(family), "from a", hooked=False)
    with pair.engaged(flows=2):
        seen = again(pair, family, how)
    assert seen["got"] == ["from b", "from b"]
    assert seen["mark"] == 0
    before, after = seen["congestion"]  # type: ignore[misc]
    assert before == after


@pytest.mark.skipif(PLAIN, reason="needs engines")
def test_a_socket_is_as_it_was_when_the_engine_has_ended(lab: Lab) -> None:
    with Pair.open(lab) as pair:
        start_server(pair.b, "0.0.0.0")
        ended = lab.tmp / "ended"
        command = [sys.executable, "-c", CLIENT, pair.b.v4, str(PORT), "reset", str(ended)]
        client = pair.a.popen(command, stdout=subprocess.PIPE)
        assert pair.client
        give_up = time.monotonic() + 20
        while not counts(pair.client.status())["engaged"] and time.monotonic() < give_up:
            time.sleep(0.05)
        pair.client.stop()
        ended.touch()
        out, _ = client.communicate(timeout=30)
    seen = json.loads(out)
    assert seen["mark"] == 0
    assert seen["got"] == ["from b", "from b"]


@pytest.mark.skipif(PLAIN or SEGMENTS, reason="needs engines that take a connection from its beginning")
@pytest.mark.parametrize("family", ["v4", "v6"])
def test_the_mark_of_a_killed_engine_leads_to_no_later_one(lab: Lab, family: str) -> None:
    """Nobody took it from the socket, so no rule of an engine after it may lead that mark to this host."""
    with Pair.open(lab) as pair:
        assert pair.client
        start_server(pair.b, any_address(family))
        start_server(pair.a, any_address(family), "from a", hooked=False)
        steps = lab.tmp / "another engine"
        command = [sys.executable, "-c", CLIENT, address(pair.b, family), str(PORT), "reset", str(steps)]
        client = pair.a.popen(command, stdout=subprocess.PIPE)
        eventually(lambda: counts(pair.client.status())["engaged"] == 1)
        pair.client.kill9()
        later = pair.a.hooker(*KIND)
        try:
            server = peer(pair.b, "serve", any_address(family), PORT + 5, "recv-all", "close")
            same(
                result(peer(pair.a, "connect", address(pair.b, family), PORT + 5, "send:1000", "close")),
                result(server),
            )
            assert counts(later.status())["engaged"] == 1, "its rule is there"
            steps.touch()
            out, _ = client.communicate(timeout=30)
        finally:
            later.stop()
    seen = json.loads(out)
    print(seen)
    assert seen["got"] == ["from b", "from b"]


def test_a_socket_that_listens_after_it_was_connected(pair: Pair) -> None:
    """Neither it nor what it accepts has anything of the flow."""
    start_server(pair.b, "0.0.0.0")
    command = [sys.executable, "-c", CLIENT, pair.b.v4, str(PORT), "listen"]
    listener = pair.a.popen(command, stdout=subprocess.PIPE)
    assert listener.stdout
    assert listener.stdout.readline() == b"listening\n"
    talk = (
        "import socket,sys;s=socket.create_connection((sys.argv[1],7971),8);s.sendall(b'hi');print(s.recv(9))"
    )
    assert pair.b.run([sys.executable, "-c", talk, pair.a.v4], timeout=20).stdout == b"b'hi'\n"
    out, _ = listener.communicate(timeout=20)
    assert json.loads(out)["mark"] == 0


AGAIN = textwrap.dedent("""
    import errno, json, socket, struct, sys, time
    host, own, port, how, times, pause = *sys.argv[1:5], int(sys.argv[5]), float(sys.argv[6])
    took = []
    for i in range(times):
        start = time.monotonic()
        s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((own, 45000))
        s.settimeout(20)
        error = ""
        try:
            s.connect((host, int(port)))
            connected = time.monotonic() - start
            if how == "aborts":
                s.sendall(b"x" * 100)
                s.recv(100)
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                s.sendall(b"x" * 10)
                while s.recv(100):
                    pass
        except OSError as e:
            error, connected = errno.errorcode.get(e.errno, repr(e)), time.monotonic() - start
        s.close()
        took.append((error, connected))
        time.sleep(pause)
    print(json.dumps(took))
""")


def connect_again(pair: Pair, family: str, how: str, times: int, pause: float) -> list[tuple[str, float]]:
    own, other = address(pair.a, family), address(pair.b, family)
    command = [sys.executable, "-c", AGAIN, other, own, str(PORT), how, str(times), str(pause)]
    return [tuple(one) for one in json.loads(pair.a.run(command, timeout=90).stdout)]


@pytest.mark.alone
@pytest.mark.parametrize("family", ["v4", "v6"])
def test_the_same_ports_again_after_an_abort(pair: Pair, family: str) -> None:
    """Its RST is not believed while bytes are under way that precede it; the next SYN does not wait."""
    start_server(pair.b, any_address(family))
    with pair.engaged(flows=10):
        took = [one for _ in range(3) for one in connect_again(pair, family, "aborts", 20, 0)]
    assert [error for error, _ in took] == [""] * 60
    assert max(seconds for _, seconds in took) < 0.9, took  # a SYN is sent again after 1 s


@pytest.mark.alone
@pytest.mark.parametrize("timestamps", [0, 1])
@pytest.mark.parametrize("family", ["v4", "v6"])
def test_the_same_ports_again_when_the_server_closed_first_and_ended(
    lab: Lab, family: str, timestamps: int
) -> None:
    """No TIME_WAIT answers in the wrong direction."""
    for host in lab.hosts:
        host.sysctl("net.ipv4.tcp_timestamps", str(timestamps))
    with Pair.open(lab) as pair:
        start_server(pair.b, any_address(family), once=True)
        with pair.engaged():
            took = connect_again(pair, family, "reads", 2, 0.5)
    assert [error for error, _ in took] == ["", "ECONNREFUSED"]
    assert max(seconds for _, seconds in took) < 5, took


@pytest.mark.alone
@pytest.mark.skipif(PLAIN, reason="needs engines")
def test_an_attempt_that_came_to_nothing_leaves_no_option_behind(lab: Lab) -> None:
    """The socket's next SYN goes to a port that is not hooked, and has none."""
    program = textwrap.dedent("""
        import ctypes, socket, sys, time
        s = socket.socket()
        s.setblocking(False)
        s.connect_ex((sys.argv[1], 8000))
        time.sleep(0.1)
        ctypes.CDLL(None).connect(s.fileno(), (ctypes.c_char * 28)(), 28)
        s.settimeout(8)
        start = time.monotonic()
        s.connect((sys.argv[1], int(sys.argv[2])))
        print(time.monotonic() - start)
    """)
    with Pair.open(lab, options=("--port", "8000")) as pair:
        lab.meter.drop(to_b=("syn-option",))
        start_server(pair.b, "0.0.0.0", hooked=False)
        done = pair.a.run([sys.executable, "-c", program, pair.b.v4, str(PORT)], timeout=20)
        reasons = pair.client.status()["reasons"] if pair.client else {}
    assert float(done.stdout) < 0.9  # a SYN is sent again after 1 s
    assert "syn-with-option-unanswered" not in reasons, "the peer is remembered for what it never got"


STEERED = textwrap.dedent("""
    import socket, sys
    host, port, level, name, value = sys.argv[1], int(sys.argv[2]), 1, int(sys.argv[3]), sys.argv[4]
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    s.setsockopt(level, name, int(value) if value.isdigit() else value.encode() + b"\\0")
    s.settimeout(8)
    s.connect((host, port))
    print(s.recv(100).decode())
""")


@pytest.mark.parametrize("family", ["v4", "v6"])
@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        (SO_MARK, "5", "socket-with-mark"),
        (socket.SO_BINDTODEVICE, "eth0", "socket-bound-to-device"),
    ],
)
def test_a_socket_that_chooses_its_route_stays_on_tcp(
    pair: Pair, family: str, name: int, value: str, reason: str
) -> None:
    start_server(pair.b, any_address(family))
    before = pair.client.status() if pair.client else {}
    command = [sys.executable, "-c", STEERED, address(pair.b, family), str(PORT), str(name), value]
    with pair.over_tcp(payload=6):
        assert pair.a.run(command, timeout=20).stdout == b"from b\n"
    if pair.client:
        after = pair.client.status()
        assert after["reasons"][reason] == before["reasons"].get(reason, 0) + 1
        assert after["counters"]["engaged"] == before["counters"]["engaged"]


def test_connections_of_a_listener_that_is_bound_to_a_device_stay_on_tcp(pair: Pair) -> None:
    program = SERVER.replace("listener.bind", "listener.setsockopt(1, 25, b'eth0\\0')\nlistener.bind")
    pair.b.popen([sys.executable, "-c", program, "0.0.0.0", str(PORT), "from b", ""])
    pair.b.wait_listening(PORT)
    talk = "import socket,sys;s=socket.create_connection((sys.argv[1],int(sys.argv[2])),8);print(s.recv(99))"
    for _ in range(2):
        with pair.over_tcp(payload=6):
            assert pair.a.run([sys.executable, "-c", talk, pair.b.v4, str(PORT)], timeout=20).stdout
    if pair.server:
        assert pair.server.status()["reasons"]["socket-bound-to-device"] > 0
