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
from pathlib import Path

import pytest
from by_hand import ACK, FIN, SEGMENTS, SYN, Connection, Engine, Wire, option, proof_of
from hands import Hands
from support import PLAIN, Pair, address, counts, eventually

from hooker.control import netns
from hooker.flow.messages import encode
from hooker.lab import Host, Lab

pytestmark = [pytest.mark.timeout(60), pytest.mark.skipif(PLAIN, reason="plain TCP opens no flows")]
PORT, CLIENT_PORT = 7821, 41000
WINDOW = 65000
SO_MARK = 36
FINAL, KNOWN = 1, 2  # flags of ENGAGED
FIN_WAIT2, TIME_WAIT = 5, 6


class Bridging(Engine):
    """The client's engine, whose own segments still go by the wire: it never says FINAL, but it answers."""

    answered = 0

    def open(self, made: Connection) -> None:
        assert self.accepted(self.signed(proof_of(made)))
        self.token = self.heard("accept")[0]["own_token"]
        self.run(lambda: self.heard("engaged"))
        self.engaged(position=1)
        self.run(lambda: any(said["flags"] & FINAL for said in self.heard("engaged")))

    def engaged(self, flags: int = 0, position: int = 1) -> None:
        self.last = encode("engaged", epoch=1, token=self.token, flags=flags, position=position)
        self.say(self.last)

    def acked(self, position: int) -> None:
        edge = position + WINDOW
        self.say(encode("acked", epoch=1, token=self.token, position=position, edge=edge, serial=1))

    def step(self) -> None:
        super().step()
        asked = [said for said in self.heard("engaged") if not said["flags"] & KNOWN] + self.heard("ping")
        if hasattr(self, "last") and len(asked) > self.answered:
            self.answered = len(asked)
            assert self.endpoint.say(self.assoc, self.last)


def states(host: Host, port: int) -> set[int]:
    """TCP_* of sockets and of what is left of them, with that port of the host's."""
    table = netns.call(host.netns, Path("/proc/thread-self/net/tcp").read_text)
    rows = [line.split() for line in table.splitlines()[1:]]
    return {int(row[3], 16) for row in rows if int(row[1].rsplit(":")[1], 16) == port}


@pytest.mark.parametrize("how", ["close", "shutdown"])
@pytest.mark.parametrize("late", [False, True], ids=["", "read late"])
def test_after_a_fin_that_came_by_the_wire(lab: Lab, how: str, late: bool) -> None:
    """The client has closed a moment before it was engaged; the server, which closed first, is."""
    with Pair.open(lab, hosts="b", kind="segments") as pair, Hands(lab) as hands:
        assert pair.server
        wire = Wire(lab, SEGMENTS)
        with wire.socket, contextlib.closing(hands.listening(PORT)) as listener:
            made = Connection(wire, wire.address(77), CLIENT_PORT, PORT)
            engine = Bridging(wire, made.address)
            made.ask()
            made.establish()
            server = hands.accepted(listener)
            listener.close()
            engine.open(made)

            server.close() if how == "close" else server.shutdown(socket.SHUT_WR)
            engine.acked(2)
            engine.run(lambda: states(lab.b, PORT) == {FIN_WAIT2})
            if late:
                pair.server.proc.send_signal(signal.SIGSTOP)
            made.segment(FIN | ACK, made.isn + 1, made.server_isn + 2)
            eventually(lambda: states(lab.b, PORT) == {TIME_WAIT})
            if late:
                pair.server.proc.send_signal(signal.SIGCONT)
            engine.engaged(FINAL | KNOWN, position=2)  # all that went by the wire
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
                eventually(lambda: marks_of(lab.b, family))  # the rules come one after the other
                marked.setsockopt(socket.SOL_SOCKET, SO_MARK, marks_of(lab.b, family)[0])
                sender.sendall(b"x" * 100)
                eventually(lambda: not unsent(sender), timeout=3)
        assert counts(pair.server.status())["segments_unknown"] > 0


def marks_of(host: Host, family: str) -> list[int]:
    """By which the rules of that host's engine lead packets to its device."""
    rules = json.loads(host.run(["ip", "-6" if family == "v6" else "-4", "-j", "rule"]).stdout)
    return [int(rule["fwmark"], 0) for rule in rules if "fwmark" in rule]
