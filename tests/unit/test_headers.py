"""The generated header tree, from a made-up /usr/include."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hooker import Hooker
from hooker.control import headers
from hooker.errors import ConfigurationError


@pytest.fixture
def include(tmp_path: Path) -> Path:
    root = tmp_path / "include"
    for name in (
        "linux/bpf.h",
        "linux/types.h",
        "linux/tcp.h",
        "linux/netfilter/x_tables.h",
        "asm-generic/types.h",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"/* {name} */\n")
    for multiarch in ("x86_64-linux-gnu", "aarch64-linux-gnu"):
        (root / multiarch / "asm").mkdir(parents=True)
        (root / multiarch / "asm" / "types.h").write_text(f"/* {multiarch} */\n")
    return root


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("machine", "arch", "multiarch"),
    [("x86_64", "x86", "x86_64-linux-gnu"), ("aarch64", "arm64", "aarch64-linux-gnu")],
)
def test_the_tree_has_the_layout_bcc_asks_for(
    include: Path, base: Path, machine: str, arch: str, multiarch: str
) -> None:
    tree = headers.prepare(base, include=include, machine=machine)
    asm = tree / "arch" / arch / "include" / "uapi" / "asm" / "types.h"
    assert multiarch in asm.read_text()
    assert (tree / "arch" / arch / "include" / "asm" / "page.h").is_file()
    for side in ("include/linux", "include/uapi/linux"):
        assert (tree / side / "tcp.h").read_text() == "/* linux/tcp.h */\n"
        assert (tree / side / "netfilter" / "x_tables.h").is_file()
        assert (tree / side / "bpf.h").read_text() == ""
    assert "CONFIG_BPF_SYSCALL 1" in (tree / "include/linux/kconfig.h").read_text()
    assert "typedef __u64 u64;" in (tree / "include/linux/types.h").read_text()
    assert (tree / "include/asm-generic/types.h").is_file()


def test_the_systems_own_headers_are_never_written_through(include: Path, base: Path) -> None:
    headers.prepare(base, include=include, machine="x86_64")
    assert (include / "linux/types.h").read_text() == "/* linux/types.h */\n"
    assert (include / "linux/bpf.h").read_text() == "/* linux/bpf.h */\n"


def test_a_second_call_gives_the_same_tree_and_changed_headers_another(include: Path, base: Path) -> None:
    first = headers.prepare(base, include=include, machine="x86_64")
    assert headers.prepare(base, include=include, machine="x86_64") == first
    os.utime(include / "linux/bpf.h", ns=(1, 1))
    assert headers.prepare(base, include=include, machine="x86_64") != first


def test_concurrent_calls_agree_and_leave_no_draft(include: Path, base: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(headers.prepare, base, include=include, machine="x86_64") for _ in range(16)]
        trees = {call.result() for call in calls}
    assert len(trees) == 1
    assert [p.name for p in base.iterdir()] == [trees.pop().name]


@pytest.mark.parametrize("missing", ["linux/bpf.h", "x86_64-linux-gnu/asm/types.h"])
def test_missing_headers_are_named_with_the_package(include: Path, base: Path, missing: str) -> None:
    (include / missing).unlink()
    with pytest.raises(ConfigurationError, match="is missing") as caught:
        headers.prepare(base, include=include, machine="x86_64")
    assert "linux-libc-dev" in caught.value.remedy
    assert list(base.iterdir()) == []


def test_an_unknown_machine_lists_the_known_ones(include: Path, base: Path) -> None:
    with pytest.raises(ConfigurationError, match="'mips'") as caught:
        headers.prepare(base, include=include, machine="mips")
    assert "aarch64" in caught.value.remedy


def test_a_tree_the_user_named_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "include/linux").mkdir(parents=True)
    (tmp_path / "include/linux/kconfig.h").touch()
    monkeypatch.setenv(headers.ENVIRONMENT, str(tmp_path))
    assert headers.activate() == tmp_path
    assert [path.name for path in tmp_path.rglob("*")] == ["include", "linux", "kconfig.h"]


@pytest.mark.parametrize("named", ["/nonexistent", "rel", "empty", "file"])
def test_what_is_no_kernel_tree_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str
) -> None:
    """BCC would look for another one, with modprobe."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setenv(headers.ENVIRONMENT, named if named == "rel" else str(tmp_path / named))
    with pytest.raises(ConfigurationError, match=headers.ENVIRONMENT):
        headers.activate()
    monkeypatch.setattr("hooker.hooker.require_root", lambda what: None)
    monkeypatch.setattr("hooker.hooker.verdicts", lambda intercept: pytest.fail("probed"))
    with pytest.raises(ConfigurationError, match=headers.ENVIRONMENT):
        Hooker().probe()


def test_a_tree_that_others_could_change_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, include: Path, base: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    tree.chmod(0o777)
    monkeypatch.setenv(headers.ENVIRONMENT, str(tree))
    with pytest.raises(ConfigurationError, match="only this user"):
        headers.activate()
    made = headers.prepare(base, include=include, machine="x86_64")
    made.chmod(0o777)
    with pytest.raises(ConfigurationError, match="only this user"):
        headers.prepare(base, include=include, machine="x86_64")


def test_activate_points_bcc_at_the_tree(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOOKER_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.delenv(headers.ENVIRONMENT, raising=False)
    tree = headers.activate()
    assert os.environ[headers.ENVIRONMENT] == str(tree)
    assert tree.parent == tmp_path / "run"


def test_a_program_that_uses_only_the_uapi_compiles_against_the_real_tree(base: Path, tmp_path: Path) -> None:
    tree = headers.prepare(base)
    arch = headers.ARCHITECTURES[os.uname().machine][0]
    source = tmp_path / "probe.c"
    source.write_text(
        "#include <linux/types.h>\n#include <linux/version.h>\n#include <linux/tcp.h>\n"
        "u64 x = LINUX_VERSION_CODE;\n"
    )
    include = [tree / "include", tree / "include/uapi", tree / f"arch/{arch}/include/uapi"]
    flags = [f"-I{path}" for path in include]
    subprocess.run(
        [
            "gcc",
            "-nostdinc",
            "-include",
            str(tree / "include/linux/kconfig.h"),
            *flags,
            "-c",
            str(source),
            "-o",
            "/dev/null",
        ],
        check=True,
    )


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.1.0-18-amd64", (6, 1, 0)),
        ("6.18.44-fc-v595", (6, 18, 44)),
        ("6.8", (6, 8, 0)),
        ("6.10-rc1", (6, 10, 0)),
    ],
)
def test_kernel_releases_are_read(release: str, version: tuple[int, int, int]) -> None:
    assert headers.kernel_version(release) == version


def test_a_release_without_a_number_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="custom"):
        headers.kernel_version("custom")
