"""States and transitions of a flow: the one table.

``machine.pyx`` runs it, docs/flow.md shows it (a test compares). A rule says what an event does in a
state. The first that fits role and kind counts; an event without a rule changes nothing. What an ENGAGED
flow does with a segment, DATA or ACKED depends on numbers: ``machine.pyx`` adds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum, IntFlag, auto
from typing import NamedTuple


class State(IntEnum):
    TCP = 0  # nothing of the flow is ours: its segments go by the wire
    OPENING = auto()  # an answer to OPEN is awaited (a pinned server: OPEN itself)
    EARLY = auto()  # the same, of a client that has the mark since ESTABLISHED: its payload goes as DATA
    ARMED = auto()  # agreed; the mark is asked for, no segment has come through hk0
    BRIDGE = auto()  # a segment has come; until the peer says the same, hk0's segments go on to the wire
    ENGAGED = auto()  # the transport carries the bytes
    LEFT = auto()  # given up; what still comes through hk0 goes to the wire
    CLOSED = auto()  # the kernel has no connection any more, or only a TIME_WAIT
    GONE = auto()  # nothing is left


class Role(IntEnum):
    CLIENT = 0  # has connected; it alone sends OPEN
    SERVER = auto()


class Event(IntEnum):
    """What may happen. The first group is local, the second comes from the peer's engine."""

    START = 0  # the engine wants the flow
    START_EARLY = auto()  # its service is warm, and its socket about to be marked
    SEGMENT = auto()  # out of hk0
    SEGMENT_BOTH = auto()  # the same, and the peer's ENGAGED is here already
    LOCAL_RST = auto()  # a segment with RST
    UNMARKED = auto()  # the kernel says that the mark is gone
    CLOSE = auto()  # the kernel's connection is gone or in TIME_WAIT
    CLOSE_RESET = auto()  # the same, and the peer's engine had told us of a RST
    EVIDENCE = auto()  # the peer is not engaged: something came by the wire, or nothing by the transport
    TIMER = auto()
    EXHAUSTED = auto()  # the timer, once more than there are tries
    DOWN = auto()  # the transport is broken
    PEER_DEAD = auto()  # the peer's engine is known to be dead, or to be another one
    STOP = auto()  # the engine stops
    DOUBT = auto()  # something anybody could have sent: ICMP, a stateless reset
    OPEN_NEW = auto()  # right proof, a newer epoch
    OPEN_AGAIN = auto()  # of this epoch
    OPEN_OLD = auto()  # of an epoch that is over
    ACCEPT = auto()
    ACCEPT_SEEN = auto()  # a segment has come through hk0 before it
    ACCEPT_BOTH = auto()  # and the peer has seen one of its own
    REJECT = auto()
    ENGAGED = auto()  # an answer is wanted: not ENGAGED_KNOWN
    FINAL = auto()  # ENGAGED with ENGAGED_KNOWN
    DATA = auto()
    DATA_OLD = auto()  # nothing in it that the kernel has not acknowledged
    ACKED = auto()
    PROBE = auto()
    PING = auto()
    PONG = auto()
    REFUSED = auto()
    RESET = auto()
    LEAVE = auto()
    STALE = auto()  # any of them, of an older epoch
    AFTER_RESET = auto()  # any of them but RESET and LEAVE, for a flow that was reset here
    LEAVE_AFTER_RESET = auto()
    RESET_TOO = auto()  # what its peer says when its end has gone, too


