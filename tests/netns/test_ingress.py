"""hk_ingress, packet by packet (BPF_PROG_TEST_RUN): a frame in; verdict, reason and frame out."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from hooker.control import bpf_calls
from hooker.control.ingress import Ingress, Rate, Way
from hooker.errors import KernelError
from hooker.vtl.sansio import Endpoint
from tests import ingress_frames as made
from tests.ingress_frames import OURS, PORT, SERVICE_VLAN, THEIR_PORT, THEIRS, V4, V6, VLAN, frame

DROP, PASS, TX, REDIRECT = 1, 2, 3, 4  # enum xdp_action
LOOPBACK = 1  # the interface that a frame has come by when it is tried
SEED = 2026  # of the responder: its first random bytes are its secret
SEEDS = itertools.count(1)  # of initiators
VERSIONS = (1, 0x2A)
KNOWN = 0x1122334455667788
STRANGE = 0x8877665544332211
AF_XDP = 44
WAYS = ("udp", "ip")
FAMILIES = (4, 6)
BOTH = pytest.mark.parametrize(("way", "family"), [(way, family) for way in WAYS for family in FAMILIES])


def secret() -> bytes:
    return random.Random(SEED).randbytes(16)


def way(name: str, **changes: Any) -> Way:
    settings = {"secret": secret(), "versions": VERSIONS, "port": PORT if name == "udp" else 0}
    return Way(**settings | changes)


@pytest.fixture(scope="module")
def loaded() -> Iterator[Ingress]:
    with Ingress() as ingress:
        yield ingress


@pytest.fixture
def ingress(loaded: Ingress) -> Ingress:
    """Told of both ways, of two addresses, and of one association; no rate stops anything."""
    tell(loaded)
    be_in_state(loaded)
    for family in FAMILIES:
        loaded.set_address(OURS[family], LOOPBACK)
    loaded.know(KNOWN)
    return loaded


def tell(ingress: Ingress, **changes: Any) -> None:
    settings = {"ways": {name: way(name) for name in WAYS}, "each": {}, "all": {}}
    ingress.tell(**settings | changes)


def be_in_state(ingress: Ingress, clock_behind: int = 0, unnamed: int = 0) -> None:
    """What VTL over UDP says of itself as it goes."""
    bpf_calls.update(ingress.states, struct.pack("I", 0), struct.pack("qQ", clock_behind, unnamed))


def run(ingress: Ingress, content: bytes) -> tuple[int, str, bytes]:
    """Verdict, the one reason that was counted, the frame afterwards."""
    before = ingress.counters()
    verdict, out, _ = bpf_calls.try_packet(ingress.program, content)
    counted = {name: n - before[name] for name, n in ingress.counters().items() if n != before[name]}
    assert list(counted.values()) == [1]
    (reason,) = counted
    assert verdict != PASS or out == content
    return verdict, reason, out


# ---- what passes, and what does not --------------------------------------------------------------------

HOP, ROUTING, DESTINATION, FRAGMENT = 0, 43, 60, 44
PAD6 = bytes([0, 1, 4, 0, 0, 0, 0])  # behind the first byte: a header of 8 bytes with nothing in it
THERE = bytes(7)  # a routing header that has been followed to its end
LONG = bytes([7, *bytes(62)])  # one of 64


def tcp_frame() -> bytes:
    return made.ethernet(made.ipv4(6, bytes(20)), V4)


def v4(vtl: bytes, **changes: Any) -> bytes:
    return made.ethernet(made.ipv4(made.UDP, made.udp(vtl, THEIRS[4], OURS[4]), **changes), V4)


def v6(vtl: bytes, **changes: Any) -> bytes:
    return made.ethernet(made.ipv6(made.UDP, made.udp(vtl, THEIRS[6], OURS[6]), **changes), V6)


def v4_udp(**changes: Any) -> bytes:
    return made.ethernet(made.ipv4(made.UDP, made.udp(GOOD, THEIRS[4], OURS[4], **changes)), V4)


def v6_udp(**changes: Any) -> bytes:
    return made.ethernet(made.ipv6(made.UDP, made.udp(GOOD, THEIRS[6], OURS[6], **changes)), V6)


GOOD = made.data(KNOWN)
ODD = [
    ("no IP", made.ethernet(bytes(46), 0x0806), PASS, "pass-other"),
    ("nothing but a header of Ethernet", bytes(14), PASS, "pass-other"),
    ("TCP", tcp_frame(), PASS, "pass-other"),
    ("another port", v4_udp(port=53), PASS, "pass-other"),
    ("UDP that is longer than IP", v4_udp(length=100), DROP, "drop-malformed"),
    ("UDP that is shorter than its header", v4_udp(length=7), DROP, "drop-malformed"),
    ("UDP without a length", v4_udp(length=0), DROP, "drop-malformed"),
    ("that IPv6 has", v6_udp(length=0), PASS, "pass-other"),
    ("IPv4 with options", v4(GOOD, options=b"\1" * 40), PASS, "pass-known"),
    ("its header cut", v4(GOOD, first=0x44), PASS, "pass-other"),
    ("another version of IP", v4(GOOD, first=0x65), PASS, "pass-other"),
    ("longer than the frame", v4(GOOD, total=1000), DROP, "drop-malformed"),
    ("shorter than its header", v4(GOOD, total=19), PASS, "pass-other"),
    ("checksum of IPv4", v4(GOOD, check=0x1234), DROP, "drop-checksum"),
    ("and with options", v4(GOOD, options=b"\1" * 8, check=0x1234), DROP, "drop-checksum"),
    ("first fragment", v4(GOOD, fragment=0x2000), PASS, "pass-fragment"),
    ("last fragment", v4(GOOD, fragment=0x00B9), PASS, "pass-fragment"),
    ("DF", v4(GOOD, fragment=0x4000), PASS, "pass-known"),
    ("fragment of TCP", made.ethernet(made.ipv4(6, bytes(20), fragment=0x2000), V4), PASS, "pass-other"),
    ("IPv6, longer than the frame", v6(GOOD, length=1000), DROP, "drop-malformed"),
    ("another version in IPv6's place", v6(GOOD, first=0x40), PASS, "pass-other"),
    ("extensions", v6(GOOD, extensions=[(HOP, PAD6), (ROUTING, THERE)]), PASS, "pass-known"),
    ("a long one", v6(GOOD, extensions=[(HOP, LONG)]), PASS, "pass-known"),
    ("four", v6(GOOD, extensions=[(HOP, PAD6)] + [(DESTINATION, PAD6)] * 3), PASS, "pass-known"),
    ("too many", v6(GOOD, extensions=[(HOP, PAD6)] + [(DESTINATION, PAD6)] * 4), PASS, "pass-other"),
    ("one too long for us", v6(GOOD, extensions=[(HOP, bytes([8, *bytes(70)]))]), PASS, "pass-other"),
    ("one longer than IP", v6(GOOD, extensions=[(HOP, bytes([7, *bytes(6)]))]), PASS, "pass-other"),
    ("to be routed on", v6(GOOD, extensions=[(ROUTING, bytes([0, 0, 1, 0, 0, 0, 0]))]), PASS, "pass-other"),
    ("IPv6 fragment", v6(GOOD, extensions=[(FRAGMENT, bytes(7))]), PASS, "pass-fragment"),
    ("IPv6 without anything behind", made.ethernet(made.ipv6(made.UDP, b""), V6), PASS, "pass-other"),
    ("protocol 253 without a checksum", made.ethernet(made.ipv4(253, b"abc"), V4), DROP, "drop-malformed"),
    ("one VLAN", frame(GOOD, tags=[VLAN]), PASS, "pass-known"),
    ("two", frame(GOOD, tags=[SERVICE_VLAN, VLAN]), PASS, "pass-known"),
    ("three", frame(GOOD, tags=[SERVICE_VLAN, VLAN, VLAN]), PASS, "pass-other"),
]  # fmt: skip

# What is in a datagram, the same by every way and family.
VTL = [
    ("nothing", b"", DROP, "drop-malformed"),
    ("another wire format", made.header(1, wire=3), DROP, "drop-wire"),
    ("wire format 0", bytes(200), DROP, "drop-wire"),
    *((f"type {kind}", made.header(kind), DROP, "drop-type") for kind in (0, 4, 5, 7, 11, 12, 13, 14, 15)),
    ("DATA", made.data(KNOWN), PASS, "pass-known"),
    ("DATA, the other phase", made.data(KNOWN, kind=9), PASS, "pass-known"),
    ("DATA, empty", made.data(KNOWN, b""), DROP, "drop-malformed"),
    ("DATA, of nobody", made.data(STRANGE), PASS, "pass-unknown"),
    ("a reset", made.data(STRANGE, b"", kind=10), PASS, "pass-unknown"),
    ("COOKIE", made.cookie(KNOWN), PASS, "pass-known"),
    ("COOKIE, with eight versions", made.cookie(KNOWN, range(8)), PASS, "pass-known"),
    ("COOKIE, of nobody", made.cookie(STRANGE), DROP, "drop-unknown"),
    ("COOKIE, fewer versions than it says", made.cookie(KNOWN, (1,), 2), DROP, "drop-malformed"),
    ("INIT_ACK", made.init_ack(KNOWN), PASS, "pass-known"),
    ("INIT_ACK, of nobody", made.init_ack(STRANGE), DROP, "drop-unknown"),
    ("INIT_ACK, fewer versions than it says", made.init_ack(KNOWN, (1,), 255), DROP, "drop-malformed"),
    ("CLOSE", made.close(KNOWN), PASS, "pass-known"),
    ("CLOSE, of nobody", made.close(STRANGE), DROP, "drop-unknown"),
    ("INIT, too short", made.init(size=127), DROP, "drop-malformed"),
    ("INIT, fewer versions than it says", made.init(claimed=16), DROP, "drop-malformed"),
    ("INIT, forged cookie", made.init(cookie=(1, 2, 3)), DROP, "drop-cookie"),
    ("INIT, the time alone", made.init(cookie=(0, 2, 0)), DROP, "drop-cookie"),
]  # fmt: skip
LEAST = {"data": 14, "cookie": 44, "init_ack": 52, "close": 24, "init": 128}


def test_what_is_around_it(ingress: Ingress) -> None:
    found = [(about, *run(ingress, content)[:2]) for about, content, _, _ in ODD]
    assert found == [(about, verdict, reason) for about, _, verdict, reason in ODD]


@BOTH
def test_what_is_in_it(ingress: Ingress, way: str, family: int) -> None:
    found = [(about, *run(ingress, frame(vtl, way, family))[:2]) for about, vtl, _, _ in VTL]
    assert found == [(about, verdict, reason) for about, _, verdict, reason in VTL]


@BOTH
def test_an_init_is_answered_once(ingress: Ingress, way: str, family: int) -> None:
    """Who asks again has not heard that: the engine's answer may go another way."""
    contents = [made.init(), made.init(claimed=15), made.init(size=1200)]
    for seen in ((TX, "tx-cookie"), (PASS, "pass-init"), (PASS, "pass-init")):
        assert [run(ingress, frame(content, way, family))[:2] for content in contents] == [seen] * 3


