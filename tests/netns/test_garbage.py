"""Bad datagrams at the engine's UDP port are dropped; a transfer that runs does not notice."""

from __future__ import annotations

import random
import socket
import struct
import threading

import pytest
from support import Pair, peer, result, same

from hooker.control import netns

pytestmark = [pytest.mark.timeout(90), pytest.mark.alone]
MB = 1 << 20
ETH_P_ALL = 3


class Attacker:
    """Sends datagrams to host b's engine while a block runs, some of them from a's own address."""

    def __init__(self, pair: Pair, seed: int = 1) -> None:
        self.pair, self.random = pair, random.Random(seed)
        self.port = pair.lab.vtl_port
        self.seen: list[bytes] = []
        self.sent = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Attacker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        netns.enter(self.pair.a.netns)
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        sniffer.settimeout(0.001)
        plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
        with sniffer, plain, raw:
            while not self._stop.is_set():
                self._sniff(sniffer)
                self._send(plain, raw)

    def _sniff(self, sniffer: socket.socket) -> None:
        try:
            packet = sniffer.recv(65536)
        except TimeoutError:
            return
        if len(packet) > 28 and packet[0] == 0x45 and packet[9] == socket.IPPROTO_UDP:
            self.seen = [*self.seen[-20:], packet[28 : 28 + 1472]]

    def _send(self, plain: socket.socket, raw: socket.socket) -> None:
        for payload in (self._noise(), self._truncated(), self._forged()):
            plain.sendto(payload, (self.pair.b.v4, self.port))
            header = struct.pack("!HHHH", self.port, self.port, 8 + len(payload), 0)  # no checksum
            raw.sendto(header + payload, (self.pair.b.v4, 0))
            self.sent += 2

    def _noise(self) -> bytes:
        return self.random.randbytes(self.random.choice([0, 1, 7, 8, 9, 15, 16, 17, 40, 1400]))

    def _truncated(self) -> bytes:
        """Return the first bytes of a real packet: never beyond its header."""
        return self.random.choice(self.seen)[: self.random.randrange(16)] if self.seen else b"\0"

    def _forged(self) -> bytes:
        """Return a real packet with all but its first byte's worth of header replaced."""
        real = self.random.choice(self.seen) if self.seen else bytes(40)
        return real[:1] + self.random.randbytes(15) + real[16:]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_garbage_during_a_transfer(hooked_pair: Pair, seed: int) -> None:
    pair, size = hooked_pair, 60 * MB
    with pair.engaged(payload=size), Attacker(pair, seed) as attacker:
        server = peer(pair.b, "serve", "0.0.0.0", 7500, "recv-all", "close")
        client = peer(pair.a, "connect", pair.b.v4, 7500, "sleep:0.3", f"send:{size}", "sleep:0.3", "close")
        same(result(client), result(server))
    assert attacker.sent > 50
    for engine in pair.engines:
        assert engine.proc.poll() is None


def test_garbage_before_any_flow(hooked_pair: Pair) -> None:
    with Attacker(hooked_pair, 4) as attacker:
        threading.Event().wait(1)
    assert attacker.sent > 50
    with hooked_pair.engaged(payload=1000):
        server = peer(hooked_pair.b, "serve", "0.0.0.0", 7501, "recv-all", "close")
        client = peer(hooked_pair.a, "connect", hooked_pair.b.v4, 7501, "send:1000", "close")
        same(result(client), result(server))