class Action(IntFlag):
    """What the engine has to do; ``SEND_*`` with the values that the flow has now."""

    SEND_OPEN = auto()
    SEND_ACCEPT = auto()
    SEND_ENGAGED = auto()
    SEND_DATA = auto()  # this segment
    SEND_ACKED = auto()  # may wait for the end of the batch: the newest counts
    SEND_PROBE = auto()
    SEND_PING = auto()
    SEND_PONG = auto()
    SEND_RESET = auto()
    SEND_LEAVE = auto()
    MARK = auto()  # the kernel program is to mark the socket, and to say snd_una, snd_nxt, rcv_nxt then
    UNMARK = auto()
    BRIDGE = auto()  # this segment goes to the wire, cut to MSS; of a pinned flow without payload
    WIRE_OLDEST = auto()  # the oldest unacknowledged segment goes to the wire, and the transport's last
    WIRE_EARLY = auto()  # all that was sent as DATA and is unacknowledged goes to the wire
    WIRE_ACK = auto()  # a bare ACK goes to the wire: the peer's kernel learns what ours has
    WIRE_RST = auto()
    INJECT = auto()  # this DATA goes to the kernel, as far as its window reaches; the rest is KEEP
    KEEP = auto()  # within the promise: keep this DATA, or drop it and send REFUSED
    INJECT_ACK = auto()  # an ACK of snd_una with the window up to the peer's edge (8.2)
    INJECT_PROBE = auto()  # no data, one position too low: the kernel answers what it has
    INJECT_RST = auto()  # at the kernel's rcv_nxt
    RESUME = auto()  # what had been sent from the refused position on passes once more when it is repeated
    ABORT = auto()  # end the application's socket with an error
    REPORT = auto()  # to the user, with the reason
    FORGET = auto()
    SEND_SACK = auto()  # ACKED at once, with the blocks of the kernel's segment (8.2)


class Reason(IntEnum):
    NONE = 0
    NO_ANSWER = auto()
    REJECTED = auto()
    NOT_THROUGH_HK0 = auto()  # marked, and no segment came
    PEER_NOT_ENGAGED = auto()  # ENGAGED was not answered
    PEER_LEFT = auto()
    UNKNOWN_THERE = auto()  # the peer's engine does not know the flow
    WIRE_ACK = auto()  # the kernel has acknowledged bytes that nobody brought
    NO_PROGRESS = auto()  # the peer answers, and its kernel does not acknowledge
    PEER_SILENT = auto()
    TRANSPORT_DOWN = auto()
    ENGINE_GONE = auto()
    ENGINE_STOPS = auto()
    RESET_HERE = auto()
    RESET_THERE = auto()
    CLOSED = auto()
    EPOCHS_USED_UP = auto()


class Rule(NamedTuple):
    state: State
    event: Event
    next: State | None = None  # None: the same
    actions: Action = Action(0)
    role: Role | None = None  # None: both
    pinned: bool | None = None  # None: both


def _rules() -> Iterator[Rule]:
    yield from _tcp()
    yield from _opening()
    yield from _early()
    yield from _armed()
    yield from _bridge()
    yield from _engaged()
    yield from _left()
    yield from _closed()


S, E, A = State, Event, Action
# what an engaged peer says to one who is not, and must hear that it is alone
_ALONE = (
    E.ACCEPT,
    E.ENGAGED,
    E.FINAL,
    E.DATA,
    E.DATA_OLD,
    E.ACKED,
    E.PROBE,
    E.PING,
    E.REFUSED,
    E.RESET,
    E.STALE,
    E.OPEN_OLD,
)
# what only one says who has seen a segment of its own
_FROM_ENGAGED = (E.ENGAGED, E.FINAL, E.DATA, E.DATA_OLD, E.ACKED, E.PROBE, E.PING, E.PONG, E.REFUSED)
_LEAVING = A.UNMARK | A.WIRE_OLDEST | A.WIRE_ACK | A.REPORT
_ABORT = A.ABORT | A.SEND_RESET | A.REPORT


def _ends(state: State, *, pinned_outlives: tuple[Event, ...], gone: tuple[Event, ...]) -> Iterator[Rule]:
    """A flow that has the mark, or has asked for it: free ones go back to TCP, pinned ones end."""
    for event in gone:
        if event not in pinned_outlives:
            yield Rule(state, event, S.CLOSED, _ABORT, pinned=True)
        leave = A(0) if event is E.LEAVE else A.SEND_LEAVE
        yield Rule(state, event, S.LEFT, leave | _LEAVING, pinned=False)


