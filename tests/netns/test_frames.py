"""The carrier ``ip`` sends frames of its own by AF_XDP, as the kernel would, and only where it would."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import random
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from own_sockets import own_sockets
from support import PLAIN, SLOWNESS, eventually

from hooker.carriers import Settings, ip, udp
from hooker.carriers.face import Lone
from hooker.control import bpf_calls, compiled, netns
from hooker.control.loaded import Loaded
from hooker.lab import INTERFACE, Host, Lab

pytestmark = [pytest.mark.timeout(60), pytest.mark.skipif(PLAIN, reason="needs no applications")]
MODES = {"native": bpf_calls.XDP_NATIVE, "generic": bpf_calls.XDP_GENERIC}
WAYS = (
    "frame",
    "in turn",
    "route",
    "interface",
    "neighbour",
    "ipsec",
    "size",
    "source",
    "full",
    "asked",
    "unproven",
)
CHUNKS = 2048  # XSK_SENT_CHUNKS
SO_PROTOCOL, SO_DOMAIN = 38, 39  # asm-generic/socket.h
PASSES = "int passes(struct xdp_md *c) { return XDP_PASS; }"


def packed(address: str) -> bytes:
    one = ipaddress.ip_address(address)
    return one.packed if one.version == 6 else bytes(10) + b"\xff\xff" + one.packed


class Sending:
    """A carrier at host a that sends frames, beside an XDP program; one at b hears; a context manager."""

    def __init__(self, lab: Lab, family: str, mode: int, program: Loaded, attached: bool = True) -> None:
        self.lab, self.family = lab, family
        self.to, self.own = (packed(getattr(host, family)) for host in (lab.b, lab.a))
        self.b = netns.call(lab.b.netns, lambda: Lone(ip.make(Settings())))
        self.a = netns.call(lab.a.netns, lambda: Lone(ip.make(Settings(given={"frames": 1}))))
        index = netns.call(lab.a.netns, lambda: socket.if_nametoindex(INTERFACE))
        passes = program.program("passes", bpf_calls.XDP, bpf_calls.XDP_ATTACH, bpf_calls.F_XDP_HAS_FRAGS)
        self.link = netns.call(lab.a.netns, lambda: bpf_calls.link_xdp(passes, index, mode))
        self.descriptor = netns.call(lab.a.netns, lambda: self.a.attach(index)) if attached else -1

    def __enter__(self) -> Sending:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.link)
        self.a.close()
        self.b.close()

    def send(self, *data: bytes, ecn: int = 0, parts: int = 1) -> dict[str, int]:
        """All of it; how it has left, by what is not 0."""
        before = self.a.left()
        left = [(self.to, 0, one) for one in data]
        while left:
            left = left[self.a.send(left[:500], ecn=ecn, parts=parts, local=self.own) :]
        ways = zip(WAYS, self.a.left(), before, strict=True)
        return {way: now - then for way, now, then in ways if now != then}

    def once_asked(self, data: bytes) -> dict[str, int]:
        """How it leaves as soon as the kernel has said where it goes. Until then the kernel sends it."""
        end = time.monotonic() + 5
        while (left := self.send(data)) == {"asked": 1}:
            assert time.monotonic() < end, "the kernel has not answered"
            time.sleep(0.001)
        return left

    def heard(self, n: int, seconds: float = 3.0) -> list[bytes]:
        end = time.monotonic() + seconds
        got = self.b.receive()
        while len(got) < n and time.monotonic() < end:
            time.sleep(0.002)
            got += self.b.receive()
        assert {one[:2] for one in got} <= {(packed(getattr(self.lab.a, self.family)), self.to)}
        return [data for *_, data in got]

    def settle(self) -> None:
        """Until frames go out: the kernel knows its neighbour, and has had its packet of this second."""
        end = time.monotonic() + 20
        while self.send(b"are you there?") != {"frame": 1}:
            assert time.monotonic() < end, "no frame has left"
            time.sleep(0.02)
        self.heard(1000, 0.05)

    def run(self, *command: str) -> None:
        self.lab.a.run(["ip", *command])


@pytest.fixture(scope="module")
def program() -> Iterator[Loaded]:
    with Loaded(compiled.compiled(PASSES, [compiled.QUIET])) as made:
        yield made


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.fixture(params=["v4", "v6"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def sending(lab: Lab, family: str, program: Loaded) -> Iterator[Sending]:
    with Sending(lab, family, MODES["native"], program) as made:
        made.settle()
        yield made


def wire_of(host: Host) -> socket.socket:
    """All frames that this host hears, from now on."""
    made = netns.call(host.netns, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
    made.bind((INTERFACE, 0))
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
    made.settimeout(3)
    return made


def ours(wire: socket.socket, n: int) -> list[bytes]:
    """The next n frames of protocol 253."""
    found: list[bytes] = []
    while len(found) < n:
        frame, at = wire.recvfrom(1 << 16)
        kind = struct.unpack_from("!H", frame, 12)[0]
        if at[2] != socket.PACKET_OUTGOING and (frame[23] if kind == 0x0800 else frame[20]) == 253:
            found.append(frame)
    return found


@pytest.mark.parametrize("mode", MODES)
def test_datagrams_arrive_whole_and_in_order(lab: Lab, family: str, mode: str, program: Loaded) -> None:
    some = random.Random(1)
    with Sending(lab, family, MODES[mode], program) as made:
        for _ in range(10):
            made.settle()
            sent = [some.randbytes(some.choice([1, 20, 700, 1400])) for _ in range(1000)]
            left = made.send(*sent)
            assert made.heard(1000) == sent
            assert left.keys() <= {"frame", "in turn"}
            assert left["frame"] >= 900


def drained(wire: socket.socket) -> None:
    wire.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while wire.recv(1 << 16):
            pass
    wire.settimeout(3)


@pytest.mark.parametrize("bound", [True, False])  # or the kernel chooses the source
@pytest.mark.parametrize("hops", [None, 7])
def test_frames_are_what_the_kernel_would_have_sent(
    lab: Lab, family: str, hops: int | None, bound: bool, program: Loaded
) -> None:
    some = random.Random(2)
    sent = [some.randbytes(n) for n in (*range(1, 60), *range(1400, 1430))]
    got: dict[tuple[int, int], list[list[bytes]]] = {}
    if hops is not None:
        route = ["ip", "route", "add", getattr(lab.b, family), "dev", INTERFACE, "hoplimit", str(hops)]
        lab.a.run(route)
    for attached in (False, True):
        with Sending(lab, family, MODES["generic"], program, attached) as made, wire_of(lab.b) as wire:
            made.own = made.own if bound else bytes(16)
            if attached:
                made.settle()
            drained(wire)
            for ecn in range(4):
                for parts in (1, 3):
                    if attached:
                        made.settle()
                        drained(wire)
                    left = made.send(*sent, ecn=ecn, parts=parts)
                    assert left.keys() <= {"frame", "in turn"} if attached else "frame" not in left
                    got.setdefault((ecn, parts), []).append(ours(wire, len(sent)))
    for kernels, own in got.values():
        assert own == kernels


def test_a_neighbour_that_is_somebody_else(sending: Sending) -> None:
    """The first frame after the change goes to the new one."""
    other = "02:00:00:00:00:99"
    far = getattr(sending.lab.b, sending.family)
    with wire_of(sending.lab.b) as wire:
        sending.run("neigh", "replace", far, "lladdr", other, "dev", INTERFACE)
        assert "neighbour" not in sending.send(b"1", b"2")
        assert {frame[:6].hex(":") for frame in ours(wire, 2)} == {other}
        drained(wire)
        assert sending.once_asked(b"3").keys() <= {"frame", "in turn"}
        assert sending.once_asked(b"4") == {"frame": 1}
        assert {frame[:6].hex(":") for frame in ours(wire, 2)} == {other}


def test_a_peer_that_changes_its_address_on_the_link(sending: Sending) -> None:
    """The kernel asks for its neighbour, and hears of the change when the peer asks; datagrams go on."""
    near, far = (getattr(host, sending.family) for host in sending.lab.hosts)
    lab = sending.lab
    for host, other in ((lab.a, far), (lab.b, near)):
        host.run(["ip", "neigh", "del", other, "dev", INTERFACE])
    sending.settle()
    lab.b.run(["ip", "link", "set", INTERFACE, "address", "02:00:00:00:00:77"])
    speaks = netns.call(lab.b.netns, lambda: Lone(udp.make(Settings())))
    try:
        end = time.monotonic() + 20
        while True:
            speaks.send([(packed(near), 9, b"here I am")])
            left = sending.send(b"and now?")
            if sending.heard(1, 0.2) and left == {"frame": 1}:
                break
            assert time.monotonic() < end
    finally:
        speaks.close()


def test_a_neighbour_that_is_not_known_is_found_by_the_kernel(sending: Sending) -> None:
    far = getattr(sending.lab.b, sending.family)
    for change in (["del"], ["replace", "lladdr", neighbour(sending.lab.b), "nud", "stale"]):
        sending.run("neigh", change[0], far, "dev", INTERFACE, *change[1:])
        assert sending.send(b"1") == {"asked": 1}
        assert sending.heard(1) == [b"1"]
        sending.settle()


def test_a_neighbour_that_nobody_is(sending: Sending) -> None:
    """The kernel goes on looking for it; no frame leaves."""
    there, sending.to = sending.to, packed(getattr(sending.lab.b, sending.family)[:-1] + "9")
    assert sending.once_asked(b"1") == {"neighbour": 1}
    time.sleep(0.15)  # asked for again
    assert sending.send(b"2") == {"neighbour": 1}
    sending.to = there
    sending.settle()


def neighbour(host: Host) -> str:
    """Its address on the link."""
    wire = netns.call(host.netns, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    with wire:
        wire.bind((INTERFACE, 0))
        address: bytes = wire.getsockname()[4]
    return address.hex(":")


def test_one_in_a_second_is_the_kernels(sending: Sending) -> None:
    found, end = 0, time.monotonic() + 20
    while found < 2 and time.monotonic() < end:
        left = sending.once_asked(b"is it your turn?")
        assert left in ({"frame": 1}, {"in turn": 1})
        found += left.get("in turn", 0)
        time.sleep(0.05)
    assert found == 2


CHANGES = {  # what leaves no frame, and why: a command that adds it, and deletes it
    "a route to nowhere": ("route", "route {} blackhole {far}"),
    "two next hops": ("route", "route {} {far} nexthop via {third} dev {dev} nexthop via {fourth} dev {dev}"),
    "a rule for the mark of our sockets": ("route", "rule {} fwmark 0x484bffff prohibit"),
    "IPsec": ("ipsec", "xfrm policy {} src {near} dst {third} dir out action block"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_not_plain_is_the_kernels_at_once(sending: Sending, what: str) -> None:
    """And a frame again when it is gone, with a neighbour for certain: as soon as the kernel has said so."""
    why, command = CHANGES[what]
    near, far = (getattr(host, sending.family) for host in sending.lab.hosts)
    names = {"near": near, "far": far, "third": far[:-1] + "3", "fourth": far[:-1] + "4", "dev": INTERFACE}
    version = "-4" if sending.family == "v4" else "-6"
    for round_ in range(2):
        sending.run(version, *command.format("add", **names).split())
        assert sending.once_asked(b"1") == {why: 1}, round_
        sending.run(version, *command.format("delete", **names).removesuffix(" action block").split())
        assert sending.send(b"2") == {"asked": 1}, round_
        assert sending.once_asked(b"2").keys() <= {"frame", "in turn"}, round_


def test_what_cannot_be_is_the_kernels_to_refuse(sending: Sending) -> None:
    """Larger than the link; from an address of the other family; to an interface without a socket of ours."""
    assert sending.send(bytes(1480)) == {"size": 1}
    sending.own = packed(sending.lab.a.v6 if sending.family == "v4" else "1.1.1.1")
    assert sending.once_asked(b"?") == {"source": 1}
    sending.own = sending.to = packed("127.0.0.1" if sending.family == "v4" else "::1")
    assert sending.once_asked(b"to ourselves").keys() <= {"route", "interface"}


def test_an_interface_that_goes_down_and_comes_up(sending: Sending) -> None:
    sending.run("link", "set", INTERFACE, "down")
    assert "frame" not in sending.send(*[b"lost"] * 100)
    sending.run("link", "set", INTERFACE, "up")
    if sending.family == "v6":
        sending.run("addr", "replace", f"{sending.lab.a.v6}/64", "dev", INTERFACE, "nodad")
    sending.settle()
    assert sending.once_asked(b"again") in ({"frame": 1}, {"in turn": 1})
    assert sending.heard(1) == [b"again"]


def test_a_link_that_takes_nothing(sending: Sending) -> None:
    """All chunks are under way: the batch waits, as with a full socket; what does not end is the kernel's."""
    sending.settle()
    kept, null = os.dup(sending.descriptor), os.open("/dev/null", os.O_RDWR)
    os.dup2(null, sending.descriptor)
    gone, full = 0, 0
    while gone < CHUNKS + 100 and full < 48:
        taken = sending.a.send([(sending.to, 0, b"%d" % n) for n in range(500)], local=sending.own)
        full += taken == 0
        gone += taken
    assert full == 48  # FULL_TRIES, less the round that took some and the one in which the kernel sends
    assert gone - CHUNKS in range(5)  # the kernel's in turn
    assert sending.send(b"out of patience") == {"full": 1}
    os.dup2(kept, sending.descriptor)
    os.close(kept)
    os.close(null)
    assert sending.send(b"last").keys() <= {"frame", "in turn"}
    assert len(sending.heard(gone + 2)) >= gone + 1
    sending.settle()


