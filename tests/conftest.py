"""Fixtures: the lab, hooked hosts, and the check that no test leaves anything behind.

Everything below ``tests/netns`` and ``tests/apps`` needs root and BPF. Without them it is skipped,
unless ``HOOKER_REQUIRE_BPF=1``, which makes that a failure.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
from hypothesis import HealthCheck, settings
from lone_worker import LoneWorker
from support import INTERCEPT, KINDS, SLOWNESS, Pair

from hooker.lab import Lab, engine
from hooker.lab import leftovers as lab_leftovers

BEGAN = time.monotonic()
BUDGET = float(os.environ.get("HOOKER_TEST_BUDGET", "inf"))  # s; no test begins after them
PRIVILEGED = {"netns", "apps"}
LONGEST_WAIT = 900  # s, for others that go on
ITS_TURN = pytest.StashKey[bool]()
HERE = Path(__file__).resolve().parent

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored when we were started in the background
settings.register_profile(
    "bounded",
    derandomize=True,
    deadline=None,
    max_examples=150,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],  # of the machine, not of the tests
)
settings.load_profile("bounded")  # every run the same; `--hypothesis-profile default` looks further
if "PYTEST_XDIST_WORKER" in os.environ:  # its neighbour's namespaces are not left behind
    os.environ[lab_leftovers.SESSION_VARIABLE] = uuid.uuid4().hex
else:
    os.environ.setdefault(lab_leftovers.SESSION_VARIABLE, uuid.uuid4().hex)
engine.READY_TIMEOUT *= SLOWNESS


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--transport",
        metavar="NAME",
        help="the tests of transports over this one alone",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SLOWNESS > 1:
            _lengthen(item)
        if _privileged(item):
            item.add_marker(pytest.mark.root)
            item.add_marker(pytest.mark.bpf)


def _lengthen(item: pytest.Item) -> None:
    """What ends a test that hangs, on a machine that is slow."""
    mark = item.get_closest_marker("timeout")
    limit = float(mark.args[0]) if mark and mark.args else float(item.config.getini("timeout"))
    item.add_marker(pytest.mark.timeout(limit * SLOWNESS), append=False)


def _take(file: TextIO, kind: int) -> bool:
    """Whether the lock came in time: those that have it end, by their own limits."""
    deadline = time.monotonic() + LONGEST_WAIT
    while time.monotonic() < deadline:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return True
    return False


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """``@pytest.mark.alone``: no test of this run is beside it. Who waits for that lets nobody begin.

    Around pytest-timeout's own: a test's time begins with its turn.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    # Of one run: pytest-xdist gives each worker a folder in that of all.
    common = item.config._tmp_path_factory.getbasetemp().parent  # type: ignore[attr-defined]
    kind = fcntl.LOCK_SH if item.get_closest_marker("alone") is None else fcntl.LOCK_EX
    with open(common / "turn", "w") as turn, open(common / "run", "w") as run:
        item.stash[ITS_TURN] = _take(turn, fcntl.LOCK_EX) and _take(run, kind)
        fcntl.flock(turn, fcntl.LOCK_UN)
        yield
        fcntl.flock(run, fcntl.LOCK_UN)  # also of a duplicate that the test has left open


def pytest_runtest_setup(item: pytest.Item) -> None:
    if not item.stash.get(ITS_TURN, True):
        pytest.fail(
            f"other tests went on for {LONGEST_WAIT} s, and one of both has to be alone", pytrace=False
        )
    if time.monotonic() - BEGAN > BUDGET:
        pytest.skip(f"HOOKER_TEST_BUDGET: the {BUDGET:g} s are over, and this machine is slow ({SLOWNESS})")
    if not _privileged(item):
        return
    missing = _missing()
    if missing and os.environ.get("HOOKER_REQUIRE_BPF") == "1":
        pytest.fail(f"BPF is required, but {missing}", pytrace=False)
    elif missing:
        pytest.skip(missing)


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_at_the_end() -> Iterator[None]:
    """Look once more when the fixtures of the last module are gone."""
    before = lab_leftovers.snapshot()
    yield
    found = lab_leftovers.left(before)
    if found:
        pytest.fail(f"left behind at the end: {', '.join(found)}", pytrace=False)


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
    with Pair.open(lab) as pair:
        yield pair


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``BOTH_KINDS = True`` in a module: its pair has each kind of engine, the second in the long runs."""
    if getattr(metafunc.module, "BOTH_KINDS", False) and "module_pair" in metafunc.fixturenames:
        metafunc.parametrize("module_pair", KINDS, indirect=True, scope="module")


@pytest.fixture(scope="module")
def module_pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """One hooked pair for a module whose tests do not harm it; programs started stay up."""
    with Lab() as made, Pair.open(made, kind=getattr(request, "param", INTERCEPT)) as pair:
        yield pair


@pytest.fixture
def pair(module_pair: Pair) -> Iterator[Pair]:
    """The module's hooked pair; programs that the test starts end with it."""
    with module_pair.programs():
        yield module_pair


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


@pytest.fixture
def lone() -> Iterator[LoneWorker]:
    """A worker without kernel programs: the test writes its events."""
    with contextlib.ExitStack() as stack:
        yield LoneWorker(stack)
