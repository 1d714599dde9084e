"""``hooker run``: a command in a hooked scope, whose exit status, signals and streams are its own.

Three processes, because a shell waits for the first, and stopping a job must not stop the engine:

1. The launcher, which the shell started. It forks the engine, then the command, forwards the signals
   sent to itself, and ends as the command ended.
2. The engine, in a session of its own, so that neither Ctrl-C nor Ctrl-Z reaches it: the connections of
   a stopped command stay alive, as TCP's would. It owns the cgroup and ends when the launcher does.
3. The command, in the launcher's process group: it has the terminal, and what the terminal sends
   reaches it without us. Only signals that another process sent are forwarded. A command that stops
   on the terminal's behalf stops the launcher too, so that the shell sees the job stop.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from hooker import checks
from hooker.cli.session import Options, drain, running
from hooker.control import cgroup, janitor
from hooker.control.cgroup import Cgroup
from hooker.control.janitor import Janitor
from hooker.errors import ConfigurationError, HookerError, KernelError, describe_os_error, remedy_for

EXIT_NOT_EXECUTABLE = 126  # POSIX, 2.8.2
EXIT_NOT_FOUND = 127
START_TIMEOUT = 60.0  # s, for compiling and loading the kernel programs on a slow machine
MAX_LINGER = 3600.0  # s
CLOSE_TIMEOUT = 15.0  # s, for the engine's end once its flows are settled

_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
_FORWARDED = _ENDING | {signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT}
_WATCHED = _FORWARDED | {signal.SIGCHLD}
_TERMINAL_STOPS = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
Mask = set[int | signal.Signals]  # as pthread_sigmask() gives it

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Launcher:
    """Runs one command. ``linger`` is how long, in seconds, its last bytes may take to arrive.

    Raises ConfigurationError when ``linger`` is not a number from 0 to 3600.
    """

    def __init__(self, options: Options, command: Sequence[str], *, linger: float = 10.0) -> None:
        self._options = options
        self._command = list(command)
        self._linger = checks.real("linger", linger, 0, MAX_LINGER, unit="s")
        self._group: Cgroup | None = None
        self._engine = 0  # pid; 0 once it has ended
        self._child = 0  # pid of the command
        self._status: int | None = None  # of the command, as wait() gives it

    def run(self) -> int:
        """The command's exit status; a command killed by a signal kills the caller by the same.

        Raises HookerError when the engine cannot start.
        """
        missing = find_command(self._command[0])
        if missing is not None:
            return _complain(*missing)
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would discard the exit status
        self._keep, life = os.pipe()
        try:
            self._start_engine()
            self._start_command()
            _detach_streams(keep={life})
            self._watch()
        finally:
            os.close(life)
            self._await_engine()
            if self._group is not None:
                self._group.remove()
        return self._finish()

    # ---- the engine -------------------------------------------------------------------------

    def _start_engine(self) -> None:
        reader, writer = os.pipe()
        self._engine = os.fork()
        if self._engine == 0:
            _exit_with(lambda: _engine_main(self._options, self._keep, writer, self._linger, self._mask))
        os.close(writer)
        os.close(self._keep)
        with os.fdopen(reader, "rb") as report:
            self._group = Cgroup(self._read_report(report)["cgroup"])

    def _read_report(self, report: Any) -> dict[str, Any]:
        deadline = time.monotonic() + START_TIMEOUT
        while not select.select([report], [], [], 0.05)[0]:
            info = signal.sigtimedwait(_ENDING, 0)
            if info is not None:
                self._abort(info.si_signo)
            if time.monotonic() > deadline:
                os.kill(self._engine, signal.SIGKILL)
                raise KernelError(f"the engine was not ready within {START_TIMEOUT:.0f} s")
        text = report.read()
        if not text:
            raise KernelError("the engine ended before it was ready", remedy="hooker doctor")
        message: dict[str, Any] = json.loads(text)
        if "error" in message:
            kind = ConfigurationError if message["configuration"] else KernelError
            raise kind(message["error"], remedy=message["remedy"])
        return message

    def _abort(self, number: int) -> NoReturn:
        """Interrupted before the command was started."""
        os.kill(self._engine, signal.SIGTERM)
        self._await_engine()
        _die_by(number)

    def _await_engine(self) -> None:
        """Reap the engine, within a bounded time; a further signal cuts its lingering short."""
        deadline = time.monotonic() + self._linger + CLOSE_TIMEOUT
        while self._engine and not self._reap_engine():
            info = signal.sigtimedwait(_WATCHED, max(0.0, deadline - time.monotonic()))
            if info is None:
                os.kill(self._engine, signal.SIGKILL)  # its janitor cleans up
                os.waitpid(self._engine, 0)
                self._engine = 0
            elif info.si_signo in _ENDING:
                os.kill(self._engine, signal.SIGTERM)

    def _reap_engine(self) -> bool:
        if self._engine and os.waitpid(self._engine, os.WNOHANG)[0]:
            self._engine = 0
        return self._engine == 0

    # ---- the command ------------------------------------------------------------------------

    def _start_command(self) -> None:
        launcher = os.getpid()
        self._child = os.fork()
        if self._child == 0:
            _exit_with(lambda: _command_main(self._command, self._group, self._mask, launcher))

    def _watch(self) -> None:
        """Forward signals until the command has ended."""
        while self._status is None:
            info = signal.sigwaitinfo(_WATCHED)
            if info.si_signo == signal.SIGCHLD:
                if self._engine and self._reap_engine():
                    print(f"hooker: the engine has ended; {self._options.fate}", file=sys.stderr)
                self._reap_command()
            elif info.si_signo == signal.SIGCONT or (info.si_code <= 0 and info.si_pid != self._child):
                # si_code > 0: from the kernel, thus the terminal, which has signalled the command too
                os.kill(self._child, info.si_signo)

    def _reap_command(self) -> None:
        pid, status = os.waitpid(self._child, os.WNOHANG | os.WUNTRACED)
        if not pid:
            return
        if not os.WIFSTOPPED(status):
            self._status = status
        elif os.WSTOPSIG(status) in _TERMINAL_STOPS:
            os.kill(os.getpid(), signal.SIGSTOP)

    def _finish(self) -> int:
        assert self._status is not None
        if os.WIFSIGNALED(self._status):
            _die_by(os.WTERMSIG(self._status))
        return os.waitstatus_to_exitcode(self._status)


def find_command(name: str) -> tuple[str, int] | None:
    """None when it can be run, else what is wrong and the exit status a shell would give."""
    if shutil.which(name) is not None:
        return None
    if shutil.which(name, mode=os.F_OK) is not None or ("/" in name and Path(name).exists()):
        return f"{name}: cannot be executed", EXIT_NOT_EXECUTABLE
    return f"{name}: command not found", EXIT_NOT_FOUND


def _complain(text: str, status: int) -> int:
    print(f"hooker: {text}", file=sys.stderr)
    return status


# ---- in the forked processes ----------------------------------------------------------------


def _exit_with(main: Any) -> NoReturn:
    """Leave a forked child without running the parent's clean-up."""
    status = 1
    try:
        status = main() or 0
    except BaseException as error:
        print(f"hooker: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def _engine_main(options: Options, life: int, writer: int, linger: float, mask: Mask) -> int:
    os.setsid()
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    for number in _ENDING - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, {*mask} - _WATCHED)
    report = _Report(writer)
    try:
        _detach_streams(keep={life, writer})
        with Janitor() as helper:
            _serve(options, life, report, linger, stopped, helper)
    except HookerError as error:
        report.send(_describe(error))
        return 1
    except OSError as error:
        remedy = remedy_for(error.errno or 0) or "hooker doctor"
        report.send(_describe(KernelError(describe_os_error(error), remedy=remedy)))
        return 1
    return 0


