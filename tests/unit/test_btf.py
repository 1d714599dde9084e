"""Offsets of kernel structures from BTF."""

from __future__ import annotations

from pathlib import Path

import pytest

from hooker.control import btf
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
