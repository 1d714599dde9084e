"""From engines' snapshots to metric families.

An engine may be older or newer than this code: what a snapshot lacks gives no sample, what has no name here
is in ``hooker_unlisted``. What others choose (peers, ports, flows) is no label.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    UnknownMetricFamily,
)

from hooker.control.rows import STAYED_ON_TCP
from hooker.engine import view
from hooker.metrics.families import (
    ALL,
    IN_STATES,
    INFO,
    PEER_COUNT,
    PEER_RTT,
    PEER_RTT_MOST,
    PEERS,
    TRANSPORT,
    WORKER,
    Family,
)

Snapshot = Mapping[str, Any]
MOST_ROWS = 256  # of an engine in one family; what is more is added up in one, "other"
LONGEST = 256  # characters of a label's value
REASONS = tuple(filter(None, view.REASONS))
VERDICT = re.compile(r"(pass|drop|tx|redirect)(?:-(.+))?")
CALLS = re.compile(r"\w+_(send_calls|recv_calls|send_errors)")  # the carrier's name is before them
LEFT = "left_"  # and by which way
MAKERS = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "info": InfoMetricFamily,
    "unknown": UnknownMetricFamily,
}


class Sample(NamedTuple):
    family: str
    value: float
    labels: tuple[str, ...] = ()  # values, as `Family.labels` names them


class _Table:
    """Values by family, engine and labels; what has the same labels adds up."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[tuple[str, ...], float]] = {}
        self._counts: dict[tuple[str, str], int] = {}

    def add(self, engine: str, sample: Sample) -> None:
        rows = self._rows.setdefault(sample.family, {})
        labels = (engine, *map(_text, sample.labels))
        if labels not in rows:
            labels = self._within_bounds(engine, sample.family, labels)
        rows[labels] = rows.get(labels, 0.0) + sample.value

    def _within_bounds(self, engine: str, family: str, labels: tuple[str, ...]) -> tuple[str, ...]:
        count = self._counts[engine, family] = self._counts.get((engine, family), 0) + 1
        return labels if count <= MOST_ROWS else (engine, *("other" for _ in labels[1:]))

    def families(self) -> Iterator[Metric]:
        for name, rows in self._rows.items():
            family = ALL[name]
            metric = empty(family)
            for labels, value in rows.items():
                metric.add_metric(labels, {} if family.kind == "info" else value)
            yield metric


def collect(replies: Iterable[tuple[str, Snapshot | None]]) -> Iterator[Metric]:
    """``replies``: engines' names and snapshots; None: it has given none. What has no samples is left out."""
    table = _Table()
    engines = 0
    for engine, snapshot in replies:
        engines += 1
        for sample in samples(snapshot):
            table.add(engine, sample)
    total = empty(ALL["engines"])
    total.add_metric((), engines)
    yield total
    yield from table.families()


def empty(family: Family) -> Any:
    """Without samples: the library's object."""
    labels = () if family.name == "engines" else ("engine", *family.labels)
    return MAKERS[family.kind](f"hooker_{family.name}", f"{family.meaning}.", labels=labels)


def samples(snapshot: Snapshot | None) -> Iterator[Sample]:
    """Those of one engine."""
    whole = _mapping(snapshot)
    engine = _mapping(whole.get("engine"))
    yield Sample("up", 1.0 if engine else 0.0)
    if not engine:
        return
    yield from _of_engine(engine)
    yield from _of_its_ways(engine)
    yield from _numbers("flows", whole.get("states"))
    known = STAYED_ON_TCP + REASONS + tuple(_mapping(whole.get("reasons")))  # in both: their difference
    yield from _reasons("flow_reasons", whole.get("reasons"), known)
    yield from _reasons("engaged_flow_ends", whole.get("ended"), known)
    yield from _of_peers(_rows(whole.get("peers")))
    for name, count in _mapping(whole.get("counters")).items():
        value = _number(count)
        if value is not None and name not in IN_STATES:
            yield counted(str(name), value)


