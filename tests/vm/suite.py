"""Tests of the tree under the machine's own kernel: ``suite.py FILES AND ARGUMENTS OF PYTEST``

The long ones, too, and one after the other. They print as they go: under emulation an hour may pass.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hooker.control.probes import verdicts
from hooker.lab import Lab, engine

TESTS = Path(__file__).resolve().parents[1]
FILTER = (
    "nf_conntrack",
    "nf_tables",
    "nft_ct",
    "nft_chain_nat",
    "nft_masq",
    "nft_nat",
)  # nft loads none there
SLOWNESS = 10  # what takes seconds elsewhere; of the emulation, and of what waits rather than works


def run(*arguments: str, modules: tuple[str, ...] = ()) -> tuple[int, str]:
    """The exit status of pytest and its last line. It needs these *modules* of the kernel, too."""
    subprocess.run(["modprobe", "-a", "tun", "tcp_bbr", *FILTER, *modules], check=True)
    # what two engines would try at once, each with the other in its way, is remembered from here on
    verdicts("segments")
    _compile()
    command = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", "-m", "", "-v"]
    own = {"HOOKER_TEST_SLOWNESS": str(SLOWNESS), "HOOKER_REQUIRE_BPF": "1", "PYTHONUNBUFFERED": "1"}
    last = "nothing was printed"
    with subprocess.Popen(
        [*command, "--timeout", "120", *arguments],
        env={**os.environ, **own},
        stdout=subprocess.PIPE,
        text=True,
        cwd=TESTS.parent,
    ) as tests:
        assert tests.stdout
        for line in tests.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    return tests.returncode, last


def _compile() -> None:
    """The kernel programs, once: two engines that start at once would do it twice, out of a test's time."""
    engine.READY_TIMEOUT *= SLOWNESS
    with Lab() as lab:
        lab.a.hooker().kill9()


if __name__ == "__main__":
    if not os.environ.get("HOOKER_VM"):
        sys.exit("this runs in the virtual machine only: ./dev vm")
    sys.exit(run(*sys.argv[1:])[0])
