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

import pytest
from by_hand import ACK, CLIENT, IPV4, MESSAGES, SEGMENTS, SYN, ByHand, Connection, Wire
from sim.wire import Frame, data_packet, decode, is_data
from support import PLAIN, Pair, any_address, counts, eventually, peer, result

from hooker.lab import Lab
from hooker.vtl import events as ev
from hooker.vtl.sansio import Endpoint

pytestmark = [pytest.mark.timeout(120), pytest.mark.skipif(PLAIN, reason="plain TCP opens no streams")]
PORT, LATE_PORT, MAPPED_PORT = 8300, 8301, 8302
KIND = "messages"  # of segments: test_segments_proof.py


class Engine(ByHand):
    """An engine that takes messages: it opens flows."""

    def open(self, key: bytes, locator: int | None = None, committed: bool = False) -> int:
        flow = self.endpoint.open(self.assoc, self.now(), key=key, locator=locator, committed=committed)
        self.step()
        return flow

    def verdict(self, flow: int) -> type:
        """What became of a flow it opened: FlowAccepted, FlowRejected, or FlowReset."""
        kinds = (ev.FlowAccepted, ev.FlowRejected, ev.FlowReset)
        found: list[type] = []

        def answered() -> bool:
            found[:] = [type(e) for e in self.events if isinstance(e, kinds) and e.flow == flow]
            return bool(found)

        self.run(answered)
        return found[0]


@pytest.fixture(scope="module")
def target() -> Iterator[Pair]:
    """Host b has an engine, and three services; one of them was there before the engine."""
    with Lab() as lab:
        many = ("--connections", "1000")
        peer(lab.b, "serve", "0.0.0.0", LATE_PORT, "recv-all", options=many)
        with Pair.open(lab, hosts="b", kind=KIND) as pair:
            peer(lab.b, "serve", "0.0.0.0", PORT, "recv-all", options=many)
            peer(lab.b, "serve", "::", MAPPED_PORT, "recv-all", options=many)
            yield pair


@pytest.fixture
def wire(target: Pair) -> Iterator[Wire]:
    made = Wire(target.lab)
    with made.socket:
        yield made


_ports = iter(range(20000, 60000))


@contextlib.contextmanager
def connection(
    wire: Wire, last: int = 77, *, server_port: int = PORT, held: bool = True
) -> Iterator[Connection]:
    made = Connection(wire, wire.address(last), next(_ports), server_port)
    made.ask()
    if held:
        made.establish()
    try:
        yield made
    finally:
        made.reset()


def locator_of(key: bytes) -> int:
    """What an observer of the client's OPEN reads there."""
    quiet = Endpoint(seed=1)
    seen: list[int] = []
    other = Endpoint(seed=2)
    assoc = quiet.connect(("10.0.0.2", 1), 0)
    quiet.open(assoc, 0, key=key)
    for now in range(4):
        for data, _ in quiet.datagrams_to_send(now):
            if is_data(data):
                seen += [
                    f.fields[0] for f in decode(data).frames if isinstance(f, Frame) and f.name == "OPEN"
                ]
            other.receive_datagram(data, ("10.0.0.1", 1), now)
        for data, _ in other.datagrams_to_send(now):
            quiet.receive_datagram(data, ("10.0.0.2", 1), now)
    return seen[0]


def unproven(pair: Pair) -> int:
    assert pair.server
    return counts(pair.server.status())["unproven"]


def owner_still_gets_it(wire: Wire, made: Connection) -> None:
    owner = Engine(wire, made.address)
    assert owner.verdict(owner.open(made.key())) is ev.FlowAccepted


@pytest.mark.parametrize("server_port", [PORT, LATE_PORT, MAPPED_PORT])
def test_who_has_seen_the_handshake_gets_the_flow(wire: Wire, server_port: int) -> None:
    with connection(wire, server_port=server_port) as made:
        assert bool(made.server_nonce) == (server_port != LATE_PORT)
        owner_still_gets_it(wire, made)


def test_behind_a_nat_that_translates_udp_otherwise_the_nonces_are_proof(wire: Wire) -> None:
    with connection(wire) as made:
        other = Engine(wire, wire.address(66))
        assert other.verdict(other.open(made.key())) is ev.FlowAccepted


def test_without_the_servers_nonce_only_the_client_itself_is_believed(wire: Wire, target: Pair) -> None:
    """The sequence numbers alone are no secret to who sees the client's segments."""
    before = unproven(target)
    with connection(wire, server_port=LATE_PORT) as made:
        other = Engine(wire, wire.address(66))
        assert other.verdict(other.open(made.key())) is ev.FlowRejected
        assert unproven(target) == before + 1
        owner_still_gets_it(wire, made)


def test_the_same_syn_from_elsewhere_gets_another_nonce(wire: Wire) -> None:
    with connection(wire, held=False) as made:
        for change in ({"address": wire.address(66)}, {"port": next(_ports)}, {"server_port": MAPPED_PORT}):
            other = replace(made, **change)  # type: ignore[arg-type]
            other.ask()
            other.reset()
            assert other.server_nonce not in (0, made.server_nonce)


