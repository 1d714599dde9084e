"""Ends of flows that meet other events: no slot is lost, no timer is due for ever, no socket is missed."""

from __future__ import annotations

import errno
import json
import select
import signal
import socket
import struct
import time
from collections.abc import Iterator

import pytest
from hands import Hands, Socket, ready, received
from support import Pair, address, counts, eventually
from wire_tap import WireTap

from hooker.control import abort
from hooker.lab import Lab

pytestmark = pytest.mark.timeout(60)
PORT, FIRST = 7811, 41000
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() aborts


def connect(hands: Hands, pair: Pair, port: int) -> socket.socket:
    """A connection of host a's from that port, which will be reset."""
    client = hands.socket(pair.a)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.bind((pair.a.v4, port))
    client.connect((pair.b.v4, PORT))
    return client


def from_port(hands: Hands, pair: Pair, port: int, family: str) -> socket.socket:
    """A connection of host a's from that port, which has begun."""
    client = hands.socket(pair.a, family)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    client.bind((address(pair.a, family), port))
    client.setblocking(False)
    assert client.connect_ex((address(pair.b, family), PORT)) == errno.EINPROGRESS
    return client


def test_addresses_used_again_in_the_moment_of_an_end_lose_no_slot() -> None:
    """The worker finds the ends and the new connection in one batch: it has been stopped meanwhile."""
    with Lab() as lab, Pair.open(lab, options=("--intercept", "segments")) as pair, Hands(lab) as hands:
        hands.listening(PORT)
        clients = [connect(hands, pair, FIRST + n) for n in range(5)]
        server = pair.engines[1]
        eventually(lambda: counts(server.status())["flows"] == len(clients))
        server.proc.send_signal(signal.SIGSTOP)
        for client in clients:
            client.close()
        time.sleep(0.2)  # the kernel's events are there
        last = connect(hands, pair, FIRST + len(clients) - 1)
        time.sleep(0.2)
        server.proc.send_signal(signal.SIGCONT)
        eventually(lambda: counts(server.status())["flows"] == 1)
        last.close()
        eventually(lambda: counts(server.status())["flows"] == 0)


def engaged_from(hands: Hands, pair: Pair, port: int, family: str) -> tuple[Socket, Socket, Socket]:
    """The listener and both ends of a connection from that port, which has moved and has been used."""
    listener = hands.listening(PORT, family)
    client = from_port(hands, pair, port, family)
    assert ready(client, select.POLLOUT, 5)
    client.setblocking(True)
    server = hands.accepted(listener)
    eventually(lambda: all(counts(engine.status())["engaged"] for engine in pair.engines))
    client.sendall(b"all")
    assert received(server, 3) == b"all"
    return listener, client, server


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_a_port_used_again_at_once_does_not_wait_for_the_timer(family: str) -> None:
    """Its SYN, by the wire, is faster than the last ACK of the connection before, and meets LAST_ACK: the
    kernel would send it again after 1 s (RFC 6298 2.1)."""
    with (
        Lab() as lab,
        Pair.open(lab, options=("--intercept", "segments")) as pair,
        Hands(lab) as hands,
    ):
        listener, client, server = engaged_from(hands, pair, FIRST, family)
        client.shutdown(socket.SHUT_WR)
        assert received(server, 1) == b""
        time.sleep(0.1)  # nothing else is under way; after 0.3 s that end's ACK would go by the wire
        lab.meter.drop(to_b=("vtl",))
        server.close()
        assert received(client, 1) == b""
        client.close()
        time.sleep(0.05)
        again, began = from_port(hands, pair, FIRST, family), time.monotonic()
        time.sleep(0.1)  # the other end is in LAST_ACK, and has answered the SYN
        assert not ready(again, select.POLLOUT, 0)
        lab.meter.drop()
        assert ready(again, select.POLLOUT, 5)
        took = time.monotonic() - began
        again.setblocking(True)
        assert again.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        hands.accepted(listener).sendall(b"anew")
        assert received(again, 4) == b"anew"
        assert took < 0.9


def test_who_has_closed_later_uses_its_port_again_and_asks_nobody() -> None:
    """Nothing is left of its connection; the TIME_WAIT is the other end's."""
    with (
        Lab() as lab,
        Pair.open(lab, options=("--intercept", "segments")) as pair,
        Hands(lab) as hands,
    ):
        listener, client, server = engaged_from(hands, pair, FIRST, "v4")
        for n in range(2, 12):
            server.close()
            assert received(client, 1) == b""
            client.close()
            eventually(lambda: "engaged" not in pair.client.status()["states"])
            client = from_port(hands, pair, FIRST, "v4")
            assert ready(client, select.POLLOUT, 5)
            client.setblocking(True)
            server = hands.accepted(listener)
            client.sendall(b"all")
            assert received(server, 3) == b"all"
            eventually(lambda n=n: counts(pair.client.status())["engaged"] == n)
        assert pair.server.status()["counters"]["unknown_messages"] == 0


@pytest.mark.parametrize("family", ["v4", "v6"])
@pytest.mark.parametrize(
    "options", [("segments",), ("segments", "--trail", "always"), ("messages",)], ids=" ".join
)
def test_a_port_used_again_resets_an_end_that_nobody_has_closed(
    options: tuple[str, ...], family: str
) -> None:
    """RFC 9293, 3.5.1: the SYN meets CLOSE_WAIT, whose ACK the host of the SYN answers by a RST."""
    with Lab() as lab, Pair.open(lab, options=("--intercept", *options)) as pair, Hands(lab) as hands:
        listener, client, server = engaged_from(hands, pair, FIRST, family)
        client.close()
        assert received(server, 1) == b""
        time.sleep(1)
        again = from_port(hands, pair, FIRST, family)
        assert ready(again, select.POLLOUT, 5) == select.POLLOUT
        again.setblocking(True)
        with pytest.raises(BrokenPipeError):
            server.sendall(b"to nobody")
        hands.accepted(listener).sendall(b"anew")
        assert received(again, 4) == b"anew"


