"""Engines that see the same sockets: one cgroup for two namespaces, and a cgroup inside another's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import KIND, PLAIN, Pair, counts, peer, result, same

from hooker.lab import Lab
from hooker.lab.apps import HTTP_PORT, sha256, start_nginx, write_random
from hooker.lab.engine import EngineProcess

RUN = [sys.executable, "-m", "hooker", "run", *KIND, "-v", "--"]
SIZE = 3_000_000  # bytes


@pytest.fixture(params=["ab", "ba"])
def shared(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two engines on the cgroup of both hosts, as by default on the root, started one after the other."""
    if PLAIN:
        pytest.skip("needs engines")
    engines: dict[str, EngineProcess] = {}
    try:
        for letter in request.param:
            engines[letter] = {"a": lab.a, "b": lab.b}[letter].hooker(*KIND, cgroup=lab.cgroup)
        yield Pair(lab, engines["a"], engines["b"])
    finally:
        for engine in engines.values():
            engine.stop()
            print(engine.tail())


def test_each_engine_takes_the_sockets_of_its_own_namespace(shared: Pair) -> None:
    for where in (shared.b.v4, shared.b.v6):
        with shared.engaged(payload=SIZE):
            server = peer(shared.b, "serve", "::", 7300, "recv-all", "send:1000", "close")
            client = peer(shared.a, "connect", where, 7300, f"send:{SIZE}", "fin", "recv-all", "close")
            one, other = result(client), result(server)
        same(one, other)
        same(other, one)


def test_a_command_hooked_inside_a_hooked_cgroup_has_one_engine(shared: Pair) -> None:
    """It is slow enough to be engaged before it ends."""
    lab = shared.lab
    digest = write_random(lab.tmp / "file", 5 * SIZE)
    www = start_nginx(lab.b, lab.tmp)
    (lab.tmp / "file").rename(www / "file")
    command = [
        *RUN,
        "curl",
        "-sS",
        "--limit-rate",
        "10M",
        "-o",
        lab.tmp / "got",
        f"http://{lab.b.v4}:{HTTP_PORT}/file",
    ]
    done = lab.a.run(command, hooked=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert b"flow engaged" in done.stderr
    assert sha256(lab.tmp / "got") == digest
    assert shared.client
    seen = counts(shared.client.status())
    assert seen["engaged"] == 0
    assert seen["kernel.other-engine"] == 1


def test_a_server_hooked_inside_a_hooked_cgroup_has_one_engine(shared: Pair) -> None:
    serve = [
        sys.executable,
        str(Path(__file__).resolve().parents[1] / "apps" / "peer.py"),
        "serve",
        "0.0.0.0",
    ]
    server = shared.b.popen(
        [*RUN, *serve, "7301", "recv-all", "close"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    shared.b.wait_listening(7301, 30)
    client = peer(shared.a, "connect", shared.b.v4, 7301, f"send:{SIZE}", "close")
    one, other = result(client), result(server)
    same(one, other)
    assert shared.server
    assert counts(shared.server.status())["engaged"] == 0


@pytest.mark.parametrize("inner", ["segments", "messages"])
def test_an_engine_of_another_kind_further_out_leaves_its_sockets_alone(lab: Lab, inner: str) -> None:
    """Its option has another version, and is another engine's all the same."""
    if PLAIN:
        pytest.skip("needs engines")
    outer = "messages" if inner == "segments" else "segments"
    server = lab.b.hooker("--intercept", inner)
    around = lab.a.hooker("--intercept", outer)
    command = [sys.executable, "-m", "hooker", "run", "--intercept", inner, "-v", "--"]
    ask = [sys.executable, str(Path(__file__).resolve().parents[1] / "apps" / "peer.py"), "connect", lab.b.v4]
    serving = peer(lab.b, "serve", "0.0.0.0", 7302, "recv-all", "close")
    asking = lab.a.popen(
        [*command, *ask, "7302", f"send:{SIZE}", "sleep:0.5", "close"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    one, other = result(asking), result(serving)
    same(one, other)
    assert counts(server.status())["engaged"] == 1
    assert counts(around.status())["kernel.other-engine"] == 1
    assert around.status()["states"] == {}
