"""Child groups: made, filled, emptied and removed. Only below groups that the test makes itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hooker.control import cgroup
from hooker.control.cgroup import Cgroup
from hooker.errors import ConfigurationError, KernelError


@pytest.fixture
def group() -> Iterator[Cgroup]:
    made = Cgroup.create()
    try:
        yield made
    finally:
        made.remove(kill=True)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_the_root_is_a_cgroup2_directory() -> None:
    assert cgroup.is_cgroup2(cgroup.root())
    assert (cgroup.root() / "cgroup.procs").exists()


def test_the_root_is_reachable_where_sys_is_covered_and_nothing_stays_mounted() -> None:
    program = (
        "import subprocess; subprocess.run(['umount', '-l', '/sys'], check=True)\n"
        "from hooker.control.cgroup import Cgroup, root; import os\n"
        "assert '/proc/self/fd/' in str(root()), root()\n"
        "group = Cgroup.create(); group.add(); assert os.getpid() in group.pids(), group.pids()\n"
        "assert 'cgroup2' not in open('/proc/mounts').read()\n"
        "assert group.remove() and not group.path.exists()\n"
    )
    script = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", program]
    subprocess.run(script, check=True, timeout=30)


def test_a_group_is_named_after_its_owner_and_made_below_the_owners_group(group: Cgroup) -> None:
    match = cgroup.NAME.fullmatch(group.path.name)
    assert match is not None
    assert int(match[1]) == os.getpid()
    assert group.parent == cgroup.root() / cgroup.of_process()


def test_a_process_is_moved_in_and_found(group: Cgroup, sleeper: subprocess.Popen[bytes]) -> None:
    assert group.pids() == []
    group.add(sleeper.pid)
    assert group.pids() == [sleeper.pid]
    assert cgroup.of_process(sleeper.pid) == group.relative


def test_moving_a_dead_process_is_an_error_that_names_it(group: Cgroup) -> None:
    pid = dead_pid()
    with pytest.raises(KernelError, match=str(pid)):
        group.add(pid)


def test_removing_moves_the_living_to_the_parent(group: Cgroup, sleeper: subprocess.Popen[bytes]) -> None:
    home = cgroup.of_process()
    group.add(sleeper.pid)
    (group.path / "inner").mkdir()
    assert group.remove()
    assert not group.path.exists()
    assert sleeper.poll() is None
    assert cgroup.of_process(sleeper.pid) == home


def test_removing_can_kill_the_living(group: Cgroup, sleeper: subprocess.Popen[bytes]) -> None:
    group.add(sleeper.pid)
    assert group.remove(kill=True)
    assert sleeper.wait(5) == -9


def test_removing_twice_is_harmless(group: Cgroup) -> None:
    assert group.remove()
    assert group.remove()
    assert group.pids() == []


def test_removing_what_goes_on_filling_ends_within_its_time(group: Cgroup) -> None:
    inner = group.path / "busy"
    inner.mkdir()
    (group.path / "cgroup.max.descendants").write_text("1")
    start = time.monotonic()
    original = cgroup._rmdir
    cgroup._rmdir = lambda directory: None  # type: ignore[assignment]
    try:
        assert not group.remove(timeout=0.3)
    finally:
        cgroup._rmdir = original
    assert time.monotonic() - start < 2


def test_only_groups_of_dead_owners_are_stale(group: Cgroup, sleeper: subprocess.Popen[bytes]) -> None:
    stale = Cgroup(f"{group.relative}/hooker-{dead_pid()}-0123abcd")
    busy = Cgroup(f"{group.relative}/hooker-{dead_pid()}-89abcdef")
    foreign = Cgroup(f"{group.relative}/something-else")
    for made in (stale, busy, foreign):
        made.path.mkdir()
    busy.add(sleeper.pid)
    assert cgroup.remove_stale(below=group.path) == [stale.relative]
    assert busy.path.exists()
    assert foreign.path.exists()
    assert group.path.exists()
    assert cgroup.remove_stale(force=True, below=group.path) == [busy.relative]
    assert sleeper.poll() is None


def test_making_a_group_sweeps_what_dead_owners_left_beside_it(
    group: Cgroup, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    left = Cgroup(f"{group.relative}/hooker-{dead_pid()}-0123abcd")
    busy = Cgroup(f"{group.relative}/hooker-{dead_pid()}-89abcdef")
    for made in (left, busy):
        made.path.mkdir()
    busy.add(sleeper.pid)
    Cgroup.create(group.relative)
    assert left.path.exists()  # it is young
    monkeypatch.setattr(cgroup, "SWEEP_AGE", -1.0)
    mine = Cgroup.create(group.relative)
    assert not left.path.exists()
    assert busy.path.exists()
    assert mine.path.exists()


KILLED = """
import os, signal, sys, types
from pathlib import Path
real = Path.mkdir
def mkdir(self, *arguments, **settings):
    real(self, *arguments, **settings)
    if self.name.startswith(f"hooker-{os.getpid()}-"):
        print(self, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
Path.mkdir = mkdir
from hooker.cli import doctor, launch
from hooker.control import probes
from hooker.control.janitor import Janitor
doctor._bcc = lambda: types.SimpleNamespace(BPF=types.SimpleNamespace(SOCK_OPS=1, CGROUP_SKB=2))
doctor._programs = lambda: types.SimpleNamespace(load_func=lambda *_: None)
"""


@pytest.mark.parametrize(
    "work",
    [
        "doctor.check_links()",
        "probes._all('messages')",
        "probes._all('segments')",
        "launch._serve(launch.Options(), 0, None, 1.0, [], Janitor())",
    ],
)
def test_an_owner_killed_as_soon_as_its_group_is_there_leaves_none(work: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED + work], capture_output=True, text=True, timeout=60)
    assert done.returncode == -9, done.stderr
    deadline = time.monotonic() + 20
    while Path(done.stdout.strip()).exists():
        assert time.monotonic() < deadline, f"left behind: {done.stdout}"
        time.sleep(0.05)


def test_a_group_named_by_a_user_must_exist_and_be_version_2(group: Cgroup) -> None:
    assert cgroup.check(group.path) == group.path
    with pytest.raises(ConfigurationError, match="does not exist"):
        cgroup.check(group.path / "missing")
    with pytest.raises(ConfigurationError, match="not in a cgroup v2"):
        cgroup.check("/tmp")


def test_a_group_cannot_be_made_below_a_missing_one() -> None:
    with pytest.raises(ConfigurationError, match="cannot make cgroup"):
        Cgroup.create("no/such/parent")
