"""OPENs whose flow is not known yet: none keeps another one out, and there are only so many."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

import pytest
from lone_worker import LoneWorker, wait_for

from benchmarks.attacks import Stranger

pytestmark = pytest.mark.timeout(60)
BUCKETS = 1 << 13
DEPTH = 64  # of one bucket
FLOWS = 5120  # so many OPENs may wait
BATCH = 500  # the socket's buffer has room for them


def opening(stream: int, locator: int) -> bytes:
    """Return an OPEN frame."""
    return struct.pack("!BBHIQQ", 0x11, 0, 0, stream << 1, locator, 0)


@pytest.fixture
def worker() -> Iterator[LoneWorker]:
    with contextlib.ExitStack() as stack:
        yield LoneWorker(stack, FLOWS)


@pytest.fixture
def strangers(worker: LoneWorker) -> Iterator[list[Stranger]]:
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(3)]
        yield [Stranger(sock, ("127.0.0.1", worker.worker.port)) for sock in socks]


def waiting(worker: LoneWorker) -> int:
    worker.poke()
    return int(worker.worker.counters()["opens_waiting"])


def test_equal_locators_are_kept_up_to_a_number_and_chosen_ones_all(
    worker: LoneWorker, strangers: list[Stranger]
) -> None:
    """But for one in 8,192 that meets the full bucket, and no peer knows which."""
    stranger = strangers[0]
    stranger.send(*(opening(n, 7) for n in range(BATCH)))
    stranger.send(opening(BATCH, 8))
    wait_for(lambda: waiting(worker) == DEPTH + 1, "equal ones without a bound, or another one kept out")
    for first in range(1, 9):
        stranger.send(*(opening(n, n * BUCKETS) for n in range(first * BATCH + 1, (first + 1) * BATCH + 1)))
        least = DEPTH + 1 + first * BATCH - 5
        wait_for(lambda least=least: waiting(worker) >= least, "they share buckets")


def test_no_more_wait_than_there_may_be_flows(worker: LoneWorker, strangers: list[Stranger]) -> None:
    for number, stranger in enumerate(strangers):
        for first in range(0, 2000, BATCH):
            stranger.send(*(opening(n, number << 32 | n) for n in range(first, first + BATCH)))
            sent = min(number * 2000 + first + BATCH, FLOWS)
            wait_for(lambda sent=sent: waiting(worker) == sent, f"not {sent} of them")
