"""``hooker run`` with the real engine, between two hosts."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import KIND

from hooker.lab import Lab
from hooker.lab.apps import HTTP_PORT, sha256, start_nginx, write_random
from hooker.lab.engine import EngineProcess

RUN = [sys.executable, "-m", "hooker", "run", *KIND]
SIZE = 20_000_000  # bytes
SLOWLY = ("--limit-rate", "5M")  # curl's: on a busy machine a flow is not engaged in an instant

SEND_AND_EXIT = """
import os, socket, sys
data = open(sys.argv[1], 'rb').read()
with socket.create_connection((sys.argv[2], 7000)) as s:
    s.sendall(data)
os._exit(9)
"""
RECEIVE_SLOWLY = """
import hashlib, socket, sys, time
listener = socket.create_server((sys.argv[1], 7000))
listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)  # else it is there before it is read
s, _ = listener.accept()
digest, size = hashlib.sha256(), 0
while data := s.recv(1 << 20):
    digest.update(data); size += len(data); time.sleep(0.02)
print(size, digest.hexdigest())
"""


@pytest.fixture
def server(lab: Lab) -> Iterator[EngineProcess]:
    """The engine of host b; host a has none but what the test runs."""
    engine = lab.b.hooker(*KIND)
    try:
        yield engine
    finally:
        engine.stop()


def test_an_unmodified_curl_fetches_over_vtl_and_keeps_its_own_output(
    lab: Lab, server: EngineProcess
) -> None:
    digest = write_random(lab.tmp / "file", SIZE)
    www = start_nginx(lab.b, lab.tmp)
    (lab.tmp / "file").rename(www / "file")
    command = [*RUN, "-v", "--", "curl", "-sS", *SLOWLY, f"http://{lab.b.v4}:{HTTP_PORT}/file"]
    done = lab.a.run(command, hooked=False)
    assert hashlib.sha256(done.stdout).hexdigest() == digest
    assert b"flow engaged" in done.stderr
    assert server.status()["flows"] == [] or server.status()["flows"][0]["state"] == "closed"


def test_the_exit_status_of_curl_comes_through(lab: Lab, server: EngineProcess) -> None:
    command = [*RUN, "--", "curl", "-sS", f"http://{lab.b.v4}:{HTTP_PORT}/"]
    done = lab.a.run(command, hooked=False, check=False)
    connection_refused = 7  # curl(1)
    assert done.returncode == connection_refused
    assert b"hooker" not in done.stderr


def test_what_a_command_sent_before_it_ended_arrives(lab: Lab, server: EngineProcess) -> None:
    digest = write_random(lab.tmp / "data", SIZE)
    receiver = lab.b.popen(
        [sys.executable, "-c", RECEIVE_SLOWLY, lab.b.v4], stdout=subprocess.PIPE, text=True
    )
    lab.b.wait_listening(7000)
    sender = [*RUN, "-v", "--", sys.executable, "-c", SEND_AND_EXIT, str(lab.tmp / "data"), lab.b.v4]
    done = lab.a.run(sender, hooked=False, check=False)
    assert done.returncode == 9
    assert b"flow engaged" in done.stderr
    output, _ = receiver.communicate(timeout=30)
    assert output.split() == [str(SIZE), digest]
    assert sha256(lab.tmp / "data") == digest


def test_several_commands_are_hooked_at_a_time(lab: Lab, server: EngineProcess) -> None:
    www = start_nginx(lab.b, lab.tmp)
    digest = write_random(www / "file", SIZE)
    script = f"curl -sS {' '.join(SLOWLY)} http://{lab.b.v4}:{HTTP_PORT}/file | sha256sum; sleep 1; exit 4"
    jobs = [
        lab.a.popen(
            [*RUN, "-v", "--", "sh", "-c", script],
            hooked=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(3)
    ]
    for job in jobs:
        output, errors = job.communicate(timeout=90)  # three start at once
        assert job.returncode == 4
        assert output.split()[0].decode() == digest
        assert b"flow engaged" in errors, errors


def test_a_command_outside_the_policy_is_left_to_tcp(lab: Lab, server: EngineProcess) -> None:
    www = start_nginx(lab.b, lab.tmp)
    digest = write_random(www / "file", 1000)
    command = [*RUN, "-v", "--port", "1", "--", "curl", "-sS", f"http://{lab.b.v4}:{HTTP_PORT}/file"]
    done = lab.a.run(command, hooked=False)
    assert hashlib.sha256(done.stdout).hexdigest() == digest
    assert b"flow" not in done.stderr


def test_status_shows_a_run_and_its_flow(lab: Lab, server: EngineProcess, tmp_path: Path) -> None:
    lab.b.popen(["nc", "-l", "7001"])
    lab.b.wait_listening(7001)
    job = lab.a.popen(
        [*RUN, "--", "nc", lab.b.v4, "7001"], hooked=False, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        assert job.stdin is not None
        job.stdin.write(b"hello\n")
        job.stdin.flush()
        flow = wait_for_flow(f"{lab.b.v4}:7001")
        assert flow["state"] == "engaged"
        assert flow["role"] == "client"
    finally:
        job.terminate()
        assert job.wait(20) == -15


def wait_for_flow(remote: str) -> dict[str, str]:
    for _ in range(100):
        shown = subprocess.run(
            [sys.executable, "-m", "hooker", "status", "--json"],
            capture_output=True,
            text=True,
            check=True,
        )
        for engine in json.loads(shown.stdout.splitlines()[-1])["engines"]:
            for flow in engine["flows"]:
                if flow["remote"] == remote and flow["state"] == "engaged":
                    found: dict[str, str] = flow
                    return found
    raise AssertionError(f"no engaged flow to {remote}")