def _tcp() -> Iterator[Rule]:
    yield Rule(S.TCP, E.START, S.OPENING, A.SEND_OPEN, Role.CLIENT, pinned=False)
    yield Rule(S.TCP, E.START, S.OPENING, A.MARK | A.SEND_OPEN, Role.CLIENT, pinned=True)
    yield Rule(S.TCP, E.START, S.OPENING, A.MARK, Role.SERVER, pinned=True)
    yield Rule(S.TCP, E.START_EARLY, S.EARLY, A.MARK, Role.CLIENT, pinned=False)
    yield Rule(S.TCP, E.OPEN_NEW, S.ARMED, A.MARK | A.SEND_ACCEPT, Role.SERVER)
    yield Rule(S.TCP, E.SEGMENT, S.LEFT, A.BRIDGE | A.UNMARK, pinned=False)
    yield Rule(S.TCP, E.SEGMENT, None, A.BRIDGE, pinned=True)
    yield from (Rule(S.TCP, event, None, A.SEND_LEAVE) for event in _ALONE)
    yield Rule(S.TCP, E.CLOSE, S.CLOSED)


def _opening() -> Iterator[Rule]:
    yield Rule(S.OPENING, E.TIMER, None, A.SEND_OPEN, Role.CLIENT)
    yield Rule(S.OPENING, E.ACCEPT, S.ARMED, A.MARK, Role.CLIENT)
    yield Rule(S.OPENING, E.OPEN_NEW, S.ARMED, A.MARK | A.SEND_ACCEPT, Role.SERVER)
    yield Rule(S.OPENING, E.SEGMENT, None, A.BRIDGE)
    for event in (E.REJECT, E.LEAVE, E.EXHAUSTED, E.DOWN, E.PEER_DEAD, E.STOP):
        yield Rule(S.OPENING, event, S.TCP, A.REPORT, pinned=False)
        if event is not E.DOWN:
            yield Rule(S.OPENING, event, S.CLOSED, A.ABORT | A.REPORT, pinned=True)
    yield Rule(S.OPENING, E.CLOSE, S.CLOSED)


def _early() -> Iterator[Rule]:
    """OPEN goes with the first segment, or when none comes; what cannot be told yet is like OPENING."""
    yield Rule(S.EARLY, E.SEGMENT, None, A.BRIDGE, Role.CLIENT, pinned=False)
    yield Rule(S.EARLY, E.TIMER, None, A.SEND_OPEN, Role.CLIENT, pinned=False)
    yield Rule(S.EARLY, E.DATA, None, A.KEEP, Role.CLIENT, pinned=False)  # it has overtaken ACCEPT
    yield Rule(S.EARLY, E.ACCEPT, S.ARMED, A.MARK, Role.CLIENT, pinned=False)
    yield Rule(S.EARLY, E.ACCEPT_SEEN, S.BRIDGE, A.SEND_ENGAGED, Role.CLIENT, pinned=False)
    yield Rule(S.EARLY, E.ACCEPT_BOTH, S.ENGAGED, A.SEND_ENGAGED | A.SEND_ACKED, Role.CLIENT, pinned=False)
    for event in (E.REJECT, E.LEAVE, E.EXHAUSTED, E.DOWN, E.PEER_DEAD, E.STOP):
        yield Rule(S.EARLY, event, S.LEFT, _LEAVING, Role.CLIENT, pinned=False)
    yield Rule(S.EARLY, E.CLOSE, S.CLOSED, A(0), Role.CLIENT, pinned=False)


def _agreed_again(state: State) -> Iterator[Rule]:
    yield Rule(state, E.OPEN_AGAIN, None, A.SEND_ACCEPT, Role.SERVER)
    yield Rule(state, E.OPEN_NEW, S.ARMED, A.MARK | A.SEND_ACCEPT, Role.SERVER)
    yield Rule(state, E.CLOSE, S.CLOSED)
    yield Rule(state, E.CLOSE_RESET, S.CLOSED, A.SEND_RESET)


