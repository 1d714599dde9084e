"""The demo: what it prints, what it says about itself, and that it leaves nothing, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import PLAIN, eventually

from hooker.lab import CGROUP_PREFIX, NETNS_PREFIX, cgroup_root
from hooker.lab.demo import Case, parse_size

pytestmark = pytest.mark.timeout(120)
DEMO = [sys.executable, "-m", "hooker.lab.demo"]
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(PLAIN, reason="needs engines")
@pytest.mark.parametrize("size", ["0", "3M"])
def test_the_last_line_is_the_result(size: str) -> None:
    done = subprocess.run(
        [*DEMO, "--json", "--size", size], capture_output=True, text=True, timeout=100, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    cases = {case["name"]: case for case in json.loads(done.stdout.splitlines()[-1])["cases"]}
    verdicts = {name: case["verdict"] for name, case in cases.items()}
    assert verdicts == {"tcp": "tcp", "hooked": "engaged", "fallback": "released"}
    assert all(case["sha256_ok"] and case["bytes"] == parse_size(size) for case in cases.values())
    assert cases["hooked"]["tcp_payload_bytes"] == 0
    assert cases["hooked"]["vtl_bytes"] > parse_size(size)
    assert cases["fallback"]["tcp_payload_bytes"] >= parse_size(size)


@pytest.mark.parametrize("text", ["", "banana", "-1", "1.5M", "1T", "99999999G", "10 M M"])
def test_a_bad_size_is_one_line_and_status_2(text: str) -> None:
    done = subprocess.run([*DEMO, f"--size={text}"], capture_output=True, text=True, timeout=30, cwd=ROOT)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.parametrize("after", [0.3, 1.5, 4.0])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing(number: signal.Signals, after: float) -> None:
    demo = subprocess.Popen(
        [*DEMO, "--size", "300M"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    time.sleep(after)
    demo.send_signal(number)
    demo.wait(20)
    assert _left_by(demo.pid) == []


def test_kill_9_leaves_nothing_but_files() -> None:
    demo = subprocess.Popen([*DEMO], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    time.sleep(3)
    demo.kill()
    demo.wait(10)
    eventually(lambda: not [p for p in _left_by(demo.pid) if not p.startswith("/tmp")])
    subprocess.run([sys.executable, "-m", "hooker.lab", "clean"], check=True, timeout=30, cwd=ROOT)
    assert _left_by(demo.pid) == []


def test_what_the_demo_calls_a_problem() -> None:
    good = Case("hooked", 100, True, 0.1, 0, 150, "engaged", "")
    assert good.problem() is None
    for change in ({"sha256_ok": False}, {"verdict": "released"}, {"tcp_payload_bytes": 5000}):
        assert Case(**{**good.__dict__, **change}).problem()
    assert Case("fallback", 100, True, 0.1, 50, 0, "released", "").problem()


def _left_by(pid: int) -> list[str]:
    found = [
        *cgroup_root().glob(f"{CGROUP_PREFIX}{pid}-*"),
        *Path("/run/netns").glob(f"{NETNS_PREFIX}{pid}-*"),
        *Path("/tmp").glob(f"{CGROUP_PREFIX}{pid}-*"),
    ]
    return [str(path) for path in found if os.path.lexists(path)]
