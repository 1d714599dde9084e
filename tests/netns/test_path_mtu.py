"""Paths that carry less than the hosts' links, through a router that says nothing; and links that change."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import PLAIN, SLOWNESS, Pair, counts, eventually, url

from hooker.control import janitor as undo
from hooker.control import keyfile, netns
from hooker.lab import INTERFACE, NETNS_PREFIX, Lab, janitor, remove_netns
from hooker.lab.apps import sha256, start_nginx, write_random

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.skipif(PLAIN, reason="where routers say nothing, TCP hangs"),
]
MB = 1 << 20
HEADERS = {"v4": 28, "v6": 48}  # bytes of IP and UDP
LONG, RATE = 96 * MB, 40 * MB  # bytes, bytes/s: far more than windows, so that something can happen meanwhile


def ip(name: str, command: str) -> str:
    """Run one command of ip(8) inside the namespace *name*."""
    command = f"ip -n {name} {command}"
    return subprocess.run(command.split(), check=True, timeout=10, stdout=subprocess.PIPE, text=True).stdout


class Router:
    """A router between the lab's hosts. What is too large for its ports vanishes, without ICMP at first."""

    PORTS = ("to-a", "to-b")

    def __init__(self, lab: Lab) -> None:
        self.netns = f"{NETNS_PREFIX}{lab.tag}-r"
        self._hosts = lab.hosts
        self._undo = janitor().register(undo.netns(self.netns))
        try:
            self._build(lab)
        except BaseException:
            self.close()
            raise

    @classmethod
    @contextlib.contextmanager
    def between(cls, lab: Lab) -> Iterator[Router]:
        """Put one between the hosts for a while."""
        router = cls(lab)
        try:
            yield router
        finally:
            router.close()

    def close(self) -> None:
        remove_netns(self.netns)
        self._undo.done()

    def narrow(self, mtu: int, ports: bool = False) -> None:
        """Let nothing larger through, bytes of IP packets, in either direction.

        With *ports* the links drop it already, and the sender's kernel says that its queue is full.
        """
        for port, host in zip(self.PORTS, self._hosts, strict=True):
            if ports:
                ip(self.netns, f"link set {port} mtu {mtu}")
            ip(self.netns, f"route replace {host.v4}/32 dev {port} mtu lock {mtu}")
            ip(self.netns, f"-6 route replace {host.v6}/128 dev {port} mtu lock {mtu}")

    def speak(self) -> None:
        """It says what it drops (ICMP), from 192.0.0.8: it has no address of its own (RFC 7600)."""
        ip(self.netns, "rule del ipproto icmp blackhole")
        ip(self.netns, "-6 rule del ipproto ipv6-icmp blackhole")

    def _build(self, lab: Lab) -> None:
        subprocess.run(["ip", "netns", "add", self.netns], check=True, timeout=10)
        # host b keeps its link, whose other end moves here; host a gets one of the same name
        ip(lab.a.netns, f"link set {INTERFACE} netns {self.netns} name to-b")
        ip(lab.a.netns, f"link add {INTERFACE} mtu {lab.mtu} type veth peer to-a netns {self.netns}")
        for port in self.PORTS:
            ip(self.netns, f"link set {port} mtu {lab.mtu} up")
        for key in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            netns.call(self.netns, lambda key=key: (Path("/proc/sys") / key).write_text("1"))  # type: ignore[misc]
        self.narrow(lab.mtu)
        ip(self.netns, "rule add ipproto icmp blackhole")
        ip(self.netns, "-6 rule add ipproto ipv6-icmp blackhole")
        netns.call(lab.a.netns, lambda: lab._configure(lab.a))
        # to its hosts it looks like one cable: each takes the router's port for the other host
        for port, host in zip(self.PORTS, lab.hosts, strict=True):
            address, own = link_address(self.netns, port), link_address(host.netns, INTERFACE)
            for peer, mine in ((host.peer_v4, host.v4), (host.peer_v6, host.v6)):
                ip(host.netns, f"neigh replace {peer} lladdr {address} dev {INTERFACE} nud permanent")
                ip(self.netns, f"neigh replace {mine} lladdr {own} dev {port} nud permanent")


def link_address(name: str, interface: str) -> str:
    return str(json.loads(ip(name, f"-j link show {interface}"))[0]["address"])


def datagram(pair: Pair, letter: str, family: str) -> int:
    """What a host's engine sends the other host at most, bytes of UDP payload."""
    engine = pair.client if letter == "a" else pair.server
    host = pair.b if letter == "a" else pair.a
    assert engine
    address = host.v4 if family == "v4" else host.v6
    (size,) = [p["datagram"] for p in engine.status()["peers"] if p["address"] == address]
    return int(size)