# ---- a kernel that lets a question wait ----------------------------------------------------------


def questions() -> list[int]:
    """Descriptors of this process by which the kernel is asked for routes."""
    found = []
    for descriptor, one in own_sockets():
        kind = [one.getsockopt(socket.SOL_SOCKET, option) for option in (SO_DOMAIN, SO_PROTOCOL)]
        if kind == [socket.AF_NETLINK, socket.NETLINK_ROUTE] and one.getsockname()[1] == 0:
            found.append(descriptor)
    return found


def asking() -> int:
    """How many threads of this process ask the kernel."""
    found = 0
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            found += (task / "comm").read_text() == "hk-next-hops\n"
    return found


@contextlib.contextmanager
def waiting(question: int) -> Iterator[None]:
    """Whoever asks by this descriptor waits in its system call, as where another program has RTNL."""
    kept = os.dup(question)
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    near.setblocking(False)
    with near, far:
        with contextlib.suppress(BlockingIOError):
            while True:
                near.send(bytes(1000))
        near.setblocking(True)
        os.dup2(near.fileno(), question)
        try:
            yield
        finally:
            os.dup2(kept, question)
            os.close(kept)


@pytest.fixture
def without_frames(lab: Lab, family: str, program: Loaded) -> Iterator[tuple[Sending, int]]:
    """One that has sent nothing yet, and the descriptor by which it will ask."""
    before = questions()
    with Sending(lab, family, MODES["generic"], program) as made:
        (question,) = set(questions()) - set(before)
        yield made, question