@BOTH
def test_what_is_not_for_this_host_passes_whatever_is_in_it(ingress: Ingress, way: str, family: int) -> None:
    other = {4: "192.0.2.2", 6: "2001:db8::2"}[family]
    for _, vtl, _, _ in VTL:
        assert run(ingress, frame(vtl, way, family, to=other))[:2] == (PASS, "pass-elsewhere")


def test_a_way_that_nobody_named_passes(ingress: Ingress) -> None:
    for one, other in (WAYS, WAYS[::-1]):
        tell(ingress, ways={one: way(one)})
        assert run(ingress, frame(made.header(0), one))[0] == DROP
        assert run(ingress, frame(made.header(0), other))[:2] == (PASS, "pass-other")
    tell(ingress, ways={})
    assert {run(ingress, frame(made.header(0), name))[:2] for name in WAYS} == {(PASS, "pass-other")}


@BOTH
def test_cut_at_each_byte(ingress: Ingress, way: str, family: int) -> None:
    """As a frame that ends too early, and as a datagram that does, its lengths being right."""
    bodies = {
        "data": made.data(KNOWN),
        "cookie": made.cookie(KNOWN),
        "init_ack": made.init_ack(KNOWN),
        "close": made.close(KNOWN),
        "init": made.init(size=132),
    }
    network = made.ETHERNET + (20 if family == 4 else 40)
    readable = network + (8 if way == "udp" else 0)
    before = ingress.counters()
    due = {"pass-other": 0, "drop-malformed": 0}
    for name, body in bodies.items():
        whole = frame(body, way, family)[: readable + len(body) + (4 if way == "ip" else 0)]
        for n in range(made.ETHERNET, len(whole)):
            verdict = bpf_calls.try_packet(ingress.program, whole[:n])[0]
            assert verdict == (PASS if n < readable else DROP), (name, n)
            due["pass-other" if verdict == PASS else "drop-malformed"] += 1
        for n in range(len(body)):
            verdict = bpf_calls.try_packet(ingress.program, frame(body[:n], way, family))[0]
            assert (verdict == DROP) == (n < LEAST[name]), (name, n)
            due["drop-malformed"] += verdict == DROP
    assert {name: n - before[name] for name, n in ingress.counters().items() if name in due} == due


