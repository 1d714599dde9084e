"""What Hooker costs connections that are none of its business.

One pair of hosts has engines whose policy does not name the port, one has never heard of Hooker. The
difference is small and the machine is not quiet: many short rounds, in the order A B B A, and the median of
their ratios.
"""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bed import Bed, bed
from benchmarks.measure import HOOKED, QUIET, Cell, Effort, Quantity, foreign_cpu, quietest, say, wait_quiet

PEER = Path(__file__).with_name("connect_peer.py")
PORT, OTHER_PORT = 7000, "9"
ROUNDS_FOR_ONE = 12  # rounds of this cell for each round of the others
SLICE = 0.25  # s
PLAIN = "without Hooker"
QUANTITIES = (
    Quantity("non_candidate_connects", "1/s"),
    Quantity("non_candidate_connects_per_cpu_s", "1/CPU s"),  # hardly feels what else runs
)


@dataclass
class PairedCell(Cell):
    """Both values of a round were taken side by side: the ratio is the median of the rounds' ratios."""

    @property
    def ratio(self) -> float:
        plain, hooked = self.values[PLAIN], self.values[HOOKED]
        ratios = [h / p for p, h in zip(plain, hooked, strict=True)]
        return statistics.median(ratios) if ratios else math.nan


class Connector:
    """A client that connects when it is told to."""

    def __init__(self, on: Bed) -> None:
        self.server = on.b.popen([sys.executable, PEER, "serve", on.b.v4, str(PORT)])
        on.b.wait_listening(PORT)
        command = [sys.executable, PEER, "connect", on.b.v4, str(PORT)]
        pipe = subprocess.PIPE
        self.proc = on.a.popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1)

    def rates(self, seconds: float) -> tuple[float, float]:
        """Connections per second, and per CPU second of both processes, over *seconds*."""
        assert self.proc.stdin
        assert self.proc.stdout
        before = self._cpu()
        self.proc.stdin.write(f"{seconds}\n")
        count, took = map(float, self.proc.stdout.readline().split())
        return count / took, count / (self._cpu() - before)

    def _cpu(self) -> float:
        """CPU seconds of both processes, to the nanosecond; sending over a veth includes receiving."""
        files = (Path(f"/proc/{proc.pid}/schedstat") for proc in (self.proc, self.server))
        return sum(int(file.read_text().split()[0]) for file in files) / 1e9


def connects(effort: Effort) -> Iterator[Cell]:
    """Connect rate to a port that the policy does not name, against hosts without Hooker."""
    wanted = 4 if effort.quick else ROUNDS_FOR_ONE * effort.rounds
    cells = [PairedCell(quantity, {PLAIN: [], HOOKED: []}) for quantity in QUANTITIES]
    with bed(engines=False) as without, bed(options=("--port", OTHER_PORT)) as with_engines:
        plain, hooked = Connector(without), Connector(with_engines)
        for connector in (plain, hooked):
            connector.rates(SLICE)
        say(f"connections that are no candidates: {wanted} rounds")
        for number in range(2 * wanted):
            _round(cells, plain, hooked, effort)
            quiet = sum(others <= QUIET for others in cells[0].others)
            if quiet >= wanted or (effort.quick and number + 1 == wanted):
                break
    for cell in cells:
        _keep_quietest(cell, wanted)
        yield cell


def _round(cells: list[PairedCell], plain: Connector, hooked: Connector, effort: Effort) -> None:
    wait_quiet(min(1.0, effort.patience))
    before = foreign_cpu()
    rates = [connector.rates(SLICE) for connector in (plain, hooked, hooked, plain)]
    others = max(0.0, foreign_cpu() - before) / (4 * SLICE)
    for cell, (first, second, third, fourth) in zip(cells, zip(*rates, strict=True), strict=True):
        cell.others.append(others)
        cell.values[PLAIN].append((first + fourth) / 2)
        cell.values[HOOKED].append((second + third) / 2)


def _keep_quietest(cell: Cell, wanted: int) -> None:
    best = quietest(cell.others, wanted)
    cell.others = [cell.others[i] for i in best]
    cell.values = {name: [values[i] for i in best] for name, values in cell.values.items()}
