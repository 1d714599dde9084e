"""A TIME_WAIT keeps the mark; the next connection with its ports hears of it all the same."""

from __future__ import annotations

import contextlib
import fcntl
import json
import signal
import socket
import struct
import termios
from functools import partial

import pytest
from by_hand import ACK, FIN, SEGMENTS, SYN, Connection, Engine, Wire, option, proof_of
from hands import Hands
from support import PLAIN, Pair, address, counts, eventually

from hooker.flow.messages import encode
from hooker.lab import Host, Lab

pytestmark = [pytest.mark.timeout(60), pytest.mark.skipif(PLAIN, reason="plain TCP opens no flows")]
PORT, CLIENT_PORT = 7821, 41000
WINDOW = 65000
SO_MARK = 36
FINAL = 1 | 2  # ENGAGED_FINAL, ENGAGED_KNOWN


def engaged(pair: Pair, made: Connection) -> tuple[Engine, int]:
    """Host b's engine hears that the other one has seen a segment of its own. With its token."""
    assert pair.server
    status = pair.server.status
    engine = Engine(made.wire, made.address)
    assert engine.accepted(engine.signed(proof_of(made)))
    token = engine.heard("accept")[0]["own_token"]
    engine.run(lambda: engine.heard("engaged"))
    engine.say(encode("engaged", epoch=1, token=token, position=1))
    engine.run(lambda: counts(status())["engaged"])
    return engine, token


@pytest.mark.parametrize("how", ["close", "shutdown"])
@pytest.mark.parametrize("late", [False, True], ids=["", "read late"])
def test_after_a_fin_that_came_by_the_wire(lab: Lab, how: str, late: bool) -> None:
    """The client has closed a moment before it was engaged; the server, which closed first, is."""
    with Pair.open(lab, hosts="b", kind="segments") as pair, Hands(lab) as hands:
        assert pair.server
        wire = Wire(lab, SEGMENTS)
        with wire.socket, contextlib.closing(hands.listening(PORT)) as listener:
            made = Connection(wire, wire.address(77), CLIENT_PORT, PORT)
            made.ask()
            made.establish()
            server = hands.accepted(listener)
            listener.close()
            engine, token = engaged(pair, made)

            server.close() if how == "close" else server.shutdown(socket.SHUT_WR)
            engine.say(encode("acked", epoch=1, token=token, position=2, edge=2 + WINDOW, serial=1))
            if how == "close":
                engine.run(lambda: counts(pair.server.status())["flows"] == 0)
            if late:
                pair.server.proc.send_signal(signal.SIGSTOP)
            made.segment(FIN | ACK, made.isn + 1, made.server_isn + 2)
            engine.say(
                encode("engaged", flags=FINAL, epoch=1, token=token, position=2)
            )  # all that went by the wire
            if how == "shutdown":
                eventually(lambda: server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 7)  # CLOSE
            if late:
                pair.server.proc.send_signal(signal.SIGCONT)
            engine.run(lambda: any(said["position"] == 2 for said in engine.heard("acked")))
            on_wire = partial(wire.receive, 6, made.address, CLIENT_PORT)
            while on_wire(timeout=0):
                pass  # of the time before it was engaged
            made.segment(SYN, made.isn + 100_000, 0, option(SEGMENTS, 1, made.nonce + 1))
            answers: list[bytes] = []
            engine.run(lambda: answers.extend(filter(None, [on_wire()])) or answers, timeout=5)
            assert answers[0][13] == ACK
            assert int.from_bytes(answers[0][8:12], "big") == (made.isn + 2) & 0xFFFFFFFF


def unsent(sock: socket.socket) -> int:
    """Bytes that the peer's TCP has not acknowledged."""
    return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0])


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_of_a_flow_that_nobody_remembers(lab: Lab, family: str) -> None:
    """More have ended than an engine remembers, or it was never told: the other host hears it."""
    kind = socket.AF_INET6 if family == "v6" else socket.AF_INET
    with Pair.open(lab, hosts="b", kind="segments") as pair, Hands(lab) as hands:
        assert pair.server
        with contextlib.closing(hands.listening(PORT, family, pair.a)) as listener:
            hooked = hands.socket(pair.b, family)  # the first candidate: the rule is there
            hooked.connect((address(pair.a, family), PORT))
            with lab.b.socket(kind, socket.SOCK_STREAM) as marked:
                marked.settimeout(10)
                marked.connect((address(pair.a, family), PORT))
                hands.accepted(listener)
                sender = hands.accepted(listener)
                marked.setsockopt(socket.SOL_SOCKET, SO_MARK, mark_of(lab.b, family))
                sender.sendall(b"x" * 100)
                eventually(lambda: not unsent(sender), timeout=3)
        assert counts(pair.server.status())["segments_unknown"] > 0


def mark_of(host: Host, family: str) -> int:
    """By which the rule of that host's engine leads packets to its device."""
    rules = json.loads(host.run(["ip", "-6" if family == "v6" else "-4", "-j", "rule"]).stdout)
    return next(int(rule["fwmark"], 0) for rule in rules if "fwmark" in rule)
