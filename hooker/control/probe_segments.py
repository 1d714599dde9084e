"""What an engine that takes segments relies on: marks come and go in mid-flow, and lead to its device."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import time
from pathlib import Path

from hooker.control.probe_bed import TIMEOUT, Failed, Host, Pair, connect, engaged, exchange

MEBIBYTE = 1 << 20
OURS = re.compile(r"hk\d+")  # not the lab's, nor the pair's between the hosts


def probe_moves(a: Host, b: Host, family: int) -> str:
    """A connection that began on TCP goes through the devices, with equal bytes."""
    _only_flows(a, b)
    before = through_device(a), through_device(b)
    rng = random.Random(3)
    sizes = [rng.choice((1, 100, 1448, 16384, 65536)) for _ in range(150)]
    with contextlib.closing(_moved(a, b, family)) as pair:
        there = exchange(pair.client, pair.server, sizes)
        back = exchange(pair.server, pair.client, sizes)
    if through_device(a) - before[0] < there or through_device(b) - before[1] < back:
        raise Failed(f"not all of {there + back} bytes went through the devices: {a.engine.reasons()}")
    return f"marked in mid-flow, {(there + back) / MEBIBYTE:.0f} MiB through the devices, equal both ways"


def probe_returns(a: Host, b: Host) -> str:
    """An engine ends; the other's sockets lose their mark, and their segments the way to its device."""
    _only_flows(a, b)
    with contextlib.ExitStack() as stack:
        pairs = [stack.enter_context(contextlib.closing(_moved(a, b, socket.AF_INET)))]
        with contextlib.suppress(Failed, OSError):  # IPv6 has a probe of its own
            pairs.append(stack.enter_context(contextlib.closing(_moved(a, b, socket.AF_INET6))))
        b.call(b.engine.close)
        for pair in pairs:
            _until_back(a, pair)
        before = through_device(a)
        moved = sum(exchange(pair.client, pair.server, [MEBIBYTE]) for pair in pairs)
        moved += sum(exchange(pair.server, pair.client, [MEBIBYTE]) for pair in pairs)
        late = through_device(a) - before
    if late:
        raise Failed(f"{late} bytes of connections that are on TCP again went to the device")
    return f"marks gone in mid-flow, {moved // MEBIBYTE} MiB over TCP, equal both ways"


def _only_flows(*hosts: Host) -> None:
    """What else would go to the devices: the bytes by which each engine looks whether it is reached."""
    for host in hosts:
        host.engine._unwatch_lane()


def _moved(a: Host, b: Host, family: int) -> Pair:
    """A connection that both engines carry."""
    before = engaged(a), engaged(b)
    pair = connect(a, b, family)
    deadline = time.monotonic() + TIMEOUT
    while engaged(a) == before[0] or engaged(b) == before[1]:
        if time.monotonic() > deadline:
            pair.close()
            raise Failed(f"the connection stayed on TCP: {a.engine.reasons()}")
        _speak(pair)
    return pair


def _until_back(a: Host, pair: Pair) -> None:
    deadline = time.monotonic() + TIMEOUT
    while True:
        before = through_device(a)
        _speak(pair)
        if through_device(a) == before:
            return
        if time.monotonic() > deadline:
            raise Failed("segments still go to the device after the connection was left to TCP")


def _speak(pair: Pair) -> None:
    exchange(pair.client, pair.server, [100])
    exchange(pair.server, pair.client, [100])
    time.sleep(0.005)


def through_device(host: Host) -> int:
    """Bytes that the engine's device has got from its host's TCP."""
    lines = host.call(lambda: Path("/proc/thread-self/net/dev").read_text()).splitlines()
    rows = (line.split() for line in lines if OURS.fullmatch(line.split(":")[0].strip()))
    return sum(int(row[9]) for row in rows)
