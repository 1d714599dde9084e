"""hk_ingress on interfaces: attached, followed, refused; engines behind it; nothing stays."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from apart import FakeWorker, add_veth, apart, attached
from lone_worker import LoneWorker
from support import PLAIN, SLOWNESS, Pair, counts, eventually, peer, result, same

from hooker.control import bpf_calls, compiled, netns
from hooker.control.interfaces import Interfaces, names
from hooker.control.loaded import Loaded
from hooker.errors import ConfigurationError
from hooker.lab import INTERFACE, Lab
from hooker.vtl.sansio import Endpoint

ADDRESS = "10.99.0.1"
OTHERS = "int others(struct xdp_md *ctx) { return XDP_PASS; }"
PORT = 7980

# DATA of nobody's to a UDP port, from one address, until it is killed.
FLOOD = """
import socket, sys
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.connect((sys.argv[1], int(sys.argv[2])))
while True:
    try:
        out.send(b"\\x28" + bytes(99))
    except OSError:
        pass
"""


def open_on(*wanted: str, carriers: tuple[str, ...] = ("udp",)) -> Interfaces:
    return Interfaces(wanted, cast(Any, FakeWorker(*carriers)), cast(Any, None))


def test_native_where_the_driver_can_else_generic_and_nothing_stays() -> None:
    def test() -> None:
        add_veth()
        before = len(list(Path("/proc/self/fd").iterdir()))
        with open_on("one", "lo") as interfaces:
            native, generic = interfaces.rows()
            assert native == {"name": "one", "mode": "native", "queues": 0, "why": ""}
            assert (generic["mode"], generic["why"][:8]) == ("generic", "native: ")
            assert attached("one")
            assert attached("lo")
        assert not attached("one")
        assert not attached("lo")
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    apart(test)


def test_one_that_waits_for_a_flood_is_tried_and_left() -> None:
    def test() -> None:
        add_veth()
        with open_on("one:auto", "two:native") as interfaces:
            assert interfaces.rows()[0] == {
                "name": "one",
                "mode": "",
                "queues": 0,
                "why": "waits for a flood",
                "switched": 0,
            }
            assert interfaces.rows()[1]["mode"] == "native"
            assert not attached("one")
        with (
            anothers("one", bpf_calls.XDP_NATIVE),
            pytest.raises(ConfigurationError, match="interface one has another XDP program"),
        ):
            open_on("one:auto")
        with pytest.raises(ConfigurationError, match="there is no interface none"):
            open_on("none:auto")

    apart(test)


def test_a_veth_takes_native_mode_with_any_mtu() -> None:
    from pyroute2 import IPRoute

    def test() -> None:
        add_veth()
        with IPRoute() as netlink:
            for before, after in ((1500, 65535), (65535, 1500)):
                for name in ("one", "two"):
                    netlink.link("set", ifname=name, mtu=before)
                with open_on("one:native") as interfaces:
                    for name in ("one", "two"):
                        netlink.link("set", ifname=name, mtu=after)
                    assert interfaces.rows()[0]["mode"] == "native"
                    assert attached("one")

    apart(test)


def test_the_mode_that_is_wanted_or_none() -> None:
    def test() -> None:
        add_veth()
        with open_on("one:generic", "two:native") as interfaces:
            assert [(row["name"], row["mode"], row["why"]) for row in interfaces.rows()] == [
                ("one", "generic", ""),
                ("two", "native", ""),
            ]
        with pytest.raises(ConfigurationError, match="interface lo cannot take native XDP: "):
            open_on("one", "lo:native")
        assert not attached("one")
        assert not attached("lo")

    apart(test)


@contextlib.contextmanager
def anothers(name: str, mode: int) -> Iterator[None]:
    made = compiled.compiled(f"#include <linux/bpf.h>\n{OTHERS}", [compiled.QUIET])
    with Loaded(made) as loaded:
        link = bpf_calls.link_xdp(loaded.program("others", bpf_calls.XDP), socket.if_nametoindex(name), mode)
        try:
            yield
        finally:
            os.close(link)


def test_without_af_xdp_packets_come_by_the_raw_sockets_and_that_is_said() -> None:
    def test() -> None:
        add_veth()
        with open_on("one", carriers=("ip",)) as interfaces:
            (row,) = interfaces.rows()
            assert row == {
                "name": "one",
                "mode": "native",
                "queues": 0,
                "why": "no AF_XDP: Protocol not supported",
            }

    apart(test)


def test_another_program_is_not_evicted() -> None:
    def test() -> None:
        add_veth()
        for mode in (bpf_calls.XDP_NATIVE, bpf_calls.XDP_GENERIC):
            with anothers("one", mode):
                there = attached("one")
                with pytest.raises(ConfigurationError, match="interface one has another XDP program"):
                    open_on("lo", "one")
                assert attached("one") == there
                assert not attached("lo")

    apart(test)


def test_what_cannot_be_is_said() -> None:
    def test() -> None:
        with pytest.raises(ConfigurationError, match="there is no interface none"):
            open_on("none")
        with pytest.raises(ConfigurationError, match="VTL over UDP or IP"):
            open_on("lo", carriers=())
        assert not attached("lo")

    apart(test)
    for wanted in ("", "a,,b", "a/b", "a b", "x" * 16, ["a", "a"], [str(n) for n in range(17)]):
        with pytest.raises(ConfigurationError, match="xdp"):
            names(wanted)
    assert names([]) == ()
    assert names("eth0,eth1") == names(["eth0", "eth1"]) == ("eth0", "eth1")
    assert names("eth0:generic,eth1:native,eth2") == ("eth0:generic", "eth1:native", "eth2")
    for wanted in ("a:", "a:fast", "a:native:generic", ":native", "a:generic,a:native", "a,a:native"):
        with pytest.raises(ConfigurationError, match="xdp"):
            names(wanted)


def test_an_interface_that_goes_away_and_comes_back() -> None:
    from pyroute2 import IPRoute

    def test() -> None:
        add_veth()
        with open_on("one") as interfaces:
            with IPRoute() as netlink:
                netlink.link("del", ifname="one")
            eventually(lambda: interfaces.rows()[0]["why"])
            assert interfaces.rows() == [
                {"name": "one", "mode": "", "queues": 0, "why": "there is no interface one"}
            ]
            add_veth()
            eventually(lambda: interfaces.rows()[0]["mode"])
            assert attached("one")

    apart(test)


def test_one_of_the_same_number_at_once_has_it_too() -> None:
    """Deleted and made again between two looks: the name is there, and the number, and the program is not."""

    def test() -> None:
        add_veth()
        index = socket.if_nametoindex("one")
        with open_on("one") as interfaces:
            with interfaces._using:
                again = f"link del one\nlink add one index {index} type veth peer name two\n"
                subprocess.run(["ip", "-batch", "-"], input=again, text=True, check=True)
                assert not attached("one")
            eventually(lambda: attached("one") and interfaces.rows()[0]["mode"] == "native")

    apart(test)


def test_one_that_waits_for_a_flood_and_goes_away() -> None:
    def test() -> None:
        add_veth()
        with open_on("one:auto") as interfaces:
            subprocess.run(["ip", "link", "del", "one"], check=True)
            eventually(lambda: interfaces.rows()[0]["why"] == "there is no interface one")
            add_veth()
            eventually(lambda: interfaces.rows()[0]["why"] == "waits for a flood")
            assert not attached("one")

    apart(test)


def test_counts_wait_for_nothing_that_the_thread_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libxdp may let it wait for seconds, and `hooker status` asks for the counts."""
    there, go = threading.Event(), threading.Event()

    def test() -> None:
        with open_on("lo") as interfaces:
            monkeypatch.setattr(
                "hooker.control.interfaces._addresses", lambda: there.set() or go.wait(10) or {}
            )
            assert there.wait(10)
            began = time.monotonic()
            assert "pass-other" in interfaces.counters()
            assert time.monotonic() - began < 5
            go.set()

    apart(test)


