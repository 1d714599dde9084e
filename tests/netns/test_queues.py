"""The carrier ``ip`` by AF_XDP sockets: what an XDP program leads to it, without an engine."""

from __future__ import annotations

import ipaddress
import os
import random
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import PLAIN

from hooker.carriers import Settings, ip, udp
from hooker.carriers.face import Lone
from hooker.control import bpf_calls, compiled, netns
from hooker.control.loaded import Loaded
from hooker.flow.messages import checksum as crc32c
from hooker.lab import INTERFACE, Lab

pytestmark = [pytest.mark.timeout(60), pytest.mark.skipif(PLAIN, reason="needs no applications")]
MODES = {"native": bpf_calls.XDP_NATIVE, "generic": bpf_calls.XDP_GENERIC}
MOST = 16  # XSK_MOST
QUEUES = 2  # the descriptor

# All but what finds neighbours.
LEADS = """
#include <linux/bpf.h>
BPF_XSKMAP(queues, 1);
int leads(struct xdp_md *c)
{
	u8 *p = (void *)(long)c->data, *end = (void *)(long)c->data_end;

	if (p + 21 > end || (p[12] == 8 && p[13] == 6) || (p[12] == 0x86 && (p[20] == 58 || p[20] == 0)))
		return XDP_PASS;
	return queues.redirect_map(0, XDP_PASS);
}
"""


def packed(address: str) -> bytes:
    one = ipaddress.ip_address(address)
    return one.packed if one.version == 6 else bytes(10) + b"\xff\xff" + one.packed


class Leading:
    """A carrier at host b, and the program that leads to it; a context manager."""

    def __init__(self, lab: Lab, program: Loaded, mode: int) -> None:
        self._program, self._mode, self._link = program, mode, -1
        self.carrier = netns.call(lab.b.netns, self._open)
        self.sender = netns.call(lab.a.netns, lambda: Lone(ip.make(Settings())))

    def _open(self) -> Lone:
        made = Lone(ip.make(Settings()))
        index = socket.if_nametoindex(INTERFACE)
        queue = made.attach(index)
        bpf_calls.update(self._program.map("queues"), struct.pack("I", 0), struct.pack("I", queue))
        leads = self._program.program("leads", bpf_calls.XDP, bpf_calls.XDP_ATTACH, bpf_calls.F_XDP_HAS_FRAGS)
        self._link = bpf_calls.link_xdp(leads, index, self._mode)
        return made

    def __enter__(self) -> Leading:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._link)
        self.carrier.close()
        self.sender.close()


@pytest.fixture(scope="module")
def program() -> Iterator[Loaded]:
    with Loaded(compiled.compiled(LEADS, [compiled.QUIET])) as made:
        yield made


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> int:
    return MODES[request.param]


@pytest.fixture
def leading(lab: Lab, program: Loaded, mode: int) -> Iterator[Leading]:
    with Leading(lab, program, mode) as made:
        yield made


def heard(who: Lone, n: int, seconds: float = 3.0) -> list[tuple[bytes, bytes, int, int, bytes]]:
    end = time.monotonic() + seconds
    got = who.receive()
    while len(got) < n and time.monotonic() < end:
        time.sleep(0.002)
        got += who.receive()
    return got


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(OSError) as caught:
        call()
    return os.strerror(caught.value.errno or 0)


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_datagrams_come_by_the_queue_whole_and_in_order(leading: Leading, lab: Lab, family: str) -> None:
    """More than the rings have room for; who has sent, where to, the ECN bits. The raw socket sees none."""
    some, to, own = random.Random(1), packed(getattr(lab.b, family)), packed(getattr(lab.a, family))
    kind = socket.AF_INET if family == "v4" else socket.AF_INET6
    beside = netns.call(lab.b.netns, lambda: socket.socket(kind, socket.SOCK_RAW, 253))
    with beside:
        for ecn in (0, 2) * 5:
            sent = [some.randbytes(some.choice([1, 20, 700, 1400])) for _ in range(1000)]
            left = [(to, 0, one) for one in sent]
            while left:
                left = left[leading.sender.send(left[:500], ecn=ecn) :]
            got = heard(leading.carrier, 1000)
            assert [data for *_, data in got] == sent
            assert {one[:4] for one in got} == {(own, to, 0, ecn)}
        with pytest.raises(BlockingIOError):
            beside.recv(1, socket.MSG_DONTWAIT)
    assert leading.carrier.counters()["damaged"] == 0


def test_packets_of_several_chunks(lab: Lab, program: Loaded, mode: int) -> None:
    for host in (lab.a, lab.b):
        host.run(["ip", "link", "set", INTERFACE, "mtu", "9000"])
    sent = [random.Random(n).randbytes(8900 - n) for n in range(60)]
    with Leading(lab, program, mode) as made:
        left = [(packed(lab.b.v4), 0, one) for one in sent]
        while left:
            left = left[made.sender.send(left) :]
        assert [data for *_, data in heard(made.carrier, 60)] == sent


def framed(packet: bytes, kind: int = 0x0800) -> bytes:
    return bytes(12) + struct.pack("!H", kind) + packet


def v4(data: bytes, **change: int) -> bytes:
    """A packet of protocol 253 with the carrier's checksum; a header's fields may be others."""
    body = data + struct.pack("!I", crc32c(data))
    fields = {"first": 0x45, "size": 20 + len(body), "fragment": 0x4000, "protocol": 253, **change}
    header = struct.pack(
        "!BBHHHBBH", fields["first"], 1, fields["size"], 0, fields["fragment"], 64, fields["protocol"], 0
    )
    return header + bytes([10, 0, 0, 1, 10, 0, 0, 2]) + body


