"""What engines count, for Prometheus: a collector for a registry of ``prometheus_client`` (docs/metrics.md).

Needs the package prometheus-client, as ``hooker[metrics]`` has it; without it the import fails.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from prometheus_client.core import Metric
from prometheus_client.registry import Collector as Base

from hooker.control import status_socket
from hooker.errors import UsageError
from hooker.metrics import samples
from hooker.metrics.families import ALL

Replies = Sequence[tuple[str, dict[str, Any] | None]]


class Engine(Protocol):
    """What is asked of an engine: ``hooker.Hooker`` is one."""

    def snapshot(self) -> dict[str, Any]: ...


class Collector(Base):
    """Counts of these engines of one's own process, or, without any, of all live ones of this user.

    ::

        prometheus_client.REGISTRY.register(hooker.metrics.Collector(engine))

    The former are asked directly, in the thread that collects; ``hooker_up`` is 0 before start(), and the
    counts stay after close(). The latter are asked by their status sockets; it is 0 for one that has not
    answered within ``within`` seconds, or as long as ``hooker status`` waits. collect() raises
    ConfigurationError when the run-time directory cannot be believed.
    """

    def __init__(self, *engines: Engine, within: float = math.inf) -> None:
        self._engines = engines
        self._within = within

    def collect(self) -> Iterable[Metric]:
        """All families that have samples. An engine is named by its pid, a further one with a number."""
        return samples.collect(self.replies())

    def describe(self) -> Iterable[Metric]:
        """All families that there may be."""
        return [samples.empty(family) for family in ALL.values()]

    def replies(self) -> Replies:
        """Names and snapshots; None: there is none."""
        if not self._engines:
            return [(reply.name, reply.snapshot) for reply in status_socket.replies(self._within)]
        return [(_name(number), _snapshot(engine)) for number, engine in enumerate(self._engines, 1)]


def _name(number: int) -> str:
    return f"{os.getpid()}" if number == 1 else f"{os.getpid()}-{number}"


def _snapshot(engine: Engine) -> dict[str, Any] | None:
    try:
        return engine.snapshot()
    except UsageError:
        return None
