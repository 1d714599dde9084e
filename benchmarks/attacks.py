"""Attacks by a host that can reach the engine's port and has no key: their cost, and what others notice.

    python -m benchmarks.attacks [--intercept KIND] [--seconds N] [NAME ...]

Each in a lab of its own, for a bounded time: a's engine serves honest flows to b, and from a's namespace
somebody sends to b's engine what no engine would. The honest client keeps one flow, and makes one new
connection after another. Figures: bytes sent; the most b's engine grew by and what is left 5 s later (MiB);
its CPU seconds; honest exchanges per second, those that failed, connections that were hooked, and other
handshakes that came about within a second. With ``deaf`` the engine
looked at is a's, the peer that hears badly is b by IPv4, and the honest client talks by IPv6.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from hooker.control import netns
from hooker.lab import Lab, Link
from hooker.lab.engine import EngineProcess

PORT = 7000
MiB = 1 << 20
REST = 5.0  # s after the attack, before the last look at the memory
HEADER = struct.Struct("!B3xQQ")
SHORT = struct.Struct("!BQI")
INIT, COOKIE, INIT_ACK = 1, 2, 3
PING = b"\x01"

SERVER = """
import socket, threading
listener = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
def serve(c):
    try:
        with c:
            while data := c.recv(65536):
                c.sendall(data)
    except ConnectionError:
        pass
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
""".replace("PORT", str(PORT))

CLIENT = """
import json, select, socket, sys, time
def exchange(c):
    c.sendall(bytes(4096))
    left = 4096
    while left:
        got = len(c.recv(left))
        if not got:
            raise EOFError
        left -= got
done = failed = resets = 0
kept, end = None, time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    try:
        if kept is None:
            kept = socket.create_connection((sys.argv[1], PORT), timeout=5)
        exchange(kept)
        done += 1
    except (OSError, EOFError):
        kept, resets = None, resets + 1
    try:
        with socket.create_connection((sys.argv[1], PORT), timeout=5) as c:
            exchange(c)
            done += 1
    except (OSError, EOFError):
        failed += 1
    time.sleep(0.005)
print(json.dumps({"done": done, "failed": failed, "resets": resets}))
""".replace("PORT", str(PORT))


HOARDER = """
import select, socket, sys
made = []
for _ in range(40):
    made.append(s := socket.create_connection((sys.argv[1], PORT), 20))
    s.setsockopt(socket.SOL_SOCKET, 32, 8 << 20)        # SO_SNDBUFFORCE
    s.setblocking(False)
while made:
    for kind, ready in enumerate(select.select(made, made, [])[:2]):
        for s in ready:
            try:
                s.send(bytes(1 << 20)) if kind else s.recv(1 << 20)
            except OSError:
                made = [other for other in made if other is not s]