@pytest.mark.parametrize("options", [(), ("--hold",)], ids=["free", "hold"])
@pytest.mark.parametrize("first", ["client", "server"])
def test_who_closes_later_ends_by_the_transport(first: str, options: tuple[str, ...]) -> None:
    """The other kernel waits for that FIN without a socket: its answer comes by the device all the same."""
    with (
        Lab() as lab,
        Pair.open(lab, options=("--intercept", "segments", *options)) as pair,
        Hands(lab) as hands,
    ):
        both = hands.connected(PORT)
        eventually(lambda: all(counts(engine.status())["engaged"] for engine in pair.engines))
        before = [engine.status()["reasons"] for engine in pair.engines]
        time.sleep(0.3)  # an acknowledgement of what went before
        early, late = both if first == "client" else both[::-1]
        with WireTap.on(lab.a) as a, WireTap.on(lab.b) as b:
            early.close()
            assert received(late, 1) == b""
            time.sleep(0.3)
            late.close()
            eventually(lambda: all(engine.status()["reasons"].get("closed") for engine in pair.engines))
            time.sleep(0.3)
        for engine, reasons in zip(pair.engines, before, strict=True):
            status = engine.status()
            assert status["reasons"] == {**reasons, "closed": 1}
            assert not counts(status)["segments_repeated"]
            assert counts(status)["flows"] == 0
        assert (a.segments, b.segments) == ([], [])


def test_a_held_flow_that_ends_within_its_hold_is_no_work() -> None:
    with (
        Lab() as lab,
        Pair.open(lab, options=("--intercept", "segments", "--hold")) as pair,
        Hands(lab) as hands,
    ):
        hands.connected(PORT)  # the association is up
        hands.listening(PORT + 1)
        client = hands.socket(pair.a)
        pair.engines[1].proc.send_signal(signal.SIGSTOP)  # nobody answers OPEN
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.connect((pair.b.v4, PORT + 1))
        time.sleep(0.1)
        client.close()
        time.sleep(1)  # the hold is over
        before = counts(pair.engines[0].status())["loops"]
        time.sleep(1)
        after = counts(pair.engines[0].status())["loops"]
        pair.engines[1].proc.send_signal(signal.SIGCONT)
        assert after - before < 1000


def test_sockets_are_looked_for_again_while_the_kernel_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: list[OSError | list[bytes]] = [
        OSError(errno.ENOBUFS, "netlink"),
        [b"one"],
        OSError(errno.EMFILE, ""),
    ]
    ended: list[bytes] = []

    def find(family: int, mark: int, bits: int) -> Iterator[bytes]:
        if family == socket.AF_INET6 or not answers:
            return
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        yield from answer

    monkeypatch.setattr(abort, "_find", find)
    monkeypatch.setattr(abort, "_destroy", lambda family, name: ended.append(name))
    monkeypatch.setattr(abort, "FIRST_PAUSE", 0.001)
    abort.abort_marked(1)
    assert ended == [b"one"]
    assert not answers


@pytest.mark.parametrize(("code", "can"), [(errno.EOPNOTSUPP, False), (errno.ENOENT, True)])
def test_a_kernel_that_does_not_end_sockets_is_known(
    monkeypatch: pytest.MonkeyPatch, code: int, can: bool
) -> None:
    """It says so before it looks for the socket, which there is not."""
    assert abort.can_abort()  # this one

    class Kernel:
        def __enter__(self) -> Kernel:
            return self

        def __exit__(self, *_: object) -> None: ...

        def send(self, message: bytes) -> None:
            assert struct.unpack_from("=IH", message) == (len(message), abort.SOCK_DESTROY)

        def recv(self, _: int) -> bytes:
            return abort.HEADER.pack(36, abort.NLMSG_ERROR, 0, 1, 0) + struct.pack("=i16x", -code)

    monkeypatch.setattr(abort, "_netlink", Kernel)
    assert abort.can_abort() is can


@pytest.mark.parametrize("hold", [(), ("--hold",)], ids=["free", "hold"])
def test_a_device_that_somebody_removes_leaves_flows_on_tcp(hold: tuple[str, ...]) -> None:
    with (
        Lab() as lab,
        Pair.open(lab, options=("--intercept", "segments", *hold)) as pair,
        Hands(lab) as hands,
    ):
        client, server = hands.connected(PORT)
        engine = pair.engines[0]
        eventually(lambda: counts(engine.status())["engaged"] == 1)
        device = json.loads(
            pair.a.run(["ip", "-j", "link", "show", "type", "tun"], hooked=False, text=True).stdout
        )
        pair.a.run(["ip", "link", "del", device[0]["ifname"]], hooked=False)
        for one, other in ((client, server), (server, client)):
            one.sendall(b"still here")
            assert received(other, 10) == b"still here"
        hands.connected(PORT + 1)
        assert engine.status()["reasons"]["device-gone"] >= 1
        before = counts(engine.status())["loops"]
        time.sleep(1)
        assert counts(engine.status())["loops"] - before < 1000
