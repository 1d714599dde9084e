"""Several ways to do one thing, measured in turn in one run; medians, ratios, and the noise around them."""

from __future__ import annotations

import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HOOKED = "hooked"
ALSO = "hooked, messages"  # with both kinds of engine: HOOKED is the usual one
QUIET = 0.1  # cores: more than that of other work disturbs a round
TICKS = os.sysconf("SC_CLK_TCK")

Measure = Callable[[], dict[str, float]]


@dataclass(frozen=True)
class Quantity:
    """What is measured: ``more`` says whether more is better."""

    name: str
    unit: str
    more: bool = True


@dataclass
class Cell:
    """One quantity over all variants; ``others`` is what else used the CPU, in cores, round by round."""

    quantity: Quantity
    values: dict[str, list[float]] = field(default_factory=dict)
    others: list[float] = field(default_factory=list)

    def median(self, variant: str) -> float:
        """Median of a variant; NaN where nothing was measured."""
        values = [v for v in self.values.get(variant, []) if not math.isnan(v)]
        return statistics.median(values) if values else math.nan

    @property
    def best(self) -> str:
        """The best of the variants that are not hooked."""
        medians = {v: self.median(v) for v in self.values if not v.startswith(HOOKED)}
        known = {v: m for v, m in medians.items() if not math.isnan(m)}
        if not known:
            return ""
        return max(known, key=known.__getitem__) if self.quantity.more else min(known, key=known.__getitem__)

    @property
    def ratio(self) -> float:
        """Median hooked over the median of the best other one."""
        return self.ratio_of(HOOKED)

    def ratio_of(self, variant: str) -> float:
        """Median of *variant* over that of the best that is not hooked."""
        return self.median(variant) / self.median(self.best)

    def record(self) -> dict[str, Any]:
        """Everything as plain data: medians, ratio, all values."""
        return {
            "unit": self.quantity.unit,
            "more_is_better": self.quantity.more,
            "medians": {v: rounded(self.median(v)) for v in self.values},
            "best_direct": self.best,
            "ratio": rounded(self.ratio) if HOOKED in self.values and self.best else None,
            "ratio_also": rounded(self.ratio_of(ALSO)) if ALSO in self.values and self.best else None,
            "failed": {v: n for v, values in self.values.items() if (n := sum(map(math.isnan, values)))},
            "others_cores": rounded(statistics.median(self.others)) if self.others else None,
            "values": {v: [rounded(x) for x in values] for v, values in self.values.items()},
        }


@dataclass(frozen=True)
class Effort:
    """How often, how long, and how patiently to measure."""

    rounds: int = 5
    seconds: float = 2  # of one transfer
    patience: float = 3  # s to wait for a quiet machine before a round
    quick: bool = False
    intercept: str = "segments"  # the engines' option, or "both"


def in_turn(
    title: str,
    quantities: tuple[Quantity, ...],
    variants: Mapping[str, Measure],
    effort: Effort,
    quiet: float = QUIET,
) -> list[Cell]:
    """Call each of *variants* in turn, round after round, and return one cell for each quantity.

    A round in which other work used more than *quiet* cores is measured again, but there are at most twice
    as many rounds as wanted; the quietest count.
    """
    rounds: list[tuple[float, dict[str, dict[str, float]]]] = []
    for number in range(2 * effort.rounds):
        if sum(others <= quiet for others, _ in rounds) >= effort.rounds or (effort.quick and rounds):
            break
        wait_quiet(effort.patience, quiet)
        say(f"{title}: round {number + 1}")
        before, begin = foreign_cpu(), time.monotonic()
        found = {name: attempt(name, measure) for name, measure in _rotated(variants, number)}
        rounds.append((max(0.0, foreign_cpu() - before) / (time.monotonic() - begin), found))
    rounds = [rounds[i] for i in quietest([others for others, _ in rounds], effort.rounds)]
    return [
        Cell(
            q,
            {
                v: [found[v].get(q.name, math.nan) for _, found in rounds]
                for v in variants
                if _has(v, q.name, rounds)
            },
            [others for others, _ in rounds],
        )
        for q in quantities
    ]


def _has(variant: str, name: str, rounds: list[tuple[float, dict[str, dict[str, float]]]]) -> bool:
    """Whether it has this quantity at all; one that has always failed is taken to have it."""
    return any(name in found[variant] or not found[variant] for _, found in rounds)


def attempt(name: str, measure: Measure) -> dict[str, float]:
    """One measurement; a failure is said and counts as nothing measured."""
    try:
        return measure()
    except (RuntimeError, ValueError, KeyError, subprocess.SubprocessError) as error:
        say(f"{name} failed: {' '.join(str(error).split())[:300]}")
        return {}


def _rotated(variants: Mapping[str, Measure], number: int) -> Iterator[tuple[str, Measure]]:
    """No variant always follows the same one, or is always the first."""
    items = list(variants.items())
    start = number % len(items)
    yield from items[start:] + items[:start]


def quietest(others: list[float], number: int) -> list[int]:
    """Return which *number* rounds other work disturbed least, in the order they were measured."""
    return sorted(sorted(range(len(others)), key=others.__getitem__)[:number])


def wait_quiet(patience: float, quiet: float = QUIET) -> None:
    """Wait until other work uses less than *quiet* cores, but no longer than *patience* seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        before, begin = foreign_cpu(), time.monotonic()
        time.sleep(0.25)
        if (foreign_cpu() - before) / (time.monotonic() - begin) <= quiet:
            return


def foreign_cpu() -> float:
    """Return the CPU seconds used so far by living processes that are not this one's descendants."""
    parents: dict[int, int] = {}
    used: dict[int, float] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        pid = int(stat.parent.name)
        parents[pid], used[pid] = int(fields[1]), sum(map(int, fields[11:15])) / TICKS
    return sum(seconds for pid, seconds in used.items() if not _ours(pid, parents))


def _ours(pid: int, parents: dict[int, int]) -> bool:
    """Whether *pid* descends from this process, or is this machine's first or a kernel thread."""
    while pid > 2:
        if pid == os.getpid():
            return True
        pid = parents.get(pid, 0)
    return pid == 2


def machine_cpu() -> float:
    """Return the CPU seconds the whole machine has used, interrupts included."""
    fields = [int(x) / TICKS for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return sum(fields[i] for i in (0, 1, 2, 5, 6))


def process_cpu(pid: int) -> tuple[float, float]:
    """Return user and system CPU seconds of process *pid*."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) / TICKS, int(fields[12]) / TICKS


def rounded(value: float) -> float | None:
    """Four significant digits; JSON has no NaN."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def say(text: str) -> None:
    """Tell a person how far it is."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """Describe the machine, its TCP and its load."""
    ipv4 = Path("/proc/sys/net/ipv4")
    return {
        "cpu": f"{os.cpu_count()} x {_cpu_model()}",
        "kernel": platform.release(),
        "load": os.getloadavg()[0],
        "default_congestion_control": (ipv4 / "tcp_congestion_control").read_text().strip(),
        "available_congestion_control": (ipv4 / "tcp_available_congestion_control").read_text().split(),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
