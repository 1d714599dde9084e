"""How ``hooker status`` and ``hooker set`` reach live engines: a socket per engine in the run-time directory.

A client says one line, a JSON object: ``{}`` asks for the snapshot, ``{"set": {...}}`` changes settings.
The engine answers with one JSON object and closes: its snapshot, or ``error`` and ``remedy``. Who says
nothing for SILENCE gets the snapshot. The socket is its user's alone (0600).
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import select
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from hooker import trust
from hooker.control import janitor
from hooker.control.janitor import Janitor, Undo
from hooker.control.question import Question, ask
from hooker.control.rundir import ENVIRONMENT, existing, run_directory
from hooker.errors import ConfigurationError, HookerError

Snapshot = dict[str, Any]

NAME = re.compile(r"(\d+)(?:-\d+)?\.sock")  # pid, and a number for a process's further engines
ACCEPT_PAUSE = 0.1  # s, after a connection could not be accepted
SILENCE = 0.2  # s, until a client that says nothing is answered
REQUEST_TIMEOUT = 1.0  # s, for all of a request; a client that is slower holds up the others so long
MAX_REQUEST = 4096  # bytes
SEND_TIMEOUT = 1.0  # s, for one reply; a client that does not read holds up the others so long
CONNECT_TIMEOUT = 3.0  # s


class ControlServer:
    """Answers with ``snapshot()`` on ``<run directory>/<pid>.sock`` until closed; a context manager.

    ``change(**settings)`` is what `hooker set` asks for; it raises HookerError, or TypeError for a setting
    that there is not. Both are called in a thread of the server's own. With a janitor, the socket goes even
    if the process is killed. It belongs to the process that started it: in a forked child close() does
    nothing.
    """

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        *,
        change: Callable[..., object] | None = None,
        janitor: Janitor | None = None,
    ) -> None:
        self._snapshot = snapshot
        self._change = change
        self._janitor = janitor
        self._undo: Undo | None = None
        self._thread: threading.Thread | None = None
        self.path: Path | None = None

    def start(self) -> None:
        """Listen. Raises ConfigurationError when the socket cannot be made."""
        self._owner = os.getpid()
        self._closing = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setblocking(False)  # a client may be gone before it is accepted
        os.fchmod(self._socket.fileno(), 0o600)  # before bind(): there is no moment with other rights
        self._bind()
        self._socket.listen(8)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._watch = select.epoll()  # poll() would fail while the process has no descriptors left
        for descriptor in (self._socket.fileno(), self._wake):
            self._watch.register(descriptor, select.EPOLLIN)
        self._thread = threading.Thread(target=self._serve, name="hooker-control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering and remove the socket. May be called twice."""
        if self._thread is None or os.getpid() != self._owner:
            return
        thread, self._thread = self._thread, None
        os.eventfd_write(self._wake, 1)  # before: it closes that as soon as it sees that we are closing
        self._closing = True
        thread.join(2 * SEND_TIMEOUT)  # if it does not end by then, it closes what it uses when it does
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        if self._undo is not None:
            self._undo.done()

    def forget(self) -> None:
        """In a forked child: close its copies, or a client would wait for a parent that is dead."""
        if self._thread is not None:
            self._watch.close()
            os.close(self._wake)
            self._socket.close()

    def _bind(self) -> None:
        directory = run_directory()
        for number in range(1, 1000):
            suffix = "" if number == 1 else f"-{number}"
            path = directory / f"{os.getpid()}{suffix}.sock"
            if path.exists() and not _answers(path):
                path.unlink(missing_ok=True)  # of a dead process that had the same pid
            if self._janitor is not None and not path.exists():
                self._undo = self._janitor.register(janitor.file(path))
            try:
                self._socket.bind(str(path))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:  # by this process's first engine
                    continue
                raise ConfigurationError(
                    f"cannot make {path}: {error.strerror or error}",
                    remedy=f"set {ENVIRONMENT} to a directory where sockets can be made",
                ) from None
            self.path = path
            return
        raise ConfigurationError(f"no free name for a control socket in {directory}")

    def _serve(self) -> None:
        while not self._closing:
            self._watch.poll()
            try:
                connection, _ = self._socket.accept()
            except BlockingIOError:
                continue
            except OSError:  # out of descriptors, which does not end by asking again at once
                time.sleep(ACCEPT_PAUSE)
                continue
            with connection:
                self._answer(connection)
        self._watch.close()
        os.close(self._wake)
        self._socket.close()

    def _answer(self, connection: socket.socket) -> None:
        try:
            reply = self._reply(_request(connection))
        except HookerError as error:
            reply = {"error": error.message, "remedy": error.remedy}
        except Exception as error:  # an engine that is closing must not end the thread
            reply = {"error": f"{type(error).__name__}: {error}", "remedy": ""}
        try:
            connection.settimeout(SEND_TIMEOUT)
            connection.sendall(json.dumps(reply).encode() + b"\n")
        except OSError:
            pass  # the client went away

    def _reply(self, request: Any) -> Snapshot:
        """Nothing that a client says is trusted to have a shape."""
        if request == {}:
            return self._snapshot()
        if not isinstance(request, dict) or set(request) != {"set"} or not isinstance(request["set"], dict):
            raise ConfigurationError("this is no request")
        if self._change is None:
            raise ConfigurationError("nothing can be changed here")
        self._change(**request["set"])
        return self._snapshot()

    def __enter__(self) -> ControlServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Reply(NamedTuple):
    """Of one engine: its snapshot, or why there is none."""

    name: str  # of its socket: the process's id, with a number for a further engine
    pid: int
    snapshot: Snapshot | None
    why: str = ""


