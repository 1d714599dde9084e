"""An honest flow while its server is flooded, with hk_ingress and without (docs/ingress.md).

The sender of the flood is a host of the same machine, which it takes a CPU from: what is compared is the same
flood with the program and without it, in turn.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bed import IPERF3
from benchmarks.flood_sender import polled
from benchmarks.measure import say
from hooker.control import netns
from hooker.lab import INTERFACE, Lab
from hooker.lab.apps import start_iperf3
from hooker.lab.engine import EngineProcess

SENDER = Path(__file__).with_name("flood_sender.py")
HEAD_START = 3.0  # s: the sender's program has to be compiled
RATES = (0.0, 20_000.0, 100_000.0)  # packets a second; 0: as many as it can
VARIANTS = ("without", "with")


@dataclass
class Side:
    """A pair of hosts with engines; that of the server with the program, or without."""

    lab: Lab
    engines: list[EngineProcess]

    def goodput(self, seconds: float) -> float:
        """Mbit/s of one bulk flow from a to b; 0: it came to nothing."""
        command = ["iperf3", "-J", "-c", self.lab.b.v4, "-p", str(IPERF3), "-t", f"{seconds:g}"]
        try:
            done = self.lab.a.run(command, timeout=seconds + 60, check=False, text=True)
            return float(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e6
        except (subprocess.TimeoutExpired, KeyError, ValueError):
            return 0.0

    def flooded(self, seconds: float, rate: float) -> dict[str, float]:
        """The same while the flood goes on, with what it was and what it cost."""
        command = [sys.executable, "-P", "-m", "benchmarks.flood_sender"]
        command += [self.lab.b.v4, str(self.lab.vtl_port), f"{seconds + 2 * HEAD_START:g}", f"{rate:g}"]
        root = str(SENDER.parent.parent)
        sender = self.lab.a.popen(
            command, hooked=False, stdout=subprocess.PIPE, text=True, cwd=root, env={"PYTHONPATH": root}
        )
        time.sleep(HEAD_START)
        before, cpu = self._counts(), self.engines[1].cpu_seconds()
        began = time.monotonic()
        mbits = self.goodput(seconds)
        took = time.monotonic() - began
        cpu = self.engines[1].cpu_seconds() - cpu
        after = self._counts()
        out, _ = sender.communicate(timeout=seconds + 60)
        found = {
            "mbits": mbits,
            "packets_per_s": int(out) / (seconds + 2 * HEAD_START),
            "engine_cores": cpu / took,
        }
        return found | {name: n - before.get(name, 0) for name, n in after.items()}

    def _counts(self) -> dict[str, int]:
        counters = self.engines[1].status()["counters"]
        kept = ("vtl.unproven_sent", "vtl.unproven_received", "datagrams_dropped", "engaged")
        return {name: n for name, n in counters.items() if name in kept or name.startswith("ingress.")}


def measure(seconds: float, rounds: int, rates: tuple[float, ...] = RATES) -> dict[str, Any]:
    """Goodput unflooded and flooded, by rate and variant: medians, and the rows they are of."""
    with Lab() as plain, Lab() as guarded:
        sides = {}
        try:
            for name, lab, options in (("without", plain, ()), ("with", guarded, ("--xdp", INTERFACE))):
                sides[name] = Side(lab, [lab.a.hooker(), lab.b.hooker(*options)])
                start_iperf3(lab.b, IPERF3, True)
                netns.call(lab.b.netns, lambda: polled(INTERFACE))
                netns.call(lab.a.netns, lambda: polled(INTERFACE))
                sides[name].goodput(1)  # the association is warm
            return _rows(sides, seconds, rounds, rates)
        finally:
            for side in sides.values():
                for engine in side.engines:
                    engine.stop()


def _rows(sides: dict[str, Side], seconds: float, rounds: int, rates: tuple[float, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {"unflooded": {name: [] for name in VARIANTS}, "flooded": {}}
    for number in range(rounds):
        for name in VARIANTS:
            found["unflooded"][name].append(sides[name].goodput(seconds))
        for rate in rates:
            rows = found["flooded"].setdefault(f"{rate:g}", {name: [] for name in VARIANTS})
            for name in VARIANTS:
                rows[name].append(sides[name].flooded(seconds, rate))
                say(f"round {number + 1}, {rate:g} packets/s, {name}: {rows[name][-1]}")
    return found


def show(found: dict[str, Any]) -> None:
    """A line for each rate and variant, medians."""
    base = {name: statistics.median(found["unflooded"][name]) for name in VARIANTS}
    for name in VARIANTS:
        print(f"{name}, no flood: {base[name]:.0f} Mbit/s")
    for rate, rows in found["flooded"].items():
        for name in VARIANTS:
            median = {key: statistics.median(row[key] for row in rows[name]) for key in rows[name][0]}
            asked = "all it can" if rate == "0" else f"{rate} packets/s"
            print(
                f"{name}, {asked}: {median['mbits']:.0f} Mbit/s ({median['mbits'] / base[name]:.2f} of it), "
                f"{median['packets_per_s']:.0f} packets/s sent, engine {median['engine_cores']:.2f} cores"
            )
