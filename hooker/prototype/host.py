"""What runs in the process of a user's class: it is loaded, told what the engine wants, and listened to.

All of it is one asyncio loop. What the class raises, wherever it does, ends the process; the engine is told
first.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from hooker.prototype import limits, link
from hooker.prototype.link import Closed, Link, Peer
from hooker.prototype.load import Unfit, load
from hooker.prototype.transport import Transport

BEAT = 0.5  # s
MOST_ERRNO = 4096  # the kernel's are below
PACKETS = 16  # from the engine, before anything else has its turn
OURS = (
    str(Path(__file__).resolve().parents[1]),
    str(Path(asyncio.__file__).parents[1]),
    "<frozen",
    "hooker/",
)


class Job(Protocol):
    """What the engine wants of the process."""

    max_message: int

    def open(self, port: int) -> int: ...

    def send(self, peer: Peer, body: bytes) -> None:
        """Frames."""

    def connect(self, peer: Peer) -> None: ...

    def close(self, peer: Peer) -> None: ...

    def is_full(self) -> bool:
        """Nothing more is wanted of the engine before ``Host.listen()``."""


class Carried:
    """A transport of the user's: it is all that there is between the engines."""

    def __init__(self, job: Mapping[str, Any], connection: Link, loop: asyncio.AbstractEventLoop) -> None:
        found = load(job["transport"], job["directories"], Transport, ("open", "send"))
        transport: Transport = object.__new__(found)
        transport._link, transport.loop = connection, loop
        transport.__init__()  # type: ignore[misc]
        self._transport = transport
        self.max_message = transport.max_message

    def open(self, port: int) -> int:
        return self._transport.open(port)

    def send(self, peer: Peer, body: bytes) -> None:
        for message in link.frames(body):
            self._transport.send(peer, message)

    def connect(self, peer: Peer) -> None:
        pass

    def close(self, peer: Peer) -> None:
        pass

    def is_full(self) -> bool:
        return False


class Host:
    """The loop, and the link."""

    def __init__(self, connection: Link) -> None:
        self._link = connection
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(self._on_error)
        self._error: BaseException | None = None
        self.opened = False

    def serve(self, job: Job) -> None:
        """Until the engine has gone (Closed). Raises what the class does."""
        self._job = job
        self._answers: dict[int, Callable[[Peer, bytes], None]] = {
            link.OPEN: self._open,
            link.SEND: job.send,
            link.CONNECT: lambda peer, _: job.connect(peer),
            link.CLOSE: lambda peer, _: job.close(peer),
        }
        self.listen()
        self._beat()
        self.loop.run_forever()
        if self._error is not None:
            raise self._error

    def thread_failed(self, raised: threading.ExceptHookArgs) -> None:
        """In a thread of the class's, which ends by it; who exits there ends that thread only."""
        if not isinstance(raised.exc_value, SystemExit):
            error = raised.exc_value or RuntimeError(raised.exc_type.__name__)
            with contextlib.suppress(RuntimeError):  # the loop is closed: it is over anyway
                self.loop.call_soon_threadsafe(self.fail, error)

    def listen(self) -> None:
        """To the engine, again if the job was full."""
        self.loop.add_reader(self._link, self._hear)

    def fail(self, error: BaseException) -> None:
        """Of what the class has raised the first counts."""
        if self._error is None:
            self._error = error
        self.loop.stop()

    def _open(self, peer: Peer, body: bytes) -> None:
        try:
            port, why = self._job.open(peer[1]), b""
        except OSError as error:
            if not (isinstance(error.errno, int) and 0 < error.errno < MOST_ERRNO):
                raise  # it has words of its own
            port, why = 0, error.errno.to_bytes(4, "big")
        if not why and (not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 1 << 16):
            raise TypeError(f"open() has given {port!r:.80}, which is no port")
        self._link.tell(link.OPENED, why, ("::", port))
        self.opened = not why

    def _hear(self) -> None:
        for _ in range(PACKETS):
            packet = self._link.hear()
            if packet is None:
                break
            what, peer, body = packet
            self._answers[what](peer, body)
            if self._job.is_full():
                self.loop.remove_reader(self._link)
                break
        self._link.flush()

    def _beat(self) -> None:
        self._link.tell(link.BEAT)
        self.loop.call_later(BEAT, self._beat)

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What a callback or a task has raised."""
        self.fail(context.get("exception") or RuntimeError(str(context["message"])))


def main(descriptor: int, job: dict[str, Any]) -> int:
    """The process's exit status."""
    os.dup2(2, 1)  # what the class prints
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # it may be killed
    connection = Link(descriptor)
    host = None
    try:
        limits.set_limits()
        host = Host(connection)
        threading.excepthook = host.thread_failed
        made = _make(job, connection, host)
        connection.tell(link.READY, json.dumps({"max_message": made.max_message}).encode())
        host.serve(made)
    except Closed:
        return 0
    except BaseException as error:
        return _fail(connection, error, trace=host is not None and host.opened)
    return 0


def _make(job: dict[str, Any], connection: Link, host: Host) -> Job:
    if "transport" in job:
        return Carried(job, connection, host.loop)
    from hooker.prototype.vtl import Relay

    sys.unraisablehook = lambda event: host.fail(event.exc_value or RuntimeError(str(event.err_msg)))
    return Relay(job, connection, host.loop, host.listen)


def _fail(connection: Link, error: BaseException, *, trace: bool) -> int:
    """``trace``: in the midst of its work; a class that cannot be had is one line, which the engine says."""
    with contextlib.suppress(Closed):
        connection.fail(describe(error))
    if trace and not isinstance(error, Unfit):
        with contextlib.suppress(OSError):
            traceback.print_exception(error, file=sys.stderr)
    return 1


def describe(error: BaseException) -> str:
    """As in "ValueError: no such thing (mine.py:12, in send)": where the user's own code raised it."""
    if isinstance(error, Unfit):
        return str(error)
    try:
        said = str(error)
    except Exception:  # a class of the user's
        said = ""
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame for frame in frames if "site-packages" in frame.filename or not frame.filename.startswith(OURS)
    ]
    if own:
        text += f" ({Path(own[-1].filename).name}:{own[-1].lineno}, in {own[-1].name})"
    return text
