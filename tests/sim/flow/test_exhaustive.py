"""Every interleaving of two hosts, two kernels, the wire and the transport.

Small, but all of it, or all up to a depth. That the properties are really looked at is shown by engines
broken on purpose: each is found.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sim.flow.search import Broken, Budget, search
from sim.flow.world import A, B, Host, Setup, World

from hooker.flow.machine import load
from hooker.flow.states import RULES, Action, Event, Rule, State

QUIET = Budget(kills=0, timers=0, timeouts=0, twice=0)
WHOLE = {  # searched to the end
    "no accident": (Setup(size=(1, 0)), QUIET, None),
    "a kill at any moment": (Setup(size=(1, 0)), QUIET._replace(kills=1), None),
    "a kill of an engaged flow": (
        Setup(size=(1, 0)),
        QUIET._replace(kills=1, timers=1, timeouts=1),
        World.engage,
    ),
    "a warm service, no accident": (Setup(size=(1, 0), warm=True), QUIET, None),
    "a kill of a warm one": (Setup(size=(1, 0), warm=True), QUIET._replace(kills=1), None),
    "a kill with a key": (Setup(size=(1, 0), pinned=True), QUIET._replace(kills=1), World.engage),
}
LIMIT = 2_500  # states of what is larger
DEEP = {
    "a kill, both write": (Setup(size=(2, 1)), Budget(), World.engage),
    "a kill while engaging": (Setup(size=(2, 1)), Budget(), None),
    "with a key": (Setup(size=(1, 1), pinned=True), Budget(), None),
    "with a key, engaged": (Setup(size=(1, 1), pinned=True), Budget(), World.engage),
    "an engine stops, and engages again": (
        Setup(size=(1, 1)),
        Budget(kills=0, leaves=1, starts=1),
        World.engage,
    ),
    "an engine stops, and its mark stays": (
        Setup(size=(1, 1), sticks=True),
        Budget(kills=0, leaves=1, starts=1),
        World.engage,
    ),
    "a stopped reader": (
        Setup(size=(3, 0), capacity=(1, 1), reading=(True, False)),
        Budget(kills=0, timers=2),
        World.engage,
    ),
    "both close": (Setup(size=(1, 1), fin=(True, True)), Budget(timers=2), World.engage),
    "a reset": (Setup(size=(1, 1)), Budget(kills=0, resets=1, timers=2), World.engage),
    "the transport breaks": (Setup(size=(1, 1)), Budget(kills=0, breaks=1, timers=2), World.engage),
    "a socket bound to a device": (Setup(size=(1, 1), bound=(False, True)), Budget(kills=0), None),
    "data before the peer is engaged": (Setup(size=(2, 0), early=True), Budget(), None),
    "data before the peer is engaged, bound": (
        Setup(size=(2, 0), early=True, bound=(False, True)),
        Budget(kills=0),
        None,
    ),
    "a warm service": (Setup(size=(2, 1), warm=True), Budget(kills=0, timers=3), None),
    "a warm service, killed": (Setup(size=(1, 1), warm=True), Budget(timers=2), None),
    "a warm service, with an end": (
        Setup(size=(1, 1), fin=(True, True), warm=True),
        Budget(kills=0, timers=2),
        None,
    ),
    "a warm service, bound": (Setup(size=(2, 0), warm=True, bound=(False, True)), Budget(kills=0), None),
    "a warm service that is left": (
        Setup(size=(1, 1), warm=True, repairs=True),
        Budget(kills=0, breaks=1, resets=1),
        None,
    ),
    "a transport that repairs": (Setup(size=(2, 1), repairs=True), Budget(timeouts=3), World.engage),
}


@pytest.mark.parametrize("name", WHOLE)
def test_all_interleavings_end_well(name: str) -> None:
    setup, budget, ready = WHOLE[name]
    found = search(setup, budget, limit=200_000, every=11, ready=ready)
    assert found.complete


@pytest.mark.parametrize("name", DEEP)
def test_the_first_interleavings_end_well(name: str) -> None:
    setup, budget, ready = DEEP[name]
    assert search(setup, budget, limit=LIMIT, every=4, ready=ready).depth > 2


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", DEEP)
def test_many_more_interleavings_end_well(name: str) -> None:
    setup, budget, ready = DEEP[name]
    search(setup, budget, limit=200_000, every=7, ready=ready)


# ---- engines broken on purpose ----------------------------------------------------------------


@contextmanager
def without(*broken: tuple[State, Event]) -> Iterator[None]:
    """The table without what these events do in these states."""
    load([rule for rule in RULES if (rule.state, rule.event) not in broken])
    try:
        yield
    finally:
        load(RULES)


@contextmanager
def instead(*rules: Rule) -> Iterator[None]:
    load([*rules, *RULES])
    try:
        yield
    finally:
        load(RULES)


def change(host: Host, offset: int, by: int) -> None:
    """One of the flow's positions, by its place in machine.pxd."""
    assert host.machine is not None
    state = bytearray(host.machine.freeze())
    (value,) = struct.unpack_from("=I", state, offset)
    struct.pack_into("=I", state, offset, value + by)
    host.machine.thaw(bytes(state))


