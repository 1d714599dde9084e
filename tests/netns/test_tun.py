"""The TUN device and the way to it: what they are, who may use them, and that nothing stays."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import eventually

from hooker import Hooker
from hooker.cli import doctor
from hooker.control import netns
from hooker.control.janitor import Janitor
from hooker.control.mtu import datagram_sizes
from hooker.control.probes import ProbeResult
from hooker.engine.tun import Queue
from hooker.errors import ConfigurationError, KernelError
from hooker.lab import Host, Lab
from hooker.tcp.fields import ACK, SYN, Segment
from hooker.tcp.sansio import build, parse
from hooker.tun import Device, Way, device

MARK, TABLE, PRIORITY = 0x484B7001, 0x7701, 90
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


@pytest.fixture
def keeper() -> Iterator[Janitor]:
    with Janitor() as made:
        yield made


def link(host: Host, index: int) -> Any:
    def look() -> Any:
        from pyroute2 import IPRoute

        with IPRoute() as netlink:
            return netlink.get_links(index)[0]

    return netns.call(host.netns, look)


def present(host: Host) -> bool:
    return netns.call(host.netns, lambda: "hk0" in {n for _, n in socket.if_nameindex()})


def rules(host: Host, family: int) -> list[Any]:
    def look() -> list[Any]:
        from pyroute2 import IPRoute

        with IPRoute() as netlink:
            found = netlink.get_rules(family=FAMILY[family])
            return [r for r in found if r.get_attr("FRA_PRIORITY") == PRIORITY]

    return netns.call(host.netns, look)


def lay(host: Host, keeper: Janitor, made: Device, **settings: Any) -> Way:
    way = Way(keeper, made, mark=MARK, table=TABLE, priority=PRIORITY, **settings)
    return netns.call(host.netns, way.__enter__)


def lift(host: Host, way: Way) -> None:
    netns.call(host.netns, lambda: way.__exit__(None, None, None))


def test_the_device_is_as_segments_need_it(lab: Lab) -> None:
    with netns.call(lab.a.netns, Device) as made:
        found = link(lab.a, made.index)
        info = found.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")
        assert found["flags"] & 1  # up
        assert (found.get_attr("IFLA_MTU"), found.get_attr("IFLA_TXQLEN")) == (65535, 65536)
        assert found.get_attr("IFLA_QDISC") == "noqueue"
        assert (info.get_attr("IFLA_TUN_OWNER"), info.get_attr("IFLA_TUN_VNET_HDR")) == (0, 1)
        conf = Path("/proc/sys/net")
        read = netns.call(lab.a.netns, lambda: (conf / "ipv4/conf/hk0/rp_filter").read_text())
        assert read.strip() == "2"
        time.sleep(0.1)
        assert Queue(made.descriptors[0]).read() == []  # no router solicitations, no neighbour discovery
    assert not present(lab.a)


def test_the_device_says_nothing_about_the_size_of_datagrams(lab: Lab) -> None:
    before = netns.call(lab.a.netns, datagram_sizes)
    with netns.call(lab.a.netns, Device):
        assert netns.call(lab.a.netns, datagram_sizes) == before == (1472, 1472)


def test_a_name_that_is_taken_is_refused_with_a_remedy(lab: Lab) -> None:
    with (
        netns.call(lab.a.netns, Device),
        pytest.raises(KernelError, match=r"hk0: Device or resource busy .*another engine"),
    ):
        netns.call(lab.a.netns, Device)
    assert not present(lab.a)


def test_a_kernel_without_tun_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "TUN", "/dev/net/no-tun")
    with pytest.raises(KernelError, match=r"no-tun.*modprobe tun"):
        Device()
    check = doctor.run_check(*next(entry for entry in doctor.CHECKS if entry[0] == "TUN"))
    assert not check.ok
    assert "modprobe tun" in check.remedy


def test_an_engine_without_tun_is_refused_before_anything_is_tried(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "TUN", "/dev/net/no-tun")
    monkeypatch.setattr("hooker.hooker.verdicts", lambda _: pytest.fail("probed"))
    with pytest.raises(KernelError, match=r"no-tun.*modprobe tun"):
        Hooker(cgroup=lab.a.cgroup, intercept="segments").start()


def test_an_engine_is_refused_where_what_it_needs_does_not_work(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the probes of its own kind only."""
    asked = []

    def verdicts(intercept: str) -> list[ProbeResult]:
        asked.append(intercept)
        return [ProbeResult("segments-return", False, True, "stuck", "another kernel")]

    monkeypatch.setattr("hooker.hooker.verdicts", verdicts)
    with pytest.raises(KernelError, match=r"segments-return: stuck .*another kernel"):
        Hooker(cgroup=lab.a.cgroup, intercept="segments").start()
    assert asked == ["segments"]