def reaches(pair: Pair, letter: str, family: str, size: int) -> None:
    try:
        eventually(lambda: datagram(pair, letter, family) == size, timeout=20)
    except AssertionError:
        raise AssertionError(f"{letter}: {datagram(pair, letter, family)} is not {size}") from None


def fragments(name: str) -> int:
    """IP packets that have been cut in the namespace *name*."""

    def read() -> int:
        four = Path("/proc/thread-self/net/snmp").read_text().splitlines()
        names, values = [line.split() for line in four if line.startswith("Ip:")]
        six = Path("/proc/thread-self/net/snmp6").read_text().split()
        return int(values[names.index("FragCreates")]) + int(six[six.index("Ip6FragCreates") + 1])

    return netns.call(name, read)


def arrived(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


class Web:
    """nginx on host b, curl on host a, and bodies that are compared at the end of each transfer."""

    def __init__(self, pair: Pair, family: str) -> None:
        self.pair, self.family = pair, family
        self.www = start_nginx(pair.b, pair.lab.tmp)
        self._number = 0

    @contextlib.contextmanager
    def transfers(self, size: int, rate: int = 0) -> Iterator[None]:
        """A download and an upload at once; with a *rate* (bytes/s) under way when the block begins."""
        self._number += 1
        got, sent = self.pair.lab.tmp / f"got-{self._number}", self.pair.lab.tmp / f"sent-{self._number}"
        name, up = f"{self._number}", f"up/{self._number}"
        digests = write_random(self.www / name, size), write_random(sent, size)
        limit = ["--limit-rate", str(rate)] if rate else []
        where = [url(self.pair.b, self.family, part) for part in (name, up)]
        with self.pair.engaged(payload=2 * size, flows=2):
            curls = [
                self.pair.a.popen(["curl", "-sS", "-f", *limit, *map(str, rest)])
                for rest in (("-o", got, where[0]), ("-T", sent, where[1]))
            ]
            if rate:
                eventually(lambda: arrived(got) >= size // 8)
                assert [curl.poll() for curl in curls] == [None, None]
            yield
            assert [curl.wait(60) for curl in curls] == [0, 0]
        assert (sha256(got), sha256(self.www / up)) == digests
        for file in (got, sent, self.www / name, self.www / up):
            file.unlink()


def key_options(lab: Lab) -> tuple[str, ...]:
    path = lab.tmp / "key"
    path.touch(0o600)
    path.write_text(keyfile.make() + "\n")
    return ("--key-file", str(path))


@contextlib.contextmanager
def routed(mtu: int = 1500, keyed: bool = False) -> Iterator[tuple[Pair, Router]]:
    with Lab(mtu=mtu) as lab, Router.between(lab) as router:
        options = key_options(lab) if keyed else ()
        with Pair.open(lab, options=options) as pair:
            yield pair, router


@pytest.mark.parametrize("family", ["v4", "v6"])
@pytest.mark.parametrize(("mtu", "ports"), [(1280, False), (1400, False), (1280, True)])
def test_a_narrow_path_that_says_nothing(mtu: int, ports: bool, family: str) -> None:
    with routed() as (pair, router):
        router.narrow(mtu, ports)
        web = Web(pair, family)
        with web.transfers(4 * MB):
            pass
        for letter in "ab":
            reaches(pair, letter, family, mtu - HEADERS[family])
        with web.transfers(20 * MB):
            pass
        assert [fragments(name) for name in (pair.a.netns, router.netns, pair.b.netns)] == [0, 0, 0]


@pytest.mark.parametrize("keyed", [False, True], ids=["plain", "keyed"])
@pytest.mark.parametrize("family", ["v4", "v6"])
def test_a_path_that_narrows_during_transfers(family: str, keyed: bool) -> None:
    with routed(keyed=keyed) as (pair, router):
        web = Web(pair, family)
        with web.transfers(LONG, RATE):
            assert datagram(pair, "a", family) >= 1500 - HEADERS[family]
            assert datagram(pair, "b", family) >= 1500 - HEADERS[family]
            router.narrow(1280)
        for letter in "ab":
            reaches(pair, letter, family, 1280 - HEADERS[family])
        assert holes(pair) >= 2
        router.narrow(1500)
        with web.transfers(8 * MB):
            pass


@pytest.mark.parametrize("hooked", [True, False])
def test_tcp_hears_what_a_router_without_an_address_says(hooked: bool) -> None:
    """Also on hosts with an engine: no address of its device may be the one that such routers answer from."""
    with Lab() as lab, Router.between(lab) as router, contextlib.ExitStack() as stack:
        router.speak()
        router.narrow(1300)
        if hooked:
            stack.enter_context(Pair.open(lab, options=("--port", "9")))
        www = start_nginx(lab.b, lab.tmp)
        digest = write_random(www / "down", MB)
        got = lab.tmp / "got"
        fetch = ["curl", "-sS", "-f", "-m", "10", "-o", str(got), url(lab.b, "v4", "down")]
        lab.a.run(fetch, timeout=20)
        assert sha256(got) == digest


@pytest.mark.parametrize("keyed", [False, True], ids=["plain", "keyed"])
def test_quic_goes_on_where_the_path_narrows_during_transfers(keyed: bool) -> None:
    with Lab() as lab, Router.between(lab) as router:
        options = key_options(lab) if keyed else ()
        with Pair.open(lab, options=(*options, "--transport", "quic")) as pair:
            web = Web(pair, "v4")
            with web.transfers(LONG // 8, RATE // 8):
                router.speak()  # TCP's own way out, where a flow takes it
                router.narrow(1300)
            router.narrow(1500)


def holes(pair: Pair) -> int:
    return sum(p["mtu_holes"] for engine in pair.engines for p in engine.status()["peers"])


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_a_link_of_our_own_that_narrows_during_transfers(family: str) -> None:
    """The kernel refuses what is too large for it: nothing hangs, and trains go on afterwards."""
    with routed() as (pair, _):
        web = Web(pair, family)
        with web.transfers(LONG, RATE):
            for host in pair.lab.hosts:
                ip(host.netns, f"link set {INTERFACE} mtu 1280")
        for letter in "ab":
            reaches(pair, letter, family, 1280 - HEADERS[family])
        with web.transfers(20 * MB):
            pass
        assert [counts(engine.status())["gso"] for engine in pair.engines] == [1, 1]


NARROW = ("vtl", "vtl+ip", "udp", "ip", "quic", "tcp", "mptcp")  # udplite and dccp are not everywhere


@pytest.mark.parametrize("transport", NARROW)
@pytest.mark.parametrize("mtu", [1300, 1000])
def test_a_link_of_our_own_that_carries_less_than_a_transport_needs(transport: str, mtu: int) -> None:
    """TCP over IPv4 goes on at once. With less than 1,280 bytes no transport of datagrams does."""
    with Lab() as lab, Pair.open(lab, options=("--transport", transport)) as pair:
        www = start_nginx(pair.b, lab.tmp)
        got, sent = lab.tmp / "got", lab.tmp / "sent"
        digests = write_random(www / "down", LONG // 4), write_random(sent, LONG // 4)
        where = [url(pair.b, "v4", part) for part in ("down", "up/sent")]
        limit = ["--limit-rate", str(RATE // 8)]
        curls = [
            pair.a.popen(["curl", "-sS", "-f", *limit, *map(str, rest)])
            for rest in (("-o", got, where[0]), ("-T", sent, where[1]))
        ]
        eventually(lambda: arrived(got) >= LONG // 32)
        eventually(lambda: counts(pair.engines[0].status())["engaged"] == 2)
        for peer in pair.engines[0].status()["peers"]:
            assert {"reliability", "datagram"} <= set(peer)
        for host in pair.lab.hosts:
            ip(host.netns, f"link set {INTERFACE} mtu {mtu}")
        largest, last, since = 0.0, -1, time.monotonic()
        while any(curl.poll() is None for curl in curls):
            now = arrived(got)
            if now != last:
                last, since = now, time.monotonic()
            largest = max(largest, time.monotonic() - since)
            time.sleep(0.02)
        assert [curl.wait() for curl in curls] == [0, 0]
        assert (sha256(got), sha256(www / "up" / "sent")) == digests
        print(f"{transport}, {mtu} bytes: nothing came for {largest:.2f} s")
        assert largest < 6 * SLOWNESS  # 13 s, and for ever, where nothing knew


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_jumbo_frames_are_used_where_the_path_has_them(family: str) -> None:
    with Lab(mtu=9000) as lab, Pair.open(lab) as pair:
        web = Web(pair, family)
        with web.transfers(8 * MB):
            pass
        for letter in "ab":
            reaches(pair, letter, family, 9000 - HEADERS[family])
        with web.transfers(8 * MB):
            pass


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_jumbo_frames_are_not_used_where_only_the_hosts_links_have_them(family: str) -> None:
    with routed(mtu=9000) as (pair, router):
        router.narrow(1500)
        web = Web(pair, family)
        with web.transfers(8 * MB):
            pass
        for letter in "ab":
            reaches(pair, letter, family, 1500 - HEADERS[family])
        with web.transfers(8 * MB):
            pass
