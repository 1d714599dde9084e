"""The doctor's checks, tried for real: each can pass here, and each can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import SLOWNESS

from hooker.cli import doctor
from hooker.control import bpf_calls, cgroup
from hooker.errors import KernelError


def examine(*prefix: str) -> tuple[int, dict[str, doctor.Check]]:
    """Its exit status and checks; it must have left no cgroup."""
    command = [*prefix, sys.executable, "-m", "hooker", "doctor", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    output, _ = process.communicate(timeout=120 * SLOWNESS)
    report = json.loads(output.splitlines()[-1])
    assert list(cgroup.root().rglob(f"hooker-{process.pid}-*")) == []
    return process.returncode, {entry["name"]: doctor.Check(**entry) for entry in report["checks"]}


def test_what_is_there_passes_in_time_and_leaves_nothing() -> None:
    rules = subprocess.run(["ip", "rule"], capture_output=True, text=True).stdout
    start = time.monotonic()
    status, checks = examine()
    assert time.monotonic() - start < 60 * SLOWNESS
    failed = [check for check in checks.values() if check.required and not check.ok]
    assert failed == []
    assert status == 0
    assert subprocess.run(["ip", "rule"], capture_output=True, text=True).stdout == rules


def test_without_privilege_it_fails_and_says_root() -> None:
    status, checks = examine("setpriv", "--bounding-set=-all")
    assert status == 1
    assert "CAP_NET_ADMIN" in checks["capabilities"].detail
    for name in ("capabilities", "maps", "policy routing"):
        assert not checks[name].ok
        assert "root" in checks[name].remedy


def test_a_missing_bcc_is_named_with_its_package() -> None:
    program = "import sys; sys.modules['bcc'] = None; from hooker.cli.commands import main; main(['doctor'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert any(line.startswith("✗ BCC:") and "python3-bpfcc" in line for line in done.stdout.splitlines())


def test_a_program_the_verifier_rejects_fails_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = doctor.PROGRAMS.replace("return 2 /* XDP_PASS */;", "return *(int *)0;")
    monkeypatch.setattr(doctor, "PROGRAMS", broken)
    doctor._programs.cache_clear()
    try:
        check = doctor.run_check("xdp", False, "", doctor.load_program("xdp", "XDP"))
    finally:
        doctor._programs.cache_clear()
    assert not check.ok
    assert check.detail
    assert check.remedy


def test_a_kernel_without_a_piece_is_an_error_with_its_errno() -> None:
    with pytest.raises(KernelError, match="Invalid argument"):
        bpf_calls.create_map("ringbuf", key=4, value=4, entries=3)
    with pytest.raises(KernelError, match="Bad file descriptor"):
        bpf_calls.link_cgroup(1 << 30, 1 << 30, bpf_calls.CGROUP_SOCK_OPS)


def test_a_link_ends_with_its_descriptor(tmp_path: Path) -> None:
    group = cgroup.Cgroup.create()
    try:
        program = doctor._programs().load_func(b"probe_cgroup_skb", doctor._bcc().BPF.CGROUP_SKB)
        target = os.open(group.path, os.O_RDONLY)
        try:
            link = bpf_calls.link_cgroup(program.fd, target, bpf_calls.CGROUP_INET_EGRESS)
            assert "prog_id" in Path(f"/proc/self/fdinfo/{link}").read_text()
            os.close(link)
        finally:
            os.close(target)
    finally:
        doctor._programs.cache_clear()
        assert group.remove()
