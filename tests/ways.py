"""The same test over plain TCP and over engines: what is promised is what TCP does.

A test that takes ``way`` runs once for each; HOOKER_TEST_WAYS=messages (comma between several) names others.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from support import SLOWNESS, Pair, counts, eventually

from hooker.control import netns
from hooker.lab import INTERFACE, Host, Lab
from hooker.lab.meter import WireMeter

ENGINES = tuple(os.environ.get("HOOKER_TEST_WAYS", "segments").split(","))
HOOKED = [name for name in ENGINES if name != "plain"]
WAYS = ["plain", *HOOKED]


def options(way: str) -> tuple[str, ...]:
    """Return what ``hooker up`` is told to be the engine of *way*."""
    return ("--intercept", way)


@contextlib.contextmanager
def open_way(lab: Lab, way: str, *more: str) -> Iterator[Pair]:
    """A pair with engines of *way*, with *more* options; without engines if that is ``plain``."""
    with Pair.open(lab, "" if way == "plain" else "ab", (*options(way), *more)) as pair:
        yield pair


def engines_of(pair: Pair, hosts: str) -> list[str]:
    """Return the names under which *pair* keeps the engines of *hosts* ("a", "b", "ab")."""
    return [{"a": "client", "b": "server"}[letter] for letter in hosts]


def end(pair: Pair, hosts: str, kill: bool) -> None:
    """Kill the engines of *hosts* at once, or stop them in order."""
    engines = [getattr(pair, name) for name in engines_of(pair, hosts)]
    for engine in engines if kill else ():
        engine.proc.kill()
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda engine: engine.kill9() if kill else engine.stop(), engines))


def revive(pair: Pair, way: str, hosts: str = "ab") -> None:
    """Start those engines of *hosts* again that do not run; the lab ends them."""

    def start(name: str) -> None:
        if (engine := getattr(pair, name)).proc.poll() is not None:
            setattr(pair, name, getattr(pair.lab, engine.host).hooker(*options(way)))

    with ThreadPoolExecutor() as pool:
        list(pool.map(start, engines_of(pair, hosts)))


def traces(host: Host) -> list[str]:
    """Return what an engine has put into *host*'s namespace: rules, devices, routes in other tables."""

    def look() -> list[str]:
        found = []
        for family in ("-4", "-6"):
            found += [line for line in _ip(family, "rule") if "fwmark" in line]
            found += [line for line in _ip(family, "route", "show", "table", "all") if _of_an_engine(line)]
        devices = json.loads("".join(_ip("-j", "link")))
        return found + [one["ifname"] for one in devices if one["ifname"] not in ("lo", INTERFACE)]

    return netns.call(host.netns, look)


def _ip(*arguments: str) -> list[str]:
    command = ["ip", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5 * SLOWNESS)
    return done.stdout.splitlines()


def _of_an_engine(route: str) -> bool:
    words = route.split()
    return "table" in words and words[words.index("table") + 1] not in ("local", "main")


def gone(pair: Pair, hosts: str) -> None:
    """Assert that ended engines of *hosts* leave nothing in their namespaces."""
    for host in (host for host in pair.lab.hosts if host.letter in hosts):
        eventually(lambda host=host: not traces(host))  # type: ignore[misc]


def engaged(pair: Pair) -> int:
    """Return how many flows the client's engine has engaged. One that has no CPU is asked again."""
    client, found = pair.client, list[int]()
    assert client

    def answers() -> bool:
        with contextlib.suppress(RuntimeError):
            found.append(counts(client.status())["engaged"])
        return bool(found)

    eventually(answers, tell=client.tail)
    return found[0]


class Paths:
    """The two paths of a lab, the wire and the transport, and what of them is dead.

    A meter at each host drops what arrives. What a host's own egress drops it would know at once.
    """

    def __init__(self, lab: Lab) -> None:
        self._to_b = lab.meter
        self._to_a = WireMeter(lab.a.netns, INTERFACE, lab.vtl_port)

    def __enter__(self) -> Paths:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drop()
        self._to_a.close()

    def drop(self, *classes: str, to: str = "ab") -> None:
        """Drop these classes ("tcp", "vtl") towards the hosts *to*, from now on, and nothing else."""
        self._to_b.drop(to_b=classes if "b" in to else ())
        self._to_a.drop(to_b=classes if "a" in to else ())


FLOWS = Path(__file__).resolve().parent / "apps" / "flows.py"


def flows(
    host: Host, role: str, where: str, port: int, *arguments: str, prefix: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    """Start ``apps/flows.py`` on *host*; what serves is listening when this returns.

    Args:
        prefix: a command that runs it, and hooks it (``hooker run``).
    """
    command = [*prefix, sys.executable, str(FLOWS), role, where, str(port), *arguments]
    proc = host.popen(command, hooked=not prefix, stdout=subprocess.PIPE, text=True)
    if role in ("echo", "hold"):
        host.wait_listening(port)
    return proc


def outcome(proc: subprocess.Popen[str], timeout: float = 60) -> dict[str, Any]:
    """Wait for ``apps/flows.py`` to end; return what it says."""
    output, _ = proc.communicate(timeout=timeout * SLOWNESS)
    result: dict[str, Any] = json.loads(output)
    return result
