"""An engine that stands still under bulk transfers, and goes on: the wire is shown what TCP said, in order.

Its peer's engine has left meanwhile. What the stopped one's TCP has sent waits in hk0, and is old there.
Where it stands for longer, connections do not wait for it: its kernel program gives the sockets back.
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from dataclasses import replace

import pytest
from hands import Hands, received
from support import SLOWNESS, Pair, address, any_address, counts, eventually, peer, result, same
from ways import Paths, engaged, open_way
from wire_tap import WireTap

from hooker.control import keyfile
from hooker.lab import Host, Lab
from hooker.lab.engine import EngineProcess
from hooker.lab.link import Link

pytestmark = pytest.mark.timeout(120)

PORT = 7900
FLOWS = 4
SIZE = 40_000_000  # bytes, each way of each flow
LARGE = 8_000_000  # bytes
STILL = 2.0  # s


@pytest.mark.parametrize(
    ("whose", "family"),
    [
        ("client", "v4"),
        ("server", "v6"),
        pytest.param("client", "v6", marks=pytest.mark.soak),
        pytest.param("server", "v4", marks=pytest.mark.soak),
    ],
)
def test_transfers_go_on_when_the_engine_does(whose: str, family: str) -> None:
    with Lab() as lab, open_way(lab, "segments") as pair:
        go = lab.tmp / "go"
        script = ("send:100", "recv:100", f"wait-file:{go}", f"duplex-blocking:{SIZE}", "close")
        ends = []
        for port in range(PORT, PORT + FLOWS):
            ends.append(peer(pair.b, "serve", any_address(family), port, *script))
            ends.append(peer(pair.a, "connect", address(pair.b, family), port, *script))
        eventually(lambda: engaged(pair) >= FLOWS, 15)
        with WireTap.on(pair.a if whose == "client" else pair.b) as tap:
            go.touch()
            time.sleep(0.2)
            engine = getattr(pair, whose)
            engine.proc.send_signal(signal.SIGSTOP)
            try:
                time.sleep(STILL)
            finally:
                woken = time.monotonic()
                engine.proc.send_signal(signal.SIGCONT)
            done = [result(one) for one in ends]
        assert [one["error"] for one in done] == [None] * len(ends)
        for server, client in zip(done[::2], done[1::2], strict=True):
            same(server, client)
            same(client, server)
        assert tap.overtaken(woken) == 0
        assert tap.outdated(woken) <= 2 * FLOWS


def test_who_leaves_shows_the_far_tcp_the_end_of_what_the_transport_had() -> None:
    """A hole that TCP does not know of, in front of nothing else, would wait for a timeout."""
    size = 300_000
    with Lab() as lab, open_way(lab, "segments") as pair, Paths(lab) as paths:
        go = lab.tmp / "go"
        script = ("send:100", "recv:100", f"wait-file:{go}")
        server = peer(pair.b, "serve", "0.0.0.0", PORT, *script, "recv-all", "close")
        client = peer(pair.a, "connect", pair.b.v4, PORT, *script, f"send:{size}", "close")
        eventually(lambda: engaged(pair) >= 1, 15)
        paths.drop("vtl")
        with WireTap.on(pair.a) as tap:
            go.touch()
            one, other = result(client), result(server)
        same(one, other)
        oldest, *more = [one for one in tap.segments if one.length][:5]
        beyond = [one.seq - oldest.seq - oldest.length for one in more if one.tsval == oldest.tsval]
        # the engine's, not the next of TCP's; behind most of the ten segments that a TCP begins with
        assert max(beyond, default=0) > 5000, (oldest, more)


@pytest.mark.parametrize(("whose", "family"), [("client", "v4"), ("server", "v6")])
def test_connections_do_not_wait_for_an_engine_that_stands_still(whose: str, family: str) -> None:
    """They end while it does: a transfer both ways, and one that asks and waits."""
    with Lab() as lab, open_way(lab, "segments") as pair:
        go = lab.tmp / "go"
        bulk = ("send:100", "recv:100", f"wait-file:{go}", f"duplex-blocking:{4 * SIZE}", "close")
        asks = ("send:100", "recv:100", f"wait-file:{go}", "sleep:0.5", "send:1000", "recv:1000", "close")
        answers = ("recv:100", "send:100", "recv:1000", "send:1000", "close")
        ends = [
            peer(pair.b, "serve", any_address(family), PORT, *bulk),
            peer(pair.a, "connect", address(pair.b, family), PORT, *bulk),
            peer(pair.b, "serve", any_address(family), PORT + 1, *answers),
            peer(pair.a, "connect", address(pair.b, family), PORT + 1, *asks),
        ]
        eventually(lambda: engaged(pair) >= 2, 15)
        engine = getattr(pair, whose)
        go.touch()
        time.sleep(0.05)
        engine.proc.send_signal(signal.SIGSTOP)
        try:
            done = [result(one) for one in ends]
        finally:
            engine.proc.send_signal(signal.SIGCONT)
        assert [one["error"] for one in done] == [None] * len(ends)
        for server, client in zip(done[::2], done[1::2], strict=True):
            same(server, client)
            same(client, server)
        eventually(lambda: engine.status()["reasons"].get("engine-stood-still") == 2, 5)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("clients", "servers"),
    [(f"duplex-blocking:{LARGE}", f"duplex-blocking:{LARGE}"), (f"send:{LARGE}", "recv-all")],
    ids=["both send", "one receives"],
)
def test_nor_where_the_path_has_lost_much(clients: str, servers: str, seed: int) -> None:
    """A socket that lacks three ranges has no room for an option, so the kernel does not ask us about it.

    One that only receives has no timeout either, at which it would. The janitor finds it.
    """
    path = Link(rate=40e6, delay=0.02, seed=seed)
    with Lab(link=Link()) as lab, Pair.open(lab, kind="segments") as pair:
        assert pair.server
        lab.link.set(path)
        server = peer(pair.b, "serve", "0.0.0.0", PORT, servers, "close")
        client = peer(pair.a, "connect", pair.b.v4, PORT, clients, "close")
        eventually(lambda: counts(pair.server.status())["engaged"] == 1, 20)
        lab.link.set(replace(path, loss=0.2))
        time.sleep(0.7)
        pair.server.proc.send_signal(signal.SIGSTOP)
        lab.link.set(path)
        try:
            one, other = result(client, 40), result(server, 40)
        finally:
            pair.server.proc.send_signal(signal.SIGCONT)
        assert (one["error"], other["error"]) == (None, None)
        same(one, other)
        same(other, one)
        eventually(lambda: pair.server.status()["reasons"].get("engine-stood-still") == 1, 5)


@pytest.mark.parametrize("family", ["v4", "v6"])
@pytest.mark.parametrize("whose", ["client", "server"])
def test_a_connection_that_is_held_does_not_wait_for_it(whose: str, family: str) -> None:
    script = ("send:1000", "recv:1000", "close")
    with Lab() as lab, open_way(lab, "segments", "--hold") as pair:
        _conversation(pair, family, PORT, script)
        engine = getattr(pair, whose)
        engine.proc.send_signal(signal.SIGSTOP)
        try:
            for port in (PORT + 1, PORT + 2):
                assert _conversation(pair, family, port, script) < 6
        finally:
            engine.proc.send_signal(signal.SIGCONT)
        eventually(lambda: engine.status()["reasons"].get("engine-stood-still", 0) >= 1, 5)
        assert engine.status()["flows"] == []


def test_one_that_it_has_seen_begin_is_held_no_longer_than_by_an_engine_that_runs() -> None:
    for _ in range(5):
        took = _held_when_it_stopped()
        if took > 1:
            break  # else the engine had let go of it before it was stopped, on a busy machine
    assert 3 < took < 10


def _held_when_it_stopped() -> float:
    with Lab() as lab, open_way(lab, "segments", "--hold") as pair, Paths(lab) as paths:
        assert pair.client
        engine, script = pair.client, ("send:1000", "recv:1000", "close")
        _conversation(pair, "v4", PORT, script)
        paths.drop("vtl")  # so that it is not engaged before the engine stands
        stop = threading.Thread(target=_stop_when_held, args=(engine,))
        stop.start()
        try:
            took = _conversation(pair, "v4", PORT + 1, script)
            if took > 1:
                assert _conversation(pair, "v4", PORT + 2, script) < 3
        finally:
            stop.join()
            engine.proc.send_signal(signal.SIGCONT)
        if took > 1:
            eventually(lambda: engine.status()["reasons"].get("engine-stood-still", 0) == 2, 5)
        return took


def _stop_when_held(engine: EngineProcess) -> None:
    eventually(lambda: counts(engine.status())["kernel.held"] == 2, 5, every=0.01)
    engine.proc.send_signal(signal.SIGSTOP)


def _conversation(hosts: Pair, family: str, port: int, script: tuple[str, ...]) -> float:
    """Seconds that it takes."""
    server = peer(hosts.b, "serve", any_address(family), port, *script)
    begin = time.monotonic()
    client = peer(hosts.a, "connect", address(hosts.b, family), port, *script)
    done = result(client), result(server)
    assert [one["error"] for one in done] == [None, None]
    same(*done)
    return time.monotonic() - begin


def test_an_engine_that_sleeps_does_not_stand_still() -> None:
    """A connection that is quiet for longer than a stopped engine is borne with goes on by the transport."""
    quiet = [step for _ in range(3) for step in ("send:100", "recv:100", "sleep:1.6")]
    with Lab() as lab, open_way(lab, "segments") as pair:
        echo = ("recv:100", "send:100") * 3
        server = peer(pair.b, "serve", any_address("v4"), PORT, *echo, "close")
        client = peer(pair.a, "connect", address(pair.b, "v4"), PORT, *quiet, "close")
        assert result(client)["error"] is None
        assert result(server)["error"] is None
        for engine in (pair.client, pair.server):
            assert engine
            status = engine.status()
            assert status["counters"]["engaged"] >= 1
            assert "engine-stood-still" not in status["reasons"]


def test_who_has_a_key_waits_for_it() -> None:
    """A pinned flow goes nowhere else: nothing that can be read is on the wire."""
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Lab())
        key = lab.tmp / "key"
        key.touch(0o600)
        key.write_text(keyfile.make())
        pair = stack.enter_context(open_way(lab, "segments", "--key-file", str(key)))
        assert pair.client
        go = lab.tmp / "go"
        script = ("send:100", "recv:100", f"wait-file:{go}", f"duplex-blocking:{4 * SIZE}", "close")
        server = peer(pair.b, "serve", "0.0.0.0", PORT, *script)
        client = peer(pair.a, "connect", pair.b.v4, PORT, *script)
        eventually(lambda: engaged(pair) >= 1, 15)
        with WireTap.on(pair.a) as tap:
            go.touch()
            time.sleep(0.05)
            pair.client.proc.send_signal(signal.SIGSTOP)
            time.sleep(3)
            waited = client.poll() is None
            pair.client.proc.send_signal(signal.SIGCONT)
            assert waited, "it had ended before the engine was stopped"
            done = result(client), result(server)
        assert [one["error"] for one in done] == [None, None]
        same(*done)
        assert not any(one.length for one in tap.segments)
        assert "engine-stood-still" not in pair.client.status()["reasons"]


REFUSED = """
table netdev full {{
    chain out {{
        type filter hook egress device "{device}" priority 0
        tcp flags ! syn tcp {port} {number} drop
    }}
}}
"""


@pytest.mark.parametrize("family", ["v4", "v6"])
@pytest.mark.parametrize("whose", ["client", "server"])
def test_a_device_that_refuses_a_connection_does_not_end_it(whose: str, family: str) -> None:
    """A crowd fills its queue each time: the kernel would give up after 15 tries in 7.5 s (ETIMEDOUT)."""
    with Lab() as lab, open_way(lab, "segments") as pair, Hands(lab) as hands:
        both = dict(zip(("client", "server"), hands.connected(PORT, family), strict=True))
        eventually(lambda: engaged(pair) == 1)
        writer = both.pop(whose)
        (reader,) = both.values()
        host, engine = (pair.a, pair.client) if whose == "client" else (pair.b, pair.server)
        assert engine
        port = "dport" if whose == "client" else "sport"
        rules = REFUSED.format(device=device_of(host), port=port, number=PORT)
        host.run(["nft", "-f", "-"], input=rules, text=True)  # others get through: the lane is open
        began = time.monotonic()
        writer.sendall(b"anybody there?")
        assert received(reader, 14) == b"anybody there?"
        assert time.monotonic() - began < 6 * SLOWNESS
        writer.close()
        assert received(reader, 1) == b""
        reader.close()
        eventually(lambda: engine.status()["reasons"].get("engine-stood-still") == 1, 5)


@pytest.mark.parametrize("whose", ["client", "server"])
def test_nor_where_the_kernel_tries_less_often(whose: str) -> None:
    """A crowd goes to the wire bit by bit; all of it while the kernel still tries."""
    with Lab() as lab, open_way(lab, "segments") as pair, Hands(lab) as hands:
        host, port = (pair.a, "dport") if whose == "client" else (pair.b, "sport")
        host.sysctl("net.ipv4.tcp_retries2", "5")
        both = [dict(zip(("client", "server"), hands.connected(PORT), strict=True)) for _ in range(8)]
        eventually(lambda: engaged(pair) == len(both))
        rules = REFUSED.format(device=device_of(host), port=port, number=PORT)
        host.run(["nft", "-f", "-"], input=rules, text=True)
        for one in both:
            one[whose].sendall(b"anybody there?")
        for one in both:
            one.pop(whose)
            (reader,) = one.values()
            assert received(reader, 14) == b"anybody there?"


def device_of(host: Host) -> str:
    """The engine's, by its name."""
    links = json.loads(host.run(["ip", "-j", "link"], text=True, capture_output=True).stdout)
    (found,) = [link["ifname"] for link in links if link["ifname"].startswith("hk")]
    return str(found)