def test_an_address_that_is_given_up_is_somebody_elses(ingress: Ingress) -> None:
    ingress.drop_address(OURS[4])
    ingress.drop_address(OURS[4])
    assert run(ingress, frame(made.header(0)))[1] == "pass-elsewhere"


def test_an_association_that_is_over_is_nobodys(ingress: Ingress) -> None:
    assert run(ingress, frame(made.close(KNOWN)))[0] == PASS
    ingress.forget(KNOWN)
    assert run(ingress, frame(made.close(KNOWN)))[1] == "drop-unknown"
    be_in_state(ingress, unnamed=1)  # it may well be somebody's
    assert run(ingress, frame(made.close(KNOWN)))[1] == "pass-known"


# ---- cookies -------------------------------------------------------------------------------------------


@dataclass
class Pair:
    """Two real endpoints, of which the program stands before the responder."""

    family: int
    way: str
    responder: Endpoint = field(default_factory=lambda: Endpoint(seed=SEED, versions=VERSIONS))
    initiator: Endpoint = field(default_factory=lambda: Endpoint(seed=next(SEEDS), versions=(0x2A,)))

    def __post_init__(self) -> None:
        self.server = (OURS[self.family], PORT if self.way == "udp" else 0)
        self.client = (THEIRS[self.family], THEIR_PORT if self.way == "udp" else 0)
        self.association = self.initiator.connect(self.server, self.now)

    @property
    def now(self) -> int:
        return time.monotonic_ns()

    def init(self) -> bytes:
        ((datagram, _),) = self.initiator.datagrams_to_send(self.now)
        return bytes(datagram)

    def cookie(self, init: bytes) -> bytes:
        """What the responder itself says."""
        self.responder.receive_datagram(init, self.client, self.now)
        ((datagram, _),) = self.responder.datagrams_to_send(self.now)
        return bytes(datagram)

    def come_up(self, init: bytes) -> bool:
        self.responder.receive_datagram(init, self.client, self.now)
        for datagram, _ in self.responder.datagrams_to_send(self.now):
            self.initiator.receive_datagram(datagram, self.server, self.now)
        return bool(self.initiator.is_up(self.association))