""".replace("PORT", str(PORT))


def init(number: int, cookie: tuple[int, int, int] = (0, 0, 0)) -> bytes:
    """Return an INIT of the least size."""
    body = struct.pack("!B3xIQQQQQI", 1, 1000, 16 * MiB, 4 * MiB, *cookie, 1)
    return (HEADER.pack(0x20 | INIT, 0, number) + body).ljust(128, b"\0")


def handshake(sock: socket.socket, to: tuple[str, int], patience: float = 1.0) -> bool:
    """Shake hands as an honest initiator does: again after 60 ms, doubling, at last with a new cookie."""
    end, number = time.monotonic() + patience, int.from_bytes(os.urandom(8), "big") | 1
    while time.monotonic() < end:
        second, wait = b"", 0.06
        for _ in range(4):
            sock.sendto(second or init(number), to)
            sock.settimeout(wait)
            with suppress(TimeoutError):
                answer = sock.recv(65536)
                kind, _number, cid = HEADER.unpack_from(answer)
                if kind == 0x20 | INIT_ACK:
                    return True
                if kind == 0x20 | COOKIE and not second:
                    second = init(number, (cid, *struct.unpack_from("!QQ", answer, 24)))
                    continue
            wait *= 2
    return False


class Stranger:
    """An association that nobody asked for, over a socket of its own."""

    def __init__(self, sock: socket.socket, to: tuple[str, int]) -> None:
        self.sock, self.to, self.sent = sock, to, 0
        self.number = int.from_bytes(os.urandom(8), "big") | 1
        self._packets = count(1)
        sock.settimeout(1.0)
        self._put(init(self.number))
        while HEADER.unpack_from(cookie := sock.recv(65536))[:2] != (0x20 | COOKIE, self.number):
            pass
        self.cid = HEADER.unpack_from(cookie)[2]
        self._put(init(self.number, (self.cid, *struct.unpack_from("!QQ", cookie, 24))))

    def _put(self, datagram: bytes) -> None:
        with suppress(OSError):
            self.sock.sendto(datagram, self.to)
            self.sent += len(datagram)

    def send(self, *frames: bytes) -> None:
        """Send frames, packed into datagrams."""
        packet = b""
        for frame in frames:
            if len(packet) + len(frame) > 1400:
                self._put(SHORT.pack(0x28, self.cid, next(self._packets)) + packet)
                packet = b""
            packet += frame
        self._put(SHORT.pack(0x28, self.cid, next(self._packets)) + packet)


def stream(flow: int, offset: int, data: bytes) -> bytes:
    """Return a STREAM frame."""
    return struct.pack("!BIIH", 0x1A, flow << 1, offset, len(data)) + data


def opening(flow: int) -> bytes:
    """Return a committed OPEN of a connection that does not exist."""
    return struct.pack("!BBHIQQ", 0x11, 1, 0, flow << 1, (flow + 1) << 40, 0)


def reset(flow: int) -> bytes:
    """Return a RESET_STREAM."""
    return struct.pack("!BBHIIQ", 0x16, 0, 0, flow << 1, 0, 0)


@contextmanager
def quoting(lab: Lab) -> Iterator[Callable[[bytes], None]]:
    """Yield what sends to a an ICMP "port unreachable" as if from b, about a datagram with that payload."""
    raw = netns.call(lab.b.netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
    source, target = socket.inet_aton(lab.a.v4), socket.inet_aton(lab.b.v4)

    def send(payload: bytes) -> None:
        udp = struct.pack("!HHHH", lab.vtl_port, lab.vtl_port, 8 + len(payload), 0) + payload
        ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, source, target)
        message = struct.pack("!BBHI", 3, 3, 0, 0) + ip + udp
        message = message[:2] + struct.pack("!H", _checksum(message)) + message[4:]
        with suppress(OSError):
            raw.sendto(message, (lab.a.v4, 0))

    with raw:
        yield send


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data + b"\0" * (len(data) % 2)))
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


# --- attacks: each sends until `until` and returns the bytes it sent


def nothing(lab: Lab, until: float) -> int:
    """Do nothing: what the honest flows do alone."""
    time.sleep(max(0.0, until - time.monotonic()))
    return 0


def sparse(lab: Lab, until: float) -> int:
    """A byte for each page of every window of one association after another."""
    strangers = []
    while time.monotonic() < until:
        with suppress(OSError):
            strangers.append(new := Stranger(_socket(lab), (lab.b.v4, lab.vtl_port)))
            for flow in range(4):
                new.send(*(stream(flow, page * 4096 + 4095, b"x") for page in range(1023, 0, -1)))
        time.sleep(0.002)
    return _close(strangers)


def opens(lab: Lab, until: float) -> int:
    """OPENs of unknown connections, then their resets, again and again."""
    attacker, first = Stranger(_socket(lab), (lab.b.v4, lab.vtl_port)), 0
    while time.monotonic() < until:
        for kind in (opening, reset):
            for base in range(first, first + 60_000, 500):
                if time.monotonic() > until:
                    break
                attacker.send(*(kind(flow) for flow in range(base, base + 500)))
                time.sleep(0.0005)
                _drain(attacker.sock)
        first += 60_000
        time.sleep(0.5)
    return _close([attacker])


def inits(lab: Lab, until: float) -> int:
    """Complete handshakes, one after another, from many ports of an IPv6 address."""
    socks = [lab.a.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(64)]
    sent, to, n = 0, (lab.b.v6, lab.vtl_port), 0
    for sock in socks:
        sock.setblocking(False)
    while time.monotonic() < until:
        for sock in socks:
            with suppress(OSError):
                for _ in range(16):
                    n += 1
                    sent += sock.sendto(init(n << 20 | 1), to)
            with suppress(OSError):
                while answer := sock.recv(65536):
                    kind, number, cid = HEADER.unpack_from(answer)
                    if kind == 0x20 | COOKIE:
                        sent += sock.sendto(init(number, (cid, *struct.unpack_from("!QQ", answer, 24))), to)
    for sock in socks:
        sock.close()
    return sent


def icmp(lab: Lab, until: float) -> int:
    """Spoofed "port unreachable" to a's engine, from before the honest flows' association begins."""
    sent = 0
    with quoting(lab) as send:
        while time.monotonic() < until:
            send(b"")
            send(HEADER.pack(0x20 | INIT, 0, sent) + bytes(108))
            sent += 2 * 56 + 128
            time.sleep(0.001)
    return sent


def deaf(lab: Lab, until: float) -> int:
    """Flows whose peer's engine is heard in 0.1 s of each 0.4 s: a's engine keeps what they sent."""
    lab.b.sysctl("net.ipv4.tcp_rmem", f"4096 {8 * MiB} {16 * MiB}")  # so much each flow may have sent
    sender = lab.a.popen([sys.executable, "-c", HOARDER, lab.b.v4])
    time.sleep(1)
    chain = ["add table ip deaf", "add chain ip deaf in { type filter hook input priority 0; }"]
    for command in chain:
        lab.a.run(["nft", command], hooked=False)
    rule = f"add rule ip deaf in ip saddr {lab.b.v4} udp sport {lab.vtl_port} drop"
    while time.monotonic() < until:
        lab.a.run(["nft", rule], hooked=False)
        time.sleep(0.3)
        lab.a.run(["nft", "flush chain ip deaf in"], hooked=False)
        time.sleep(0.1)
    sender.kill()
    sender.wait()
    return 0


ATTACKS: dict[str, Callable[[Lab, float], int]] = {
    f.__name__: f for f in (nothing, sparse, opens, inits, icmp, deaf)
}


def _socket(lab: Lab) -> socket.socket:
    return lab.a.socket(socket.AF_INET, socket.SOCK_DGRAM)


def _drain(sock: socket.socket) -> None:
    sock.setblocking(False)
    with suppress(OSError):
        while sock.recv(65536):
            pass


def _close(strangers: list[Stranger]) -> int:
    for stranger in strangers:
        stranger.sock.close()
    return sum(stranger.sent for stranger in strangers)


def run(name: str, seconds: float, intercept: str = "segments") -> dict[str, Any]:
    """Run one attack for that long on engines of that kind and return its row."""
    options = ("--port", str(PORT), "--intercept", intercept)
    with Lab(link=Link(delay=0.02) if name == "icmp" else None) as lab:  # time for it in the handshake
        there, client = lab.b.hooker(*options), lab.a.hooker(*options)
        server, to = (client, lab.b.v6) if name == "deaf" else (there, lab.b.v4)
        lab.b.popen([sys.executable, "-c", SERVER])
        lab.b.wait_listening(PORT)
        if name != "icmp":  # there the first handshake is what is attacked
            _honest(lab, to, 0.3).wait()
        base, cpu, before = server.rss(), server.cpu_seconds(), time.monotonic()
        peak = _Peak(server)
        results: list[int] = []
        attack = threading.Thread(target=lambda: results.append(ATTACKS[name](lab, before + seconds)))
        attack.start()
        hands: list[bool] = []
        probing = threading.Thread(target=_probe, args=(lab, before + seconds, hands))
        probing.start()
        time.sleep(0.2)
        honest = json.loads(_honest(lab, to, seconds - 0.2).communicate(timeout=seconds + 30)[0])
        attack.join()
        probing.join()
        peak.stop()
        alive = server.proc.poll() is None
        cpu = server.cpu_seconds() - cpu if alive else 0.0
        time.sleep(REST)
        return {
            "attack": name,
            "sent_MB": round(results[0] / 1e6, 1) if results else 0,
            "grew_MiB": round((peak.most - base) / MiB, 1),
            "kept_MiB": round((server.rss() - base) / MiB, 1) if alive else "died",
            "cpu_s": round(cpu, 2),
            "honest_per_s": round(honest["done"] / seconds),
            "failed": honest["failed"],
            "resets": honest["resets"],
            "not_taken": _not_taken(client),
            "hooked": client.status()["counters"]["engaged"],
            "handshakes": f"{sum(hands)} of {len(hands)}",
        }


def _not_taken(engine: EngineProcess) -> int:
    """How often an engine had no room for what an application sent."""
    counters = engine.status()["counters"]
    return sum(counters.get(name, 0) for name in ("data_not_taken", "slabs_exhausted"))


def _probe(lab: Lab, until: float, hands: list[bool]) -> None:
    """Shake hands with b's engine, over IPv4 and every 0.1 s."""
    while time.monotonic() < until - 1:
        with _socket(lab) as sock:
            hands.append(handshake(sock, (lab.b.v4, lab.vtl_port)))
        time.sleep(0.1)