def replies(within: float = math.inf) -> list[Reply]:
    """Of all live engines of this user, by pid. ``within``: seconds for them, if these are fewer than usual.

    All are asked at once. Sockets of dead ones are removed.
    """
    found = []
    with contextlib.ExitStack() as stack:
        questions = [stack.enter_context(Question(pid, path, {}, within)) for pid, path in _sockets()]
        ask(questions)
        for question in questions:
            name, pid, reply = question.path.stem, question.pid, question.answer
            if isinstance(reply, ConnectionRefusedError):
                question.path.unlink(missing_ok=True)  # nobody listens: its process is dead
            elif not isinstance(reply, dict):
                found.append(Reply(name, pid, None, question.why()))
            elif "engine" in reply:
                found.append(Reply(name, pid, reply))
            else:
                found.append(Reply(name, pid, None, str(reply.get("error", "it gives no snapshot"))))
    return found


def answers() -> tuple[list[Snapshot], dict[int, str]]:
    """The snapshots of these engines; of those that give none, why, by pid."""
    found = replies()
    snapshots = [reply.snapshot for reply in found if reply.snapshot is not None]
    return snapshots, {reply.pid: reply.why for reply in found if reply.snapshot is None}


def snapshots() -> list[Snapshot]:
    """The snapshots of all live engines of this user that answer, by pid."""
    return answers()[0]


def change(pid: int, settings: dict[str, Any]) -> Snapshot:
    """Change settings of the first engine of that process; its snapshot afterwards.

    Raises ConfigurationError when it refuses, with its reason, and when it does not answer.
    """
    for found, path in _sockets():
        if found != pid:
            continue
        with Question(pid, path, {"set": settings}) as question:
            ask([question])
        reply = question.answer
        if not isinstance(reply, dict):
            break
        if "error" in reply:
            raise ConfigurationError(str(reply["error"]), remedy=str(reply.get("remedy", "")))
        return reply
    raise ConfigurationError(f"no engine with pid {pid} answers", remedy="hooker status lists them")


def _request(connection: socket.socket) -> Any:
    """Raises ConfigurationError for anything but one line of JSON, in time."""
    line = b""
    until = time.monotonic() + REQUEST_TIMEOUT
    while not line.endswith(b"\n"):
        left = until - time.monotonic()
        if left <= 0 or len(line) > MAX_REQUEST:
            raise ConfigurationError("the request is too long, or too slow")
        connection.settimeout(left if line else SILENCE)
        try:
            more = connection.recv(MAX_REQUEST + 1)
        except TimeoutError:
            more = b""
            if line:
                continue
        if not more:
            break
        line += more
    try:
        return json.loads(line.decode()) if line.strip() else {}
    except (ValueError, RecursionError):
        raise ConfigurationError("the request is not JSON") from None


def _sockets() -> Iterator[tuple[int, Path]]:
    by_pid = []
    directory = existing()
    for path in directory.glob("*.sock") if directory else ():
        match = NAME.fullmatch(path.name)
        if match is not None and _is_own_socket(path):
            by_pid.append((int(match[1]), path.name, path))
    for pid, _, path in sorted(by_pid):
        yield pid, path


def _is_own_socket(path: Path) -> bool:
    try:
        info = path.lstat()
    except OSError:
        return False
    return stat.S_ISSOCK(info.st_mode) and trust.trusted(info.st_uid)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(CONNECT_TIMEOUT)
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True
