"""Pinned flows, of engines with a key and of those that redirect messages: no payload on TCP's wire, and an
error where an engine is gone."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hands import Hands
from support import Pair, any_address, counts, eventually, peer, result, same, start_engines

from hooker.control import keyfile
from hooker.engine.layout import MARK_BASE
from hooker.lab import Host, Lab

pytestmark = pytest.mark.timeout(120)
SEGMENTS = ("--intercept", "segments")
REDIRECTED = ("--intercept", "messages", "--redirect", "always")
PORT = 8080
BULK = 20_000_000
ENDLESS = 10**12
SO_BINDTODEVICE, TCP_USER_TIMEOUT = 25, 18
both_families = pytest.mark.parametrize("family", ["v4", "v6"])


def key(directory: Path, name: str = "key") -> tuple[str, ...]:
    path = directory / name
    path.touch(0o600)
    path.write_text(keyfile.make() + "\n")
    return (*SEGMENTS, "--key-file", str(path))


@pytest.fixture(params=["key", pytest.param("messages", marks=pytest.mark.soak)])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    options = key(tmp_path) if request.param == "key" else REDIRECTED
    with Lab() as lab, Pair.open(lab, options=options) as made:
        lab.meter.start()
        yield made


def start(
    pair: Pair, family: str, client: tuple[str, ...], server: tuple[str, ...]
) -> list[subprocess.Popen[str]]:
    there = peer(pair.b, "serve", any_address(family), PORT, *server)
    return [peer(pair.a, "connect", getattr(pair.b, family), PORT, *client), there]


def engaged(pair: Pair) -> bool:
    return all(counts(engine.status())["engaged"] for engine in pair.engines)


def plaintext(pair: Pair) -> int:
    return pair.lab.meter.read().tcp.payload


def ends_with_errors(programs: list[subprocess.Popen[str]], within: float) -> list[dict[str, Any]]:
    begin = time.monotonic()
    outcomes = [result(program) for program in programs]
    assert time.monotonic() - begin < within
    assert all(outcome["error"] for outcome in outcomes), outcomes
    return outcomes


@both_families
@pytest.mark.parametrize("speaks", ["client", "server"])
def test_bytes_arrive_and_none_is_on_the_wire(pair: Pair, family: str, speaks: str) -> None:
    first, last = (f"send:{BULK}", "fin", "recv-all"), ("recv-all", f"send:{BULK}", "fin")
    one, other = map(result, start(pair, family, *((first, last) if speaks == "client" else (last, first))))
    same(one, other)
    same(other, one)
    assert one["error"] is other["error"] is None
    assert engaged(pair)
    assert plaintext(pair) == 0
    assert pair.lab.meter.read().vtl.payload >= 2 * BULK


def deaths() -> list[Any]:
    """Kind of engine, family, what goes on: the rarer ones in the long runs."""
    cases = [pytest.param("key", family, what) for family in ("v4", "v6") for what in ("send", "idle")]
    for family, what in itertools.product(("v4", "v6"), ("send-edge", "send", "idle")):
        rare = family == "v6" or what == "idle"
        cases.append(pytest.param("messages", family, what, marks=[pytest.mark.soak] * rare))
    return cases


@pytest.mark.parametrize(("pair", "family", "what"), deaths(), indirect=["pair"])
@pytest.mark.parametrize("victim", [0, 1], ids=["client's", "server's"])
def test_a_killed_engine_ends_the_flow_at_both_hosts(pair: Pair, family: str, victim: int, what: str) -> None:
    """Messages of sockets that do not block are in the engine alone, and are lost with it."""
    idle = what == "idle"
    script = ("send:10", "recv:10", "recv-all") if idle else (f"{what}:{ENDLESS}", "fin", "recv-all")
    server = ("recv:10", "send:10", "recv-all") if idle else ("recv-all",)
    programs = start(pair, family, script, server)
    eventually(lambda: engaged(pair), every=0.02)
    time.sleep(0.3)
    if what == "send-edge":
        eventually(lambda: counts(pair.engines[0].status())["kernel.message-redirected"] > 0)
    pair.engines[victim].kill9()
    own = programs[victim]
    begin = time.monotonic()
    eventually(lambda: own.poll() is not None, timeout=5)
    assert time.monotonic() - begin < 2
    ends_with_errors(programs, 10)
    time.sleep(0.5)
    assert plaintext(pair) == 0
    host = (pair.a, pair.b)[victim]
    eventually(lambda: "0x484b" not in host.run(["ip", "rule"], text=True, stdout=-1).stdout)


def test_a_service_without_hooker_says_nothing_of_the_others_of_its_host(tmp_path: Path) -> None:
    """With a key these would be readable."""
    options = key(tmp_path)
    with Lab() as lab, Hands(lab) as hands:
        lab.b.hooker(*options, "--port", str(PORT))
        client = lab.a.hooker(*options)
        hands.connected(PORT)
        eventually(lambda: counts(client.status())["engaged"] == 1)
        hands.connected(PORT + 1)
        lab.meter.start()
        hands.connected(PORT)
        eventually(lambda: counts(client.status())["engaged"] == 2)
        assert lab.meter.read().tcp.payload == 0


@pytest.mark.parametrize("family", ["v4"])
def test_an_engine_without_descriptors_ends_its_flow_too(pair: Pair, family: str) -> None:
    """A firewall of its host drops what it injects, so the socket is ended by the kernel's sock_diag."""
    programs = start(pair, family, ("send:10", "recv:10", "recv-all"), ("recv:10", "send:10", "recv-all"))
    eventually(lambda: engaged(pair), every=0.02)
    survivor = pair.engines[0]
    open_files = len(list(Path(f"/proc/{survivor.pid}/fd").iterdir()))
    resource.prlimit(survivor.pid, resource.RLIMIT_NOFILE, (open_files, open_files))
    pair.a.run(["nft", "add", "table", "inet", "t"], hooked=False)
    pair.a.run(
        ["nft", "add", "chain", "inet", "t", "c", "{ type filter hook input priority 0; }"], hooked=False
    )
    pair.a.run(["nft", "add", "rule", "inet", "t", "c", "iifname", "hk0", "drop"], hooked=False)
    pair.engines[1].kill9()
    eventually(lambda: programs[0].poll() is not None, timeout=10)
    ends_with_errors(programs, 10)