def v6(data: bytes, **change: int) -> bytes:
    body = data + struct.pack("!I", crc32c(data))
    fields = {"first": 0x6000_0000, "size": len(body), "protocol": 253, **change}
    return struct.pack("!IHBB", fields["first"], fields["size"], fields["protocol"], 64) + bytes(32) + body


TEXT = bytes(range(100))
TAGGED = struct.pack("!HH", 5, 0x0800)
FRAMES = [  # what it is, the frame, whether it is a datagram
    ("IPv4", framed(v4(TEXT)), True),
    ("IPv4, padded as short frames are", framed(v4(TEXT) + bytes(40)), True),
    ("IPv4 with options", framed(v4(b"", first=0x46, size=128)[:20] + bytes(4) + v4(TEXT)[20:]), True),
    ("in a VLAN", framed(TAGGED + v4(TEXT), 0x8100), True),
    ("in two", framed(struct.pack("!HH", 7, 0x8100) + TAGGED + v4(TEXT), 0x88A8), True),
    ("in three", framed(struct.pack("!HHHH", 7, 0x8100, 7, 0x8100) + TAGGED + v4(TEXT), 0x8100), False),
    ("IPv6", framed(v6(TEXT), 0x86DD), True),
    ("IPv6 that says it is IPv4", framed(v6(TEXT, first=0x4000_0000), 0x86DD), False),
    ("IPv6 of another protocol", framed(v6(TEXT, protocol=17), 0x86DD), False),
    ("IPv6, longer than the frame", framed(v6(TEXT, size=105), 0x86DD), False),
    ("IPv6, shorter than its checksum", framed(v6(TEXT, size=3), 0x86DD), False),
    ("another version", framed(v4(TEXT, first=0x65)), False),
    ("a header of 16 bytes", framed(v4(TEXT, first=0x44)), False),
    ("a header longer than the packet", framed(v4(b"", first=0x4F, size=24)), False),
    ("less than a header", framed(v4(TEXT, size=19)), False),
    ("longer than the frame", framed(v4(TEXT, size=125)), False),
    ("cut, so that the checksum is another", framed(v4(TEXT, size=123)), False),
    ("the first fragment", framed(v4(TEXT, fragment=0x2000)), False),
    ("another fragment", framed(v4(TEXT, fragment=0x0010)), False),
    ("UDP", framed(v4(TEXT, protocol=17)), False),
    ("no IP", framed(v4(TEXT), 0x1234), False),
]


def test_what_is_no_datagram_is_counted_and_dropped(leading: Leading, lab: Lab) -> None:
    """Each malformed shape, and a good one cut at each byte."""
    wire = netns.call(lab.a.netns, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    with wire:
        wire.bind((INTERFACE, 0))
        for what, frame, fine in FRAMES:
            before = leading.carrier.counters()["damaged"]
            wire.send(frame)
            got = [data for *_, data in heard(leading.carrier, 1, 2.0 if fine else 0.05)]
            assert got == ([TEXT] if fine else []), what
            assert leading.carrier.counters()["damaged"] - before == (not fine), what
        for whole in (FRAMES[0][1], FRAMES[6][1]):
            for cut in range(21, len(whole)):
                wire.send(whole[:cut])
        assert heard(leading.carrier, 1, 0.2) == []
        wire.send(FRAMES[0][1])
        assert [data for *_, data in heard(leading.carrier, 1)] == [TEXT]


def test_an_interface_that_goes_away(lab: Lab, program: Loaded) -> None:
    """Its socket says nothing for ever, and the next one has its place."""
    with Leading(lab, program, MODES["native"]) as made:
        descriptors = len([*Path("/proc/self/fd").iterdir()])
        lab.b.run(["ip", "link", "delete", INTERFACE])
        assert made.carrier.receive() == []
        assert select.select([made.carrier.descriptors()[QUEUES]], [], [], 0.05)[0] == []
        lab.b.run(["ip", "link", "add", "one", "type", "veth", "peer", "name", "two"])
        index = netns.call(lab.b.netns, lambda: socket.if_nametoindex("one"))
        assert netns.call(lab.b.netns, lambda: made.carrier.attach(index)) >= 0
        assert len([*Path("/proc/self/fd").iterdir()]) == descriptors


def test_what_cannot_be_attached(lab: Lab) -> None:
    before = len([*Path("/proc/self/fd").iterdir()])
    made = netns.call(lab.b.netns, lambda: Lone(ip.make(Settings())))
    index = netns.call(lab.b.netns, lambda: socket.if_nametoindex(INTERFACE))

    def attach(interface: int, queue: int = 0) -> int:
        return int(netns.call(lab.b.netns, lambda: made.attach(interface, queue)))

    assert refusal(lambda: attach(999_999)) == "No such device"
    assert refusal(lambda: attach(index, 999)) == "Invalid argument"
    assert attach(index) >= 0
    assert refusal(lambda: attach(index)) == "Device or resource busy"
    for number in range(MOST - 1):
        lab.b.run(["ip", "link", "add", f"x{number}", "type", "veth", "peer", "name", f"y{number}"])
        assert attach(netns.call(lab.b.netns, lambda n=number: socket.if_nametoindex(f"x{n}"))) >= 0
    lab.b.run(["ip", "link", "add", "more", "type", "veth", "peer", "name", "still"])
    more = netns.call(lab.b.netns, lambda: socket.if_nametoindex("more"))
    assert refusal(lambda: attach(more)) == "No buffer space available"
    made.close()
    assert len([*Path("/proc/self/fd").iterdir()]) == before
    made = netns.call(lab.b.netns, lambda: Lone(udp.make(Settings())))
    assert refusal(lambda: made.attach(index)) == "Operation not supported"
    made.close()
