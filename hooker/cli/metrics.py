"""What ``hooker metrics`` does: print the counts of all live engines, or serve them."""

from __future__ import annotations

import os
import sys

from prometheus_client import CollectorRegistry, generate_latest

from hooker.cli.stopped import Stopped
from hooker.errors import require_root
from hooker.metrics import Collector
from hooker.metrics.server import Server, parse_address


def show() -> None:
    """All of it at once: half of it would be taken for the whole."""
    require_root("hooker metrics")  # engines are root's, and answer nobody else
    registry = CollectorRegistry()
    registry.register(Collector())
    sys.stdout.buffer.write(generate_latest(registry))


def serve(where: str, stop: Stopped) -> None:
    """Until it is stopped. ``where``: [ADDRESS:]PORT. Raises ConfigurationError."""
    address, port = parse_address(where)
    require_root("hooker metrics --listen")
    with Server(address, port) as server:
        try:
            print(f"hooker: metrics at {server.url}", flush=True)
        except OSError:  # nobody reads it; they are served all the same
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # with what is buffered
        stop.wait()