@BOTH
def test_a_cookie_made_here_opens_the_engines_door(ingress: Ingress, way: str, family: int) -> None:
    pair = Pair(family, way)
    first = frame(pair.init(), way, family)
    verdict, _, out = run(ingress, first)
    answer = made.read_answer(out)
    assert verdict == TX
    assert len(out) < len(first)
    assert (answer.source, answer.to) == (OURS[family], THEIRS[family])
    assert answer.ports == ((PORT, THEIR_PORT) if way == "udp" else (0, 0))
    assert len(answer.vtl) == 40 + 4 * len(VERSIONS)
    pair.initiator.receive_datagram(answer.vtl, pair.server, pair.now)
    second = pair.init()
    assert run(ingress, frame(second, way, family))[:2] == (PASS, "pass-proven")
    assert pair.come_up(second)


@BOTH
def test_it_answers_what_the_engine_would_answer(ingress: Ingress, way: str, family: int) -> None:
    """But for the connection id, and so the MAC."""
    pair = Pair(family, way)
    init = pair.init()
    answer = made.read_answer(run(ingress, frame(init, way, family))[2]).vtl
    due = pair.cookie(init)
    assert (answer[:12], answer[20:24], answer[40:]) == (due[:12], due[20:24], due[40:])
    assert abs(int.from_bytes(answer[24:32], "big") - int.from_bytes(due[24:32], "big")) <= 1


