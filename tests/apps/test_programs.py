"""ssh, scp, redis, iperf3, PostgreSQL and git, each unmodified, through Hooker."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from apps.servers import SSH_PORT, need, postgres_options, running_postgres, start_sshd
from support import EACH_FAMILY, Pair, address, url

from hooker.lab.apps import sha256, start_iperf3, start_nginx, start_redis, write_random

pytestmark = pytest.mark.timeout(120)
BOTH_KINDS = True

# ---- ssh ------------------------------------------------------------------------------------


@pytest.fixture
def ssh(pair: Pair) -> list[str]:
    """An sshd on host b with keys of its own; the options that ssh and scp need to reach it."""
    return start_sshd(pair.b, pair.lab.tmp / "ssh")


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_ssh_runs_a_command_with_both_streams(pair: Pair, ssh: list[str], family: str) -> None:
    name = address(pair.b, family)
    data = os.urandom(500_000)
    with pair.engaged(payload=2 * len(data)):
        cmd = ["ssh", *ssh, "-p", str(SSH_PORT), f"root@{name}", "cat; exit 7"]
        done = pair.a.run(cmd, input=data, check=False, timeout=30)
    assert done.stdout == data
    assert done.returncode == 7


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_scp_both_ways(pair: Pair, ssh: list[str], family: str, tmp_path: Path) -> None:
    digest = write_random(tmp_path / "here", 20_000_000)
    name = f"root@[{address(pair.b, family)}]"
    with pair.engaged(payload=40_000_000, flows=2):
        for source, target in (
            (tmp_path / "here", f"{name}:{tmp_path}/there"),
            (f"{name}:{tmp_path}/there", tmp_path / "back"),
        ):
            pair.a.run(["scp", *ssh, "-q", "-P", str(SSH_PORT), source, target], timeout=60)
    assert sha256(tmp_path / "there") == sha256(tmp_path / "back") == digest


# ---- redis, iperf3 --------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_redis_benchmark(pair: Pair, family: str) -> None:
    need("redis-server", "redis-benchmark", "redis-cli")
    start_redis(pair.b)
    host = ["-h", address(pair.b, family)]
    with pair.engaged(flows=20):
        out = pair.a.run(
            ["redis-benchmark", *host, "-t", "set,get,lrange_100", "-n", "4000", "-c", "20", "-q"], text=True
        ).stdout
        big = "x" * 300_000
        pair.a.run(["redis-cli", *host, "-x", "set", "big"], input=big, text=True)
        back = pair.a.run(["redis-cli", *host, "get", "big"], text=True).stdout
        slots = pair.a.run(["redis-cli", *host, "--csv", "info", "clients"], text=True).stdout
    assert out.count("requests per second") >= 3, out
    assert back.strip() == big
    assert "connected_clients:1" in slots


@pytest.mark.parametrize("direction", [[], ["-R"], ["--bidir"]])
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_iperf3(pair: Pair, family: str, direction: list[str]) -> None:
    need("iperf3")
    start_iperf3(pair.b)
    with pair.engaged(payload=1_000_000, flows=2):
        cmd = ["iperf3", "-J", "-c", address(pair.b, family), "-t", "1", *direction]
        report = json.loads(pair.a.run(cmd, text=True, timeout=40).stdout)
    assert report["end"]["sum_received"]["bytes"] > 1_000_000
    assert "error" not in report


# ---- PostgreSQL -----------------------------------------------------------------------------


@pytest.fixture
def postgres(pair: Pair) -> Iterator[Path]:
    """A fresh cluster on host b; yields the directory of its programs."""
    with running_postgres(pair.lab) as bin_dir:
        yield bin_dir


def test_psql_and_pgbench(pair: Pair, postgres: Path) -> None:
    host = postgres_options(pair.b.v4)
    rows = 100_000
    query = f"select md5(string_agg(n::text, ',')) from generate_series(1, {rows}) n"
    listing = f"copy (select n from generate_series(1, {rows}) n) to stdout"
    with pair.engaged(payload=500_000, flows=4):
        digest = pair.a.run(["psql", *host, "-Atc", query], text=True).stdout
        out = pair.a.run(["psql", *host, "-Atc", listing], text=True).stdout
        pair.a.run(["pgbench", *host, "-i", "-q", "-s", "1", "postgres"], timeout=60)
        bench = pair.a.run(
            ["pgbench", *host, "-c", "4", "-t", "50", "postgres"], text=True, timeout=60
        ).stdout
        six = postgres_options(pair.b.v6)
        sums = pair.a.run(["psql", *six, "-Atc", "select count(*) from pgbench_history"], text=True).stdout
    assert out == "".join(f"{n}\n" for n in range(1, rows + 1))
    assert len(digest.strip()) == 32
    assert "number of transactions actually processed: 200/200" in bench
    assert sums.strip() == "200"


# ---- git ------------------------------------------------------------------------------------


def _git(where: Path, *args: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *identity, *args], cwd=where, check=True, capture_output=True, timeout=30)


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_git_clone_over_http(pair: Pair, family: str, tmp_path: Path) -> None:
    need("git")
    work = tmp_path / "work"
    work.mkdir()
    _git(work, "init")
    digests = {}
    for n in range(20):
        digests[f"f{n}"] = write_random(work / f"f{n}", 200_000)
        _git(work, "add", ".")
        _git(work, "commit", "-m", f"{n}")
    www = start_nginx(pair.b, tmp_path)
    _git(tmp_path, "clone", "--bare", str(work), str(www / "repo.git"))
    _git(www / "repo.git", "update-server-info")
    with pair.engaged(payload=4_000_000):
        clone = ["git", "clone", "-q", url(pair.b, family, "repo.git"), str(tmp_path / "clone")]
        pair.a.run(clone, timeout=60, env={**os.environ, "GIT_TERMINAL_PROMPT": "0"})
    assert {name: sha256(tmp_path / "clone" / name) for name in digests} == digests
    _git(tmp_path / "clone", "fsck", "--full")
