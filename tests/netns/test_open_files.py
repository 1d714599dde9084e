"""An engine that may open too few files says how many are enough, and leaves nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support import PLAIN

from hooker.lab import Lab

pytestmark = [pytest.mark.timeout(120), pytest.mark.skipif(PLAIN, reason="needs an engine")]


@pytest.mark.parametrize("limit", [8, 12, 16, 20, 32, 34, 36, 40, 50, 60])
@pytest.mark.parametrize("verb", ["up", "run"])
def test_so_few_are_refused_in_one_line(lab: Lab, verb: str, limit: int) -> None:
    """At each of them something else cannot be opened: a socket, a map, a file, an event loop."""
    more = ["--cgroup", str(lab.a.cgroup)] if verb == "up" else ["true"]
    up = [sys.executable, "-m", "hooker", verb, *more]
    limited = ["/bin/sh", "-c", f'ulimit -n {limit} && exec "$@"', "sh", *up]
    done = lab.a.run(limited, hooked=False, check=False, text=True, timeout=60)
    assert done.returncode == 1
    first = done.stderr.splitlines()[0]
    assert first.startswith("hooker: ")
    assert "Too many open files" in first
    assert first.endswith(f"(the limit is {limit} open files: ulimit -n 256)")
    links = lab.a.run(["ip", "-br", "link"], hooked=False, text=True).stdout
    assert "hk" not in links


def test_as_many_as_it_says_are_enough(lab: Lab) -> None:
    up = [sys.executable, "-m", "hooker", "up", "--cgroup", str(lab.a.cgroup)]
    limited = ["/bin/sh", "-c", 'ulimit -n 256 && exec "$@"', "sh", *up]
    engine = lab.a.popen(limited, hooked=False, stdout=subprocess.PIPE, text=True)
    assert engine.stdout
    assert "ready" in engine.stdout.readline()
    engine.terminate()
    assert engine.wait(20) == 0
