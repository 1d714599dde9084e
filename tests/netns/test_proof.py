"""Attacks on others' flows: predicted nonces; guessed, repeated and borrowed proofs; in both roles.

The victim is a TCP client of our own making: the test knows all that travels, and lends some to attackers.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from by_hand import (
    ACK,
    CLIENT,
    CLIENT_UDP,
    IPV4,
    MESSAGES,
    SEGMENTS,
    SYN,
    Connection,
    Engine,
    Wire,
    hello,
    proof_of,
)
from support import PLAIN, Pair, any_address, counts, eventually, peer, result

from hooker.flow.messages import decode, encode
from hooker.lab import Lab
from hooker.vtl import events as ev
from hooker.vtl.sansio import Endpoint

pytestmark = [pytest.mark.timeout(120), pytest.mark.skipif(PLAIN, reason="plain TCP opens no flows")]
PORT, LATE_PORT, OTHER_PORT = 8300, 8301, 8302
TRAIL = 0x04  # of OPEN and ACCEPT (docs/flow.md, 9)
VERSIONS = {"segments": SEGMENTS, "messages": MESSAGES}  # of the option, by kind of engine


@pytest.fixture(scope="module", params=VERSIONS)
def target(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Host b has an engine, and three services; one of them was there before the engine."""
    with Lab() as lab:
        many = ("--connections", "1000", "--wait", "1800")  # others may have to be alone between two tests
        peer(lab.b, "serve", "0.0.0.0", LATE_PORT, "recv-all", options=many)
        with Pair.open(lab, hosts="b", kind=request.param) as pair:
            peer(lab.b, "serve", "0.0.0.0", PORT, "recv-all", options=many)
            peer(lab.b, "serve", "::", OTHER_PORT, "recv-all", options=many)
            yield pair


@pytest.fixture
def wire(target: Pair) -> Iterator[Wire]:
    made = Wire(target.lab, VERSIONS[target.kind])
    with made.socket:
        yield made


_ports = iter(range(20000, 60000))


@contextlib.contextmanager
def connection(
    wire: Wire, last: int = 77, *, server_port: int = PORT, established: bool = True
) -> Iterator[Connection]:
    made = Connection(wire, wire.address(last), next(_ports), server_port)
    made.ask()
    if established:
        made.establish()
    try:
        yield made
    finally:
        made.reset()


def unproven(pair: Pair) -> int:
    assert pair.server
    return counts(pair.server.status())["unproven"]


def gets_it(wire: Wire, made: Connection) -> bool:
    owner = Engine(wire, made.address)
    return owner.accepted(owner.signed(proof_of(made)))


def owner_still_gets_it(wire: Wire, made: Connection) -> None:
    """Of messages not after QUIET: a connection that is held for 0.3 s is then left to TCP."""
    assert wire.version == MESSAGES or gets_it(wire, made)


@pytest.mark.parametrize("server_port", [PORT, LATE_PORT, OTHER_PORT])
def test_who_has_seen_the_handshake_gets_the_flow(wire: Wire, server_port: int) -> None:
    with connection(wire, server_port=server_port) as made:
        assert bool(made.server_nonce) == (server_port != LATE_PORT)
        assert gets_it(wire, made)


def test_behind_a_nat_that_translates_udp_otherwise_the_nonces_are_proof(wire: Wire) -> None:
    with connection(wire) as made:
        other = Engine(wire, wire.address(66))
        assert other.accepted(other.signed(proof_of(made)))


def test_without_the_servers_nonce_only_the_client_itself_is_believed(wire: Wire, target: Pair) -> None:
    """The sequence numbers alone are no secret to who sees the client's segments."""
    before = unproven(target)
    with connection(wire, server_port=LATE_PORT) as made:
        other = Engine(wire, wire.address(66))
        assert not other.accepted(other.signed(proof_of(made)))
        assert unproven(target) > before
        owner_still_gets_it(wire, made)


