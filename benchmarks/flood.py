"""An honest flow while its server is flooded, with hk_ingress and without (docs/ingress.md).

The sender of the flood is a host of the same machine, which it takes a CPU from: what is compared is the same
flood with the program and without it, in turn. How much of the loss is the program's own affair say the
baselines, all without hk_ingress: the flood is made and not sent; it goes to a port where nobody listens;
or a program that knows nothing but the flood's source port drops it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bed import IPERF3
from benchmarks.flood_sender import polled, programs
from benchmarks.measure import foreign_cpu, say
from hooker.control import bpf_calls, netns
from hooker.control.loaded import Loaded
from hooker.lab import INTERFACE, Lab
from hooker.lab.apps import start_iperf3
from hooker.lab.engine import EngineProcess

SENDER = Path(__file__).with_name("flood_sender.py")
HEAD_START = 3.0  # s: the sender's program has to be compiled
RATES = (0.0, 20_000.0, 100_000.0)  # packets a second; 0: as many as it can
MODES = {"native": bpf_calls.XDP_NATIVE, "generic": bpf_calls.XDP_GENERIC}
VARIANTS = ("without", *MODES)
CLOSED = 9  # a port where nobody listens
BASELINES = ("held", "closed port", "bare, native", "bare, generic")
KEPT = ("vtl.unproven_sent", "vtl.unproven_received", "datagrams_dropped", "engaged", "released")


@dataclass
class Side:
    """A pair of hosts with engines; that of the server with the program, or without.

    ``mbits``: what the honest flow wants, 0: all it can get.
    """

    lab: Lab
    engines: list[EngineProcess]
    mbits: float = 0

    def goodput(self, seconds: float) -> float:
        """Mbit/s of one bulk flow from a to b; 0: it came to nothing."""
        command = ["iperf3", "-J", "-c", self.lab.b.v4, "-p", str(IPERF3), "-t", f"{seconds:g}"]
        command += ["-b", f"{self.mbits:g}M"] if self.mbits else []
        try:
            done = self.lab.a.run(command, timeout=seconds + 60, check=False, text=True)
            return float(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e6
        except (subprocess.TimeoutExpired, KeyError, ValueError):
            return 0.0

    def flooded(self, seconds: float, rate: float, program: str = "flood", port: int = 0) -> dict[str, float]:
        """The same while the flood goes on, with what it was and what it cost. ``port`` 0: the engine's."""
        command = [sys.executable, "-P", "-m", "benchmarks.flood_sender", program, self.lab.b.v4]
        command += [str(port or self.lab.vtl_port), f"{seconds + 2 * HEAD_START:g}", f"{rate:g}"]
        root = str(SENDER.parent.parent)
        sender = self.lab.a.popen(
            command, hooked=False, stdout=subprocess.PIPE, text=True, cwd=root, env={"PYTHONPATH": root}
        )
        time.sleep(HEAD_START)
        before, cpu, others = self._counts(), self.engines[1].cpu_seconds(), foreign_cpu()
        began = time.monotonic()
        mbits = self.goodput(seconds)
        took = time.monotonic() - began
        cpu, others = self.engines[1].cpu_seconds() - cpu, foreign_cpu() - others
        after = self._counts()
        out, _ = sender.communicate(timeout=seconds + 60)
        found = {
            "mbits": mbits,
            "packets_per_s": int(out) / (seconds + 2 * HEAD_START),
            "engine_cores": cpu / took,
            "others_cores": others / took,
        }
        return found | {name: n - before.get(name, 0) for name, n in after.items()}

    def _counts(self) -> dict[str, int]:
        counters = self.engines[1].status()["counters"]
        return {name: n for name, n in counters.items() if name in KEPT or name.startswith("ingress.")}

    @contextlib.contextmanager
    def bare(self, mode: int) -> Iterator[None]:
        """A program at b's interface that drops the flood by its source port."""

        def attach() -> int:
            bare = loaded.program("bare", bpf_calls.XDP, bpf_calls.XDP_ATTACH, bpf_calls.F_XDP_HAS_FRAGS)
            return bpf_calls.link_xdp(bare, socket.if_nametoindex(INTERFACE), mode)

        with Loaded(programs()) as loaded:
            link = netns.call(self.lab.b.netns, attach)
            try:
                yield
            finally:
                os.close(link)

    def baseline(self, name: str, seconds: float, flooded: bool) -> dict[str, float]:
        """One of BASELINES; ``flooded`` False: the same without a flood."""
        with self.bare(MODES[name.split(", ")[1]]) if "bare" in name else contextlib.nullcontext():
            if not flooded:
                return {"mbits": self.goodput(seconds)}
            program = "held" if name == "held" else "flood"
            return self.flooded(seconds, 0, program, CLOSED if name == "closed port" else 0)