@BOTH
def test_the_engines_cookie_passes_and_no_other(ingress: Ingress, way: str, family: int) -> None:
    pair = Pair(family, way)
    pair.initiator.receive_datagram(pair.cookie(pair.init()), pair.server, pair.now)
    init = bytearray(pair.init())
    assert run(ingress, frame(bytes(init), way, family))[:2] == (PASS, "pass-proven")
    for at in (*range(12, 20), *range(44, 68)):  # initiator's id, cookie
        init[at] ^= 1
        assert run(ingress, frame(bytes(init), way, family))[:2] == (DROP, "drop-cookie"), at
        init[at] ^= 1
    other = {4: "198.51.100.8", 6: "2001:db8:7::8"}[family]
    assert run(ingress, frame(bytes(init), way, family, source=other))[:2] == (DROP, "drop-cookie")


def test_a_cookie_is_good_for_sixteen_ticks(ingress: Ingress) -> None:
    """The clock of the endpoint may be behind ours: what it will not take, is not made, or let pass."""
    pair = Pair(4, "udp")
    pair.initiator.receive_datagram(pair.cookie(pair.init()), pair.server, pair.now)
    init = frame(pair.init())
    tick = 1 << 30
    for behind, verdict in ((-17 * tick, DROP), (-15 * tick, PASS), (2 * tick, DROP)):
        be_in_state(ingress, behind)
        assert run(ingress, init)[0] == verdict, behind
    be_in_state(ingress, 3 * tick)
    answer = made.read_answer(run(ingress, frame(made.init()))[2]).vtl
    assert 2 <= (time.monotonic_ns() >> 30) - int.from_bytes(answer[24:32], "big") <= 4


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_frames_of_others_are_the_kernels(ingress: Ingress, family: int, way: str) -> None:
    """It drops them. A switch would learn another host's address from an answer, or one to all."""
    told, others = made.OUR_MAC, {"another": "020000000099", "all": "ffffffffffff", "a group": "01005e000001"}
    for datagram, here in ((made.init(), TX), (made.data(KNOWN), PASS), (made.data(KNOWN + 1), PASS)):
        content = frame(datagram, way, family)
        for address in others.values():
            ingress.set_link(LOOPBACK, told)
            assert run(ingress, bytes.fromhex(address) + content[6:])[:2] == (PASS, "pass-elsewhere")
        assert run(ingress, content)[0] == here
    ingress.drop_link(LOOPBACK)
    assert run(ingress, bytes.fromhex(others["all"]) + content[6:])[:2] == (PASS, "pass-elsewhere")
    assert run(ingress, bytes.fromhex(others["another"]) + content[6:])[:2] == (PASS, "pass-unknown")


