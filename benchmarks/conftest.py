"""The micro benchmarks' own figures, in a table after pytest-benchmark's."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest


@dataclass
class Report:
    """What the run has measured, for the table at its end."""

    rates: list[tuple[str, str, float]] = field(default_factory=list)


_report = Report()


@pytest.fixture(scope="session")
def report() -> Report:
    return _report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _report.rates:
        terminalreporter.section("rates")
    for name, unit, rate in _report.rates:
        terminalreporter.write_line(f"{name:<44}{rate:>12.4g} {unit}")
