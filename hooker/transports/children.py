"""The process in which a user's class runs: what it is started with, and its start.

The class is imported there and nowhere else. Two processes: a keeper, which runs no user's code and ends the
other one when the engine is gone or wants it (hooker/prototype/).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hooker import start
from hooker.errors import ConfigurationError

LOAD_TIME = 20.0  # s, for what the class imports
END_TIME = 5.0  # s; its keeper, which has more to do than to end, needs less
HEAD = 20  # bytes of a packet's head; what it is comes first (child.pxd)
READY, FAILED = 16, 22
PACKET = 1 << 16  # bytes of one, before it is ready
LEAST, MOST = 1200, 65000  # bytes of a message
SHOWN = 240  # letters of what a class's failure is told with


class PrototypeError(ConfigurationError):
    """A user's class cannot be had, or does not begin: a mistake, wherever it is named."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a process is for. ``names`` of the classes in it, as users write them; ``job``: what
    hooker/prototype/host.py takes, of JSON's types."""

    names: str
    job: Mapping[str, Any] = field(default_factory=dict)


class Process:
    """One that is ready. ``max_message``: bytes of the largest message that it carries."""

    def __init__(self, keeper: subprocess.Popen[bytes], link: socket.socket, max_message: int) -> None:
        self._link = link
        self.max_message = max_message
        self.end = weakref.finalize(self, _end, keeper, os.getpid())

    def detach(self) -> int:
        """The link's descriptor, which is the caller's from now on: closed, it ends the process."""
        return self._link.detach()


def begin(plan: Plan) -> Process:
    """Raises PrototypeError: what is wrong with the class."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        keeper = subprocess.Popen(
            start.module("hooker.prototype", str(theirs.fileno()), json.dumps(plan.job)),
            env=start.environment(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
    try:
        return Process(keeper, ours, _await_ready(plan, ours))
    except BaseException:
        ours.close()
        _end(keeper, os.getpid())
        raise


def said(plan: Plan, text: str) -> str:
    """A class's failure in one line."""
    return f"{plan.names}: {shown(text) or 'it has failed'}"


def shown(text: str) -> str:
    """What a class's process says, for people: one line, of bounded length."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:SHOWN]


def _end(keeper: subprocess.Popen[bytes], owner: int) -> None:
    """It ends when the link is closed, and with it the process that it keeps."""
    if os.getpid() != owner:
        return
    try:
        keeper.wait(END_TIME)
    except subprocess.TimeoutExpired:
        keeper.kill()
        keeper.wait()


def _await_ready(plan: Plan, link: socket.socket) -> int:
    deadline = time.monotonic() + LOAD_TIME
    while True:
        link.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            packet = link.recv(PACKET)
        except TimeoutError:
            raise PrototypeError(said(plan, f"it is not loaded within {LOAD_TIME:g} s")) from None
        except OSError:
            packet = b""
        if packet[:1] == bytes([FAILED]):
            raise PrototypeError(said(plan, packet[HEAD:].decode("utf-8", "replace")))
        if packet[:1] == bytes([READY]):
            link.setblocking(False)
            return _max_message(plan, packet[HEAD:])
        if not packet:
            raise PrototypeError(said(plan, "its process has ended before it was loaded"))


def _max_message(plan: Plan, text: bytes) -> int:
    try:
        size = json.loads(text)["max_message"]
    except (ValueError, KeyError, TypeError):
        size = None
    if type(size) is not int or not LEAST <= size <= MOST:
        raise PrototypeError(said(plan, f"max_message is no number from {LEAST} to {MOST}"))
    return size