def test_connection_ids_are_all_different(ingress: Ingress) -> None:
    ids = {bpf_calls.try_packet(ingress.program, frame(made.init()))[1][54:62] for _ in range(300)}
    assert len(ids) == 300


def test_an_answer_keeps_the_tags(ingress: Ingress) -> None:
    ingress.set_address(OURS[4], LOOPBACK + 1)
    out = run(ingress, frame(made.init(), tags=[SERVICE_VLAN, VLAN]))[2]
    assert [tag.hex() for tag in made.read_answer(out).tags] == ["88a80005", "81000005"]


@pytest.mark.parametrize("size", [128, 129, 130, 131, 1200, 1472, 2048])
def test_an_init_over_ip_is_believed_with_its_checksum(ingress: Ingress, size: int) -> None:
    assert run(ingress, frame(made.init(size=size), "ip"))[:2] == (TX, "tx-cookie")
    good = frame(made.init(size=size), "ip")
    for at in (34, len(good) - 5, len(good) - 1):
        damaged = bytearray(good)
        damaged[at] ^= 0x80 if at > 34 else 0
        damaged[34 + 30] ^= at == 34  # a limit: nothing else looks at it
        assert run(ingress, bytes(damaged))[:2] == (DROP, "drop-checksum"), at


@pytest.mark.parametrize(
    ("about", "changes", "content"),
    [
        ("signed", {"ways": {"udp": way("udp", keyed=True)}}, frame(made.init())),
        ("in a VLAN, and the address is this interface's", {}, frame(made.init(), tags=[VLAN])),
        ("IPv4 with options", {}, v4(made.init(), options=b"\1" * 4)),
        ("extension headers", {}, v6(made.init(), extensions=[(HOP, PAD6)])),
        ("longer than is summed up here", {}, frame(made.init(size=2049), "ip")),
        ("from nobody", {}, frame(made.init(), source="0.0.0.1")),
        ("from this host itself", {}, frame(made.init(), source=OURS[4])),
        ("from a group", {}, frame(made.init(), source="224.0.0.1")),
        ("from everybody", {}, frame(made.init(), source="255.255.255.255")),
        ("from a group, IPv6", {}, frame(made.init(), family=6, source="ff02::1")),
        ("from nobody, IPv6", {}, frame(made.init(), family=6, source="::")),
    ],
)
def test_what_the_engine_has_to_answer(
    ingress: Ingress, about: str, changes: dict[str, Any], content: bytes
) -> None:
    tell(ingress, **changes)
    assert run(ingress, content)[:2] == (PASS, "pass-init")


def test_an_address_of_another_interface_is_answered_by_the_engine(ingress: Ingress) -> None:
    """The card may have taken off the tag with which the frame came for it."""
    ingress.set_address(OURS[4], LOOPBACK + 1)
    assert run(ingress, frame(made.init()))[:2] == (PASS, "pass-init")
    assert run(ingress, frame(made.init(), tags=[VLAN]))[:2] == (TX, "tx-cookie")


@pytest.mark.parametrize("family", FAMILIES)
def test_in_generic_mode_a_checksum_still_to_come_is_left_alone(ingress: Ingress, family: int) -> None:
    content = bytearray(frame(made.init(1 << 40 | family), family=family))
    at = made.ETHERNET + (20 if family == 4 else 40)
    pseudo = made.packed(THEIRS[family]) + made.packed(OURS[family])
    content[at + 6 : at + 8] = struct.pack("!H", made.ones(pseudo + struct.pack("!II", 136, made.UDP)))
    tell(ingress, generic=True)
    assert run(ingress, bytes(content))[1] == "pass-init"
    tell(ingress)
    assert run(ingress, bytes(content))[1] == "tx-cookie"
    tell(ingress, generic=True)
    assert run(ingress, frame(made.init(), family=family))[1] == "tx-cookie"


