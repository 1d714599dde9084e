"""Benchmarks: hooked against direct TCP on one veth, in turn, in one run; medians and their ratio.

The machine is never alone, so no absolute figure here means much: look at the ratios.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import pytest
from support import Pair

from benchmarks.comparison import Report, machine
from hooker.lab import Lab

_report = Report()


@pytest.fixture(scope="session")
def report() -> Report:
    return _report


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """Two hosts with engines. A command run with ``hooked=False`` uses direct TCP on the same veth."""
    with Lab() as lab, Pair.open(lab) as made:
        yield made


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    write = terminalreporter.write_line
    if _report.comparisons or _report.stages or _report.rates:
        terminalreporter.section("hooked against direct TCP")
        write(machine())
    if _report.comparisons:
        write(f"{'quantity':<34}{'unit':<10}{'direct':>12}{'hooked':>12}{'ratio':>8}{'others':>8}")
    for c in _report.comparisons:
        direct, hooked, others = map(statistics.median, (c.direct, c.hooked, c.others))
        write(f"{c.name:<34}{c.unit:<10}{direct:>12.4g}{hooked:>12.4g}{c.ratio:>8.2f}{others:>8.2f}")
    for title, stages in _report.stages:
        write(f"CPU seconds per GB, {title}")
        for name, value in stages.items():
            write(f"  {name:<40}{value:>8.3f}")
    for name, unit, rate in _report.rates:
        write(f"{name:<44}{rate:>12.4g} {unit}")