def test_addresses_are_followed() -> None:
    from pyroute2 import IPRoute

    def test() -> None:
        add_veth()
        with open_on("one") as interfaces, IPRoute() as netlink:
            index = netlink.link_lookup(ifname="one")[0]
            for what in ("add", "del"):
                netlink.addr(what, index=index, address=ADDRESS, prefixlen=24)
                eventually(lambda what=what: is_there(interfaces) == (index if what == "add" else 0))

    apart(test)


def is_there(interfaces: Interfaces) -> int:
    """The interface of ADDRESS, as the program knows it; 0: none."""
    known = interfaces._ingress._bpf.map("hk_addresses")
    key = bytes(10) + b"\xff\xff" + bytes(map(int, ADDRESS.split(".")))
    try:
        return int(struct.unpack("I", bpf_calls.lookup(known, key, 4))[0])
    except bpf_calls.KernelError:
        return 0


# ---- workers and engines -------------------------------------------------------------------------------


def test_a_worker_names_its_associations_and_says_what_it_could_not_name() -> None:
    """A real worker, to which two endpoints here shake hands; its map has room for one."""
    with contextlib.ExitStack() as stack:
        lone = LoneWorker(stack, asleep=True)
        known = bpf_calls.create_map("hash", key=8, value=1, entries=1)
        stack.callback(os.close, known)
        states = bpf_calls.create_map("array", key=4, value=16, entries=2)
        stack.callback(os.close, states)
        (row,) = lone.worker.ingress(known, states)
        assert (row["carrier"], row["versions"], row["keyed"], len(row["secret"])) == ("udp", (1,), False, 16)
        lone.begin()
        initiators = [Endpoint(seed=n) for n in (1, 2)]
        responder_ids = []
        for initiator in initiators:
            link = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            link.settimeout(5 * SLOWNESS)
            server = ("127.0.0.1", lone.worker.port)
            association = initiator.connect(server, time.monotonic_ns())
            while not initiator.is_up(association):
                for datagram, _ in initiator.datagrams_to_send(time.monotonic_ns()):
                    link.sendto(datagram, server)
                answer = link.recv(2048)
                if answer[0] == 0x23:
                    responder_ids.append(answer[12:20])
                initiator.receive_datagram(answer, server, time.monotonic_ns())
        there = []
        for one in responder_ids:
            with contextlib.suppress(bpf_calls.KernelError):
                there.append(bpf_calls.lookup(known, one, 1))
        assert there == [b"\1"]
        _, unnamed = struct.unpack("QQ", bpf_calls.lookup(states, struct.pack("I", 0), 16))
        assert unnamed == 1