@both_families
@pytest.mark.parametrize("victim", [0, 1], ids=["client's", "server's"])
def test_a_kill_within_the_hold_lets_nothing_out(pair: Pair, family: str, victim: int) -> None:
    """The engine is stopped before the connection begins, so it never lets go."""
    pair.engines[victim].proc.send_signal(signal.SIGSTOP)
    scripts = [("recv-all",), ("recv-all",)]
    scripts[victim] = ("send:1000", "recv-all")
    programs = start(pair, family, *scripts)
    time.sleep(1.5)
    assert programs[victim].poll() is None
    pair.engines[victim].kill9()
    begin = time.monotonic()
    eventually(lambda: programs[victim].poll() is not None, timeout=5, every=0.01)
    assert time.monotonic() - begin < 2
    assert result(programs[victim])["error"]
    time.sleep(1)
    assert plaintext(pair) == 0


@both_families
def test_without_the_rule_nothing_gets_out(pair: Pair, family: str) -> None:
    """Another program removes it, as often as it is put back: the guard does not look at marks."""
    programs = start(pair, family, (f"send:{ENDLESS}", "fin", "recv-all"), ("recv-all",))
    eventually(lambda: engaged(pair), every=0.02)
    flag = "-6" if family == "v6" else "-4"
    until = time.monotonic() + 2
    while time.monotonic() < until:
        for host in (pair.a, pair.b):
            host.run(["ip", flag, "rule", "del", "priority", "63"], check=False, stderr=subprocess.DEVNULL)
        time.sleep(0.1)
    assert plaintext(pair) == 0
    for engine in pair.engines:
        engine.kill9()
    ends_with_errors(programs, 5)
    time.sleep(1)
    assert plaintext(pair) == 0


def janitor(engine: int) -> int:
    """The pid of an engine's janitor."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == engine and b"janitor" in (entry / "cmdline").read_bytes():
                return int(entry.name)
    raise AssertionError("no janitor")


def test_the_janitor_keeps_the_guard_until_the_sockets_have_ended(pair: Pair) -> None:
    """The engine and its programs are gone, and all ways but the wire are closed.

    Nor does the RST come with which the peer's engine, once it knows of that, ends its own side.
    """
    programs = start(pair, "v4", (f"send:{ENDLESS}", "fin", "recv-all"), ("recv-all",))
    eventually(lambda: engaged(pair), every=0.02)
    keeper = janitor(pair.engines[0].pid)
    os.kill(keeper, signal.SIGSTOP)
    pair.lab.meter.drop(to_a=("tcp",))
    try:
        pair.engines[0].kill9()
        rule = pair.a.run(["ip", "-4", "rule", "show", "priority", "63"], text=True, stdout=-1).stdout
        pair.a.run(["ip", "-4", "rule", "del", "priority", "63"], check=True)
        pair.a.run(["ip", "-4", "route", "flush", "table", rule.split()[-1]], check=False)
        time.sleep(2)
        assert programs[0].poll() is None  # it would send
        assert plaintext(pair) == 0
    finally:
        os.kill(keeper, signal.SIGCONT)
    ends_with_errors(programs, 10)
    assert plaintext(pair) == 0


def kernel_mark(host: Host, port: int) -> int:
    """What the kernel has for the socket with this local port, behind what its application is shown."""
    shown = host.run(["ss", "-Htne", f"sport = :{port}"], text=True, stdout=-1).stdout
    found = re.search(r"fwmark:(\S+)", shown)
    return int(found[1], 16) if found else 0


def test_a_pinned_flow_keeps_its_route(pair: Pair) -> None:
    """A mark is the socket's when the flow is over, and the janitor knows the socket all the same."""
    with Hands(pair.lab) as hands:
        client, server = hands.connected(PORT)
        client.sendall(b"x")
        assert server.recv(1) == b"x"
        eventually(lambda: engaged(pair), every=0.02)
        with pytest.raises(PermissionError):
            client.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, b"lo\0")
        port = client.getsockname()[1]
        for value in (5, 6, 0, 7):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, value)
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == value
            assert kernel_mark(pair.a, port) & 0xFFFF0000 == MARK_BASE
            client.sendall(b"y")
            assert server.recv(1) == b"y"
        client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 8)  # ours in its other form
        pair.engines[0].kill9()
        with pytest.raises(ConnectionAbortedError):
            client.recv(1)
        assert plaintext(pair) == 0


