"""Questions to the control sockets of engines, all at once, and their answers: none hides the others'.

An engine of a slow machine gets PATIENCE, as long as it is at work; one whose process has used no CPU time
for STANDSTILL is stopped or stuck. REPLY_TIMEOUT is the end in any case.
"""

from __future__ import annotations

import json
import math
import select
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

STANDSTILL = 3.0  # s
PATIENCE = 20.0  # s, until an answer begins
REPLY_TIMEOUT = 28.0  # s, until it is here
LOOK = 0.05  # s between two looks at whom nothing comes from
MAX_REPLY = 64 << 20  # bytes
CHUNK = 65536


class Question:
    """One to the engine of process ``pid`` that listens on ``path``; a context manager.

    ``answer``: what it says, or what went wrong; None: not yet. ``within``: seconds, if fewer.
    """

    def __init__(self, pid: int, path: Path, request: dict[str, Any], within: float = math.inf) -> None:
        self.pid, self.path, self._within = pid, path, within
        self.answer: dict[str, Any] | Exception | None = None
        self._request = json.dumps(request).encode() + b"\n"
        self._began = self._lively = time.monotonic()
        self._used = _cpu_time(pid)
        self.asked = False
        self._parts: list[bytes] = []
        self._size = 0
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.setblocking(False)

    def go_on(self) -> None:
        """What can be done without waiting."""
        try:
            if not self.asked:
                self.socket.connect(str(self.path))
                self.asked = True
                self.socket.sendall(self._request)
            self._read()
        except BlockingIOError as error:  # too many ask, or the answer is not there
            self.answer = self._given_up(error)
        except (OSError, ValueError) as error:
            self.answer = error

    def _read(self) -> None:
        """Raises BlockingIOError: not all is here. OSError, ValueError: it is none."""
        while chunk := self.socket.recv(CHUNK):
            self._lively = time.monotonic()
            self._parts.append(chunk)
            self._size += len(chunk)
            if self._size > MAX_REPLY:
                raise ValueError("too long")
            if self._lively > self._began + min(self._within, REPLY_TIMEOUT):
                raise TimeoutError
        answer = json.loads(b"".join(self._parts))
        if not isinstance(answer, dict):
            raise ValueError("no object")
        self.answer = answer

    def _given_up(self, waited_for: BlockingIOError) -> Exception | None:
        now, used = time.monotonic(), _cpu_time(self.pid)
        if used != self._used:
            self._used, self._lively = used, now
        end = self._began + min(self._within, REPLY_TIMEOUT if self._parts else PATIENCE)
        if now < min(end, self._lively + STANDSTILL):
            return None
        return TimeoutError() if self.asked else waited_for

    def why(self) -> str:
        """There is no answer: for people."""
        if isinstance(self.answer, TimeoutError):
            seconds = time.monotonic() - self._began
            return f"it is busy, or stands still: no answer within {seconds:.0f} s"
        if isinstance(self.answer, BlockingIOError):
            return "it is busy: too many ask"
        return "it is closing, or its answer cannot be read"

    def __enter__(self) -> Question:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()


def ask(questions: Sequence[Question]) -> None:
    """Returns when each has its answer."""
    while waiting := [question for question in questions if question.answer is None]:
        for question in waiting:
            question.go_on()
        poll = select.poll()  # select() knows descriptors below 1024 only
        for question in waiting:
            if question.asked:
                poll.register(question.socket, select.POLLIN)
        if all(question.answer is None for question in waiting):
            poll.poll(LOOK * 1000)


def _cpu_time(pid: int) -> int:
    """That of a process, in ticks; 0: there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return int(fields[11]) + int(fields[12])  # utime, stime: proc(5)
    except (OSError, ValueError, IndexError):
        return 0
