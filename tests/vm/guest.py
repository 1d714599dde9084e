"""What is checked inside the virtual machine, in one boot: ``guest.py [machine] [messages] [segments]``

Two namespaces are two hosts, each with an engine for the DEFAULT cgroup, the root of cgroup v2: both see
every connection of the machine, and each takes only those of its own namespace. Nothing else may run this:
on a machine that people use, the root is not ours. One line per check, one JSON object as the last line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import messages
import segments
from transfers import http, nested, netem, servers_first
from vrf import vrf
from world import HOOKER, SLOW, World, need

from hooker.lab import Lab
from hooker.lab import leftovers as lab_leftovers


def doctor(world: World) -> str:
    """All that is required is there; the start-up probes are tried and remembered for the engines."""
    done = subprocess.run([*HOOKER, "doctor", "--json"], capture_output=True, text=True, timeout=SLOW * 3)
    need(done.stdout, f"doctor says nothing: {done.stderr[-2000:]}")
    checks = json.loads(done.stdout.splitlines()[-1])["checks"]
    world.kernel = {c["name"]: c["detail"] if c["ok"] else f"NO: {c['detail']}" for c in checks}
    bad = [f"{c['name']}: {c['detail']}" for c in checks if c["required"] and not c["ok"]]
    need(not bad and done.returncode == 0, "; ".join(bad) or f"exit status {done.returncode}")
    optional = [f"{c['name']}: {c['detail']}" for c in checks if not c["ok"]]
    return f"{len(checks)} checks; missing: {optional or 'nothing'}"


Check = Callable[[World], str]
OF_MESSAGES: tuple[Check, ...] = (
    messages.start, http, messages.writers, servers_first, nested, messages.ktls, netem, vrf,
    messages.killed, messages.stopped, messages.never,
)  # fmt: skip
OF_SEGMENTS: tuple[Check, ...] = (
    segments.start, http, servers_first, nested, netem, vrf,
    segments.paths, segments.killed, segments.upgraded, segments.stopped,
)  # fmt: skip
CHECKS: tuple[tuple[str, tuple[Check, ...]], ...] = (
    ("machine", (segments.no_device, doctor)),
    ("messages", OF_MESSAGES),
    ("segments", OF_SEGMENTS),
)


def main() -> int:
    if not os.environ.get("HOOKER_VM"):
        print("this runs in the virtual machine only: ./dev vm", file=sys.stderr)
        return 2
    wanted = set(sys.argv[1:])
    rows: list[dict[str, Any]] = []
    before = lab_leftovers.snapshot()
    with Lab() as lab:
        world = World(lab)
        for group, checks in CHECKS:
            if not wanted or group in wanted:
                rows += run(group, checks, world)
        world.stop()
    left = lab_leftovers.left(before, 20)
    rows.append({"name": "nothing left", "ok": not left, "detail": ", ".join(left), "seconds": 0})
    print(json.dumps({"release": os.uname().release, "kernel": world.kernel, "checks": rows}))
    return 0 if all(row["ok"] for row in rows) else 1


def run(group: str, checks: tuple[Check, ...], world: World) -> list[dict[str, Any]]:
    """One after the other; none after one without which the others have no meaning."""
    rows: list[dict[str, Any]] = []
    for check in checks:
        rows.append(attempt(group, check, world))
        if not rows[-1]["ok"] and check in (doctor, messages.start, segments.start):
            break
    world.stop()
    return rows


def attempt(group: str, check: Check, world: World) -> dict[str, Any]:
    began = time.monotonic()
    try:
        ok, detail = True, check(world)
    except Exception as error:
        logs = "".join(f"\n--- engine {a}: {e.log.read_text()[-1500:]}" for a, e in world.engines.items())
        ok, detail = False, f"{type(error).__name__}: {error}{logs}"
    took = time.monotonic() - began
    name = f"{group}: {check.__name__.replace('_', ' ')}"
    print(f"{'✓' if ok else '✗'} {name} ({took:.0f} s): {detail}", flush=True)
    return {"name": name, "ok": ok, "detail": detail, "seconds": round(took, 1)}


if __name__ == "__main__":
    sys.exit(main())
