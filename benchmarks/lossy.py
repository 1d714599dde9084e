"""Cells on an emulated link of 100 Mbit/s with a droptail queue of one BDP: loss, and fairness.

TCP with each congestion control, MPTCP, kcptun and VTL cross the same link in the same run.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.bed import IPERF3, Bed, Way, bed, installed, iperf3, port_of, serve_iperf3
from benchmarks.measure import Cell, Effort, Measure, Quantity, in_turn, say
from hooker.lab.apps import start_iperf3
from hooker.lab.link import Link

RATE = 100e6  # bit/s
CELLS = ((20, 0), (20, 1), (20, 2), (20, 5), (100, 2))  # RTT in ms, loss in %
QUIET = 0.5  # cores: 100 Mbit/s leave the CPU some room
MPTCP_PORT, KCPTUN_PORT, KCPTUN_UDP = 5301, 12201, 29201
KCPTUN = ["--mode", "fast3", "--crypt", "none", "--nocomp", "--ds", "0", "--ps", "0", "--quiet"]
OTHER_PORT = 5211
CONGESTION_VTL = ("cubic", "bbr")
OMIT = 1  # s at the start that do not count


def peers() -> tuple[list[str], list[str]]:
    """Names of the peers beside TCP that can be measured here, and what is missing for the others."""
    found, missing = [], []
    for name, programs in (
        ("mptcp", ("mptcpize",)),
        ("kcptun", ("kcptun-client", "kcptun-server")),
    ):
        if all(map(installed, programs)):
            found.append(name)
        else:
            missing.append(
                f"{name} is not measured: no {programs[0]} here (apt install {programs[0].split('-')[0]})"
            )
    return found, missing


def loss(effort: Effort) -> Iterator[Cell]:
    """Goodput of one flow for each RTT and loss."""
    for rtt, percent in CELLS:
        link = Link(rate=RATE, delay=rtt / 2000, loss=percent / 100)
        name = f"{rtt}ms_{percent}"
        with bed(link) as on:
            serve_iperf3(on)
            variants = _variants(on, effort, rtt)
            yield from in_turn(
                f"loss {name}", (Quantity(name, "Mbit/s"),), _named(name, variants), effort, QUIET
            )


def _named(name: str, variants: dict[str, Measure]) -> dict[str, Measure]:
    return {variant: lambda m=m: {name: m()["rate"] * 1000} for variant, m in variants.items()}


def _variants(on: Bed, effort: Effort, rtt: float) -> dict[str, Measure]:
    seconds = effort.seconds if rtt < 50 or effort.quick else 2 * effort.seconds
    options = () if effort.quick else ("-O", str(OMIT))

    def run(way: Way, port: int | None = None, host: str | None = None) -> dict[str, float]:
        return iperf3(on, way, seconds, *options, port=port, host=host)

    found: dict[str, Measure] = {way.name: lambda w=way: run(w) for way in on.ways()}
    available, _ = ([], []) if effort.quick else peers()
    if "mptcp" in available:
        start_iperf3(on.b, MPTCP_PORT, hooked=False, prefix=("mptcpize", "run"))
        congestion = [way.congestion for way in on.ways() if way.congestion][-1]
        way = Way("mptcp", congestion=congestion, prefix=("mptcpize", "run"))
        found["mptcp"] = lambda: run(way, MPTCP_PORT)
    if "kcptun" in available:
        _start_kcptun(on, 512 if rtt < 50 else 2048)
        found["kcptun"] = lambda: run(Way("kcptun"), KCPTUN_PORT, "127.0.0.1")
    return found


def _start_kcptun(on: Bed, window: int) -> None:
    windows = ["--sndwnd", str(window), "--rcvwnd", str(window)]
    quiet: dict[str, Any] = {"hooked": False, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    listen = ["-l", f"{on.b.v4}:{KCPTUN_UDP}", "-t", f"127.0.0.1:{port_of(IPERF3, False)}"]
    on.b.popen(["kcptun-server", *listen, *KCPTUN, *windows], **quiet)
    listen = ["-l", f"127.0.0.1:{KCPTUN_PORT}", "-r", f"{on.b.v4}:{KCPTUN_UDP}"]
    on.a.popen(["kcptun-client", *listen, *KCPTUN, *windows], **quiet)
    on.a.wait_listening(KCPTUN_PORT)


# ---- fairness ----------------------------------------------------------------------------------------


def fairness(effort: Effort) -> list[dict[str, Any]]:
    """What one flow leaves to a TCP CUBIC flow beside it, RTT 20 ms; rows of Mbit/s and share."""
    rows = []
    for congestion in CONGESTION_VTL:
        with bed(Link(rate=RATE, delay=0.01), options=("--congestion", congestion)) as on:
            serve_iperf3(on)
            start_iperf3(on.b, OTHER_PORT, hooked=False)
            direct = [] if rows else [way for way in on.ways() if not way.hooked]
            for way in (*direct, Way(f"VTL {congestion}", hooked=True)):
                rows.append(_fair_row(on, way, effort))
    return rows


def _fair_row(on: Bed, way: Way, effort: Effort) -> dict[str, Any]:
    seconds, rounds = (2, 1) if effort.quick else (15, min(3, effort.rounds))
    cubic = Way("tcp cubic", congestion="cubic")
    say(f"fairness: {way.name} beside {cubic.name}")
    pairs = sorted((_together(on, way, cubic, seconds) for _ in range(rounds)), key=lambda p: p[0] / sum(p))
    first, second = pairs[len(pairs) // 2]
    share = round(first / (first + second), 3)
    return {"flow": way.name, "mbit_s": round(first, 1), "cubic_mbit_s": round(second, 1), "share": share}


def _together(on: Bed, way: Way, other: Way, seconds: float) -> tuple[float, float]:
    """Run both at the same time; Mbit/s of each, without the first third."""
    procs = []
    for each, port in ((way, port_of(IPERF3, way.hooked)), (other, OTHER_PORT)):
        command = [
            "iperf3",
            "-J",
            "-c",
            on.b.v4,
            "-p",
            str(port),
            "-t",
            f"{seconds:g}",
            "-O",
            f"{seconds // 3:g}",
        ]
        if each.congestion:
            command += ["-C", each.congestion]
        procs.append(on.a.popen(command, each.hooked, stdout=subprocess.PIPE, text=True))
        time.sleep(0.05)
    outs = [proc.communicate(timeout=120)[0] for proc in procs]
    first, second = (json.loads(out)["end"]["sum_received"]["bits_per_second"] / 1e6 for out in outs)
    return first, second