def test_nobody_waits_for_a_kernel_that_does_not_answer(without_frames: tuple[Sending, int]) -> None:
    """What is sent meanwhile leaves by the kernel, and by frames when it has answered."""
    sending, question = without_frames
    with waiting(question):
        for n in range(20):
            assert sending.send(b"%d" % n) == {"asked": 1}
            time.sleep(0.01)
        assert sending.heard(20) == [b"%d" % n for n in range(20)]
        sending.send(*[b"many"] * 300)
    sending.settle()
    assert asking() == 1


def test_nobody_waits_for_it_at_the_end(without_frames: tuple[Sending, int]) -> None:
    """The thread that asks ends when it can, and closes what it has."""
    sending, question = without_frames
    with waiting(question):
        assert sending.send(b"1") == {"asked": 1}
        time.sleep(0.1)
        began = time.monotonic()
        sending.a.close()
        assert time.monotonic() - began < 1
        assert asking() == 1
    end = time.monotonic() + 5
    while asking() or question in questions():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_more_peers_than_are_asked_for_at_once(without_frames: tuple[Sending, int]) -> None:
    """Each datagram leaves, whatever the kernel has not said yet."""
    sending, question = without_frames
    whole = sending.to[:-2]
    with waiting(question):
        peers = [(whole + n.to_bytes(2, "big"), 0, b"?") for n in range(1, 401)]
        before = sending.a.left()
        assert sending.a.send(peers, local=sending.own) == len(peers)
        assert [now - then for now, then in zip(sending.a.left(), before, strict=True)][
            WAYS.index("asked")
        ] == 400
    sending.settle()


