"""Sessions of programs under which engines are stopped, and new ones started: nobody notices.

A new engine does not know the connections of the one before: they stay on TCP, and new ones are hooked.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
from apps.servers import SSH_PORT, need, postgres_options, running_postgres, start_sshd
from support import eventually
from ways import HOOKED, end, engaged, gone, open_way, revive

from hooker.lab import Lab
from hooker.lab.apps import HTTP_PORT, sha256, start_nginx, write_random

pytestmark = [pytest.mark.timeout(180), pytest.mark.soak]

EXCHANGES = ("a", "b", "ab")
ROWS, ROWS_AT_A_TIME = 200_000, 500
SOON = 3.0  # s: an answer within which at most an engine has ended, on a busy machine
by_order_or_not = pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
each_way = pytest.mark.parametrize("way", HOOKED)


@each_way
@by_order_or_not
def test_a_shell_session_goes_on(lab: Lab, way: str, kill: bool) -> None:
    """One line is asked and answered before, while and after each exchange."""
    with open_way(lab, way) as pair:
        options = start_sshd(pair.b, lab.tmp / "ssh")
        command = [
            "ssh",
            *options,
            "-p",
            str(SSH_PORT),
            f"root@{pair.b.v4}",
            "while read n; do echo $((n + 1)); done",
        ]
        session = pair.a.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        asked = 0

        def ask() -> None:
            nonlocal asked
            assert session.stdin
            assert session.stdout
            began = time.monotonic()
            session.stdin.write(f"{asked}\n")
            session.stdin.flush()
            asked += 1
            assert session.stdout.readline() == f"{asked}\n"
            if asked > 1:
                assert time.monotonic() - began < SOON

        ask()
        eventually(lambda: engaged(pair) > 0)
        for hosts in EXCHANGES:
            ask()
            end(pair, hosts, kill=kill)
            ask()
            gone(pair, hosts)
            revive(pair, way, hosts)
            ask()
        session.communicate(timeout=20)
        assert session.returncode == 0


@each_way
@by_order_or_not
def test_rows_that_are_copied_in_and_out_arrive(lab: Lab, way: str, kill: bool) -> None:
    """psql's COPY, both ways at once, through three exchanges."""
    need("psql")
    with open_way(lab, way) as pair, running_postgres(lab):
        psql = ["psql", *postgres_options(pair.b.v4), "-v", "ON_ERROR_STOP=1", "-Atc"]
        pair.a.run([*psql, "create table t (n int)"])
        over = threading.Event()
        copy_in = pair.a.popen([*psql, "copy t from stdin"], stdin=subprocess.PIPE, text=True)
        out = f"copy (select n, pg_sleep(0.0001) from generate_series(1, {ROWS // 10}) n) to stdout"
        with (lab.tmp / "rows").open("wb") as rows:
            copy_out = pair.a.popen([*psql, out], stdout=rows)
        writer = threading.Thread(target=_write_rows, args=(copy_in, over), daemon=True)
        writer.start()
        eventually(lambda: engaged(pair) > 0)
        for hosts in EXCHANGES:
            end(pair, hosts, kill=kill)
            gone(pair, hosts)
            revive(pair, way, hosts)
        assert copy_in.poll() is None, "all was written before the engines were exchanged"
        over.set()
        writer.join(60)
        assert (copy_in.wait(60), copy_out.wait(60)) == (0, 0)
        total = pair.a.run([*psql, "select count(*), sum(n) from t"], text=True).stdout
    assert total == f"{ROWS}|{ROWS * (ROWS + 1) // 2}\n"
    numbers = [int(line.split()[0]) for line in (lab.tmp / "rows").read_text().splitlines()]
    assert numbers == list(range(1, ROWS // 10 + 1))


def _write_rows(copy: subprocess.Popen[str], over: threading.Event) -> None:
    """Half of them little by little, the rest when it is *over*."""
    assert copy.stdin
    with copy.stdin:
        for n in range(1, ROWS + 1):
            copy.stdin.write(f"{n}\n")
            if n % ROWS_AT_A_TIME == 0 and not over.is_set():
                copy.stdin.flush()
                over.wait(0.1 if n < ROWS // 2 else 60)


@each_way
@by_order_or_not
def test_a_command_under_hooker_run_goes_on_when_its_peers_engine_is_exchanged(
    lab: Lab, way: str, kill: bool
) -> None:
    with open_way(lab, way) as pair:
        assert pair.client
        pair.client.stop()
        digest = write_random(start_nginx(pair.b, lab.tmp) / "file", 40_000_000)
        got, errors = lab.tmp / "got", lab.tmp / "errors"
        fetch = ["curl", "-sS", "--limit-rate", "4M", "-o", str(got), f"http://{pair.b.v4}:{HTTP_PORT}/file"]
        run = [sys.executable, "-m", "hooker", "run", "--intercept", way, "-v", "--", *fetch]
        with errors.open("wb") as log:
            curl = pair.a.popen(run, hooked=False, stderr=log)
        eventually(lambda: errors.read_text().count("flow engaged") == 1, 30)
        end(pair, "b", kill=kill)
        gone(pair, "b")
        revive(pair, way, "b")
        assert curl.wait(60) == 0, errors.read_text()
        assert sha256(got) == digest