def test_the_same_syn_from_elsewhere_gets_another_nonce(wire: Wire) -> None:
    with connection(wire, established=False) as made:
        for change in ({"address": wire.address(66)}, {"port": next(_ports)}, {"server_port": OTHER_PORT}):
            other = replace(made, **change)  # type: ignore[arg-type]
            other.ask()
            other.reset()
            assert other.server_nonce not in (0, made.server_nonce)


def test_who_has_seen_only_the_syn_gets_nothing(wire: Wire) -> None:
    with connection(wire) as made:
        thief = Engine(wire, wire.address(66))
        for server_nonce in (0, 1, made.nonce):
            thief.say(thief.signed(proof_of(made, server_nonce=server_nonce)))
        assert not thief.accepted(thief.signed(proof_of(made, server_nonce=2)))
        owner_still_gets_it(wire, made)


@pytest.mark.parametrize("who", [66, 77])
def test_a_known_locator_without_the_key_gets_nothing(wire: Wire, target: Pair, who: int) -> None:
    before = unproven(target)
    with connection(wire) as made, connection(wire, 66) as own:
        thief = Engine(wire, wire.address(who), CLIENT_UDP + 1)
        locator = proof_of(made).locator
        message = thief.signed(proof_of(own), locator)
        for wrong in (bytes(16), random.randbytes(16)):
            thief.say(message[:24] + wrong)
        assert not thief.accepted(message)
        assert unproven(target) >= before + 3
        owner_still_gets_it(wire, made)


def test_an_open_repeated_on_another_association_gets_nothing(wire: Wire, target: Pair) -> None:
    """The observer is faster than the client, from the client's own address, too."""
    before = unproven(target)
    with connection(wire) as made:
        owner = Engine(wire, made.address)
        seen = owner.signed(proof_of(made))
        for last in (66, 77):
            thief = Engine(wire, wire.address(last), CLIENT_UDP + 1)
            assert not thief.accepted(seen, owner)
        assert unproven(target) >= before + 2
        assert wire.version == MESSAGES or owner.accepted(seen)


def test_a_thief_who_comes_before_the_flow_does_not_shut_its_owner_out(wire: Wire, target: Pair) -> None:
    """Of OPENs with one locator only some are kept until the flow is there."""
    before = unproven(target)
    with connection(wire, established=False) as made:
        thief, owner = Engine(wire, wire.address(66)), Engine(wire, made.address)
        locator = proof_of(made).locator
        with connection(wire, 66) as own:
            wrong = thief.signed(proof_of(own), locator)
        for _ in range(3):
            thief.say(wrong)
        owner.say(owner.signed(proof_of(made)))
        for _ in range(3):
            thief.say(wrong)
        made.establish()
        assert owner.accepted(owner.signed(proof_of(made)))
        assert not thief.accepted(wrong)
        assert unproven(target) > before


@pytest.mark.parametrize("flags", [0, TRAIL])
def test_an_open_that_comes_before_its_flow_counts_as_it_was_said(wire: Wire, flags: int) -> None:
    """It overtakes the handshake's last ACK. Its proof is of its flags, too."""
    with connection(wire, established=False) as made:
        owner = Engine(wire, made.address)
        owner.say(owner.signed(proof_of(made), flags=flags))
        made.establish()
        owner.run(lambda: owner.heard("accept"))
        (accept,) = owner.heard("accept")
        assert accept["flags"] == (flags if wire.version == SEGMENTS else 0)


# ---- the other role: who answers ----


