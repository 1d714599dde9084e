"""Engaged flows through a router that follows connections, drops what it thinks forged, and masquerades."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from hands import Hands, received
from routed import MASQUERADE, STATEFUL, RoutedLab
from support import eventually, peer, result, same
from ways import end, engaged, flows, open_way, outcome

from hooker.control import netns

LONG = partial(pytest.param, marks=pytest.mark.soak)  # of the runs that --soak adds
ALONE = [LONG("a"), LONG("b")]
pytestmark = pytest.mark.timeout(180)
PORT = 7990
MB = 1 << 20
SIZE = 200 * MB
FLOWS = 20
UDP_TIMEOUT = 15  # s
UNTRACKED = 77  # TTL of what the router does not follow
ENDED = 120  # s: of Linux's states after the end the longest, TIME_WAIT


@contextlib.contextmanager
def routed(nat: bool = True) -> Iterator[RoutedLab]:
    with RoutedLab() as lab:
        for name in ("udp_timeout", "udp_timeout_stream"):
            lab.router.sysctl(f"net.netfilter.nf_conntrack_{name}", str(UDP_TIMEOUT))
        lab.router.rules(STATEFUL + (MASQUERADE if nat else ""))
        yield lab


def options(nat: bool) -> tuple[str, ...]:
    return () if nat else ("--trail", "always")


@pytest.mark.parametrize("victims", [*ALONE, "ab"])
@pytest.mark.parametrize("idle", [1, LONG(60)])
@pytest.mark.parametrize("family", ["v4", LONG("v6")])
def test_flows_that_have_rested_go_on_when_their_engine_is_killed(
    victims: str, idle: int, family: str
) -> None:
    nat = family == "v4"
    with routed(nat) as lab, open_way(lab, "segments", *options(nat)) as pair:
        go = lab.tmp / "go"
        where = pair.b.v4 if nat else pair.b.v6
        flows(pair.b, "echo", "::", PORT, str(FLOWS))
        asking = flows(pair.a, "ask", where, PORT, str(FLOWS), "--idle", str(go))
        eventually(Path(f"{go}.resting").exists)
        eventually(lambda: engaged(pair) == FLOWS)
        time.sleep(idle)
        assert engaged(pair) == FLOWS
        assert not [flow for flow in pair.client.status()["flows"] if flow["state"] != "engaged"]  # type: ignore[union-attr]
        end(pair, victims, kill=True)
        go.touch()
        done = outcome(asking)
        print(done, lab.router.counts())
        assert done["errors"] == {}
        assert done["wrong"] == 0
        assert done["answers"] == 2 * FLOWS


@pytest.mark.parametrize("victims", [*ALONE, "ab"])
def test_flows_at_work_go_on_when_their_engine_is_killed(victims: str) -> None:
    """At any moment of questions and answers; in either direction somebody is to speak first."""
    with routed() as lab, open_way(lab, "segments") as pair:
        until = lab.tmp / "until"
        flows(pair.b, "echo", "0.0.0.0", PORT, str(FLOWS))
        asking = flows(pair.a, "ask", pair.b.v4, PORT, str(FLOWS), "--until", str(until), "--every", "0.02")
        eventually(lambda: engaged(pair) == FLOWS)
        time.sleep(2)
        end(pair, victims, kill=True)
        time.sleep(3)
        until.touch()
        done = outcome(asking)
        print(done, lab.router.counts())
        assert done["errors"] == {}
        assert done["wrong"] == 0


@pytest.mark.parametrize("way", [LONG("plain"), "segments"])
@pytest.mark.parametrize("upwards", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("victims", [LONG(""), *ALONE, "ab"])
def test_a_transfer_whose_engine_is_killed_in_its_middle(way: str, upwards: bool, victims: str) -> None:
    if way == "plain" and victims:
        pytest.skip("nothing to kill")
    with routed() as lab, open_way(lab, way) as pair:
        progress = lab.tmp / "progress"
        sends = (f"send:{SIZE}", "fin", "recv-all", "close")
        takes = ("sleep:1", "recv-all", "fin", "close")  # so its window is closed, and opens again
        server = peer(pair.b, "serve", "0.0.0.0", PORT, *(takes if upwards else sends))
        counting = ("--progress", str(progress))
        started = time.monotonic()
        client = peer(pair.a, "connect", pair.b.v4, PORT, *(sends if upwards else takes), options=counting)
        if victims:
            eventually(lambda: engaged(pair) == 1)
            eventually(lambda: progress.exists() and int(progress.read_text() or 0) > SIZE // 3, 30)
            end(pair, victims, kill=True)
        one, other = result(client), result(server)
        print(way, f"{time.monotonic() - started:.2f} s", lab.router.counts())
        if way != "plain" and not victims:
            for engine in pair.engines:
                shown = engine.status()["counters"]["trail_segments"]
                print(shown)
                assert shown < 20 * (SIZE // MB)  # 1 to 2 on an idle machine: one a round at most
        assert one["error"] is other["error"] is None
        same(one, other)
        same(other, one)


@pytest.mark.parametrize("wants", ["auto", LONG("always")])
@pytest.mark.parametrize("never", ["a", "b", LONG("ab")])
def test_a_host_that_wants_no_trail(never: str, wants: str) -> None:
    """What the other one shows would be nobody's: beyond windows, and of bytes, that were not shown."""
    with routed() as lab:
        with ThreadPoolExecutor() as pool:
            trails = [("--trail", "never" if host in never else wants) for host in "ab"]
            both = list(pool.map(lambda host, more: host.hooker(*more), lab.hosts, trails))
        for _ in range(8):
            takes, gives = (
                ("send:7", "recv-all", "close"),
                ("recv:7", f"send:{2 * MB}", "fin", "recv-all", "close"),
            )
            ends = [peer(lab.b, "serve", "0.0.0.0", PORT + n, *gives) for n in range(2)]
            ends += [peer(lab.a, "connect", lab.b.v4, PORT + n, *takes) for n in range(2)]
            done = [result(one) for one in ends]
            assert [one["error"] for one in done] == [None] * len(ends)
            for one, other in zip(done[:2], done[2:], strict=True):
                same(one, other)
                same(other, one)
        engines = [engine.status()["counters"] for engine in both]
        assert [engine["engaged"] > 0 for engine in engines] == [True, True]
        assert [engine["trail_segments"] for engine in engines] == [0, 0]


