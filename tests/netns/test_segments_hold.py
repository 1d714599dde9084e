"""Flows that are held (`--hold`): no payload on the wire if both engines are there, and TCP if one is not."""

from __future__ import annotations

import contextlib
import select
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hands import Hands, received
from lone_worker import LoneWorker
from owned import hooked_socket
from support import SLOWNESS, Pair, any_address, counts, eventually, peer, result, same

from hooker.control import keyfile
from hooker.lab import EngineProcess, Lab
from hooker.lab.link import Link
from hooker.tcp.sansio import parse

pytestmark = pytest.mark.timeout(120)
HOLD = ("--intercept", "segments", "--hold")
PORT = 8080
BULK = 20_000_000
BARE_ACKS = """
table inet f {{
    chain in {{ type filter hook prerouting priority raw;
        tcp dport {port} tcp flags & (syn | ack | fin | psh) == ack drop
    }}
}}
"""
both_families = pytest.mark.parametrize("family", ["v4", "v6"])


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Lab() as lab, Pair.open(lab, options=HOLD) as made:
        yield made


def transfer(pair: Pair, family: str, client: tuple[str, ...], server: tuple[str, ...]) -> float:
    """Bytes equal at both ends; seconds."""
    begin = time.monotonic()
    there = peer(pair.b, "serve", any_address(family), PORT, *server)
    here = peer(pair.a, "connect", getattr(pair.b, family), PORT, *client)
    one, other = result(here), result(there)
    same(one, other)
    same(other, one)
    assert one["error"] is other["error"] is None
    return time.monotonic() - begin


@both_families
@pytest.mark.parametrize("speaks", ["client", "server"])
def test_no_payload_is_on_the_wire(pair: Pair, family: str, speaks: str) -> None:
    first, last = (f"send:{BULK}", "fin", "recv-all"), ("recv-all", f"send:{BULK}", "fin")
    for _ in range(3):
        pair.lab.meter.start()
        took = transfer(pair, family, *((first, last) if speaks == "client" else (last, first)))
        wire = pair.lab.meter.read()
        assert wire.tcp.payload == 0, wire
        assert wire.vtl.payload >= 2 * BULK
        assert took < 5 * SLOWNESS
    assert [counts(engine.status())["engaged"] for engine in pair.engines] == [3, 3]


@both_families
def test_short_connections_do_not_wait_for_a_timer(pair: Pair, family: str) -> None:
    for _ in range(5):
        transfer(
            pair, family, ("send:100", "recv:100", "fin", "recv-all"), ("recv:100", "send:100", "recv-all")
        )
    assert pair.lab.meter.read().tcp.payload == 0
    for engine in pair.engines:
        assert counts(engine.status())["kernel.held"] == 5


@both_families
def test_a_peer_without_an_engine_gets_tcp(family: str) -> None:
    with Lab() as lab, Pair.open(lab, hosts="a", options=HOLD) as pair:
        took = transfer(pair, family, ("send:1000", "fin", "recv-all"), ("recv-all", "send:1000", "fin"))
        assert took < 3 * SLOWNESS
        assert lab.meter.read().tcp.payload == 2000


@pytest.mark.skipif(SLOWNESS > 4, reason="nft takes longer than a hold")
@pytest.mark.parametrize("way", ["hold", "key"])
@both_families
def test_a_lost_ack_ends_no_hold(family: str, way: str) -> None:
    """It ends the handshake, and no bytes come that would stand for it: with a key they would be readable."""
    with Lab() as lab:
        key = lab.tmp / "key"
        key.touch(0o600)
        key.write_text(keyfile.make())
        options = HOLD if way == "hold" else ("--key-file", str(key))
        with Pair.open(lab, options=options, kind="segments") as pair:
            transfer(pair, family, ("send:1000", "fin", "recv-all"), ("recv-all", "send:1000", "fin"))
            version = 4 if family == "v4" else 6
            for number in range(1, 4):
                lab.meter.start()
                with hooked_socket(lab.b, version) as listener, hooked_socket(lab.a, version) as client:
                    listener.bind((getattr(lab.b, family), PORT + number))
                    listener.listen()
                    listener.settimeout(10)
                    lab.b.run(["nft", BARE_ACKS.format(port=PORT + number)], hooked=False)
                    client.connect((getattr(lab.b, family), PORT + number))
                    client.sendall(b"a word")
                    time.sleep(0.01)  # it is lost by now
                    lab.b.run(["nft", "delete table inet f"], hooked=False)
                    server, _ = listener.accept()
                    with server:
                        server.settimeout(10)
                        assert server.recv(100) == b"a word"
                assert lab.meter.read().tcp.payload == 0
            for engine in pair.engines:
                status = engine.status()
                assert counts(status)["engaged"] == 4
                assert not {"hold-timeout", "local-path-blocked"} & set(status["reasons"])


def test_what_is_held_goes_by_tcp_when_the_engine_is_killed() -> None:
    """It is stopped before the connection begins, so it never lets go."""
    with Lab() as lab, Pair.open(lab, options=HOLD) as pair:
        pair.engines[0].proc.send_signal(signal.SIGSTOP)
        lab.meter.start()
        there = peer(pair.b, "serve", any_address("v4"), PORT, "recv-all")
        here = peer(pair.a, "connect", pair.b.v4, PORT, "send:1000", "fin", "wait-end")
        time.sleep(1)
        assert lab.meter.read().tcp.payload == 0
        pair.engines[0].kill9()
        same(result(here), result(there))


