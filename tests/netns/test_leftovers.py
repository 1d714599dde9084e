"""What stays when the janitor is killed too: nothing after an orderly end, else until the next engine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import KIND, Pair, eventually, peer, result

from hooker.control import keyfile, marks, netns
from hooker.lab import Host, Lab
from hooker.tun import leftovers
from hooker.tun.lane import PRIORITY, TABLE_BASE

pytestmark = pytest.mark.timeout(90)
SO_MARK = 36
FIRST, OTHER = marks.NUMBERS - 2, marks.NUMBERS - 3  # numbers of engines; the lab's own are somewhere else
OWNER = f"""
import os, sys, time
from hooker.control import marks
from hooker.control.janitor import Janitor
from hooker.tun import Device, Way
number, pinned = int(sys.argv[1]), sys.argv[2] == "pinned"
settings = {{"mark": marks.mark(number), "table": {TABLE_BASE} + number, "priority": {PRIORITY}}}
with Janitor() as keeper, Device("hk%d") as made, Way(keeper, made, pinned=pinned, **settings):
    print(keeper.pid, flush=True)
    time.sleep(60)
"""


def owner(host: Host, number: int, kind: str) -> tuple[subprocess.Popen[str], int]:
    """A process with a device and the way to it, and its janitor."""
    command = [sys.executable, "-c", OWNER, str(number), kind]
    made = host.popen(command, hooked=False, stdout=subprocess.PIPE, text=True)
    assert made.stdout
    return made, int(made.stdout.readline())


def kill_all(process: subprocess.Popen[str], helper: int) -> None:
    os.kill(helper, signal.SIGKILL)
    process.kill()
    process.communicate()


def left(host: Host) -> list[str]:
    """Lines of rules and routes of engines' tables."""
    found = []
    for flag in ("-4", "-6"):
        for what in (["rule"], ["route", "show", "table", "all"]):
            text = host.run(["ip", flag, *what], text=True, stdout=-1).stdout
            found += [line for line in text.splitlines() if f"{TABLE_BASE >> 16:x}" in line or is_ours(line)]
    return found


def is_ours(line: str) -> bool:
    return any(word.isdigit() and int(word) >> 16 == TABLE_BASE >> 16 for word in line.split())


def sweep(host: Host) -> None:
    netns.call(host.netns, lambda: leftovers.sweep(PRIORITY, TABLE_BASE))


@pytest.mark.parametrize("kind", ["pinned", "free"])
def test_the_next_engine_takes_away_what_the_dead_have_left(lab: Lab, kind: str) -> None:
    process, helper = owner(lab.a, FIRST, kind)
    other, keeper = owner(lab.a, OTHER, kind)
    try:
        before = left(lab.a)
        kill_all(process, helper)
        eventually(lambda: len(left(lab.a)) == len(before) - 2)  # the device's routes are gone
        sweep(lab.a)
        assert len(left(lab.a)) == len(before) // 2  # the other lives
        assert not [line for line in left(lab.a) if str(TABLE_BASE + FIRST) in line]
    finally:
        kill_all(other, keeper)
    eventually(lambda: not [line for line in left(lab.a) if "hk" in line])
    sweep(lab.a)
    assert left(lab.a) == []


def test_an_engine_begins_with_it(lab: Lab) -> None:
    process, helper = owner(lab.a, FIRST, "free")
    kill_all(process, helper)
    eventually(lambda: len(left(lab.a)) == 2)
    engine = lab.a.hooker(*KIND)
    try:
        assert not [line for line in left(lab.a) if str(TABLE_BASE + FIRST) in line]
    finally:
        engine.stop()