def test_what_is_between_forgets_a_connection_that_has_ended() -> None:
    """Its FINs went by the transport; an entry for each connection of five days would fill its table."""
    with routed() as lab, open_way(lab, "segments") as pair:
        flows(pair.b, "echo", "0.0.0.0", PORT, str(FLOWS))
        go = lab.tmp / "go"
        asking = flows(pair.a, "ask", pair.b.v4, PORT, str(FLOWS), "--idle", str(go))
        eventually(Path(f"{go}.resting").exists)
        eventually(lambda: engaged(pair) == FLOWS)
        assert len(entries(lab)) == FLOWS
        assert longest(lab) > ENDED
        go.touch()
        outcome(asking)
        eventually(lambda: longest(lab) <= ENDED, 5)
        assert pair.client.status()["reasons"].get("closed") == FLOWS  # type: ignore[union-attr]


def entries(lab: RoutedLab) -> list[str]:
    return [line for line in lab.router.connections() if f"dport={PORT}" in line]


def longest(lab: RoutedLab) -> int:
    """Return the seconds after which the router forgets the last of the connections."""
    return max([int(line.split()[4]) for line in entries(lab)], default=0)


@pytest.mark.parametrize("way", ["segments", "messages", "never"])
def test_an_answer_to_a_stray_is_nobodys_to_a_nat(way: str) -> None:
    """It does not know where the flow stands: a bare ACK it would take for its own, and answer by a RST."""
    more = ("--trail", "never") if way == "never" else ()
    kind = "segments" if way == "never" else way
    with routed() as lab, open_way(lab, kind, *more) as pair, Hands(lab) as hands:
        client, server = hands.connected(PORT)
        eventually(lambda: engaged(pair) == 1)
        for one, other in ((client, server), (server, client)) * 5:
            one.sendall(b"y" * 30_000)
            assert received(other, 30_000) == b"y" * 30_000
        lab.router.rules(
            "add table inet u; add chain inet u o { type filter hook output priority -300; };"
            f"add rule inet u o ip ttl {UNTRACKED} notrack"
        )
        time.sleep(1)
        for _ in range(2):
            netns.call(lab.router.netns, lambda: stray(server.getpeername(), server.getsockname()))
            time.sleep(0.6)
        client.sendall(b"x")
        assert received(server, 1) == b"x"
        server.sendall(b"x")
        assert received(client, 1) == b"x"


def stray(source: tuple[str, int], to: tuple[str, int]) -> None:
    """An ACK with numbers that are nowhere near, which is answered (RFC 9293 3.10.7.4)."""
    header = struct.pack("!HHIIBBHHH", source[1], to[1], 12345, 67890, 5 << 4, 0x10, 1000, 0, 0)
    ends = socket.inet_aton(source[0]) + socket.inet_aton(to[0])
    pseudo = ends + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(header)) + header
    total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
    checksum = ~(total + (total >> 16)) & 0xFFFF
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, UNTRACKED, socket.IPPROTO_TCP, 0) + ends
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(ip + header[:16] + struct.pack("!H", checksum) + header[18:], (to[0], 0))
