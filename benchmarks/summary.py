"""All cells in one run: the ratios by name, everything behind them, and tables for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks import arrivals, budget, clean, connects, idle, lossy
from benchmarks.measure import ALSO, HOOKED, Cell, Effort, machine

RESULTS = Path(__file__).with_name("results")
LATEST = RESULTS / "latest.json"
RATIOS = (
    "bulk", "bulk_16", "cpu_per_gb", "redis_c1_p50", "redis_c50", "short_connections",
    "non_candidate_connects",
)  # fmt: skip
COMPARED: dict[str, Callable[[Effort], Iterable[Cell]]] = {
    "bulk": clean.bulk,
    "redis": clean.redis,
    "http": clean.http,
    "connects": connects.connects,
}
WIDTH = 130  # of tables that go into a file
GROUPS = (*COMPARED, "loss", "fairness", "idle")
ON_REQUEST = ("budget", "arrivals")


def measure(groups: Iterable[str], effort: Effort) -> dict[str, Any]:
    """Measure the named groups of cells and return everything found, as plain data."""
    wanted = set(groups)
    found: dict[str, Any] = {
        "machine": machine(),
        "rounds": effort.rounds,
        "quick": effort.quick,
        "intercept": effort.intercept,
        "cells": {},
    }
    for name, group in COMPARED.items():
        if name in wanted:
            _collect(found, "cells", group(effort))
    if "loss" in wanted:
        found["not_measured"] = lossy.peers()[1]
        _collect(found, "loss", lossy.loss(effort))
    if "fairness" in wanted:
        found["fairness"] = lossy.fairness(effort)
    if "idle" in wanted:
        found["idle"] = idle.idle(effort)
    if "arrivals" in wanted:
        _collect(found, "arrivals", arrivals.arrivals(effort))
    if "budget" in wanted:
        found["budget"] = budget.budget(effort)
    found["machine"]["load_at_the_end"] = machine()["load"]
    return found


def _collect(found: dict[str, Any], key: str, cells: Iterable[Cell]) -> None:
    """Put cells in as they come; what is measured is kept even if the run is ended."""
    for cell in cells:
        found.setdefault(key, {})[cell.quantity.name] = cell.record()
        save(found)


def ratios(found: dict[str, Any]) -> dict[str, Any]:
    """Hooked / direct for each cell, None where it was not measured; direct is the better of its kind."""
    cells = found["cells"]
    out: dict[str, Any] = {name: cells.get(name, {}).get("ratio") for name in RATIOS}
    out["loss"] = {name: cell["ratio"] for name, cell in found.get("loss", {}).items()}
    if found.get("intercept") == "both":
        out[ALSO] = {name: cells.get(name, {}).get("ratio_also") for name in RATIOS}
    return out


def save(found: dict[str, Any]) -> None:
    """Keep the run for the plots."""
    RESULTS.mkdir(exist_ok=True)
    LATEST.write_text(json.dumps({"ratios": ratios(found), **found}, indent=1) + "\n")


def show(found: dict[str, Any]) -> None:
    """Print the run as tables for people."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    about = found["machine"]
    console.print(f"{about['cpu']}, Linux {about['kernel']}, load {about['load']:.2f}", highlight=False)
    congestion = ", ".join(about["available_congestion_control"])
    console.print(
        f"TCP here: {congestion}; by default {about['default_congestion_control']}", highlight=False
    )
    console.print(f"medians of {found['rounds']}, all variants in turn in one run", highlight=False)
    for title, cells in (
        ("clean veth", found["cells"]),
        ("100 Mbit/s, RTT and loss", found.get("loss", {})),
        ("how packets arrive", found.get("arrivals", {})),
    ):
        if cells:
            console.print(_table(title, cells))
    for cell, record in {**found["cells"], **found.get("loss", {}), **found.get("arrivals", {})}.items():
        for variant, times in record["failed"].items():
            console.print(f"{cell}: {variant} failed {times} times")
    for missing in found.get("not_measured", []):
        console.print(missing)
    if "fairness" in found:
        console.print(_rows("beside one TCP CUBIC flow, 100 Mbit/s, RTT 20 ms", found["fairness"]))
    if "idle" in found:
        console.print(_rows("flows held open", [{k: v for k, v in found["idle"].items() if k != "reasons"}]))
    if found.get("budget"):
        console.print(_rows("system calls and wake-ups, per request and per MB", found["budget"]))


def _table(title: str, cells: dict[str, dict[str, Any]]) -> Any:
    from rich.table import Table

    measured = dict.fromkeys(name for cell in cells.values() for name in cell["medians"])
    names = [name for name in measured if name not in (HOOKED, ALSO)]
    also = [ALSO, "ratio"] if ALSO in measured else []
    table = Table(title=title, title_justify="left")
    ours = [HOOKED, "ratio"] if HOOKED in measured else []
    for column in ("", "unit", *names, *ours, *also, "others"):
        table.add_column(column, justify="left" if column in ("", "unit") else "right", no_wrap=not column)
    for name, cell in cells.items():
        marked = (
            f"{_figure(cell['medians'].get(n))}{' *' if n == cell['best_direct'] else ''}" for n in names
        )
        tail = [cell["medians"].get(HOOKED), cell["ratio"]] if ours else []
        tail += [cell["medians"].get(ALSO), cell.get("ratio_also")] if also else []
        tail.append(cell["others_cores"])
        table.add_row(name, cell["unit"], *marked, *map(_figure, tail))
    table.caption = (
        "* the best one that is not hooked, which the ratio is to; others: cores that other work used"
    )
    return table


def _rows(title: str, rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(*rows[0], title=title, title_justify="left")
    for row in rows:
        table.add_row(*map(str, row.values()))
    return table


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"
