"""Slots of the flow table: one flow each, however its end is noticed."""

from __future__ import annotations

import pytest
from lone_worker import SLOTS, LoneWorker, wait_for

from hooker.errors import KernelError

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


def test_a_slot_goes_back_once_when_it_had_another_flow_before_the_event_came(lone: LoneWorker) -> None:
    other = lone.take_slot()  # of a flow that goes on
    first = lone.take_slot()
    slot = first & 0xFFFFFFFF
    late = [first]
    for number in range(2):  # two flows of the slot, both found over by the sweep
        lone.emit(type=ESTABLISHED, slot=slot, flow_id=late[-1], client_nonce=7 + number, role=SERVER)
        wait_for(lambda: lone.flows() == 1, "no flow")
        lone.say_closed(slot)
        wait_for(lambda: lone.flows() == 0, "the sweep did not find the end")
        lone.say_closed(slot, False)
        late.append(lone.take_slot())
        assert late[-1] == late[-2] + (1 << 32)
    lone.emit(type=CLOSED, slot=slot, flow_id=late[0])
    lone.emit(type=CLOSED, slot=slot, flow_id=late[1])
    lone.emit(type=ESTABLISHED, slot=other & 0xFFFFFFFF, flow_id=other, client_nonce=9, role=SERVER)
    wait_for(lambda: lone.flows() == 1, "no flow")
    free = {lone.take_slot() & 0xFFFFFFFF for _ in range(SLOTS - 2)}
    assert slot not in free
    assert len(free) == SLOTS - 2


def test_of_many_flows_all_are_counted_and_some_are_shown(lone: LoneWorker) -> None:
    """So that who asks for the state of tens of thousands holds memory and the worker for few of them."""
    for nonce in range(7, 13):
        identity = lone.take_slot()
        slot = identity & 0xFFFFFFFF
        lone.emit(type=ESTABLISHED, slot=slot, flow_id=identity, client_nonce=nonce, role=SERVER)
    wait_for(lambda: lone.flows() == 6, "no flows")
    states, shown = lone.worker.table(4)
    assert sum(states.values()) == 6
    assert shown == lone.worker.flows()[:4]
    assert {row[2] for row in shown} <= states.keys()
    assert lone.worker.table(1000) == (states, lone.worker.flows())
    assert lone.worker.table(0) == (states, [])


def test_generations_wrap(lone: LoneWorker) -> None:
    """The flow before the wrap, and the one after it, each give the slot back, and only once."""
    slot = lone.take_slot() & 0xFFFFFFFF
    for _ in range(SLOTS - 1):
        lone.take_slot()
    for generation in (0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF, 1, 0xFFFFFFFF, 1):
        lone.emit(type=CLOSED, slot=slot, flow_id=generation << 32 | slot)
    lone.emit(type=ESTABLISHED, slot=slot, flow_id=2 << 32 | slot, client_nonce=9, role=SERVER)
    wait_for(lambda: lone.flows() == 1, "no flow")
    assert [lone.take_slot() >> 32 for _ in range(4)] == [2, 1, 0xFFFFFFFF, 0x80000000]
    with pytest.raises(KernelError):
        lone.take_slot()
