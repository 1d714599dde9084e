"""Slots of the flow table: one flow each, however its end is noticed."""

from __future__ import annotations

from lone_worker import SLOTS, LoneWorker, wait_for

ESTABLISHED, CLOSED = 2, 3
SERVER = 2


def test_a_slot_goes_back_once_when_the_sweep_is_faster_than_the_event(lone: LoneWorker) -> None:
    other = lone.take_slot()  # of a flow that goes on
    identity = lone.take_slot()
    slot = identity & 0xFFFFFFFF
    lone.emit(type=ESTABLISHED, slot=slot, flow_id=identity, client_nonce=7, role=SERVER)
    wait_for(lambda: lone.flows() == 1, "no flow")
    lone.say_closed(slot)
    wait_for(lambda: lone.flows() == 0, "the sweep did not find the end")
    lone.emit(type=CLOSED, slot=slot, flow_id=identity)
    lone.emit(type=ESTABLISHED, slot=other & 0xFFFFFFFF, flow_id=other, client_nonce=8, role=SERVER)
    wait_for(lambda: lone.flows() == 1, "no flow")
    free = [lone.take_slot() for _ in range(SLOTS - 1)]
    assert len({one & 0xFFFFFFFF for one in free}) == SLOTS - 1
    assert identity + (1 << 32) in free