@pytest.mark.parametrize("kind", ["pinned", "free"])
def test_an_engine_whose_device_is_down_is_alive(
    lab: Lab, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel has taken away the routes that lead to it; for a pinned one there is the blackhole only."""
    process, helper = owner(lab.a, FIRST, kind)
    try:
        before = left(lab.a)
        (device,) = {word for line in before for word in line.split() if word.startswith("hk")}
        lab.a.run(["ip", "link", "set", device, "down"])
        eventually(lambda: not any(device in line for line in left(lab.a)))
        down = left(lab.a)
        with monkeypatch.context() as patch:
            patch.setattr(leftovers, "abort_once", lambda mark, bits: pytest.fail("its sockets live, too"))
            sweep(lab.a)
        assert left(lab.a) == down
        assert len(down) == len(before) - 2
    finally:
        kill_all(process, helper)
    eventually(lambda: device not in lab.a.run(["ip", "link"], text=True, stdout=-1).stdout)
    sweep(lab.a)
    assert left(lab.a) == []


def test_what_others_have_there_is_left_alone(lab: Lab) -> None:
    """A rule of ours, but with a route that no engine makes; a rule in our range, but not ours."""
    table, mark = str(TABLE_BASE + FIRST), f"{marks.mark(FIRST):#x}/{marks.BITS:#x}"
    rule = ["ip", "rule", "add", "priority", str(PRIORITY), "fwmark", mark, "lookup"]
    lab.a.run([*rule, table, "protocol", "kernel"], check=True)
    lab.a.run(["ip", "route", "add", "blackhole", "default", "table", table], check=True)
    lab.a.run([*rule, str(TABLE_BASE + OTHER), "protocol", "kernel"], check=True)  # another engine's mark
    lab.a.run(["ip", "rule", "add", "priority", "64", "fwmark", mark, "lookup", table], check=True)
    before = left(lab.a)
    try:
        assert len(before) == 4
        sweep(lab.a)
        assert left(lab.a) == before
    finally:
        for _ in range(2):
            lab.a.run(["ip", "rule", "del", "priority", str(PRIORITY)], check=True)
        lab.a.run(["ip", "rule", "del", "priority", "64"], check=True)
        lab.a.run(["ip", "route", "flush", "table", table], check=True)


def test_sockets_that_were_pinned_are_ended_and_guarded_until_then(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, helper = owner(lab.a, FIRST, "pinned")
    with contextlib.ExitStack() as stack:
        server = netns.call(lab.b.netns, lambda: socket.create_server(("", 7000)))
        stack.enter_context(server)
        client = stack.enter_context(
            netns.call(lab.a.netns, lambda: socket.create_connection((lab.b.v4, 7000)))
        )
        client.setsockopt(socket.SOL_SOCKET, SO_MARK, marks.mark(FIRST))
        kill_all(process, helper)
        eventually(lambda: len(left(lab.a)) == 4)
        with monkeypatch.context() as patch:
            patch.setattr(leftovers, "abort_once", lambda mark, bits: False)
            sweep(lab.a)
        assert len(left(lab.a)) == 4
        sweep(lab.a)
        with pytest.raises(ConnectionAbortedError):
            client.send(b"secret")
    assert left(lab.a) == []


def janitors(engine: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == engine and b"janitor" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def test_an_orderly_end_without_a_janitor_leaves_nothing(tmp_path: Path) -> None:
    """Rule and blackhole go, and a pinned flow ends with an error, without a byte of it on the wire."""
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_text(keyfile.make() + "\n")
    options = (*KIND, "--key-file", str(path))
    with Lab() as lab, Pair.open(lab, options=options) as pair:
        lab.meter.start()
        server = peer(pair.b, "serve", "0.0.0.0", 8080, "recv-all")
        client = peer(pair.a, "connect", pair.b.v4, 8080, f"send:{10**12}", "fin", "recv-all")
        eventually(lambda: "engaged" in {flow["state"] for flow in pair.engines[0].status()["flows"]})
        assert left(pair.a)
        for pid in janitors(pair.engines[0].pid):
            os.kill(pid, signal.SIGKILL)
        pair.engines[0].stop()
        assert left(pair.a) == []
        assert pair.engines[0].proc.returncode == 0
        assert all(result(program)["error"] for program in (client, server))
        time.sleep(0.5)
        assert lab.meter.read().tcp.payload == 0
