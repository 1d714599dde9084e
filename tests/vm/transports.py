"""Transports that the machine's own kernel may lack: ``transports.py NAME [arguments of pytest]``

Each is held to the contract over loopback, and carries unmodified programs between namespaces: the same tests
as on the machine itself, over this transport alone. What is skipped there has failed here.
"""

from __future__ import annotations

import os
import sys

import suite

FILES = ("unit/test_transport_contract.py", "netns/test_transports.py")
LOSSY = "netns/test_lossy_transports.py"
MORE_FILES = {
    "sctp": ("unit/test_transport_sctp.py", LOSSY),
    "dccp": ("netns/test_bare_transports.py",),
    "vtl+dccp": ("unit/test_carrier_dccp_sockets.py", LOSSY),
}
MODULES = {"dccp": ("dccp_ipv4", "dccp_ipv6"), "sctp": ("sctp",)}  # by what is in a name


def over(name: str, *arguments: str) -> tuple[int, str]:
    """The tests over *name*: exit status and last line."""
    needed = tuple(module for part, modules in MODULES.items() if part in name for module in modules)
    files = [str(suite.TESTS / file) for file in (*FILES, *MORE_FILES.get(name.partition(":")[0], ()))]
    status, last = suite.run("-x", "--transport", name, *(arguments or files), modules=needed)
    return status or int("skipped" in last), last


if __name__ == "__main__":
    if not os.environ.get("HOOKER_VM"):
        sys.exit("this runs in the virtual machine only: ./dev vm")
    sys.exit(over(sys.argv[1], *sys.argv[2:])[0])