@pytest.mark.skipif(PLAIN, reason="needs engines")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("mode", ["native", "generic"])
@pytest.mark.parametrize(
    "transport", ["vtl", pytest.param("vtl+ip", marks=pytest.mark.soak), "vtl+ip:frames=1"]
)
def test_engines_behind_it(transport: str, mode: str) -> None:
    """What they say gets through, what nobody said does not; a killed engine leaves nothing."""
    options = ("--xdp", f"{INTERFACE}:{mode}", "--transport", transport)
    with Lab() as lab, Pair.open(lab, options=options) as pair:
        assert pair.server
        assert pair.client
        for port in (PORT, PORT + 1):
            server = peer(pair.b, "serve", "0.0.0.0", port, "recv-all", "close")
            client = peer(pair.a, "connect", pair.b.v4, port, "send:3000000", "close")
            same(result(client), result(server))
        status = [engine.status() for engine in pair.engines]
        queues = 0 if transport == "vtl" else 1
        there = {"name": INTERFACE, "mode": mode, "queues": queues, "why": ""}
        assert [one["engine"]["xdp"] for one in status] == [[there]] * 2
        assert counts(status[0])["engaged"] >= 1
        seen = counts(status[1])
        answered = (
            "pass-init" if mode == "generic" and not queues else "tx-cookie"
        )  # sums are to be filled in
        assert seen[f"ingress.{answered}"] >= 1
        assert seen["ingress.pass-proven"] >= 1
        assert seen["ingress.redirect" if queues else "ingress.pass-known"] > 10
        for one in map(counts, status):
            assert (one.get("vtl+ip.left_frame", 0) > 10) == (transport == "vtl+ip:frames=1")
        assert {name: n for name, n in seen.items() if name.startswith("ingress.drop") and n} == {}
        assert netns.call(pair.b.netns, lambda: attached(INTERFACE))
        pair.server.kill9()
        eventually(lambda: not netns.call(pair.b.netns, lambda: attached(INTERFACE)))


def elsewhere(pair: Pair) -> None:
    """The interface goes to another namespace and comes back, with its number, before anybody looks."""
    assert pair.server
    for stop in (signal.SIGSTOP, signal.SIGCONT):
        pair.server.proc.send_signal(stop)
        if stop == signal.SIGSTOP:
            pair.b.run(["ip", "link", "set", INTERFACE, "netns", pair.a.netns, "name", "guest"])
            pair.a.run(["ip", "link", "set", "guest", "netns", pair.b.netns, "name", INTERFACE])
    pair.b.run(["ip", "addr", "add", f"{pair.b.v4}/24", "dev", INTERFACE])
    pair.b.run(["ip", "link", "set", INTERFACE, "up"])


def renamed(pair: Pair) -> None:
    """For long enough that it is noticed; the device goes on under the other name."""
    for old, new in ((INTERFACE, "other"), ("other", INTERFACE)):
        pair.b.run(["ip", "link", "set", old, "down"])
        pair.b.run(["ip", "link", "set", old, "name", new])
        pair.b.run(["ip", "link", "set", new, "up"])
        time.sleep(2)


