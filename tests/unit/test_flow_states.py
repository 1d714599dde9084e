"""The table of states is one thing: the machine runs it, the document shows it."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

from hooker.flow import states
from hooker.flow.face import FLOW_SIZE, Machine
from hooker.flow.messages import TYPES
from hooker.flow.states import RULES, Action, Event, Reason, Role, State

ROOT = Path(__file__).parents[2]
MACHINE = (ROOT / "hooker" / "flow" / "machine.pxd").read_text()
PAGE = (ROOT / "docs" / "flow.md").read_text()
OVERVIEW = (ROOT / "docs" / "architecture.md").read_text()


def declared(enum: str, prefix: str) -> list[str]:
    block = re.search(rf"cdef enum {enum}:.*?\n((?:    .*\n)+)", MACHINE)
    assert block is not None
    return re.findall(rf"^    {prefix}(\w+)", block[1], re.MULTILINE)


def test_the_machine_counts_states_events_actions_and_reasons_as_the_table_does() -> None:
    assert declared("flow_state", "ST_") == [s.name for s in State]
    assert declared("flow_role", "ROLE_") == [r.name for r in Role]
    assert declared("flow_event", "EV_") == [e.name for e in Event]
    assert declared("flow_action", "DO_") == [a.name for a in Action]
    assert declared("flow_reason", "WHY_") == [r.name for r in Reason]


def test_the_document_has_the_tables_and_the_diagram() -> None:
    assert states.markdown(Role.CLIENT) in PAGE
    assert states.markdown(Role.SERVER) in PAGE
    assert f"```mermaid\n{states.mermaid()}\n```" in PAGE
    assert states.meanings() in PAGE


def test_the_overview_has_the_states_and_the_same_diagram() -> None:
    assert states.meanings() in OVERVIEW
    assert f"```mermaid\n{states.mermaid()}\n```" in OVERVIEW


def test_the_document_names_every_message_reason_and_action() -> None:
    for name, number in TYPES.items():
        assert re.search(rf"\| 0x{number:02x} \| {name.upper()} \|", PAGE), name
    for reason in Reason:
        assert re.search(rf"\| {reason.value} \| `{reason.name}` \|", PAGE), reason
    for action in Action:
        assert f"| `{action.name}` |" in PAGE, action


def test_no_two_rules_fit_the_same() -> None:
    seen = set()
    for rule in RULES:
        roles = list(Role) if rule.role is None else [rule.role]
        kinds = [False, True] if rule.pinned is None else [rule.pinned]
        for key in product([rule.state], [rule.event], roles, kinds):
            assert key not in seen, key
            seen.add(key)


def test_every_state_but_rest_has_a_timer_and_a_way_out() -> None:
    for role, pinned in product(Role, (False, True)):
        for state in (State.OPENING, State.ARMED, State.BRIDGE, State.LEFT, State.CLOSED):
            last = Event.TIMER if state in (State.LEFT, State.CLOSED) else Event.EXHAUSTED
            rule = states.find(state, last, role, pinned=pinned)
            if state is State.LEFT and pinned:
                continue  # no pinned flow gets there
            assert rule is not None, (state, role, pinned)
            assert rule.next in (State.TCP, State.LEFT, State.CLOSED, State.GONE)


def test_a_pinned_flow_never_goes_to_the_wire() -> None:
    reached, found = {State.TCP}, True
    while found:
        following = {
            r.next for r in RULES if r.state in reached and r.pinned is not False and r.next is not None
        }
        found = not following <= reached
        reached |= following
    assert State.LEFT not in reached
    for rule in RULES:
        if rule.pinned is not False and rule.state in reached:
            wire = Action.WIRE_OLDEST | Action.WIRE_EARLY | Action.UNMARK
            assert not rule.actions & wire, rule


def test_an_idle_flow_is_small_and_waits_for_nothing() -> None:
    assert FLOW_SIZE <= 128
    assert Machine(Role.CLIENT).deadline is None