def test_a_blocked_transport_holds_no_longer_than_it_may() -> None:
    with Lab() as lab, Pair.open(lab, options=HOLD) as pair:
        lab.meter.drop(("vtl",), ("vtl",))
        took = transfer(pair, "v4", ("send:1000", "fin", "recv-all"), ("recv-all", "send:1000", "fin"))
        assert 0.3 < took < 3 * SLOWNESS
        assert pair.engines[0].status()["reasons"]["hold-timeout"] == 1


def test_a_path_that_takes_longer_than_the_hold_is_waited_for() -> None:
    words = ("send:1000", "fin", "recv-all"), ("recv-all", "send:1000", "fin")
    with Lab(link=Link(rate=10e6, delay=0.25)) as lab, Pair.open(lab, options=HOLD) as pair:
        transfer(pair, "v4", *words)  # its association may not be up in time
        time.sleep(2)
        before = counts(pair.engines[0].status())["engaged"]
        lab.meter.start()
        transfer(pair, "v4", *words)
        assert lab.meter.read().tcp.payload == 0
        assert counts(pair.engines[0].status())["engaged"] == before + 1


def test_a_busy_moment_of_the_peer_s_engine_does_not_leave_its_service_to_tcp() -> None:
    """Its association is up: only the connections of the next second are not asked."""
    words = ("send:1000", "fin", "recv-all"), ("recv-all", "send:1000", "fin")
    with Lab() as lab, Pair.open(lab, options=HOLD) as pair:
        here, there = pair.engines
        transfer(pair, "v4", *words)
        for n in (1, 2):  # had it not been engaged between, the second time would be two seconds
            there.proc.send_signal(signal.SIGSTOP)
            waking = threading.Thread(target=continue_after, args=(here, there, n))
            waking.start()
            transfer(pair, "v4", *words)
            waking.join()
            assert here.status()["reasons"]["hold-timeout"] == n
            time.sleep(1.1)
            transfer(pair, "v4", *words)
            assert counts(here.status())["engaged"] == 1 + n


def continue_after(here: EngineProcess, stopped: EngineProcess, timeouts: int) -> None:
    try:
        eventually(lambda: here.status()["reasons"].get("hold-timeout") == timeouts)
    finally:
        stopped.proc.send_signal(signal.SIGCONT)


ESTABLISHED, CLIENT, SERVER = 2, 1, 2
WINDOW_SCALING = 2  # HK_TCP_WSCALE


@pytest.mark.parametrize(("role", "granted", "said"), [(CLIENT, 65160, 63), (CLIENT, 100, 1), (SERVER, 0, 1)])
def test_what_is_given_up_is_not_told_that_the_window_is_closed(role: int, granted: int, said: int) -> None:
    """It would believe it, and wait for its persist timer with what it was to send at once."""
    with contextlib.ExitStack() as stack:
        lone = LoneWorker(stack, hold_time=0.05)
        flow = lone.take_slot()
        lone.emit(
            type=ESTABLISHED, slot=flow & 0xFFFFFFFF, flow_id=flow, client_nonce=7, role=role,
            snd_nxt=1000, rcv_nxt=5000, snd_wnd=granted, snd_wscale=10, tcp_options=WINDOW_SCALING,
        )  # fmt: skip
        assert select.select([lone.device], [], [], 10)[0], "it is not given up"
        assert parse(lone.device.recv(2048)).window == said


@pytest.mark.parametrize("kind", ["deferred", "deferred-late"])
def test_a_service_that_defers_its_accept_is_left_to_tcp_without_a_hold(pair: Pair, kind: str) -> None:
    """It has no connection before data, which a held client does not send."""
    there = peer(pair.b, "serve", "0.0.0.0", PORT, "recv:3", "send:3", "close", options=("--kind", kind))
    one, other = (
        result(peer(pair.a, "connect", pair.b.v4, PORT, "send:3", "recv:3", "close")),
        result(there),
    )
    same(one, other)
    assert one["error"] is other["error"] is None
    assert pair.client
    status = pair.client.status()
    assert status["reasons"]["peer-declines-service"] == 1
    assert counts(status)["kernel.held"] == 0


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
@pytest.mark.parametrize("kind", ["key", "messages"])
def test_a_connection_that_was_let_go_does_not_end_with_its_engine(
    kind: str, kill: bool, tmp_path: Path
) -> None:
    """Marked while it was held, it has said nothing since; what has the mark ends with such an engine."""
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_text(keyfile.make() + "\n")
    options = ("--key-file", str(path)) if kind == "key" else ("--intercept", "messages")
    with Lab() as lab, Hands(lab) as hands:
        engine = lab.a.hooker(*options)
        listener = hands.listening(PORT)
        client = hands.socket(lab.a)
        client.connect((lab.b.v4, PORT))
        server = hands.accepted(listener)
        eventually(lambda: sum(engine.status()["reasons"].values()) == 1)
        time.sleep(0.3)
        engine.kill9() if kill else engine.stop()
        time.sleep(0.5)
        client.sendall(b"x")
        assert received(server, 1) == b"x"