def _of_engine(engine: Snapshot) -> Iterator[Sample]:
    yield Sample("engine", 1.0, tuple(_said(engine.get(name)) for name in INFO))
    uptime = _number(engine.get("uptime"))
    if uptime is not None:
        yield Sample("engine_uptime_seconds", uptime)
    for number, rule in enumerate(_rows(engine.get("rules")), 1):
        said = [_said(rule.get(name)) for name in ("for", "transport", "reliability")]
        yield Sample("rule", 1.0, (str(number), *said))


def _of_its_ways(engine: Snapshot) -> Iterator[Sample]:
    offered = [name for name in _said(engine.get("transport")).split(",") if name]
    yield from (Sample("transport_state", 1.0, (name, "offered")) for name in offered)
    for state in ("skipped", "failed", "troubled"):
        for name in _mapping(engine.get(state)):
            yield Sample("transport_state", 1.0, (str(name), state))
    if "blocked" in engine:
        blocked = _mapping(engine["blocked"])
        for version in ("IPv4", "IPv6"):
            yield Sample("lane_blocked", float(version in blocked), (version,))
    if "route_error" in engine:
        yield Sample("route_incomplete", float(bool(engine["route_error"])))
    for row in _rows(engine.get("xdp")):
        name, mode = _said(row.get("name")), _said(row.get("mode"))
        yield Sample("xdp_attached", float(bool(mode)), (name, mode))
        if "switched" in row:
            yield Sample("xdp_switched_on", _number(row["switched"]) or 0.0, (name,))
        yield Sample("xdp_queues", _number(row.get("queues")) or 0.0, (name,))


def _of_peers(peers: list[Snapshot]) -> Iterator[Sample]:
    longest: dict[str, float] = {}
    for peer in peers:
        transport = _said(peer.get("transport"))
        yield Sample(PEER_COUNT.name, 1.0, (transport,))
        for name, family in PEERS.items():
            value = _number(peer.get(name))
            if value is not None:
                yield Sample(family.name, value, (transport,))
        srtt = _number(peer.get("srtt_ms"))
        if srtt is not None:
            yield Sample(PEER_RTT.name, srtt / 1e3, (transport,))
            longest[transport] = max(longest.get(transport, 0.0), srtt / 1e3)
    for transport, seconds in longest.items():
        yield Sample(PEER_RTT_MOST.name, seconds, (transport,))


def counted(name: str, value: float) -> Sample:
    """One of a snapshot's ``counters``: of the kernel's programs, of the worker, or of a transport.

    Those of VTL over UDP are partly without a name before them.
    """
    of, _, what = name.partition(".")
    if of == "kernel":
        return Sample("kernel_events", value, (what,))
    if of == "ingress":
        verdict = VERDICT.fullmatch(what)
        return Sample("ingress_packets", value, (verdict[1], verdict[2] or "") if verdict else ("", what))
    if name in WORKER:
        return Sample(WORKER[name].name, value)
    transport, _, what = name.rpartition(".")  # a class's name has dots, too
    what = CALLS.sub(r"\1", what)
    if what in TRANSPORT:
        return Sample(TRANSPORT[what].name, value, (transport or "vtl",))
    if what.startswith(LEFT):
        return Sample("transport_left", value, (transport, what.removeprefix(LEFT)))
    return Sample("unlisted", value, (name,))


def _reasons(family: str, counts: object, known: Iterable[str]) -> Iterator[Sample]:
    """Those that have not happened yet as 0, or the first time would be no increase."""
    if isinstance(counts, Mapping):
        yield from _numbers(family, dict.fromkeys(known, 0) | dict(counts))


def _numbers(family: str, values: object) -> Iterator[Sample]:
    for name, count in _mapping(values).items():
        value = _number(count)
        if value is not None:
            yield Sample(family, value, (str(name),))


def _number(value: object) -> float | None:
    if not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _mapping(value: object) -> Snapshot:
    return value if isinstance(value, Mapping) else {}


def _rows(value: object) -> list[Snapshot]:
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list) else []


def _said(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _text(value: str) -> str:
    """A path's bytes may be no UTF-8, which the format is."""
    return value[:LONGEST].encode("utf-8", "replace").decode()