def _armed() -> Iterator[Rule]:
    yield Rule(S.ARMED, E.SEGMENT, S.BRIDGE, A.BRIDGE | A.SEND_ENGAGED)
    yield Rule(S.ARMED, E.SEGMENT_BOTH, S.ENGAGED, A.SEND_ENGAGED | A.SEND_ACKED)
    yield Rule(S.ARMED, E.TIMER, None, A.INJECT_PROBE)
    # the peer has seen a segment of its own; the probe's answer is one of ours
    for event in _FROM_ENGAGED:
        yield Rule(S.ARMED, event, None, A.INJECT_PROBE | (A.KEEP if event is E.DATA else A(0)))
    yield Rule(S.ARMED, E.RESET, S.CLOSED, A.ABORT | A.REPORT, pinned=True)
    yield Rule(S.ARMED, E.RESET, None, A.INJECT_RST, pinned=False)
    yield from _agreed_again(S.ARMED)
    yield from _ends(
        S.ARMED, pinned_outlives=(E.DOWN,), gone=(E.LEAVE, E.EXHAUSTED, E.DOWN, E.PEER_DEAD, E.STOP)
    )


def _bridge() -> Iterator[Rule]:
    yield Rule(S.BRIDGE, E.SEGMENT, None, A.BRIDGE)
    also = {E.ACKED: A.INJECT_ACK, E.PROBE: A.INJECT_PROBE, E.PING: A.SEND_PONG, E.REFUSED: A.RESUME}
    for event in _FROM_ENGAGED:
        yield Rule(S.BRIDGE, event, S.ENGAGED, A.SEND_ENGAGED | A.SEND_ACKED | also.get(event, A(0)))
    yield Rule(S.BRIDGE, E.TIMER, None, A.SEND_ENGAGED)
    yield Rule(S.BRIDGE, E.RESET, S.ENGAGED, A.INJECT_RST)
    yield from _agreed_again(S.BRIDGE)
    yield from _ends(
        S.BRIDGE, pinned_outlives=(E.DOWN,), gone=(E.LEAVE, E.EXHAUSTED, E.DOWN, E.PEER_DEAD, E.STOP)
    )


def _engaged() -> Iterator[Rule]:
    yield Rule(S.ENGAGED, E.ENGAGED, None, A.SEND_ENGAGED | A.SEND_ACKED)
    yield Rule(S.ENGAGED, E.DATA_OLD, None, A.SEND_ACKED)
    yield Rule(S.ENGAGED, E.ACKED, None, A.INJECT_ACK)
    yield Rule(S.ENGAGED, E.PROBE, None, A.INJECT_PROBE)
    yield Rule(S.ENGAGED, E.PING, None, A.SEND_PONG | A.SEND_ACKED)
    yield Rule(S.ENGAGED, E.REFUSED, None, A.RESUME)
    yield Rule(S.ENGAGED, E.TIMER, None, A.SEND_PING)
    yield Rule(S.ENGAGED, E.DOUBT, None, A.SEND_PING)
    yield Rule(S.ENGAGED, E.EXHAUSTED, None, A.SEND_PING, pinned=True)
    yield Rule(S.ENGAGED, E.RESET, None, A.INJECT_RST)
    yield Rule(S.ENGAGED, E.LOCAL_RST, S.CLOSED, A.SEND_RESET | A.REPORT)
    yield from _agreed_again(S.ENGAGED)
    yield from _ends(
        S.ENGAGED,
        pinned_outlives=(E.DOWN, E.EXHAUSTED),
        gone=(E.LEAVE, E.EVIDENCE, E.EXHAUSTED, E.DOWN, E.PEER_DEAD, E.STOP),
    )


def _left() -> Iterator[Rule]:
    yield Rule(S.LEFT, E.SEGMENT, None, A.BRIDGE | A.UNMARK)
    yield Rule(S.LEFT, E.UNMARKED, S.TCP)
    yield Rule(S.LEFT, E.TIMER, S.TCP)
    yield Rule(S.LEFT, E.OPEN_NEW, S.ARMED, A.MARK | A.SEND_ACCEPT, Role.SERVER)
    yield from (Rule(S.LEFT, event, None, A.SEND_LEAVE) for event in _ALONE)
    yield Rule(S.LEFT, E.CLOSE, S.CLOSED)