def _honest(lab: Lab, to: str, seconds: float) -> subprocess.Popen[Any]:
    return lab.a.popen([sys.executable, "-c", CLIENT, to, str(seconds)], stdout=subprocess.PIPE)


class _Peak:
    """The most resident memory a process had."""

    def __init__(self, engine: EngineProcess) -> None:
        self.most, self._engine, self._end = 0, engine, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._end.wait(0.05):
            with suppress(OSError, ValueError, StopIteration):
                self.most = max(self.most, self._engine.rss())

    def stop(self) -> None:
        self._end.set()
        self._thread.join()


def main() -> None:
    """Print a table, a row for each attack."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{Path(__file__).stem}")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ATTACKS)}; all, if none")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each attack (10)")
    parser.add_argument("--intercept", choices=("segments", "messages"), default="segments")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(ATTACKS)
    if unknown or not 1 <= arguments.seconds <= 600:
        parser.error(f"unknown attack {', '.join(unknown)}" if unknown else "--seconds: between 1 and 600")
    for i, name in enumerate(arguments.names or ATTACKS):
        row = run(name, arguments.seconds, arguments.intercept)
        if i == 0:
            print("| " + " | ".join(row) + " |", "|" + "---|" * len(row), sep="\n")
        print("| " + " | ".join(str(value) for value in row.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