# ---- rates ---------------------------------------------------------------------------------------------

SLOW = Rate(0.001, 3)


def reasons(ingress: Ingress, contents: Sequence[bytes]) -> list[str]:
    return [run(ingress, content)[1] for content in contents]


def unknown(source: str, family: int = 4) -> bytes:
    return frame(made.data(STRANGE), "ip", family, source=source)


@pytest.mark.parametrize(
    ("family", "same", "other"),
    [(4, "203.0.113.{}", "203.0.114.1"), (6, "2001:db8:1:2{}::", "2001:db8:1:300::")],
)
def test_a_source_prefix_has_its_rate(ingress: Ingress, family: int, same: str, other: str) -> None:
    tell(ingress, each={"unknown": SLOW})
    seen = reasons(ingress, [unknown(same.format(10 + n), family) for n in range(5)])
    assert seen == ["pass-unknown"] * 3 + ["drop-unknown-rate"] * 2
    assert reasons(ingress, [unknown(other, family)]) == ["pass-unknown"]


def test_all_together_have_one(ingress: Ingress) -> None:
    tell(ingress, all={"unknown": SLOW}, each={"unknown": Rate(1000, 1000)})
    seen = reasons(ingress, [unknown(f"203.0.{n}.1") for n in range(115, 120)])
    assert seen == ["pass-unknown"] * 3 + ["drop-unknown-rate"] * 2


def test_kinds_have_their_own(ingress: Ingress) -> None:
    """INITs to be answered by the engine, and those with a good cookie; known associations have none."""
    ways = {"udp": way("udp", keyed=True)}
    tell(ingress, ways=ways, each=dict.fromkeys(("init", "proven", "unknown"), SLOW))
    pair = Pair(4, "udp")
    pair.initiator.receive_datagram(pair.cookie(pair.init()), pair.server, pair.now)
    proven = frame(pair.init())
    for content, passes, drops in (
        (frame(made.init()), "pass-init", "drop-init-rate"),
        (proven, "pass-proven", "drop-proven-rate"),
        (frame(made.data(STRANGE)), "pass-unknown", "drop-unknown-rate"),
        (frame(made.data(STRANGE, b"", kind=10)), "drop-unknown-rate", "drop-unknown-rate"),
    ):
        assert reasons(ingress, [content] * 5) == [passes] * 3 + [drops] * 2
    assert reasons(ingress, [frame(made.data(KNOWN))] * 5) == ["pass-known"] * 5


def test_what_has_been_used_up_comes_back(ingress: Ingress) -> None:
    tell(ingress, each={"unknown": Rate(2, 1)})
    content = unknown("203.0.200.1")
    assert reasons(ingress, [content, content]) == ["pass-unknown", "drop-unknown-rate"]
    time.sleep(0.6)
    assert reasons(ingress, [content]) == ["pass-unknown"]


def test_what_others_have_used_up_is_not_charged_to_a_source(ingress: Ingress) -> None:
    """In a flood nothing of an honest source is left, but its own rate is."""
    ways = {"udp": way("udp", keyed=True)}
    tell(ingress, ways=ways, all={"init": Rate(4, 1)}, each={"init": Rate(0.001, 1)})
    flood, honest = (frame(made.init(), source=f"203.0.{n}.1") for n in (201, 202))
    assert reasons(ingress, [flood, honest]) == ["pass-init", "drop-init-rate"]
    time.sleep(0.3)
    assert reasons(ingress, [honest]) == ["pass-init"]


