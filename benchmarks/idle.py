"""Ten thousand flows held open: are all answers right, and what does an idle one cost the engines?"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.bed import Bed, bed
from benchmarks.measure import Effort, process_cpu, say

PEER = Path(__file__).with_name("idle_peer.py")
PORT = 7000
FLOWS = 10_000
SETTLE = 12.0  # s after the last flow: their channels are given back in turn
WATCH = 3.0  # s of doing nothing, for the engines' idle CPU
WARM = 10  # flows before the first look at the memory: an association and the first pages are no flow's


def idle(effort: Effort) -> dict[str, Any]:
    """Hold flows open and return what was right, bytes per flow, and the engines' CPU while all are idle."""
    number = 200 if effort.quick else FLOWS
    with bed() as on:
        on.b.popen([sys.executable, PEER, "serve", on.b.v4, str(PORT), str(number + WARM)])
        on.b.wait_listening(PORT)
        warm = _client(on, WARM)
        json.loads(_line(warm))
        say(f"{number} idle flows")
        before, start = [engine.rss() for engine in on.engines], time.monotonic()
        client = _client(on, number)
        opened = json.loads(_line(client))
        took = time.monotonic() - start
        time.sleep(SETTLE)
        after = [engine.rss() for engine in on.engines]
        cores = _idle_cores(on)
        status = [engine.status() for engine in on.engines]
        client.stdin.write("\n")
        asked = json.loads(_line(client))
    return {
        "flows": number,
        "opened": opened["open"],
        "right": asked["right"],
        "wrong": asked["wrong"],
        "hooked": status[0]["counters"]["engaged"] - WARM,
        "open_per_s": round(number / took),
        "engine_bytes_per_flow": [round((b - a) / number) for a, b in zip(before, after, strict=True)],
        "idle_engine_cores": cores,
        "reasons": {side: s["reasons"] for side, s in zip("ab", status, strict=True)},
    }


def _client(on: Bed, number: int) -> subprocess.Popen[Any]:
    pipe = subprocess.PIPE
    command = [sys.executable, PEER, "connect", on.b.v4, str(PORT), str(number)]
    return on.a.popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1)


def _line(client: subprocess.Popen[Any]) -> str:
    """The client's next line.

    Raises:
        RuntimeError: it ended instead.
    """
    line: str = client.stdout.readline()
    if not line:
        raise RuntimeError(f"the client of the idle flows ended with status {client.wait()}")
    return line


def _idle_cores(on: Bed) -> list[float]:
    before = [sum(process_cpu(engine.pid)) for engine in on.engines]
    time.sleep(WATCH)
    after = [sum(process_cpu(engine.pid)) for engine in on.engines]
    return [round((b - a) / WATCH, 3) for a, b in zip(before, after, strict=True)]
