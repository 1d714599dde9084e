"""The ``hooker`` command with a stand-in for the engine: ``python fake_engine.py run -- COMMAND``.

What happens to the engine is appended to $FAKE_LOG, one word and the engine's pid a line. $FAKE_FAIL
makes its start fail with that text, $FAKE_MISSING with a file that is not there, $FAKE_SLOW makes it take so
many seconds; $FAKE_FLOWS names a file that holds its number of open flows.
"""

from __future__ import annotations

import os
import sys
import time
import types
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

from hooker import transports
from hooker.control.janitor import Janitor
from hooker.control.status_socket import ControlServer
from hooker.errors import KernelError
from hooker.events import Event, Kind, SocketAddress


def log(word: str) -> None:
    if "FAKE_LOG" in os.environ:
        with open(os.environ["FAKE_LOG"], "a") as file:
            file.write(f"{word} {os.getpid()}\n")


class Hooker:
    def __init__(self, **settings: Any) -> None:
        self.settings = settings

        self.janitor = Janitor()
        self.control = ControlServer(self.snapshot, change=self.set, janitor=self.janitor)

    def start(self) -> None:
        if "FAKE_FAIL" in os.environ:
            raise KernelError(os.environ["FAKE_FAIL"], remedy="try a newer one")
        if "FAKE_MISSING" in os.environ:
            Path(os.environ["FAKE_MISSING"]).read_bytes()
        if "FAKE_SLOW" in os.environ:
            log("starting")
            time.sleep(float(os.environ["FAKE_SLOW"]))
        if self.settings["on_event"] is not None:
            self.settings["on_event"](Event(Kind.PEER_UP, 0.0, SocketAddress(IPv6Address("fd00::2"), 6253)))
        self.control.start()
        log("start")

    def probe(self) -> None:
        if "FAKE_PROBE" in os.environ:
            log("probing")
            time.sleep(float(os.environ["FAKE_PROBE"]))

    def close(self) -> None:
        self.control.close()
        self.janitor.close()
        log("close")

    def set(self, *, transport: str | None = None) -> None:
        if transport is not None:
            self.settings["transport"] = str(transports.choose(transport))

    def snapshot(self) -> dict[str, Any]:
        count = int(Path(os.environ["FAKE_FLOWS"]).read_text()) if "FAKE_FLOWS" in os.environ else 0
        flow = {
            "flow_id": 1 << 32,
            "role": "client",
            "local": "10.0.0.1:4000",
            "remote": "10.0.0.2:80",
            "state": "engaged",
            "reason": None,
            "bytes_sent": 1500,
            "bytes_received": 0,
        }
        engine = {
            "pid": os.getpid(),
            "netns": Path("/proc/self/ns/net").stat().st_ino,
            "cgroup": str(self.settings["cgroup"]),
            "intercept": self.settings["intercept"],
            "transport": self.settings["transport"],
            "skipped": {},
            "listen_port": self.settings["listen_port"],
            "uptime": 61.0,
        }
        released = {**flow, "state": "released", "reason": "no answer"}
        return {
            "engine": engine,
            "peers": [],
            "states": {"engaged": count, "released": 1} if count else {"released": 1},
            "flows": [flow] * count + [released],
            "reasons": {"no answer": 1},
            "counters": {},
            "policy": str(self.settings["policy"]),
        }


def main() -> None:
    module = types.ModuleType("hooker.hooker")
    module.Hooker = Hooker  # type: ignore[attr-defined]
    module.Event = str  # type: ignore[attr-defined]
    sys.modules["hooker.hooker"] = module
    from hooker.__main__ import main as command

    command()


if __name__ == "__main__":
    main()