def test_answers_from_here_have_none(ingress: Ingress) -> None:
    """Whoever forges an address would use up its limit, and an answer is smaller than what it answers."""
    tell(ingress, each={"init": SLOW}, all={"init": SLOW})
    assert reasons(ingress, [frame(made.init()) for _ in range(10)]) == ["tx-cookie"] * 10


# ---- AF_XDP --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_data_over_ip_goes_to_the_socket_of_its_queue(ingress: Ingress, family: int) -> None:
    content = frame(made.data(KNOWN), "ip", family)
    options = made.ipv4(253, made.carried(made.data(KNOWN), "ip", THEIRS[4], OURS[4])[1], options=b"\1" * 4)
    with contextlib.closing(socket.socket(AF_XDP, socket.SOCK_RAW)) as queue:
        ingress.lead(LOOPBACK + 1, 0, queue.fileno())
        ingress.lead(LOOPBACK, 1, queue.fileno())
        assert run(ingress, content)[:2] == (PASS, "pass-known"), "another interface, another queue"
        ingress.lead(LOOPBACK, 0, queue.fileno())
        assert run(ingress, content)[:2] == (REDIRECT, "redirect")
        assert run(ingress, frame(made.data(KNOWN), "udp", family))[1] == "pass-known"
        assert run(ingress, frame(made.data(STRANGE), "ip", family))[1] == "pass-unknown"
        assert run(ingress, frame(made.close(KNOWN), "ip", family))[1] == "pass-known"
        assert run(ingress, made.ethernet(options, V4))[1] == "pass-known"
        ingress.lead_no_more(LOOPBACK)
        assert run(ingress, content)[:2] == (PASS, "pass-known")
        ingress.lead_no_more(LOOPBACK + 1)
        for number in range(64):
            ingress.lead(LOOPBACK + 1, number, queue.fileno())
        with pytest.raises(KernelError):
            ingress.lead(LOOPBACK, 0, queue.fileno())
        ingress.lead_no_more(LOOPBACK + 1)


# ---- whatever comes ------------------------------------------------------------------------------------


RUNS = 15_000


def changed(content: bytes, chance: random.Random) -> bytes:
    """Some bytes different, some missing, some more."""
    out = bytearray(content)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(12, min(len(out), 90))
        out[at] = chance.choice((0, 1, 0xFF, 0x80, chance.randrange(256), out[at] ^ 1 << chance.randrange(8)))
    if chance.random() < 0.3:
        del out[chance.randrange(made.ETHERNET, len(out) + 1) :]
    if chance.random() < 0.1:
        out += chance.randbytes(chance.randrange(1, 64))
    if out[12:15] == b"\x08\0\x45" and len(out) >= 34 and chance.random() < 0.8:
        out[24:26] = bytes(2)  # the checksum of IPv4
        out[24:26] = struct.pack("!H", ~made.ones(out[14:34]) & 0xFFFF)
    return bytes(out)


def test_whatever_comes_has_one_verdict(ingress: Ingress) -> None:
    """Passed untouched, dropped, or answered by something whole that is smaller; each counted once."""
    chance = random.Random(253)
    seeds = [content for _, content, _, _ in ODD]
    seeds += [frame(vtl, name, family) for name in WAYS for family in FAMILIES for _, vtl, _, _ in VTL]
    verdicts = dict.fromkeys((DROP, PASS, TX), 0)
    before = sum(ingress.counters().values())
    for _ in range(RUNS):
        content = chance.choice(seeds)
        if chance.random() < 0.2:
            content = frame(made.init(), chance.choice(WAYS), chance.choice(FAMILIES))
        content = changed(content, chance)
        verdict, out, _ = bpf_calls.try_packet(ingress.program, content)
        verdicts[verdict] += 1
        if verdict == PASS:
            assert out == content
        elif verdict == TX:
            assert len(out) < len(content)
            made.read_answer(made.THEIR_MAC + made.OUR_MAC + out[12:])
    assert sum(ingress.counters().values()) - before == RUNS
    assert min(verdicts.values()) > 50, verdicts
