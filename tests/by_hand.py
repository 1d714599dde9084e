"""Host a's end of the wire in a test's own hands: TCP handshakes with the option, and an engine's VTL."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hooker.control import netns
from hooker.flow.messages import decode, encode
from hooker.flow.proof import HandshakeProof
from hooker.lab import Lab
from hooker.vtl import events as ev
from hooker.vtl.sansio import Endpoint

CLIENT_UDP = 7000
IPV4 = 0x800
FIN, SYN, RST, ACK = 1, 2, 4, 16
CLIENT, SERVER = 1, 2  # roles in the option
SEGMENTS, MESSAGES = 4, 5  # its versions: kinds of engine
VTL = 1  # in the option's list
QUIET = 1.5  # s without an answer: an OPEN that waits for its flow is forgotten after 0.25
EARLY = 0.2  # s
LARGEST = 65535
BY_VTL = 1 << VTL  # in HELLO
VERSION = 1


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))  # of an even number of bytes
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


class Wire:
    """Host a's end of the wire, used by hand: packets from any IPv4 address of its network to host b."""

    def __init__(self, lab: Lab, version: int) -> None:
        self.lab, self.server, self.version = lab, lab.b.v4, version
        self.socket = lab.a.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(IPV4))
        self.socket.bind(("eth0", IPV4))
        self.mac = {h.letter: netns.call(h.netns, _mac) for h in lab.hosts}
        self.inbox: dict[tuple[int, str, int], deque[bytes]] = {}

    def address(self, last: int) -> str:
        """An address of a host that is not there; host b finds it at ours."""
        address = f"10.77.{self.lab.subnet}.{last}"
        netns.call(self.lab.b.netns, lambda: _introduce(address, self.mac["a"]))
        return address

    def send(self, protocol: int, source: str, segment: bytes) -> None:
        ends = socket.inet_aton(source) + socket.inet_aton(self.server)
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0x4000, 64, protocol, 0) + ends
        head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
        link = _bytes(self.mac["b"]) + _bytes(self.mac["a"]) + struct.pack("!H", IPV4)
        self.socket.send(link + head + segment)

    def receive(self, protocol: int, address: str, port: int, timeout: float = 0.005) -> bytes | None:
        """The next TCP or UDP segment from host b to that address and port."""
        mine = self.inbox.setdefault((protocol, address, port), deque())
        until = time.monotonic() + timeout
        while not mine:
            left = until - time.monotonic()
            if left <= 0:
                return None
            self.socket.settimeout(left)
            with contextlib.suppress(TimeoutError):
                packet = self.socket.recv(65536)[14:]
                if socket.inet_ntoa(packet[12:16]) == self.server:
                    segment = packet[20 : struct.unpack_from("!H", packet, 2)[0]]
                    to = (packet[9], socket.inet_ntoa(packet[16:20]), struct.unpack_from("!H", segment, 2)[0])
                    self.inbox.setdefault(to, deque()).append(segment)
        return mine.popleft()


def _bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _mac() -> str:
    from pyroute2 import IPRoute

    with IPRoute() as ipr:
        return str(ipr.get_links(ifname="eth0")[0].get_attr("IFLA_ADDRESS"))


def _introduce(address: str, mac: str) -> None:
    from pyroute2 import IPRoute

    with IPRoute() as ipr:
        index = ipr.link_lookup(ifname="eth0")[0]
        ipr.neigh("replace", dst=address, lladdr=mac, ifindex=index, state=0x80)  # NUD_PERMANENT


def option(version: int, role: int, nonce: int, rest: bytes = bytes((VTL << 4, 0, 0))) -> bytes:
    """The rest: a client's list, or a server's transport and port."""
    return struct.pack("!BBHB", 253, 16, 0x484B, version << 4 | role) + rest + struct.pack("<Q", nonce)