def test_doctor_tries_a_device() -> None:
    check = doctor.run_check(*next(entry for entry in doctor.CHECKS if entry[0] == "TUN"))
    assert check.ok, check


@pytest.mark.parametrize("queues", [0, 257])
def test_a_senseless_number_of_queues_is_refused(queues: int) -> None:
    with pytest.raises(ConfigurationError, match="1 to 256 queues"):
        Device(queues=queues)


ATTACH = """
import fcntl, os, struct, sys
fd = os.open("/dev/net/tun", os.O_RDWR)  # anybody may where its mode is 0666, as on most systems
os.setuid(65534)
try:
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"hk0", 0x5101))
except OSError as error:
    print(error.errno)
else:
    print("attached")
"""


def test_nobody_else_may_attach_a_queue(lab: Lab) -> None:
    with netns.call(lab.a.netns, lambda: Device(queues=2)) as made:
        assert len(made.descriptors) == 2
        tried = lab.a.run([sys.executable, "-c", ATTACH], hooked=False, text=True)
        assert tried.stdout.strip() == "1"  # EPERM


def test_a_stranger_with_a_queue_already_is_noticed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    attach, strangers = device._attach, []

    def with_a_stranger(descriptor: int, name: str, flags: int) -> str:
        made: str = attach(descriptor, name, flags)
        if not strangers:
            strangers.append(device._open_file())
            attach(strangers[0], name, flags & ~device.IFF_TUN_EXCL)
        return made

    monkeypatch.setattr(device, "_attach", with_a_stranger)
    try:
        with pytest.raises(KernelError, match="3 queues instead of 2"):
            netns.call(lab.a.netns, lambda: Device(queues=2))
    finally:
        os.close(strangers[0])


# ---- the way ----------------------------------------------------------------------------------------------


def connecting(host: Host, family: int, mark: int) -> socket.socket:
    s = host.socket(FAMILY[family])
    s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    s.setblocking(False)
    address = {4: host.v4, 6: host.v6}[family]
    s.bind((address, 0))
    s.connect_ex(({4: host.peer_v4, 6: host.peer_v6}[family], 80))
    return s


def next_segment(queue: Queue, wanted: int) -> Segment:
    """The next segment with these flags."""
    found: list[Segment] = []

    def look() -> bool:
        found.extend(s for s in map(parse, queue.read()) if s.flags & wanted == wanted)
        return bool(found)

    eventually(look)
    return found[0]


@pytest.mark.parametrize("family", [4, 6])
def test_marked_segments_come_to_the_device_and_its_answers_reach_the_socket(
    lab: Lab, keeper: Janitor, family: int
) -> None:
    lab.a.sysctl("net.ipv4.conf.all.rp_filter", "1")
    with netns.call(lab.a.netns, Device) as made:
        way = lay(lab.a, keeper, made, mtu=1400)
        try:
            queue = Queue(made.descriptors[0])
            with connecting(lab.a, family, MARK) as s:
                syn = next_segment(queue, SYN)
                peer = {4: lab.a.peer_v4, 6: lab.a.peer_v6}[family]
                assert syn.dst == socket.inet_pton(FAMILY[family], peer)
                answer = Segment(syn.dst, syn.src, 80, syn.src_port, 7000, syn.seq + 1, SYN | ACK, 60000)
                assert queue.write(build(answer, partial=True))
                assert next_segment(queue, ACK).ack == 7001
                assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
                assert s.getpeername()[:2] == (peer, 80)
        finally:
            lift(lab.a, way)
    assert rules(lab.a, family) == []


