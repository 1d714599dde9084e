"""hk_ingress beside other XDP programs: where libxdp's dispatcher is on an interface it takes one more.

Libxdp works in a process of its own (libxdp.py), which ends at once. What it pins would outlive the engine,
so the janitor takes it off if the engine does not. An interface without a dispatcher has a bpf_link instead,
which needs neither.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

from hooker import start
from hooker.control import bpf_calls, janitor
from hooker.control.elf import object_file
from hooker.control.janitor import Janitor, Undo
from hooker.errors import KernelError

if TYPE_CHECKING:
    from hooker.control.loaded import Loaded

DISPATCHER = "xdp_dispatcher"  # its program's name
PATIENCE = 10.0  # s
MODES = {"IFLA_XDP_DRV_PROG_ID": "native", "IFLA_XDP_SKB_PROG_ID": "generic"}


class Beside:
    """A program that a dispatcher calls. Raises KernelError when it cannot be added."""

    def __init__(self, keeper: Janitor, interface: int, loaded: Loaded, program: str) -> None:
        self._interface, self._owner = interface, os.getpid()
        self._name = f"hooker_{os.urandom(4).hex()}"  # others on this host have one, too
        content = object_file(self._name, loaded.code(program), loaded.licence)
        self._undo: Undo | None = keeper.register(janitor.xdp(interface, self._name))
        try:
            _libxdp("attach", interface, self._name, content, loaded.descriptors())
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """May be called twice. What does not succeed is the janitor's."""
        if self._undo is None or os.getpid() != self._owner:
            return
        try:
            _libxdp("detach", self._interface, self._name)
        except KernelError:
            return
        undo, self._undo = self._undo, None
        undo.done()


def is_on(interface: int) -> str:
    """The mode of the dispatcher that is there; "": there is none."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as netlink:
            (link,) = netlink.get_links(interface)
        xdp = link.get_attr("IFLA_XDP")
        for attribute, mode in MODES.items() if xdp is not None else ():
            number = xdp.get_attr(attribute)
            if number and bpf_calls.program_name(number) == DISPATCHER:
                return mode
    except (NetlinkError, KernelError):  # it is gone, the program or the interface
        pass
    return ""


def _libxdp(what: str, interface: int, name: str, content: bytes = b"", keep: tuple[int, ...] = ()) -> None:
    """Raises KernelError."""
    cannot = f"cannot {what} a program by libxdp's dispatcher"
    try:
        done = subprocess.run(
            start.module("hooker.control.libxdp", what, str(interface), name), input=content, pass_fds=keep,
            capture_output=True, env=start.environment(), cwd="/", timeout=PATIENCE, check=False,
        )  # fmt: skip
        error = str(json.loads(done.stdout)["error"])
    except OSError as failed:
        raise KernelError.from_os_error(cannot.removeprefix("cannot "), failed) from None
    except subprocess.TimeoutExpired:
        raise KernelError(f"{cannot}: it has not ended within {PATIENCE:.0f} s") from None
    except (ValueError, TypeError, KeyError):
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise KernelError(f"{cannot}: {said or f'it has ended with {done.returncode}'}") from None
    if error:
        raise KernelError(f"{cannot}: {error}")