RCV_ACK, RCV_EDGE = 60, 64


def test_the_offsets_are_those_of_the_fields() -> None:
    host = Host(A, Setup())
    assert host.machine is not None
    before = host.machine.numbers
    change(host, RCV_ACK, 1)
    change(host, RCV_EDGE, 2)
    after = host.machine.numbers
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {
        "rcv_ack": 1,
        "rcv_edge": 2,
    }


def acknowledges_by_itself(host: Host, actions: int) -> int:
    """As an engine would that tells the writer what it has, and not what the far kernel has."""
    if actions & Action.INJECT:
        change(host, RCV_ACK, 1)
        return actions & ~Action.INJECT | Action.SEND_ACKED
    return actions


def test_an_acknowledgement_that_no_kernel_gave_is_found() -> None:
    with pytest.raises(Broken, match="acknowledged what the peer's kernel has not"):
        search(Setup(size=(2, 0)), QUIET, limit=5000, ready=World.engage, alter=acknowledges_by_itself)


class Shifted(World):
    def _say(self, host: Host, message: bytes) -> None:
        if message[0] == 0x14:
            message = message[:4] + (int.from_bytes(message[4:8], "big") + 1).to_bytes(4, "big") + message[8:]
        super()._say(host, message)


def test_a_wrong_position_is_found() -> None:
    with pytest.raises(AssertionError, match="wrong byte"):
        Shifted(Setup(size=(9, 0))).engage().heal()


@pytest.mark.parametrize(
    ("broken", "scenario", "repairs"),
    [
        (
            [(State.LEFT, Event.SEGMENT), (State.TCP, Event.SEGMENT)],
            "an engine stops, and its mark stays",
            False,
        ),
        ([(State.ENGAGED, Event.EXHAUSTED)], "a kill while engaging", False),
        ([(State.ENGAGED, Event.ACKED)], "a kill, both write", False),
        ([(State.ENGAGED, Event.DATA_OLD), (State.ENGAGED, Event.PING)], "a kill, both write", True),
    ],
    ids=str,
)
def test_a_table_with_a_hole_leaves_a_flow_that_does_not_end(
    broken: list[tuple[State, Event]], scenario: str, repairs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As seen with peers that are left before TCP has repeated anything.

    The last one over a transport that repairs: else a flow of which nothing arrives leaves all the same.
    """
    monkeypatch.setattr("sim.flow.world.SILENCE", 0.06)
    setup, budget, ready = DEEP[scenario]
    setup = setup._replace(repairs=repairs)
    with without(*broken), pytest.raises(Broken, match=r"stands at|retransmits|timed out|missing"):
        search(setup, budget, limit=20_000, ready=ready)


def stopped_reader(**options: object) -> World:
    return World(Setup(size=(60, 0), reading=(True, False), **options)).engage()  # type: ignore[arg-type]


def after_a_lost_window_update() -> set[State]:
    world = stopped_reader()
    world.heal(seconds=3, read=False)
    world.hosts[B].kernel.reading = True
    world.do(("read", B))
    world.lose_all()
    world.heal()
    return {host.machine.state for host in world.hosts if host.machine is not None}


def test_a_lost_window_update_is_asked_for() -> None:
    assert after_a_lost_window_update() == {State.ENGAGED}
    with without((State.ENGAGED, Event.PROBE), (State.ENGAGED, Event.PING)):
        assert after_a_lost_window_update() == {State.TCP}  # nobody answers, so TCP does it


def test_a_stopped_readers_writer_lives_and_probes() -> None:
    for promise in (0, 8, 40):
        world = stopped_reader(promise=promise, rtt=0.05)
        world.heal(read=False)
        kernel = world.hosts[A].kernel
        assert kernel.snd_edge == kernel.snd_una
        assert kernel.backoff > 6, "nothing was probed"
        world.heal()


def test_a_promise_kept_towards_a_stopped_reader_is_found() -> None:
    def promises(host: Host, actions: int) -> int:
        if host.way == B and actions & Action.SEND_ACKED and host.machine is not None:
            n = host.machine.numbers
            if n["rcv_edge"] == n["rcv_ack"]:
                change(host, RCV_EDGE, 8)
        return actions

    world = stopped_reader()
    world.alter = promises
    with pytest.raises(AssertionError, match=r"a writer was timed out|retransmits"):
        world.heal(read=False)


def test_a_pinned_flow_that_goes_back_to_tcp_is_found() -> None:
    setup, budget, ready = DEEP["with a key, engaged"]
    leave = Rule(State.ENGAGED, Event.STOP, State.LEFT, Action.UNMARK | Action.SEND_LEAVE)
    with instead(leave), pytest.raises(Broken, match="plaintext on the wire"):
        search(setup, budget._replace(leaves=1), limit=20_000, ready=ready)


def test_data_for_a_socket_that_was_not_seen_at_hk0_is_found() -> None:
    setup, budget, ready = DEEP["data before the peer is engaged, bound"]
    at_once = Rule(State.ARMED, Event.DATA, None, Action.INJECT)
    with instead(at_once), pytest.raises(Broken, match="not seen at hk0"):
        search(setup, budget, limit=20_000, ready=ready)
