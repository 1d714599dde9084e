"""Unmodified programs over a transport of a user's class, and what becomes of them when it misbehaves."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import PLAIN, Pair, counts, eventually, peer, result, same

from hooker import start
from hooker.lab import Lab
from hooker.lab.engine import EngineProcess

RAISES = """import hooker
class Mine(hooker.Transport):
    def __init__(self):
        raise RuntimeError("not today")
    def open(self, port): pass
    def send(self, peer, message): pass
"""
OPEN = """import hooker
class Mine(hooker.Transport):
    def open(self, port): raise RuntimeError("no port for me")
    def send(self, peer, message): pass
"""
pytestmark = [pytest.mark.timeout(120), pytest.mark.skipif(PLAIN, reason="needs engines")]
ROOT = Path(__file__).parents[2]
MB = 1 << 20
SOAK = pytest.mark.soak
OPTIONS = ("--intercept", "segments", "--transport")

FAILS = {  # what it does, and how that is told
    "send": "ValueError: on purpose (broken.py:",
    "receive": "ValueError: on purpose (broken.py:",
    "stalls": "it has stood still for three seconds",
    "spins": "it has stood still for three seconds",
    "exits": "its process has ended (exit status 3)",
    "killed": "its process was killed by signal 9",
    "allocates": "MemoryError",
    "nonsense": "what its process says is no packet of the link",
    "floods": "it floods the engine with what is no message",
}
GOES_ON = ("duplicates", "reorders", "damages_some", "damages", "loses", "loses_large")
OFTEN = ("send", "spins", "damages_some", "loses", "loses_large")  # the others are for long runs


def some(names: Any) -> list[Any]:
    return [name if name in OFTEN else pytest.param(name, marks=SOAK) for name in names]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOKER_PATH", f"{ROOT / 'examples'}:{ROOT / 'tests' / 'classes'}")


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Lab, EngineProcess]]:
    """Its class does nothing wrong."""
    with pytest.MonkeyPatch.context() as patch, Lab() as lab:
        patch.setenv("HOOKER_PATH", str(ROOT / "tests" / "classes"))
        engine = lab.b.hooker(*OPTIONS, "broken:Broken")
        yield lab, engine
        engine.stop()
        print(engine.tail())


@pytest.fixture
def pair(server: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    """A client whose class does something wrong, once flows are engaged."""
    lab, engine = server
    monkeypatch.setenv("HOOKER_TEST_BREAK", request.param)
    client = lab.a.hooker(*OPTIONS, "broken:Broken")
    try:
        yield Pair(lab, client, engine, "segments")
    finally:
        try:
            client.stop()
        except subprocess.TimeoutExpired:
            client.kill9()
            raise
        print(client.tail())


def transfer(pair: Pair, port: int, go: Path | None = None) -> None:
    """5 MB each way; equal hashes. With ``go`` most of it after a flow was engaged."""
    assert pair.client
    before = engaged(pair.client)
    waits = [f"wait-file:{go}"] if go else []
    server = peer(pair.b, "serve", "0.0.0.0", port, "recv-all", f"send:{5 * MB}", "close")
    client = peer(
        pair.a, "connect", pair.b.v4, port, f"send:{MB}", *waits, f"send:{4 * MB}", "fin", "recv-all", "close"
    )
    if go:
        eventually(lambda: pair.client and engaged(pair.client) > before, 40)
        go.touch()
    one, other = result(client, 60), result(server, 60)
    assert (one["error"], other["error"]) == (None, None)
    same(one, other)
    same(other, one)


def hooker(*arguments: str) -> str:
    """What it says that refuses to do it."""
    done = subprocess.run(
        start.module("hooker", *arguments),
        env=start.environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    return done.stderr


def engaged(engine: EngineProcess) -> int:
    return counts(engine.status())["engaged"]


@pytest.mark.parametrize("pair", some(FAILS), indirect=True)
def test_one_that_fails_leaves_its_flows_to_tcp(
    pair: Pair, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    how = request.node.callspec.params["pair"]
    assert pair.client
    transfer(pair, 7700, tmp_path / "go")
    eventually(lambda: pair.client and pair.client.status()["engine"]["failed"])
    status = pair.client.status()
    assert status["engine"]["failed"]["broken:Broken"].startswith(f"broken:Broken: {FAILS[how]}")
    assert counts(status)["broken:Broken.failed"] == 1
    assert not status["peers"]
    assert status["engine"]["transport"] == ""
    before = pair.client.status()["reasons"].get("prototype-failed", 0)
    for number in range(3):
        transfer(pair, 7711 + number)  # on TCP, and it is said why, each time
    after = pair.client.status()["reasons"]
    assert after["prototype-failed"] == before + 3
    assert "peer-remembered-as-tcp" not in after
    said = hooker("set", "--pid", str(pair.client.pid), "--transport", "broken:Broken")
    assert said.startswith("hooker: transport 'broken:Broken' has failed: broken:Broken: ")
    assert said.count("\n") == 1
    assert pair.server
    assert not pair.server.status()["engine"]["failed"]


@pytest.mark.parametrize("pair", some(GOES_ON), indirect=True)
def test_one_that_only_carries_badly_loses_no_byte(
    pair: Pair, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    how = request.node.callspec.params["pair"]
    assert pair.client
    assert pair.server
    bad = counts(pair.server.status())["bad_messages"]
    transfer(pair, 7700, tmp_path / "go")
    for engine in (pair.client, pair.server):
        assert not engine.status()["engine"]["failed"]
    assert (counts(pair.server.status())["bad_messages"] > bad) == how.startswith("damages")


def test_a_path_that_doubles_everything_is_no_echo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From the first message on: what was said once more was answered, and that answered again."""
    monkeypatch.setenv("HOOKER_TEST_BREAK", "duplicates")
    monkeypatch.setenv("HOOKER_TEST_AFTER", "0")
    with Lab() as lab, Pair.open(lab, options=(*OPTIONS, "broken:Broken")) as both:
        transfer(both, 7720, tmp_path / "go")
        (before,) = both.engines[0].status()["peers"]
        time.sleep(1)
        (after,) = both.engines[0].status()["peers"]
        assert after["bytes_sent"] - before["bytes_sent"] < 5000
        for engine in both.engines:
            assert not {"peer-silent", "peer-not-engaged", "no-answer"} & set(engine.status()["reasons"])


