"""What the worker tells in tuples, made readable: events, and the plain data of ``snapshot()``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hooker.events import OF_LANES, Event, Kind, Role, SocketAddress, State, address
from hooker.transports import name_of

if TYPE_CHECKING:
    from hooker._fastpath import RawEvent, RawFlow


WITHOUT_FLOW = (Kind.PEER_UP, Kind.PEER_DOWN, Kind.TRANSPORT_SKIPPED, Kind.TRANSPORT_FAILED, *OF_LANES)
SHOWN_FLOWS = 1000  # more would take longer than their reader waits
# of what the kernel programs count, the reasons of connections
STAYED_ON_TCP = (
    "loopback", "ipv6-does-not-work-here", "local-path-blocked", "peer-remembered-as-tcp", "mptcp",
    "socket-with-mark", "socket-bound-to-device", "tcp-fast-open",
    "syn-with-option-unanswered", "peer-did-not-ask", "peer-declines-service", "no-common-transport",
    "transport-not-offered", "prototype-failed", "no-option-space",
    "option-echoed", "option-malformed", "flow-table-full", "event-ring-full",
)  # fmt: skip
_STATES = {0: "closed", **{one.value: one.name.lower() for one in State}}


def event(raw: RawEvent) -> Event:
    """One notice of the worker's."""
    kind, reason, role, _, flow_id, local_ip, local_port, remote_ip, remote_port, out, into, at, held = raw
    remote = SocketAddress(address(remote_ip), remote_port)
    if Kind(kind) in WITHOUT_FLOW:
        return Event(Kind(kind), at, remote, reason=reason)
    local = SocketAddress(address(local_ip), local_port)
    if Kind(kind) is Kind.HOLE:
        return Event(
            Kind.HOLE, at, remote, local, flow_id, Role(role), reason, held, position=out, length=into
        )
    return Event(Kind(kind), at, remote, local, flow_id, Role(role), reason, held, out, into)


def transport_skipped(name: str, why: str) -> RawEvent:
    """As if the worker had told it, when the engine starts."""
    kind, now = Kind.TRANSPORT_SKIPPED.value, time.monotonic()
    return kind, f"{name}: {why}", 0, 0, 0, bytes(16), 0, bytes(16), 0, 0, 0, now, 0.0


def states(counts: Mapping[int, int]) -> dict[str, int]:
    """How many flows are in each state, by name."""
    return {_STATES[number]: count for number, count in counts.items()}


def state(raw: RawFlow) -> str:
    """Of one flow of the table."""
    return "closed" if raw[12] else _STATES[raw[2]]


def flow(raw: RawFlow, names: Mapping[int, str]) -> dict[str, Any]:
    """One flow of the table. ``names``: of the engine's own transports, by number."""
    (
        flow_id,
        role,
        _,
        reason,
        local_ip,
        local_port,
        remote_ip,
        remote_port,
        out,
        into,
        backlog,
        spills,
        _,
        transport,
    ) = raw
    return {
        "flow_id": flow_id,
        "role": Role(role).name.lower(),
        "local": str(SocketAddress(address(local_ip), local_port)),
        "remote": str(SocketAddress(address(remote_ip), remote_port)),
        "state": state(raw),
        "reason": reason,
        "bytes_sent": out,
        "bytes_received": into,
        "backlog": backlog,
        "spills": spills,
        "transport": names.get(transport) or name_of(transport),
    }


def peer(raw: tuple[bytes, int, dict[str, Any]]) -> dict[str, Any]:
    """One association that is up; times in ms."""
    packed, port, stats = raw
    row: dict[str, Any] = {
        "address": str(address(packed)),
        "port": port,
        "state": "up",
        "flows": stats["streams"],
    }
    for name, value in stats.items():
        if name.endswith("_ns"):
            row[name.removesuffix("_ns") + "_ms"] = value / 1e6
        elif name not in ("streams", "up"):
            row[name] = value
    return row


def recent(ended: Event) -> dict[str, Any]:
    """A flow that has ended, from the event that says so."""
    assert ended.role is not None
    return {
        "flow_id": ended.flow_id,
        "role": ended.role.name.lower(),
        "local": str(ended.local),
        "remote": str(ended.remote),
        "state": "released" if ended.kind is Kind.FLOW_RELEASED else "closed",
        "reason": ended.reason,
        "bytes_sent": ended.bytes_sent,
        "bytes_received": ended.bytes_received,
        "held": ended.held,
    }
