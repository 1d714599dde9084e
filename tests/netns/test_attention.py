"""No event of the kernel programs waits for long, whatever the worker was doing."""

from __future__ import annotations

import pytest
from lone_worker import SLOTS, LoneWorker, wait_for

pytestmark = pytest.mark.timeout(60)
ESTABLISHED, SERVER = 2, 2
ASLEEP, DOZING = 0, 1
LONG = 0.5  # s; it should be 2 ms


def established(lone: LoneWorker, urgent: bool) -> None:
    identity = lone.take_slot()
    lone.emit(
        urgent, type=ESTABLISHED, slot=identity & 0xFFFFFFFF, flow_id=identity, client_nonce=7, role=SERVER
    )


@pytest.mark.parametrize("state", [ASLEEP, DOZING])
@pytest.mark.parametrize("urgent", [False, True])
def test_an_event_is_read(lone: LoneWorker, urgent: bool, state: int) -> None:
    for n in range(1, SLOTS // 2):
        wait_for(lambda: lone.attention.value == ASLEEP, "the worker has nothing to do and does not sleep")
        while lone.attention.value != state:
            lone.poke()
        established(lone, urgent)
        wait_for(lambda n=n: lone.worker.counters()["flows"] == n, "not read", LONG)