def test_who_has_seen_only_the_syn_gets_nothing(wire: Wire) -> None:
    with connection(wire) as made:
        thief = Engine(wire, wire.address(66))
        keys = [struct.pack("<QQ", made.nonce, guess) for guess in (0, 1, made.nonce)]
        keys.append(struct.pack("<Q", made.nonce) + struct.pack("!II", made.isn, made.server_isn))
        flows = [thief.open(key) for key in keys]
        assert {thief.verdict(flow) for flow in flows} == {ev.FlowRejected}
        owner_still_gets_it(wire, made)


@pytest.mark.parametrize("who", [66, 77])
def test_a_known_locator_without_the_key_gets_nothing(wire: Wire, target: Pair, who: int) -> None:
    before = unproven(target)
    with connection(wire) as made, connection(wire, 66) as own:
        thief = Engine(wire, wire.address(who), port=7001)
        locator = locator_of(made.key())
        flows = [thief.open(key, locator) for key in (own.key(), random.randbytes(16), bytes(16))]
        assert {thief.verdict(flow) for flow in flows} == {ev.FlowRejected}
        assert unproven(target) == before + len(flows)
        owner_still_gets_it(wire, made)


def test_an_open_repeated_on_another_association_gets_nothing(wire: Wire, target: Pair) -> None:
    """The observer is faster than the client: its datagram was lost, and he knows it."""
    before = unproven(target)
    with connection(wire) as made:
        owner = Engine(wire, made.address)
        deliver, owner.datagram = owner.datagram, lambda data: None  # type: ignore[method-assign]
        flow = owner.open(made.key())
        (seen,) = (f for f in decode(owner.sent[-1]).frames if isinstance(f, Frame) and f.name == "OPEN")
        thief = Engine(wire, wire.address(66))
        thief.run(lambda: is_data(thief.sent[-1]))
        own = decode(thief.sent[-1])
        thief.datagram(data_packet(own.cid, own.number + 1000, [seen]))
        eventually(lambda: unproven(target) == before + 1)
        owner.datagram = deliver  # type: ignore[method-assign]
        assert owner.verdict(flow) is ev.FlowAccepted


def test_a_thief_who_comes_before_the_flow_does_not_shut_its_owner_out(wire: Wire, target: Pair) -> None:
    before = unproven(target)
    with connection(wire, held=False) as made:
        thief, owner = Engine(wire, wire.address(66)), Engine(wire, made.address)
        locator = locator_of(made.key())
        flows = [thief.open(bytes(16), locator, committed=True) for _ in range(3)]
        flow = owner.open(made.key(), committed=True)
        flows += [thief.open(bytes(16), locator, committed=True) for _ in range(3)]
        made.establish()
        assert owner.verdict(flow) is ev.FlowAccepted
        assert {thief.verdict(f) for f in flows} == {ev.FlowRejected}
        assert unproven(target) >= before + 3


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
        self.data: list[bytes] = []
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
            if isinstance(event, ev.FlowOpened):
                self.opened += 1
                self.endpoint.accept(event.flow)
            elif isinstance(event, ev.DataReceived):
                self.data.append(event.data)

    def __enter__(self) -> Impostor:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.join()
        self.socket.close()


def test_who_has_the_servers_address_but_not_its_connection_gets_no_byte(lab: Lab) -> None:
    with Impostor(lab) as impostor, Pair.open(lab, hosts="a", kind=KIND) as pair:
        for port in (8310, 8311, 8312):
            server = peer(lab.b, "serve", any_address("v4"), port, "recv:9", "send:5", "close", hooked=False)
            client = result(peer(lab.a, "connect", lab.b.v4, port, "send:9", "recv:5", "close"))
            one = result(server)
            assert (client["error"], one["error"]) == (None, None)
            assert one["received_sha256"] == client["sent_sha256"]
        assert impostor.opened == 3
        assert not impostor.data
        assert pair.client
        status = pair.client.status()
        assert counts(status)["engaged"] == 0
        assert status["reasons"]["rejected-by-peer"] == 3


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


@pytest.mark.parametrize(("kind", "version"), [("messages", MESSAGES), ("segments", SEGMENTS)])
def test_who_is_connected_to_often_cannot_tell_the_next_nonce(lab: Lab, kind: str, version: int) -> None:
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
                at = frame.find(b"\xfd\x10HK" + bytes([version << 4 | CLIENT]))
                if at > 0 and frame[47] & (SYN | ACK) == SYN:
                    nonces.append(struct.unpack_from("<Q", frame, at + 8)[0])
    assert len(nonces) == number == len(set(nonces))
    for bit in (1, 17, 33, 63):
        assert linear_complexity([nonce >> bit & 1 for nonce in nonces]) > 140
