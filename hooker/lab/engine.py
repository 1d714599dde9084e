"""One engine process of the lab: started, asked, stopped or killed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hooker import start
from hooker.control import status_socket as control

READY_TIMEOUT = 60.0  # s; BCC compiles the kernel programs at start


class EngineProcess:
    """``hooker up`` for one host, ready to hook.

    Args:
        host: its letter.
        popen: starts a command on the host, as ``Host.popen()`` does.
        cgroup: that it serves.
        log: file that it writes to.
        port: VTL's UDP port.
        args: further options of ``hooker up``.

    Raises:
        RuntimeError: the engine ended before it was ready, or was not ready in time.
    """

    def __init__(
        self,
        host: str,
        popen: Callable[..., subprocess.Popen[Any]],
        cgroup: Path,
        *,
        log: Path,
        port: int,
        args: tuple[str, ...] = (),
    ) -> None:
        self.log, self.port = log, port
        self.host, self._popen, self._cgroup = host, popen, cgroup
        reader, writer = os.pipe()
        try:
            self.proc = self._start(args, writer)
        finally:
            os.close(writer)
        self._wait_ready(reader)

    @property
    def pid(self) -> int:
        """The engine's process id."""
        return self.proc.pid

    def _start(self, args: tuple[str, ...], ready: int) -> subprocess.Popen[Any]:
        cmd = start.module("hooker", "up", "--cgroup", str(self._cgroup))
        cmd += ["--listen-port", str(self.port), "--ready-fd", str(ready), *args]
        own: dict[str, Any] = {"env": start.environment(), "cwd": "/", "pass_fds": (ready,)}
        with self.log.open("wb") as log:
            return self._popen(cmd, hooked=False, stdout=log, stderr=log, **own)

    def _wait_ready(self, reader: int) -> None:
        with os.fdopen(reader, "rb", buffering=0) as pipe:
            ready, _, _ = select.select([pipe], [], [], READY_TIMEOUT)
            if ready and pipe.read(1):
                return
        self.stop()
        raise RuntimeError(f"the engine of host {self.host} did not start: {self.tail()}")

    def tail(self, size: int = 2000) -> str:
        """Return the end of what the engine wrote to its log."""
        return self.log.read_text(errors="replace")[-size:] if self.log.exists() else ""

    def status(self) -> dict[str, Any]:
        """Return the engine's snapshot.

        Raises:
            RuntimeError: the engine does not answer.
        """
        for snapshot in control.snapshots():
            if snapshot.get("engine", {}).get("pid") == self.pid:
                return snapshot
        raise RuntimeError(f"the engine of host {self.host} does not answer: {self.tail()}")

    def kill9(self) -> None:
        """Kill the engine without warning."""
        self.proc.kill()
        self.proc.wait()

    def stop(self, timeout: float = 10) -> int:
        """End the engine in order and return its exit status.

        Raises:
            subprocess.TimeoutExpired: it did not end; it has been killed.
        """
        if self.proc.poll() is None:
            self.proc.send_signal(signal.SIGTERM)
            try:
                self.proc.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill9()
                raise
        return self.proc.returncode

    def rss(self) -> int:
        """Return the engine's resident memory in bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self) -> float:
        """Return the CPU time the engine has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