def mtu_of(host: Host, family: int) -> int:
    """What the kernel has of the table's route."""

    def look() -> int:
        from pyroute2 import IPRoute

        with IPRoute() as netlink:
            (route,) = netlink.route("dump", family=FAMILY[family], table=TABLE)
            metrics = route.get_attr("RTA_METRICS")
            return int(metrics.get_attr("RTAX_MTU")) if metrics else 0

    return netns.call(host.netns, look)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("mtu", [0, 1400])
def test_the_routes_have_the_mtu_that_was_asked_for(lab: Lab, keeper: Janitor, family: int, mtu: int) -> None:
    with netns.call(lab.a.netns, Device) as made:
        way = lay(lab.a, keeper, made, mtu=mtu)
        try:
            assert mtu_of(lab.a, family) == mtu
        finally:
            lift(lab.a, way)


@pytest.mark.parametrize("family", [4, 6])
def test_other_marks_do_not_come_to_the_device(lab: Lab, keeper: Janitor, family: int) -> None:
    with netns.call(lab.a.netns, Device) as made:
        way = lay(lab.a, keeper, made)
        try:
            for mark in (0, MARK + 1):
                connecting(lab.a, family, mark).close()
            assert Queue(made.descriptors[0]).read() == []
        finally:
            lift(lab.a, way)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("pinned", [False, True])
def test_without_the_device_marked_sockets_are_on_the_wire_unless_pinned(
    lab: Lab, keeper: Janitor, family: int, pinned: bool
) -> None:
    made = netns.call(lab.a.netns, Device)
    way = lay(lab.a, keeper, made, pinned=pinned)
    try:
        made.close()
        peer = {4: lab.b.v4, 6: lab.b.v6}[family]
        server = lab.b.socket(FAMILY[family])
        with server, lab.a.socket(FAMILY[family]) as s:
            server.bind((peer, 0))
            server.listen()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
            s.settimeout(1)
            assert (s.connect_ex(server.getsockname()[:2]) == 0) != pinned
    finally:
        lift(lab.a, way)


def test_a_table_in_use_is_refused_and_left_alone(lab: Lab, keeper: Janitor) -> None:
    with netns.call(lab.a.netns, Device) as made:
        way = lay(lab.a, keeper, made)
        try:
            with pytest.raises(KernelError, match="is in use"):
                lay(lab.a, keeper, made)
            assert len(rules(lab.a, 4)) == len(rules(lab.a, 6)) == 1
            with pytest.raises(ValueError, match="the system's own"):
                netns.call(lab.a.netns, Way(keeper, made, mark=1, table=254, priority=91).__enter__)
        finally:
            lift(lab.a, way)


OWNER = """
import sys, time
from hooker.control.janitor import Janitor
from hooker.control.probes import ProbeResult
from hooker.tun import Device, Way
with Janitor() as keeper, Device() as made, Way(keeper, made, mark=%d, table=%d, priority=%d, pinned=True):
    print("up", flush=True)
    time.sleep(60)
"""


def test_a_killed_owner_leaves_nothing(lab: Lab) -> None:
    code = OWNER % (MARK, TABLE, PRIORITY)
    owner = lab.a.popen([sys.executable, "-c", code], hooked=False, stdout=subprocess.PIPE, text=True)
    assert owner.stdout
    assert owner.stdout.readline() == "up\n"
    assert present(lab.a)
    assert rules(lab.a, 4)
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    eventually(lambda: not present(lab.a))
    eventually(lambda: not rules(lab.a, 4) and not rules(lab.a, 6))


def test_a_queue_reads_many_packets_at_once_and_says_when_the_device_is_gone(lab: Lab) -> None:
    made = netns.call(lab.a.netns, Device)
    queue = Queue(made.descriptors[0])

    def shout() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.setsockopt(socket.SOL_SOCKET, 25, b"hk0\0")  # SO_BINDTODEVICE
            for i in range(100):
                s.sendto(bytes([i]), ("198.51.100.1", 9))

    netns.call(lab.a.netns, shout)
    batches = [queue.read(), queue.read(), queue.read()]
    assert [len(b) for b in batches] == [64, 36, 0]
    assert [p[-1] for b in batches for p in b] == list(range(100))
    assert queue.counters["read_packets"] == 100
    assert not queue.write(b"no packet")
    assert queue.counters["dropped"] == 1
    made.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        queue.read()