def test_a_mark_set_while_the_flow_is_held_is_the_sockets_on_tcp(tmp_path: Path) -> None:
    with Lab() as lab, Pair.open(lab, "a", options=key(tmp_path)) as one, Hands(lab) as hands:
        assert one.client
        listener = hands.listening(PORT)
        for _ in range(5):  # on a busy machine it may be held no more when the mark comes
            client = hands.socket(lab.a)
            client.connect((lab.b.v4, PORT))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 5)
            server = hands.accepted(listener)
            client.sendall(b"x")
            assert server.recv(1) == b"x"
            assert kernel_mark(lab.a, client.getsockname()[1]) == 5
            if counts(one.client.status())["kernel.mark-kept-for-the-end"] == 1:
                break
        else:
            pytest.fail("no mark was set while its flow was held")


def test_tcps_own_patience_is_that_of_a_pinned_flow(pair: Pair) -> None:
    """Nothing acknowledges for a peer that is silent, so TCP_USER_TIMEOUT counts as it would."""
    with Hands(pair.lab) as hands:
        client, server = hands.connected(PORT)
        client.sendall(b"x")
        assert server.recv(1) == b"x"
        eventually(lambda: engaged(pair), every=0.02)
        client.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 1500)
        pair.lab.meter.drop(("vtl",), ("vtl",))
        begin = time.monotonic()
        client.sendall(b"y")
        with pytest.raises(TimeoutError) as failed:
            client.recv(1)
        assert failed.value.errno == errno.ETIMEDOUT
        assert 1.4 < time.monotonic() - begin < 6
        assert plaintext(pair) == 0


def test_a_blocked_transport_is_waited_for(pair: Pair) -> None:
    go = pair.lab.tmp / "go"
    go.unlink(missing_ok=True)
    script = ("send:1000", f"wait-file:{go}", f"send:{10 * BULK}", "fin", "recv-all")
    programs = start(pair, "v4", script, ("recv-all",))
    eventually(lambda: engaged(pair), every=0.02)
    go.touch()
    time.sleep(0.02)
    pair.lab.meter.drop(("vtl",), ("vtl",))
    time.sleep(8)
    assert all(program.poll() is None for program in programs)
    pair.lab.meter.drop()
    one, other = map(result, programs)
    same(one, other)
    assert plaintext(pair) == 0


@pytest.mark.parametrize("who", [0, 1], ids=["client's", "server's"])
def test_an_engine_that_stops_ends_its_flows(pair: Pair, who: int) -> None:
    programs = start(pair, "v4", (f"send:{ENDLESS}", "fin", "recv-all"), ("recv-all",))
    eventually(lambda: engaged(pair), every=0.02)
    assert pair.engines[who].stop() == 0
    ends_with_errors(programs, 5)
    assert plaintext(pair) == 0


@both_families
def test_a_time_wait_answers_the_next_connection_with_its_ports(pair: Pair, family: str) -> None:
    """By a bare ACK on the wire: the RST that it elicits ends it, and the next SYN is refused."""
    with Hands(pair.lab) as hands:
        client, server = hands.connected(PORT, family)
        eventually(lambda: engaged(pair), every=0.02)
        here, there = client.getsockname(), client.getpeername()
        server.close()
        assert client.recv(1) == b""
        client.close()
        time.sleep(0.5)  # its last ACK is acknowledged by then
        again = hands.socket(pair.a, family)
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(here)
        begin = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            again.connect(there)
        assert time.monotonic() - begin < 5


@pytest.mark.parametrize("there", ["no-engine", "no-key", "another-key"])
@pytest.mark.parametrize("client_has_it", [True, False])
def test_without_the_same_key_the_flow_is_tcp(tmp_path: Path, there: str, client_has_it: bool) -> None:
    """Nothing has left but the handshake; so does an engine that takes messages."""
    ours = key(tmp_path)
    theirs = {"no-key": SEGMENTS, "another-key": key(tmp_path, "other")}.get(there)
    with Lab() as lab:
        hosts = (lab.a, lab.b) if client_has_it else (lab.b, lab.a)
        made = start_engines([hosts[0]], ours)
        if theirs:
            made |= start_engines([hosts[1]], theirs)
        bed = Pair(lab, made.get("a"), made.get("b"))
        try:
            lab.meter.start()
            programs = start(bed, "v4", ("send:1000", "fin", "recv-all"), ("recv-all", "send:1000", "fin"))
            one, other = map(result, programs)
            same(one, other)
            assert one["error"] is other["error"] is None
            assert plaintext(bed) == 2000
        finally:
            for engine in bed.engines:
                engine.stop()