def test_curl_and_nginx_over_the_example() -> None:
    done = subprocess.run(
        start.module("hooker.lab.demo", "--size", "5M", "--transport", "datagrams:Datagrams"),
        env=start.environment(),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nosuch:Mine", "nosuch:Mine: there is no module nosuch"),
        pytest.param("broken:Silent,vtl", "broken:Silent: Silent has no method send()", marks=SOAK),
    ],
)
def test_a_class_that_cannot_be_had_is_one_line_and_status_2(name: str, why: str) -> None:
    done = subprocess.run(
        start.module("hooker", "run", "--transport", name, "--", "true"),
        env=start.environment(),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith(f"hooker: {why}")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("class Mine(", "SyntaxError: '(' was never closed (mine.py, line 1)"),
        ("import nosuchthing", "ModuleNotFoundError: No module named 'nosuchthing' (mine.py:1, in <module>)"),
        (RAISES, "RuntimeError: not today (mine.py:4, in __init__)"),
        (OPEN, "RuntimeError: no port for me (mine.py:3, in open)"),
    ],
)
def test_nor_is_one_that_raises_before_it_is_made_more_than_a_line(
    tmp_path: Path, source: str, why: str
) -> None:
    (tmp_path / "mine.py").write_text(source)
    done = subprocess.run(
        start.module("hooker", "run", "--transport", "mine:Mine", "--", "true"),
        env=start.environment() | {"HOOKER_PATH": str(tmp_path)},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert (done.returncode, done.stderr) == (2, f"hooker: mine:Mine: {why}\n")