def _serve(
    options: Options, life: int, report: _Report, linger: float, stopped: list[int], helper: Janitor
) -> None:
    group = Cgroup.named()
    undo = helper.register(janitor.cgroup(group.relative))
    try:
        group.make()
        with running(options, group.path) as engine:
            report.send({"cgroup": group.relative})
            while not stopped and not select.select([life], [], [], 1.0)[0]:
                pass
            drain(engine, linger, lambda: bool(stopped))
    finally:
        if group.remove():
            undo.done()


def _describe(error: HookerError) -> dict[str, Any]:
    bad_input = error.fault in ("configuration", "local")
    return {"error": error.message, "remedy": error.remedy, "configuration": bad_input}


class _Report:
    """What the launcher hears of the engine's start: one message. Later ones go to standard error."""

    def __init__(self, descriptor: int) -> None:
        self._pipe = os.fdopen(descriptor, "wb")

    def send(self, message: dict[str, Any]) -> None:
        if self._pipe.closed:
            print(f"hooker: {message.get('error', message)}", file=sys.stderr, flush=True)
            return
        try:
            with self._pipe:
                self._pipe.write(json.dumps(message).encode())
        except BrokenPipeError:
            pass  # the launcher has gone; so will the engine


def _command_main(command: list[str], group: Cgroup | None, mask: Mask, launcher: int) -> int:
    assert group is not None
    group.add()
    for name in ("SIGPIPE", "SIGXFSZ"):  # ignored by Python, not by whoever started us
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    # kill -9 of the launcher cannot be forwarded in any other way
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != launcher:
        return 1
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        os.execvpe(command[0], command, _environment())
    except FileNotFoundError:
        return _complain(f"{command[0]}: command not found", EXIT_NOT_FOUND)
    except OSError as error:
        return _complain(f"{command[0]}: {error.strerror}", EXIT_NOT_EXECUTABLE)


def _environment() -> dict[bytes, bytes]:
    """The environment without what Python put there when it started (PEP 538)."""
    given = Path("/proc/self/environ").read_bytes().split(b"\0")
    environment = dict(os.environb)
    if not any(entry.startswith(b"LC_CTYPE=") for entry in given):
        environment.pop(b"LC_CTYPE", None)
    return environment


def _detach_streams(keep: set[int]) -> None:
    """Hold nothing of the command's open but standard error: a pipe must end when the command ends it."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    for number in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        if number > 2 and number not in keep:
            try:
                os.close(number)
            except OSError:
                pass  # the directory's own, closed already
    cgroup.forget_mount()


def _die_by(number: int) -> NoReturn:
    """End as a command killed by this signal does, without a second core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    os._exit(128 + number)