def measure(
    seconds: float,
    rounds: int,
    rates: tuple[float, ...] = RATES,
    *,
    baselines: bool = False,
    mbits: float = 0,
) -> dict[str, Any]:
    """Goodput unflooded and flooded, by rate and variant: the rows that medians are of."""
    with contextlib.ExitStack() as stack:
        sides = {}
        for name in VARIANTS:
            lab = stack.enter_context(Lab())
            options = ("--xdp", f"{INTERFACE}:{name}") if name in MODES else ()
            sides[name] = Side(lab, [lab.a.hooker(), lab.b.hooker(*options)], mbits)
            for engine in sides[name].engines:
                stack.callback(engine.stop)
            start_iperf3(lab.b, IPERF3, True)
            for host in lab.hosts:
                netns.call(host.netns, lambda: polled(INTERFACE))
            sides[name].goodput(1)  # the association is warm
        found = _rows(sides, seconds, rounds, rates)
        if baselines:
            found["baselines"] = _baselines(sides["without"], seconds, rounds)
        return found


def _rows(sides: dict[str, Side], seconds: float, rounds: int, rates: tuple[float, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {"unflooded": {name: [] for name in VARIANTS}, "flooded": {}}
    for number in range(rounds):
        for name in VARIANTS:
            found["unflooded"][name].append(sides[name].goodput(seconds))
            say(f"round {number + 1}, no flood, {name}: {found['unflooded'][name][-1]:.0f}")
        for rate in rates:
            rows = found["flooded"].setdefault(f"{rate:g}", {name: [] for name in VARIANTS})
            for name in VARIANTS:
                rows[name].append(sides[name].flooded(seconds, rate))
                say(f"round {number + 1}, {rate:g} packets/s, {name}: {rows[name][-1]}")
    return found


def _baselines(side: Side, seconds: float, rounds: int) -> dict[str, Any]:
    found: dict[str, Any] = {name: {"unflooded": [], "flooded": []} for name in BASELINES}
    for number in range(rounds):
        for name, rows in found.items():
            rows["unflooded"].append(side.baseline(name, seconds, False)["mbits"])
            rows["flooded"].append(side.baseline(name, seconds, True))
            say(f"round {number + 1}, {name}: {rows['unflooded'][-1]:.0f}, {rows['flooded'][-1]}")
    return found


def show(found: dict[str, Any]) -> None:
    """A line for each rate and variant, medians."""
    base = {name: statistics.median(found["unflooded"][name]) for name in VARIANTS}
    for name in VARIANTS:
        print(f"{name}, no flood: {base[name]:.0f} Mbit/s")
    for rate, rows in found["flooded"].items():
        for name in VARIANTS:
            asked = "all it can" if rate == "0" else f"{rate} packets/s"
            print(f"{name}, {asked}: {_line(rows[name], base[name])}")
    for name, rows in found.get("baselines", {}).items():
        unflooded = statistics.median(rows["unflooded"])
        print(f"{name}, no flood: {unflooded:.0f} Mbit/s; all it can: {_line(rows['flooded'], unflooded)}")


def _line(rows: list[dict[str, float]], base: float) -> str:
    def median(key: str) -> float:
        return statistics.median(row[key] for row in rows)

    return (
        f"{median('mbits'):.0f} Mbit/s ({median('mbits') / base:.2f} of it), "
        f"{median('packets_per_s'):.0f} packets/s sent, engine {median('engine_cores'):.2f} cores, "
        f"others {median('others_cores'):.2f}"
    )