def test_a_child_that_was_forked_closes_what_asks(without_frames: tuple[Sending, int]) -> None:
    """It has no thread that could; that of this process goes on."""
    sending, question = without_frames
    child = os.fork()
    if child == 0:
        sending.a.close()
        os._exit(question in questions())
    assert os.waitpid(child, 0) == (child, 0)
    sending.settle()


# ---- many peers, and strangers -------------------------------------------------------------------


def test_peers_have_places_of_their_own(sending: Sending) -> None:
    """Those of one network, and of networks that differ in the middle of the address only."""
    far = getattr(sending.lab.b, sending.family)
    network, bits = ("10.201.{}.", 24) if sending.family == "v4" else ("2001:db8:{}::", 64)
    peers = []
    for n in range(1, 61):
        one = network.format(n)
        sending.run("route", "add", str(ipaddress.ip_interface(f"{one}1/{bits}").network), "via", far)
        peers.append((packed(f"{one}9"), 0, b"?"))

    def each_is_known() -> bool:
        before = sending.a.left()
        sending.a.send(peers, local=sending.own)
        left = [now - then for now, then in zip(sending.a.left(), before, strict=True)]
        return left[WAYS.index("frame")] >= len(peers) - 5 and left[WAYS.index("asked")] == 0

    for _ in range(3):  # a change of the neighbour that they share makes each be asked for again
        eventually(each_is_known, every=0.05)
        end = time.monotonic() + 1.1  # whoever has no place of its own would get one that rests for a second
        while time.monotonic() < end:
            sending.a.send(peers, local=sending.own)
            time.sleep(0.01)