class Impostor(threading.Thread):
    """A user of host b without privileges, where its engine would listen: he accepts whatever comes."""

    def __init__(self, lab: Lab) -> None:
        super().__init__()
        self.socket = lab.b.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("", lab.vtl_port))
        self.socket.settimeout(0.002)
        self.endpoint = Endpoint(seed=1)
        self.opened = 0
        self.data = 0
        self.stopping = threading.Event()

    def run(self) -> None:
        while not self.stopping.is_set():
            with contextlib.suppress(TimeoutError):
                data, source = self.socket.recvfrom(65536)
                self.endpoint.receive_datagram(data, source, time.monotonic_ns())
            self.act()
            timer = self.endpoint.get_timer()
            if timer is not None and timer <= time.monotonic_ns():
                self.endpoint.handle_timer(time.monotonic_ns())
            for data, to in self.endpoint.datagrams_to_send(time.monotonic_ns()):
                self.socket.sendto(data, to)

    def act(self) -> None:
        while (event := self.endpoint.next_event()) is not None:
            if isinstance(event, ev.MessageReceived):
                self.answer(event.assoc, decode(event.data))

    def answer(self, assoc: int, message: dict[str, Any]) -> None:
        if message["kind"] == "hello":
            self.endpoint.say(assoc, hello(7, 8))
        elif message["kind"] == "open":
            self.opened += 1
            common = {"epoch": message["epoch"], "token": message["own_token"], "own_token": 1 << 32}
            for proof in (message["proof"], bytes(16)):
                self.endpoint.say(assoc, encode("accept", **common, proof=proof))
            self.endpoint.say(assoc, encode("engaged", epoch=message["epoch"], token=message["own_token"]))
        elif message["kind"] == "data":
            self.data += 1

    def __enter__(self) -> Impostor:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.join()
        self.socket.close()


@pytest.mark.parametrize("kind", VERSIONS)
def test_who_has_the_servers_address_but_not_its_connection_gets_no_byte(lab: Lab, kind: str) -> None:
    with Impostor(lab) as impostor, Pair.open(lab, hosts="a", kind=kind) as pair:
        assert pair.client
        for port in (8330, 8331, 8332):
            one = peer(lab.b, "serve", any_address("v4"), port, "recv:9", "send:5", "close", hooked=False)
            script = ("sleep:1", "send:9", "recv:5", "close")
            client, server = result(peer(lab.a, "connect", lab.b.v4, port, *script)), result(one)
            assert (client["error"], server["error"]) == (None, None)
            assert server["received_sha256"] == client["sent_sha256"]
        eventually(lambda: impostor.opened >= 3)
        assert impostor.data == 0
        status = pair.client.status()
        assert counts(status)["engaged"] == 0
        assert counts(status)["unproven"] >= 3


# ---- nonces ----


def linear_complexity(bits: list[int]) -> int:
    """Length of the shortest linear feedback register that makes the bits (Berlekamp and Massey, 1969)."""
    n = len(bits)
    current, previous = [1] + [0] * n, [1] + [0] * n
    length, since = 0, 1
    for i in range(n):
        wrong = bits[i]
        for j in range(1, length + 1):
            wrong ^= current[j] & bits[i - j]
        if not wrong:
            since += 1
            continue
        before = current[:]
        for j in range(n + 1 - since):
            current[j + since] ^= previous[j]
        if 2 * length <= i:
            length, previous, since = i + 1 - length, before, 1
        else:
            since += 1
    return length


@pytest.mark.parametrize("kind", VERSIONS)
def test_who_is_connected_to_often_cannot_tell_the_next_nonce(lab: Lab, kind: str) -> None:
    """bpf_get_prandom_u32() is a linear register of 113 bits for each CPU: a few SYNs tell it all."""
    number = 300
    tap = lab.b.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(IPV4))
    with tap, Pair.open(lab, hosts="a", kind=kind):
        tap.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        tap.bind(("eth0", IPV4))
        connect = (
            "import os, socket, sys\nos.sched_setaffinity(0, {0})\n"
            f"for i in range({number}):\n"
            " s = socket.socket(); s.connect_ex((sys.argv[1], 9000 + i)); s.close()"
        )
        lab.a.run([sys.executable, "-c", connect, lab.b.v4])
        nonces: list[int] = []
        tap.settimeout(1)
        with contextlib.suppress(TimeoutError):
            while len(nonces) < number:
                frame = tap.recv(2000)
                at = frame.find(b"\xfd\x10HK" + bytes([VERSIONS[kind] << 4 | CLIENT]))
                if at > 0 and frame[47] & (SYN | ACK) == SYN:
                    nonces.append(struct.unpack_from("<Q", frame, at + 8)[0])
    assert len(nonces) == number == len(set(nonces))
    for bit in (1, 17, 33, 63):
        assert linear_complexity([nonce >> bit & 1 for nonce in nonces]) > 140