@pytest.mark.skipif(PLAIN, reason="needs engines")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("change", [elsewhere, renamed])
@pytest.mark.parametrize("transport", ["vtl+ip", "vtl+ip:frames=1"])
def test_its_queues_are_heard_again_when_it_is_back(transport: str, change: Callable[[Pair], None]) -> None:
    """What the kernel has unbound is closed, and so is what would keep the queue from being bound again."""
    with Lab() as lab, Pair.open(lab, options=("--xdp", INTERFACE, "--transport", transport)) as pair:
        assert pair.server
        change(pair)

        def row() -> dict[str, Any]:
            (found,) = pair.engines[1].status()["engine"]["xdp"]
            return cast("dict[str, Any]", found)

        time.sleep(2)
        eventually(lambda: row() == {"name": INTERFACE, "mode": "native", "queues": 1, "why": ""}, tell=row)
        heard = counts(pair.server.status())["ingress.redirect"]
        for port in range(PORT, PORT + 20):  # the association may be tried again only after a while
            server = peer(pair.b, "serve", "0.0.0.0", port, "recv-all", "close")
            same(result(peer(pair.a, "connect", pair.b.v4, port, "send:3000000", "close")), result(server))
            if counts(pair.server.status())["engaged"]:
                break
            time.sleep(1)
        seen = counts(pair.server.status())
        assert seen["engaged"] == 1
        assert seen["ingress.redirect"] > heard


@pytest.mark.skipif(PLAIN, reason="needs engines")
@pytest.mark.timeout(120)
def test_a_flood_brings_it_there_and_its_end_takes_it_away() -> None:
    with Lab() as lab, Pair.open(lab, options=("--xdp", f"{INTERFACE}:auto")) as pair:
        assert pair.server

        def row() -> dict[str, Any]:
            (found,) = pair.engines[1].status()["engine"]["xdp"]
            return cast("dict[str, Any]", found)

        assert (row()["mode"], row()["why"], row()["switched"]) == ("", "waits for a flood", 0)
        where = (pair.b.v4, str(pair.server.port))
        flood = pair.a.popen([sys.executable, "-c", FLOOD, *where], hooked=False)
        eventually(lambda: row()["mode"] == "generic", 30)
        assert (row()["why"], row()["switched"]) == ("flooded", 1)
        server = peer(pair.b, "serve", "0.0.0.0", PORT, "recv-all", "close")
        same(result(peer(pair.a, "connect", pair.b.v4, PORT, "send:3000000", "close")), result(server))
        eventually(lambda: counts(pair.engines[1].status())["ingress.drop-unknown-rate"] > 1000)
        flood.kill()
        flood.wait()
        eventually(lambda: row()["mode"] == "", 60)
        assert (row()["why"], row()["switched"]) == ("waits for a flood", 1)
        assert not netns.call(pair.b.netns, lambda: attached(INTERFACE))


@pytest.mark.skipif(PLAIN, reason="needs engines")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("mode", ["native", "generic"])
@pytest.mark.parametrize(
    ("transport", "mtus"),
    [
        ("vtl", (1500, 9000, 1500)),
        ("vtl+ip", (1500, 9000, 1500)),
        ("vtl+ip", (9000, 1500, 9000)),
        ("vtl+ip:frames=1", (1500, 9000, 1500)),
    ],
)
def test_a_transfer_goes_on_while_the_mtu_changes(transport: str, mtus: tuple[int, ...], mode: str) -> None:
    """Datagrams of VTL come by the program, and from a queue's socket, before, between and after."""
    options = ("--xdp", f"{INTERFACE}:{mode}", "--transport", transport)
    way = "pass-known" if transport == "vtl" else "redirect"
    with Lab(mtu=mtus[0]) as lab, Pair.open(lab, options=options) as pair:

        def seen() -> int:
            return counts(pair.engines[1].status())[f"ingress.{way}"]

        def more_come() -> None:
            before = seen()
            eventually(lambda: seen() > before + 500)

        before = [engine.status()["engine"]["xdp"] for engine in pair.engines]
        enough = lab.tmp / "enough"
        server = peer(pair.b, "serve", "0.0.0.0", PORT, "recv-all", "close")
        client = peer(pair.a, "connect", pair.b.v4, PORT, f"send-until:{enough}", "close")
        more_come()
        for mtu in mtus[1:]:
            for host in lab.hosts:
                host.run(["ip", "link", "set", INTERFACE, "mtu", str(mtu)], hooked=False)
            more_come()
        enough.touch()
        sent, received = result(client), result(server)
        same(sent, received)
        assert (sent["error"], received["error"]) == (None, None)
        assert [engine.status()["engine"]["xdp"] for engine in pair.engines] == before


@pytest.mark.skipif(PLAIN, reason="needs engines")
@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("none", "there is no interface none"),
        ("none:generic", "there is no interface none"),
        ("lo:native", "interface lo cannot take native XDP"),
        ("lo:fast", "there is no mode 'fast'"),
    ],
)
def test_the_command_says_what_is_wrong(wanted: str, said: str) -> None:
    with Lab() as lab:
        command = [sys.executable, "-m", "hooker", "up", "--cgroup", str(lab.a.cgroup), "--xdp", wanted]
        done = lab.a.run(command, hooked=False, check=False, text=True)
        assert done.returncode == 2
        assert said in done.stderr
        assert len(done.stderr.strip().splitlines()) <= 2
