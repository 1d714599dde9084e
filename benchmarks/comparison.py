"""Two things measured in turn, their medians, and the tables that show them."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROUNDS = 3


@dataclass
class Comparison:
    """One quantity, measured over direct TCP and hooked."""

    name: str
    unit: str
    direct: list[float] = field(default_factory=list)
    hooked: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Median hooked over median direct."""
        return statistics.median(self.hooked) / statistics.median(self.direct)


@dataclass
class Report:
    """What the run has measured, for the tables at its end."""

    comparisons: list[Comparison] = field(default_factory=list)
    stages: list[tuple[str, dict[str, float]]] = field(default_factory=list)
    rates: list[tuple[str, str, float]] = field(default_factory=list)

    def compare(
        self, quantities: dict[str, str], measure: Callable[[bool], dict[str, float]], rounds: int = ROUNDS
    ) -> dict[str, Comparison]:
        """Call ``measure(hooked)`` for both in turn, *rounds* times; *quantities* maps names to units."""
        found = {name: Comparison(name, unit) for name, unit in quantities.items()}
        for _ in range(rounds):
            for hooked in (False, True):
                for name, value in measure(hooked).items():
                    (found[name].hooked if hooked else found[name].direct).append(value)
        self.comparisons += found.values()
        return found


def machine() -> str:
    """Describe the machine and its TCP in one line."""
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} x {model}, Linux {platform.release()}, TCP {congestion}, load {load:.2f}"
