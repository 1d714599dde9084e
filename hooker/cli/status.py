"""What ``hooker status`` prints, from the engines' snapshots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hooker.control.status_socket import Snapshot

NONE = "no engine is running"
MET = "ingress."  # of counters


def show(snapshots: list[Snapshot], console: Console, silent: Mapping[int, str] = {}) -> None:
    """Tables of engines, peers, flows, and the reasons of flows left to TCP and of those that have ended.

    ``silent``: of engines that have given no snapshot, why, by pid.
    """
    if not snapshots and not silent:
        console.print(NONE)
        return
    for pid, why in silent.items():
        console.print(f"engine {pid} does not answer: {why}", highlight=False, markup=False, soft_wrap=True)
    for snapshot in snapshots:
        engine = snapshot["engine"]
        console.print(
            f"engine {engine['pid']}: {engine['transport'] or 'TCP'} on port {engine['listen_port']}, "
            f"{engine['intercept']} of cgroup {engine['cgroup']}, up {duration(engine['uptime'])}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        for number, rule in enumerate(engine.get("rules", []), 1):
            console.print(
                f"rule {number}, {rule['for']}: {rule['transport'] or 'TCP'}, {rule['reliability']}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
        failed = engine.get("failed", {})
        for name, why in engine.get("skipped", {}).items():
            if name in failed:
                continue
            console.print(f"skipped {name}: {why}", highlight=False, markup=False, soft_wrap=True)
        for why in failed.values():
            console.print(f"failed {why}", highlight=False, markup=False, soft_wrap=True)
        for name, what in engine.get("troubled", {}).items():
            console.print(f"troubled {name}: {what}", highlight=False, markup=False, soft_wrap=True)
        for one in engine.get("xdp", []):
            why = f" ({one['why']})" if one["why"] else ""
            floods = f", {one['switched']} floods so far" if one.get("switched") else ""
            queues = f", {one['queues']} by AF_XDP" if one["queues"] else ""
            console.print(
                f"xdp {one['name']}: {one['mode'] or 'not there'}{queues}{floods}{why}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
        for family, pause in engine.get("blocked", {}).items():
            console.print(
                f"{family}: this host's firewall or routing keeps segments from the engine; "
                f"connections stay on TCP, the next try is in {duration(pause)}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
        if engine.get("route_error"):
            console.print(
                f"the way of segments to the engine is not complete: {engine['route_error']}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
        _print(console, "peers", _peers(snapshot.get("peers", [])))
        flows = snapshot.get("flows", [])
        there = sum(snapshot.get("states", {}).values())
        title = "flows" if there <= len(flows) else f"flows, {len(flows)} of {there}"
        _print(console, title, _flows(flows))
        ended = snapshot.get("ended", {})
        stayed = {name: count - ended.get(name, 0) for name, count in snapshot.get("reasons", {}).items()}
        _print(console, "left on TCP", _reasons(stayed))
        _print(console, "met by xdp", _reasons(_met(snapshot.get("counters", {}))))
        _print(console, "ended after running over another transport", _reasons(ended))


def _print(console: Console, title: str, table: Table) -> None:
    if table.row_count:
        console.print(Text(title, style="italic"))  # as the table's own it would be folded to its width
        console.print(table)


class _Rows(Table):
    """A table whose cells are text as it is: an IPv6 address in brackets is no markup."""

    def add(self, *cells: str) -> None:
        self.add_row(*(Text(cell) for cell in cells))


def _table(*columns: str) -> _Rows:
    table = _Rows(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        numeric = name in ("flows", "sent", "received", "srtt", "count")
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    return table


def _peers(peers: Iterable[dict[str, Any]]) -> _Rows:
    table = _table("peer", "over", "state", "srtt", "flows", "sent", "received")
    for peer in peers:
        srtt = peer.get("srtt_ms")
        table.add(
            f"{_host(str(peer['address']))}:{peer['port']}",
            _over(peer),
            str(peer["state"]),
            "-" if srtt is None else f"{srtt:.2f} ms",
            str(peer["flows"]),
            size(peer["bytes_sent"]),
            size(peer["bytes_received"]),
        )
    return table


def _over(peer: dict[str, Any]) -> str:
    """As in "vtl, go-back-n"; where the transport has one function only, or none of ours, its name."""
    return ", ".join(str(peer[key]) for key in ("transport", "reliability") if peer.get(key))


def _flows(flows: Iterable[dict[str, Any]]) -> _Rows:
    table = _table("flow", "role", "local", "remote", "over", "state", "reason", "sent", "received")
    for flow in flows:
        table.add(
            f"{flow['flow_id']:x}" if isinstance(flow["flow_id"], int) else str(flow["flow_id"]),
            str(flow["role"]),
            str(flow["local"]),
            str(flow["remote"]),
            str(flow.get("transport", "")),
            str(flow["state"]),
            str(flow["reason"] or ""),
            size(flow["bytes_sent"]),
            size(flow["bytes_received"]),
        )
    return table


def _reasons(reasons: dict[str, int]) -> _Rows:
    table = _table("reason", "count")
    for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
        if count:
            table.add(reason, str(count))
    return table


def _met(counters: Mapping[str, int]) -> dict[str, int]:
    """Packets by verdict and reason; not those that are nobody's business here."""
    mine = {name.removeprefix(MET): n for name, n in counters.items() if name.startswith(MET)}
    mine.pop("pass-other", None)
    return mine


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def size(count: int) -> str:
    """Bytes for people: 0 B, 1.5 kB, 104.9 MB (powers of 1000)."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB", "PB"]
    while value >= 999.95 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{count} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def duration(seconds: float) -> str:
    """A time span for people: 5 s, 3 min 5 s, 2 h 3 min."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