@dataclass
class Connection:
    """A TCP connection to host b, made by hand: the handshake with the option, and what it showed."""

    wire: Wire
    address: str
    port: int
    server_port: int
    nonce: int = field(default_factory=lambda: random.getrandbits(64) | 1)
    offer: bytes = bytes((VTL << 4, 0, 0))
    server_nonce: int = 0
    selected: tuple[int, int] | None = None  # transport and port; None: the SYN-ACK had no option
    isn: int = field(default_factory=lambda: random.getrandbits(32))
    server_isn: int = 0
    window: int = 65000

    def segment(self, flags: int, seq: int, ack: int, options: bytes = b"") -> None:
        head = struct.pack("!HHII", self.port, self.server_port, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF)
        head += struct.pack("!BBHHH", (20 + len(options)) // 4 << 4, flags, self.window, 0, 0) + options
        ends = socket.inet_aton(self.address) + socket.inet_aton(self.wire.server)
        total = checksum(ends + struct.pack("!HH", 6, len(head)) + head)
        self.wire.send(6, self.address, head[:16] + struct.pack("!H", total) + head[18:])

    def ask(self) -> None:
        """SYN, and the SYN-ACK."""
        for _ in range(20):
            self.segment(SYN, self.isn, 0, b"\x02\x04\x05\xb4" + self.option())
            answer = self.wire.receive(6, self.address, self.port, 1)
            if answer and answer[13] == SYN | ACK:
                break
        else:
            raise AssertionError("no SYN-ACK")
        self.server_isn = struct.unpack_from("!I", answer, 4)[0]
        at = answer.find(b"\xfd\x10HK" + bytes([self.wire.version << 4 | SERVER]))
        self.server_nonce = struct.unpack_from("<Q", answer, at + 8)[0] if at > 0 else 0
        self.selected = struct.unpack_from("!BH", answer, at + 5) if at > 0 else None

    def option(self) -> bytes:
        return option(self.wire.version, CLIENT, self.nonce, self.offer)

    def establish(self) -> None:
        self.segment(ACK, self.isn + 1, self.server_isn + 1, self.option())

    def reset(self) -> None:
        self.segment(RST, self.isn + 1, 0, b"")


class ByHand:
    """An engine at some address: VTL for real, over the wire by hand."""

    def __init__(self, wire: Wire, address: str, port: int = CLIENT_UDP, **config: Any) -> None:
        self.wire, self.address, self.port = wire, address, port
        self.endpoint = Endpoint(seed=random.getrandbits(64), **config)
        self.events: list[Any] = []
        self.sent: list[bytes] = []
        self.assoc = self.endpoint.connect((wire.server, wire.lab.vtl_port), self.now())
        self.run(lambda: self.endpoint.is_up(self.assoc))

    def now(self) -> int:
        return time.monotonic_ns()

    def step(self) -> None:
        timer = self.endpoint.get_timer()
        if timer is not None and timer <= self.now():
            self.endpoint.handle_timer(self.now())
        for data, _ in self.endpoint.datagrams_to_send(self.now()):
            self.sent.append(data)
            self.datagram(data)
        segment = self.wire.receive(17, self.address, self.port)
        if segment:
            self.endpoint.receive_datagram(
                segment[8:], (self.wire.server, self.wire.lab.vtl_port), self.now()
            )
        while (event := self.endpoint.next_event()) is not None:
            self.events.append(event)

    def datagram(self, data: bytes) -> None:
        head = struct.pack("!HHHH", self.port, self.wire.lab.vtl_port, 8 + len(data), 0)  # no checksum
        self.wire.send(17, self.address, head + data)

    def run(self, until: Callable[[], object], timeout: float = 20) -> None:
        deadline = time.monotonic() + timeout
        while not until():
            assert time.monotonic() < deadline, f"no answer: {self.events}"
            self.step()


def hello(instance: int, random_number: int) -> bytes:
    return encode(
        "hello", epoch=VERSION, position=LARGEST, token=instance, own_token=random_number, edge=BY_VTL
    )


class Engine(ByHand):
    """An engine that takes segments, by hand: it greets, and says OPEN for flows that it has, or has not."""

    def __init__(self, wire: Wire, address: str, port: int = CLIENT_UDP, **config: Any) -> None:
        super().__init__(wire, address, port, **config)
        self.greeting = (random.getrandbits(64) | 1, random.getrandbits(64))
        assert self.endpoint.say(self.assoc, hello(*self.greeting))
        self.run(lambda: self.heard("hello"))
        theirs = self.heard("hello")[0]
        self.binding = struct.pack(">QQQQ", *self.greeting, theirs["token"], theirs["own_token"])

    def heard(self, kind: str) -> list[dict[str, Any]]:
        said = [decode(e.data) for e in self.events if isinstance(e, ev.MessageReceived)]
        return [message for message in said if message["kind"] == kind]

    def signed(self, proof: HandshakeProof, locator: int | None = None, flags: int = 0) -> bytes:
        token = proof.locator if locator is None else locator
        ours = {"own_token": 1 << 32, "binding": self.binding, "flags": flags}
        return proof.sign("open", epoch=1, token=token, **ours)  # type: ignore[arg-type]

    def say(self, message: bytes) -> None:
        assert self.endpoint.say(self.assoc, message)
        self.step()

    def accepted(self, message: bytes, *beside: ByHand) -> bool:
        """Whether that OPEN, said as often as an engine would, is accepted at last. Those beside live on."""
        deadline = time.monotonic() + QUIET
        while time.monotonic() < deadline and not self.heard("accept"):
            self.say(message)
            until = time.monotonic() + EARLY
            while time.monotonic() < until and not self.heard("accept"):
                for one in (self, *beside):
                    one.step()
        return bool(self.heard("accept"))


def proof_of(made: Connection, **other: int) -> HandshakeProof:
    seen = {
        "client_nonce": made.nonce,
        "server_nonce": made.server_nonce,
        "client_isn": made.isn,
        "server_isn": made.server_isn,
    }
    return HandshakeProof(**{**seen, **other})