def test_neighbours_that_are_others_say_nothing(sending: Sending) -> None:
    """Whoever pretends to be many makes the kernel say so of each; of our own it says it once."""
    network = getattr(sending.lab.b, sending.family)[:-1]
    change = "neigh replace {}{} lladdr 02:00:00:00:01:{:02x} dev {}\n"
    command = ["ip", "-batch", "-"]
    with sending.lab.a.popen(command, stdin=subprocess.PIPE, text=True, hooked=False) as batch:
        assert batch.stdin
        time.sleep(0.2 * SLOWNESS)  # it runs
        for n in range(10):
            sending.settle()
            batch.stdin.write(change.format(network, n + 30, n, INTERFACE))
            batch.stdin.flush()
            time.sleep(0.05)
            assert sending.send(b"?").keys() <= {"frame", "in turn"}
        batch.stdin.close()
    far = getattr(sending.lab.b, sending.family)
    sending.run("neigh", "replace", far, "lladdr", "02:00:00:00:00:98", "dev", INTERFACE)
    assert sending.send(b"?") == {"asked": 1}


def test_what_answers_a_stranger_is_the_kernels(sending: Sending) -> None:
    """Nobody is asked for its sake, and it takes nobody's place."""
    before = sending.a.left()
    strangers = [(sending.to[:-2] + n.to_bytes(2, "big"), 0, b"!") for n in range(1, 401)]
    sending.a.send(strangers, local=sending.own, unproven=True)
    left = [now - then for now, then in zip(sending.a.left(), before, strict=True)]
    assert left[WAYS.index("unproven")] == sum(left) == 400
    assert sending.send(b"?").keys() <= {"frame", "in turn"}
