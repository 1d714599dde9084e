"""The same test over plain TCP and over engines: what is promised is what TCP does.

A test that takes ``way`` runs once for each; HOOKER_TEST_WAYS=messages (comma between several) names others.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator

import pytest
from support import Pair

from hooker.lab import Lab

ENGINES = tuple(os.environ.get("HOOKER_TEST_WAYS", "segments").split(","))
needs_segments = pytest.mark.skipif(
    "segments" in ENGINES and not importlib.util.find_spec("hooker.engine.segments"),
    reason="this tree has no engine that takes segments",
)
HOOKED = [pytest.param(name, marks=needs_segments) for name in ENGINES if name != "plain"]
WAYS = ["plain", *HOOKED]


def options(way: str) -> tuple[str, ...]:
    """Return what ``hooker up`` is told to be the engine of *way*."""
    return () if way == "messages" else ("--intercept", way)


@contextlib.contextmanager
def open_way(lab: Lab, way: str, *more: str) -> Iterator[Pair]:
    """A pair with engines of *way*, with *more* options; without engines if that is ``plain``."""
    with Pair.open(lab, "" if way == "plain" else "ab", (*options(way), *more)) as pair:
        yield pair
