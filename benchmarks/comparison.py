"""Two things measured in turn, their medians, and the tables that show them."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROUNDS = 3
CONGESTION = "cubic"  # of direct TCP: on a clean veth faster than bbr
QUIET = 0.1  # cores: more than that of other work disturbs a pair


@dataclass
class Comparison:
    """One quantity, measured over direct TCP and hooked; ``others`` is what else used the CPU, in cores."""

    name: str
    unit: str
    direct: list[float] = field(default_factory=list)
    hooked: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Median hooked over median direct."""
        return statistics.median(self.hooked) / statistics.median(self.direct)

    def keep_quiet(self) -> None:
        """Discard the pairs that other work has disturbed, if that leaves any."""
        quiet = [i for i, cores in enumerate(self.others) if cores <= QUIET]
        if quiet:
            for values in (self.direct, self.hooked, self.others):
                values[:] = [values[i] for i in quiet]


@dataclass
class Report:
    """What the run has measured, for the tables at its end."""

    comparisons: list[Comparison] = field(default_factory=list)
    stages: list[tuple[str, dict[str, float]]] = field(default_factory=list)
    rates: list[tuple[str, str, float]] = field(default_factory=list)

    def compare(
        self, quantities: dict[str, str], measure: Callable[[bool], dict[str, float]], rounds: int = ROUNDS
    ) -> dict[str, Comparison]:
        """Call ``measure(hooked)`` for both in turn, *rounds* times; *quantities* maps names to units.

        Pairs that other work on the machine disturbed are measured again, but no more than *rounds*.
        """
        found = {name: Comparison(name, unit) for name, unit in quantities.items()}
        for number in range(2 * rounds):
            if number >= rounds and sum(o <= QUIET for o in next(iter(found.values())).others) >= rounds:
                break
            before, begin = foreign_cpu(), time.monotonic()
            for hooked in (False, True):
                for name, value in measure(hooked).items():
                    (found[name].hooked if hooked else found[name].direct).append(value)
            others = (foreign_cpu() - before) / (time.monotonic() - begin)
            for comparison in found.values():
                comparison.others.append(max(0.0, others))
        for comparison in found.values():
            comparison.keep_quiet()
        self.comparisons += found.values()
        return found


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
        parents[pid], used[pid] = int(fields[1]), sum(map(int, fields[11:15])) / 100
    return sum(seconds for pid, seconds in used.items() if not _ours(pid, parents))


def _ours(pid: int, parents: dict[int, int]) -> bool:
    """Whether *pid* descends from this process, or is this machine's first or a kernel thread."""
    while pid > 2:
        if pid == os.getpid():
            return True
        pid = parents.get(pid, 0)
    return pid == 2


def machine() -> str:
    """Describe the machine and its TCP in one line."""
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    load = os.getloadavg()[0]
    system = f"{os.cpu_count()} x {model}, Linux {platform.release()}"
    return f"{system}, direct bulk TCP with {CONGESTION}, load {load:.2f}"
