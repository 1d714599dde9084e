"""Nobody's memory grows without bound, nobody spins, and nothing is lost when one side stops."""

from __future__ import annotations

import mmap
import re
import statistics
import time
from pathlib import Path

import pytest
from support import INTERCEPT, Pair, peer, result, same

from hooker.lab import Lab

pytestmark = [pytest.mark.timeout(120), pytest.mark.alone]
MB = 1 << 20
WRITERS = 12

# What may lie between a writer and a reader that has stopped, beyond what the engines had at start.
ACCEPTED_BOUND = 64 * MB  # bytes that the writer could get rid of
ENGINE_BOUND = 32 * MB  # resident memory of an engine
KERNEL_BOUND = 96 * MB  # memory of all TCP sockets of the machine


@pytest.mark.parametrize(("kind", "redirect"), [(INTERCEPT, "auto"), ("messages", "always")])
@pytest.mark.parametrize("how", ["send", "send-async", "send-edge"])
def test_a_writer_faster_than_its_reader_is_held_back(lab: Lab, how: str, kind: str, redirect: str) -> None:
    with Pair.open(lab, options=("--redirect", redirect), kind=kind) as pair:
        held_back(pair, how, 120 * MB)


def held_back(pair: Pair, how: str, size: int) -> None:
    go, progress = pair.lab.tmp / "go", pair.lab.tmp / "progress"
    kernel, memory = tcp_memory(), [engine.rss() for engine in pair.engines]
    server = peer(pair.b, "serve", "0.0.0.0", 7100, f"wait-file:{go}", "recv-all", "close")
    client = peer(
        pair.a, "connect", pair.b.v4, 7100, f"{how}:{size}", "close", options=("--progress", str(progress))
    )
    accepted = settled(progress)
    assert 0 < accepted < ACCEPTED_BOUND
    busy = [cpu(client.pid), *(cpu(engine.pid) for engine in pair.engines)]
    time.sleep(2)
    idle = [cpu(client.pid), *(cpu(engine.pid) for engine in pair.engines)]
    assert settled(progress) == accepted
    grown = [engine.rss() - before for engine, before in zip(pair.engines, memory, strict=True)]
    print(f"accepted {accepted / MB:.1f} MiB, engines grew {[g / MB for g in grown]}")
    assert max(grown, default=0) < ENGINE_BOUND
    assert tcp_memory() - kernel < KERNEL_BOUND
    assert all(after - before < 0.3 for before, after in zip(busy, idle, strict=True)), "something spins"
    with pair.engaged(payload=size - accepted, flows=0):
        go.touch()
        same(result(client), result(server))


def test_a_reader_that_stops_for_ten_seconds(hooked_pair: Pair) -> None:
    pair, size = hooked_pair, 150 * MB
    with pair.engaged(payload=size):
        server = peer(pair.b, "serve", "::", 7101, f"recv:{MB}", "sleep:10", "recv-all", "close")
        client = peer(pair.a, "connect", pair.b.v6, 7101, f"send:{size}", "close")
        sent, received = result(client), result(server)
    same(sent, received)
    assert received["error"] is None


def test_a_stopped_reader_does_not_stop_the_others(hooked_pair: Pair) -> None:
    pair, go = hooked_pair, hooked_pair.lab.tmp / "go"
    stuck_server = peer(pair.b, "serve", "0.0.0.0", 7102, f"wait-file:{go}", "recv-all", "close")
    stuck = peer(pair.a, "connect", pair.b.v4, 7102, f"send:{100 * MB}", "close")
    time.sleep(1)
    with pair.engaged(payload=20 * MB):
        server = peer(pair.b, "serve", "0.0.0.0", 7103, "recv-all", "close")
        client = peer(pair.a, "connect", pair.b.v4, 7103, f"send:{20 * MB}", "close")
        same(result(client, 20), result(server, 20))
    go.touch()
    same(result(stuck), result(stuck_server))


def settled(progress: Path, quiet: float = 1.0, timeout: float = 30) -> int:
    """Return what *progress* says once it has not changed for *quiet* seconds."""
    deadline, last, since = time.monotonic() + timeout, -1, time.monotonic()
    while time.monotonic() < deadline:
        text = progress.read_text() if progress.exists() else ""
        now = int(text or 0)
        if now != last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since > quiet and now:
            return now
        time.sleep(0.05)
    raise AssertionError(f"the writer did not come to rest; it has written {last}")


def cpu(pid: int) -> float:
    """Return the CPU seconds that process *pid* has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def tcp_memory() -> int:
    """Return the bytes that TCP's sockets hold, on the whole machine."""
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        if line.startswith("TCP:"):
            return int(line.split()[-1]) * mmap.PAGESIZE
    raise AssertionError("no TCP line in /proc/net/sockstat")


def test_what_the_transport_cannot_send_yet_waits_in_the_applications_sockets(lab: Lab) -> None:
    """Remote windows are many megabytes. What is sent fills the transport and one queue for all flows."""
    with Pair.open(lab, kind="segments") as pair:
        servers = [peer(pair.b, "serve", "0.0.0.0", 7110 + n, "recv-all", "close") for n in range(WRITERS)]
        words = (f"send:{100 * MB}", "close")
        clients = [peer(pair.a, "connect", pair.b.v4, 7110 + n, *words) for n in range(WRITERS)]
        sent: list[int] = []
        while clients[0].poll() is None:
            shown = pair.a.run(["ss", "-tinH", "dst", pair.b.v4], hooked=False, text=True).stdout
            sent.append(sum(int(n) * 1448 for n in re.findall(r" unacked:(\d+)", shown)))
            time.sleep(0.02)
        for client, server in zip(clients, servers, strict=True):
            same(result(client), result(server))
    print("unacknowledged", sorted(sent))
    assert 100_000 < statistics.median(sent) < 24 * MB
