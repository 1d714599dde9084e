"""Fixtures: the lab, hooked hosts, and the check that no test leaves anything behind.

Everything below ``tests/netns`` and ``tests/apps`` needs root and BPF. Without them it is skipped,
unless ``HOOKER_REQUIRE_BPF=1``, which makes that a failure.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hooker import lab_leftovers
from hooker.lab import Lab
from hooker.lab_engine import EngineProcess

PRIVILEGED = {"netns", "apps"}
HERE = Path(__file__).resolve().parent

os.environ.setdefault(lab_leftovers.SESSION_VARIABLE, uuid.uuid4().hex)


@dataclass
class Pair:
    """A lab with an engine on each host."""

    lab: Lab
    client: EngineProcess
    server: EngineProcess


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _privileged(item):
            item.add_marker(pytest.mark.root)
            item.add_marker(pytest.mark.bpf)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if not _privileged(item):
        return
    missing = _missing()
    if missing and os.environ.get("HOOKER_REQUIRE_BPF") == "1":
        pytest.fail(f"BPF is required, but {missing}", pytrace=False)
    elif missing:
        pytest.skip(missing)


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a cgroup, namespace, rule, route, BPF object or process behind."""
    if not _privileged(request.node):
        yield
        return
    before = lab_leftovers.snapshot()
    yield
    found = lab_leftovers.left(before)
    if found:
        pytest.fail(f"left behind: {', '.join(found)}", pytrace=False)


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Two hosts without engines."""
    with Lab() as made:
        yield made


@pytest.fixture
def hooked_pair(lab: Lab) -> Iterator[Pair]:
    """Two hosts, an engine on each."""
    yield from _pair(lab)


@pytest.fixture(scope="module")
def shared_pair() -> Iterator[Pair]:
    """One hooked pair for a module whose tests do not harm it."""
    with Lab() as made:
        yield from _pair(made)


def _pair(lab: Lab) -> Iterator[Pair]:
    engines: list[EngineProcess] = []
    try:
        engines += [host.hooker() for host in lab.hosts]
        yield Pair(lab, *engines)
    finally:
        for engine in engines:
            engine.stop()
            print(f"--- engine {engine.host.letter}\n{engine.tail()}")


def _privileged(item: pytest.Item) -> bool:
    return bool(PRIVILEGED & set(item.path.relative_to(HERE).parts)) if HERE in item.path.parents else False


_missing_cache: list[str | None] = []


def _missing() -> str | None:
    """Return what these tests lack on this machine, or None."""
    if not _missing_cache:
        _missing_cache.append(_look())
    return _missing_cache[0]


def _look() -> str | None:
    if os.geteuid():
        return "this is not root"
    try:
        with Lab():
            return None
    except Exception as exc:
        return f"no lab can be made here: {exc!r}"
