"""Transports that the machine's own kernel may lack: ``transports.py NAME [arguments of pytest]``

Each is held to the contract over loopback, and carries unmodified programs between namespaces: the same tests
as on the machine itself, over this transport alone. What is skipped there has failed here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hooker.control.probes import verdicts
from hooker.lab import Lab, engine

TESTS = Path(__file__).resolve().parents[1]
FILES = ("unit/test_transport_contract.py", "netns/test_transports.py")
LOSSY = "netns/test_lossy_transports.py"
MORE_FILES = {
    "sctp": ("unit/test_transport_sctp.py", LOSSY),
    "dccp": ("netns/test_bare_transports.py",),
    "vtl+dccp": ("unit/test_carrier_dccp_sockets.py", LOSSY),
}
MODULES = {"dccp": ("dccp_ipv4", "dccp_ipv6"), "sctp": ("sctp",)}  # by what is in a name
SLOWNESS = 10  # what takes seconds elsewhere; of the emulation, and of what waits rather than works


def over(name: str, *arguments: str) -> tuple[int, str]:
    """The tests over *name*, the long ones, too, which print as they go: exit status and last line."""
    needed = [module for part, modules in MODULES.items() if part in name for module in modules]
    subprocess.run(["modprobe", "-a", "tun", *needed], check=True)
    # what two engines would try at once, each with the other in its way, is remembered from here on
    verdicts("segments")
    _compile()
    files = [str(TESTS / file) for file in (*FILES, *MORE_FILES.get(name.partition(":")[0], ()))]
    command = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", "-m", "", "-v", "-x"]
    command += ["--transport", name, "--timeout", str(120), *(arguments or files)]
    own = {"HOOKER_TEST_SLOWNESS": str(SLOWNESS), "HOOKER_REQUIRE_BPF": "1"}
    last = "nothing was printed"
    with subprocess.Popen(
        command, env={**os.environ, **own}, stdout=subprocess.PIPE, text=True, cwd=TESTS.parent
    ) as tests:
        assert tests.stdout
        for line in tests.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    return tests.returncode or int("skipped" in last), last


def _compile() -> None:
    """The kernel programs, once: two engines that start at once would do it twice, out of a test's time."""
    engine.READY_TIMEOUT *= SLOWNESS
    with Lab() as lab:
        lab.a.hooker().kill9()


if __name__ == "__main__":
    if not os.environ.get("HOOKER_VM"):
        sys.exit("this runs in the virtual machine only: ./dev vm")
    sys.exit(over(sys.argv[1], *sys.argv[2:])[0])