def _closed() -> Iterator[Rule]:
    yield Rule(S.CLOSED, E.SEGMENT, None, A.BRIDGE)
    yield Rule(S.CLOSED, E.AFTER_RESET, None, A.SEND_RESET)
    yield Rule(S.CLOSED, E.LEAVE_AFTER_RESET, None, A.WIRE_RST, pinned=False)
    # a SYN of the same ports may have met the peer's old socket: who waits for its answer sends it again
    yield Rule(S.CLOSED, E.RESET_TOO, None, A.INJECT_PROBE)
    for event in (E.DATA_OLD, E.PING, E.PROBE):
        yield Rule(S.CLOSED, event, None, A.SEND_ACKED)
    for event in (*_ALONE, E.OPEN_NEW, E.OPEN_AGAIN):
        if event not in (E.DATA_OLD, E.PING, E.PROBE, E.ACKED, E.REFUSED, E.RESET):
            yield Rule(S.CLOSED, event, None, A.SEND_LEAVE, pinned=False)
            yield Rule(S.CLOSED, event, None, A.SEND_RESET, pinned=True)
    yield Rule(S.CLOSED, E.TIMER, S.GONE, A.FORGET)


RULES: tuple[Rule, ...] = tuple(_rules())


def find(state: State, event: Event, role: Role, *, pinned: bool) -> Rule | None:
    """The rule that counts, or None."""
    for rule in RULES:
        if (
            (rule.state, rule.event) == (state, event)
            and rule.role in (None, role)
            and rule.pinned in (None, pinned)
        ):
            return rule
    return None


MEANINGS: dict[State, tuple[str, str]] = {  # and the timer
    State.TCP: ("nothing of the flow is ours: its segments go by the wire", "none"),
    State.OPENING: (
        "OPEN is sent (a pinned server: waits for one)",
        "T, doubling: 3 tries, pinned 8",
    ),
    State.EARLY: (
        "a client of a warm service: marked, its payload goes as DATA (8.6)",
        "1 ms, or the first segment: OPEN; then T, doubling: 3 tries more",
    ),
    State.ARMED: (
        "agreed; the mark is asked for, no segment has come through hk0",
        "20 ms, doubling: 5 probes of the local socket; after 1.26 s it is given up",
    ),
    State.BRIDGE: (
        "one has come. Until the peer says the same of its own, segments go from hk0 to the wire",
        "T, doubling: 3 tries, pinned 8",
    ),
    State.ENGAGED: (
        "the transport carries the bytes",
        "T while the peer owes a word: 3 tries; pinned flows wait as TCP does",
    ),
    State.LEFT: ("given up; what still comes through hk0 is bridged", "1 s without a segment"),
    State.CLOSED: ("the kernel has no connection any more, or a TIME_WAIT", "60 s (Linux's TIME_WAIT)"),
    State.GONE: ("nothing is left", "none"),
}


def meanings() -> str:
    """The table of states, as the documents show it."""
    rows = [f"| {state.name} | {what} | {timer} |" for state, (what, timer) in MEANINGS.items()]
    return "\n".join(["| state | meaning | timer |", "|---|---|---|", *rows])


def names(actions: Action) -> str:
    """`MARK`, `SEND_OPEN`: as the documents write actions."""
    return ", ".join(f"`{action.name}`" for action in Action if action in actions)


def markdown(role: Role) -> str:
    """The table of one role; events that do the same in a state share a line."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for rule in RULES:
        if rule.role in (None, role):
            kind = {None: "all", True: "pinned", False: "free"}[rule.pinned]
            following = "" if rule.next is None else rule.next.name
            rows.setdefault((rule.state.name, kind, following, names(rule.actions)), []).append(
                rule.event.name
            )
    lines = ["| state | event | flows | next | actions |", "|---|---|---|---|---|"]
    for (state, kind, following, actions), events in rows.items():
        lines.append("| " + " | ".join((state, ", ".join(events), kind, following, actions)) + " |")
    return "\n".join(lines)


def mermaid() -> str:
    """The changes of state of free flows, both roles, as a diagram."""
    changes: dict[tuple[State, State], list[str]] = {}
    for rule in RULES:
        if rule.next not in (None, rule.state) and rule.pinned is not True:
            assert rule.next is not None
            words = changes.setdefault((rule.state, rule.next), [])
            if rule.event.name not in words:
                words.append(rule.event.name)
    lines = ["stateDiagram-v2", "    [*] --> TCP"]
    for (state, following), events in changes.items():
        lines.append(f"    {state.name} --> {following.name}: {', '.join(events)}")
    return "\n".join([*lines, "    GONE --> [*]"])
