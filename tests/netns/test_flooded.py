"""An engine that comes late hears its peers first. Who floods its port gains one turn by that, no more."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import time
from pathlib import Path

import pytest
from lone_worker import LoneWorker, wait_for

pytestmark = pytest.mark.timeout(60)

BATCH, BATCHES = 32, 256  # datagrams of one call; calls after a silence
FLOOD = 2 * BATCH * BATCHES + 1000  # datagrams
READS = 64  # packets of hk0 in one round
LATE = 0.15  # s; 0.1 are a silence
SIOCOUTQ = 0x5411


def flood(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        for _ in range(FLOOD):
            sock.send(b"?")


def queued(port: int) -> int:
    """Bytes of memory in the port's queue; each datagram takes the same."""
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        _, local, _, _, queues, *_ = line.split()
        if int(local.split(":")[1], 16) == port:
            return int(queues.split(":")[1], 16)
    raise AssertionError(f"nobody has port {port}")


def unread(device: socket.socket) -> int:
    """Bytes of memory of what was sent into hk0 and has not been read."""
    (size,) = struct.unpack("i", fcntl.ioctl(device, SIOCOUTQ, bytes(4)))
    return int(size)


def test_after_a_silence_a_flood_has_one_turn_of_bounded_length_before_hk0_is_read() -> None:
    """hk0 blocks here: the worker stands in the middle of a round until the test sends what that may read."""
    with contextlib.ExitStack() as stack:
        lone = LoneWorker(stack, asleep=True)
        port, device = lone.worker.port, lone.device
        lone.hk0.setblocking(True)
        flood(port)
        each = queued(port) // FLOOD

        def taken() -> float:
            """Batches of datagrams since the beginning."""
            return (FLOOD - queued(port) / each) / BATCH

        assert taken() == 0
        device.send(b"?")
        time.sleep(LATE)
        lone.begin()
        stack.callback(let_go, lone)
        wait_for(lambda: unread(device) == 0, "hk0 was not read")
        assert BATCHES <= taken() <= BATCHES + 1
        time.sleep(LATE)  # so the next round comes late, too
        for _ in range(READS):  # the last one is for it
            device.send(b"?")
        wait_for(lambda: unread(device) == 0, "hk0 was not read again")
        assert taken() <= BATCHES + 2


def let_go(lone: LoneWorker) -> None:
    lone.hk0.setblocking(False)
    for _ in range(READS):
        lone.device.send(b"?")
