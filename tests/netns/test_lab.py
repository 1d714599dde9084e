"""The lab itself: addresses work at once, the meter counts exactly, nothing stays."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import eventually

from hooker import lab as lab_module
from hooker.lab import Host, Lab
from hooker.lab.apps import sha256, start_nginx, write_random

MSS = 1460  # bytes of a segment, at most

pytestmark = pytest.mark.timeout(60)


def resent(host: Host) -> int:
    """Segments that TCP has sent again: a busy machine delays acknowledgements."""
    names, values = (
        line.split()
        for line in host.run(["cat", "/proc/net/snmp"], text=True).stdout.splitlines()
        if line.startswith("Tcp:")
    )
    return int(values[names.index("RetransSegs")])


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_tcp_payload_is_counted(lab: Lab, family: str) -> None:
    www = start_nginx(lab.b, lab.tmp)
    digest = write_random(www / "file", 3_000_001)
    host = lab.b.v4 if family == "v4" else f"[{lab.b.v6}]"
    lab.meter.start()
    lab.a.run(["curl", "-sS", "-o", lab.tmp / "got", "-D", lab.tmp / "head", f"http://{host}:8080/file"])
    time.sleep(0.05)
    wire = lab.meter.read()
    assert sha256(lab.tmp / "got") == digest
    head = (lab.tmp / "head").stat().st_size
    assert 0 <= wire.to_a["tcp"].payload - (3_000_001 + head) <= resent(lab.b) * MSS
    assert wire.to_a["tcp"].payload_packets >= 3_000_001 // 1448
    assert wire.tcp.fin == 2
    assert wire.vtl.packets == 0


def test_nothing_is_lost_by_the_meter_at_full_speed(lab: Lab) -> None:
    www = start_nginx(lab.b, lab.tmp)
    size = 1 << 30
    with (www / "file").open("wb") as file:
        file.truncate(size)
    lab.meter.start()
    lab.a.run(["curl", "-sS", "-o", "/dev/null", f"http://{lab.b.v4}:8080/file"])
    assert size <= lab.meter.read().to_a["tcp"].payload < size * 1.01


def test_udp_of_the_vtl_port_is_counted_as_vtl_and_can_be_lost(lab: Lab) -> None:
    receiver, sender = lab.b.socket(kind=2), lab.a.socket(kind=2)
    with receiver, sender:
        receiver.bind((lab.b.v4, lab.vtl_port))
        receiver.settimeout(1)
        sender.sendto(b"x" * 100, (lab.b.v4, lab.vtl_port))
        assert receiver.recv(200) == b"x" * 100
        lab.meter.drop(to_b=("vtl",))
        sender.sendto(b"y" * 50, (lab.b.v4, lab.vtl_port))
        with pytest.raises(TimeoutError):
            receiver.recv(200)
    wire = lab.meter.read().to_b["vtl"]
    assert (wire.payload, wire.packets, wire.dropped) == (100, 1, 1)


@pytest.mark.parametrize(("option", "lost"), [(b"\xfd\x04\x00\x00", 1), (b"\xfe\x04\x00\x00", 0)])
def test_a_syn_with_an_experimental_option_can_be_lost(lab: Lab, option: bytes, lost: int) -> None:
    lab.meter.drop(to_b=("syn-option",))
    syn = struct.pack("!HHIIBBHHH", 1000, 2000, 1, 0, 7 << 4, 2, 8192, 0, 0) + b"\x01\x01\x01\x01" + option
    with lab.a.socket(kind=socket.SOCK_RAW, protocol=socket.IPPROTO_TCP) as raw:
        raw.sendto(syn, (lab.b.v4, 0))
    seen = {"packets": 1 - lost, "dropped": lost}
    eventually(lambda: {name: getattr(lab.meter.read().to_b["tcp"], name) for name in seen} == seen)


def test_a_hooked_command_runs_in_the_hosts_cgroup_as_its_own_pid(lab: Lab) -> None:
    proc = lab.a.popen(["cat", "/proc/self/cgroup"], stdout=subprocess.PIPE, text=True)
    out, _ = proc.communicate(timeout=5)
    assert f"0::/{lab.a.cgroup.relative_to(lab_module.cgroup_root())}\n" in out
    sleeper = lab.a.popen(["sleep", "30"])
    deadline = time.monotonic() + 5
    while Path(f"/proc/{sleeper.pid}/comm").read_text() != "sleep\n":
        assert time.monotonic() < deadline
    assert str(sleeper.pid) in (lab.a.cgroup / "cgroup.procs").read_text().split()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_owner_leaves_nothing(number: signal.Signals) -> None:
    owner = _owner()
    owner.send_signal(number)
    owner.wait(10)
    assert _left_by(owner.pid) == []


BEGINS = """
import os, signal, sys, time
import pyroute2.process
from hooker.lab import Lab

run = pyroute2.process.ChildProcess.run

def interrupted(child):
    run(child)
    os.kill(os.getpid(), int(sys.argv[1]))

pyroute2.process.ChildProcess.run = interrupted
print(f"{os.getpid()}", flush=True)
with Lab():
    pass
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_namespace_is_made_leaves_nothing(number: signal.Signals) -> None:
    """Another process makes it, and does not hear of the signal."""
    done = subprocess.run(
        [sys.executable, "-c", BEGINS, str(int(number))], capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    pid = done.stdout.strip()
    time.sleep(0.2)
    assert not list(Path("/run/netns").glob(f"{lab_module.NETNS_PREFIX}{pid}-*"))


def test_a_killed_owner_leaves_nothing() -> None:
    owner = _owner()
    owner.kill()
    owner.wait(10)
    eventually(lambda: not [p for p in _left_by(owner.pid) if not p.startswith("/tmp")])
    subprocess.run([sys.executable, "-m", "hooker.lab", "clean"], check=True, timeout=20)
    assert _left_by(owner.pid) == []


def _owner() -> subprocess.Popen[str]:
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from hooker.lab import Lab\n"
        "with Lab() as lab:\n"
        "    lab.a.popen(['sleep', '60']); print('up', flush=True); time.sleep(60)\n"
    )
    root = str(Path(lab_module.__file__).parents[2])
    owner = subprocess.Popen(
        [sys.executable, "-c", code, root], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert owner.stdout
    with owner.stdout:
        assert owner.stdout.readline() == "up\n"
    return owner


def _left_by(pid: int) -> list[str]:
    tag = f"{pid}-"
    places = [
        *lab_module.cgroup_root().glob(f"{lab_module.CGROUP_PREFIX}{tag}*"),
        *Path("/run/netns").glob(f"{lab_module.NETNS_PREFIX}{tag}*"),
        *Path("/tmp").glob(f"{lab_module.CGROUP_PREFIX}{tag}*"),
    ]
    return [str(place) for place in places if os.path.lexists(place)]


# What does not go while the lab is closed: a process that takes long to end keeps its cgroup.
LATE = """
import hooker.lab as lab
lab.remove_cgroup = lambda path: None
with lab.Lab() as one:
    pass
print(one.cgroup, one.cgroup.is_dir())
"""


def test_what_a_lab_could_not_remove_is_removed_at_its_owners_end() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LATE], capture_output=True, text=True, check=True, timeout=60
    )
    path, there = done.stdout.split()
    assert there == "True"
    eventually(lambda: not Path(path).exists())
