"""Offsets of kernel structures from BTF."""

from __future__ import annotations

import types
from pathlib import Path

import pytest

from hooker.control import btf
from hooker.control.kernel import can_walk
from hooker.errors import KernelError

needs_btf = pytest.mark.skipif(not btf.VMLINUX.exists(), reason="this kernel has no BTF")


@needs_btf
def test_nested_and_anonymous_members_are_found() -> None:
    kernel = btf.load()
    write_seq, width = kernel.field("tcp_sock", "write_seq")
    assert write_seq > 0
    assert write_seq % 32 == 0
    assert width == 0
    scale, width = kernel.field("tcp_sock", "rx_opt.snd_wscale")
    assert width == 4
    assert scale > kernel.field("tcp_sock", "rx_opt.ts_recent")[0]
    assert set(btf.tcp_macros(kernel)) >= {"HK_TCP_WRITE_SEQ", "HK_FILE_FLAGS", "HK_SOCK_SOCKET"}


@needs_btf
def test_functions_have_numbers() -> None:
    kernel = btf.load()
    assert btf.tcp_macros(kernel).get("HK_ITER_TCP") == kernel.function("bpf_iter_tcp") > 0
    with pytest.raises(KernelError, match="no function nonsense"):
        kernel.function("nonsense")


@pytest.mark.parametrize(
    ("release", "version", "may"),
    [
        ("6.18.44", "#1 SMP PREEMPT_DYNAMIC", True),
        ("6.3.0", "#1", True),
        ("7.0.1-cloud", "#1", True),
        ("6.2.0-29-generic", "#29~22.04.1-Ubuntu SMP", False),
        ("6.1.0-56-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-09-01)", True),
        ("6.1.0-7-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.20-2 (2023-04-08)", False),
        ("6.1.0-1-generic", "#1 SMP of 6.2.99", False),
        ("6.1.25", "#1", True),
        ("6.1", "#1", False),
        ("unknown", "#1", False),
    ],
)
def test_iterators_over_sockets_are_read_where_they_are_sound(release: str, version: str, may: bool) -> None:
    kernel = types.SimpleNamespace(release=release, version=version)
    assert can_walk(kernel) is may  # type: ignore[arg-type]


@needs_btf
def test_what_the_kernel_lacks_is_named() -> None:
    kernel = btf.load()
    with pytest.raises(KernelError, match="no field nonsense"):
        kernel.field("tcp_sock", "nonsense")
    with pytest.raises(KernelError, match="no struct nonsense"):
        kernel.field("nonsense", "x")


def test_a_kernel_without_btf_is_told_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="CONFIG_DEBUG_INFO_BTF"):
        btf.load(tmp_path / "vmlinux")
    (tmp_path / "vmlinux").write_bytes(bytes(64))
    with pytest.raises(KernelError, match="unknown format"):
        btf.load(tmp_path / "vmlinux")


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """One entry for each time that the kernel's BTF was looked through."""
    monkeypatch.setenv("HOOKER_RUN_DIR", str(tmp_path / "run"))
    times: list[int] = []

    def tcp_macros(found: object) -> dict[str, int]:
        times.append(1)
        return {"HK_A": 7, "HK_B": len(times)}

    monkeypatch.setattr(btf, "load", lambda: None)
    monkeypatch.setattr(btf, "tcp_macros", tcp_macros)
    return times


def test_offsets_are_looked_for_once(looked: list[int]) -> None:
    assert btf.macros() == btf.macros() == {"HK_A": 7, "HK_B": 1}
    assert len(looked) == 1


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"HK_A": "x"}', b"{" * 50, b"\xff"])
def test_what_is_damaged_is_looked_for_again(looked: list[int], tmp_path: Path, content: bytes) -> None:
    btf.macros()
    (file,) = (tmp_path / "run").glob("offsets-*.json")
    file.write_bytes(content)
    assert btf.macros()["HK_B"] == 2
    assert btf.macros()["HK_B"] == 2


def test_offsets_that_others_could_change_are_not_believed(looked: list[int], tmp_path: Path) -> None:
    btf.macros()
    (file,) = (tmp_path / "run").glob("offsets-*.json")
    file.chmod(0o666)
    btf.macros()
    assert len(looked) == 2
