"""The header tree BCC compiles against, made from the C library's UAPI headers.

BCC asks for the running kernel's headers, but these programs use only its UAPI, which every machine
with a C compiler has in /usr/include. ``BCC_KERNEL_SOURCE`` may name any directory laid out as a kernel
tree, so one is made: links to the UAPI headers, and five small files of our own in the place of kernel
headers that BCC includes by itself. No kernel-headers package is needed, and compiling is faster.

The tree is kept in the run-time directory under the hash of all it depends on, and made under another
name first, so that a reader never sees half of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hooker import start, trust
from hooker.control.rundir import run_directory
from hooker.errors import ConfigurationError

ENVIRONMENT = "BCC_KERNEL_SOURCE"
PREFIX = "headers-"  # of a tree of ours: the fingerprint follows
MARKER = "include/linux/kconfig.h"  # which BCC includes before anything else

# machine (uname -m) -> directory below arch/ in the kernel tree, multiarch directory of /usr/include
ARCHITECTURES = {
    "x86_64": ("x86", "x86_64-linux-gnu"),
    "aarch64": ("arm64", "aarch64-linux-gnu"),
}

_KCONFIG = "#pragma once\n#define CONFIG_BPF_SYSCALL 1\n"
_TYPES = """\
#pragma once
#include <uapi/linux/types.h>
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s8 s8;
typedef __s16 s16;
typedef __s32 s32;
typedef __s64 s64;
typedef _Bool bool;
typedef unsigned long size_t;
typedef unsigned long uintptr_t;
"""
_VERSION = """\
#pragma once
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))
#define LINUX_VERSION_CODE KERNEL_VERSION({})
"""
_REMEDY = "install the C library's kernel headers: apt-get install linux-libc-dev"


def activate() -> Path:
    """Point BCC at the tree, unless the user has named a kernel tree already; return the one in use."""
    tree = in_use()
    os.environ[ENVIRONMENT] = str(tree)
    return tree


def in_use() -> Path:
    """The tree that is compiled against: the user's, or ours. Raises ConfigurationError."""
    return check_named() or prepare()


def prepare(
    base: Path | None = None, *, include: Path = Path("/usr/include"), machine: str | None = None
) -> Path:
    """Return the tree, made below ``base`` (the run-time directory) if it is not there yet.

    Raises ConfigurationError when the UAPI headers are missing or the machine is not a known one.
    """
    machine = machine or os.uname().machine
    arch, asm = _find_asm(include, machine)
    base = base or run_directory()
    release = os.uname().release
    tree = base / f"{PREFIX}{_fingerprint(include, asm, arch, release)}"
    if tree.is_dir():
        trust.check_directory(tree, "header tree")
        return tree
    draft = Path(tempfile.mkdtemp(prefix=".headers-", dir=base))
    try:
        draft.chmod(0o755)
        _fill(draft, include, asm, arch, release)
        draft.rename(tree)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        if not tree.is_dir():  # not just another process that was faster
            raise ConfigurationError(f"cannot make the header tree {tree}: {error.strerror}") from None
    return tree


def check_named() -> Path | None:
    """The tree that the user has named, if any. Raises ConfigurationError when it will not do.

    One that another user could change would be compiled into the kernel; for one that is none BCC would look
    elsewhere, with modprobe.
    """
    tree = os.environ.get(ENVIRONMENT)
    if not tree:
        return None
    try:
        real = trust.real_path(Path(tree).resolve(strict=True), f"{ENVIRONMENT} {tree}")
    except OSError as error:
        raise ConfigurationError(
            f"{ENVIRONMENT} {tree}: {error.strerror}", remedy=f"unset {ENVIRONMENT}"
        ) from None
    trust.check_directory(real, ENVIRONMENT)
    if not (real / MARKER).is_file():
        raise ConfigurationError(
            f"{ENVIRONMENT} {tree} is no kernel tree: it has no {MARKER}", remedy=f"unset {ENVIRONMENT}"
        )
    return Path(tree)


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Hide from BCC's compiler, in the process that it works in, what would lead it to other include files.

    First of all the working directory: BCC puts it at the head of the search path.
    """
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if start.for_compilers(name)}
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir("/")
        yield
    finally:
        os.fchdir(before)
        os.close(before)
        os.environ.update(hidden)


def _find_asm(include: Path, machine: str) -> tuple[str, Path]:
    if machine not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ConfigurationError(
            f"no header layout known for machine {machine!r}",
            remedy=f"known are {known}; or set {ENVIRONMENT} to the kernel's own headers",
        )
    arch, multiarch = ARCHITECTURES[machine]
    native = sysconfig.get_config_var("MULTIARCH") if machine == os.uname().machine else None
    candidates = [include / name / "asm" for name in (native, multiarch) if name] + [include / "asm"]
    for needed in (include / "linux" / "bpf.h", include / "asm-generic"):
        if not needed.exists():
            raise ConfigurationError(f"{needed} is missing", remedy=_REMEDY)
    for asm in candidates:
        if (asm / "types.h").exists():
            return arch, asm
    raise ConfigurationError(f"{candidates[0]} is missing", remedy=_REMEDY)


def _fingerprint(include: Path, asm: Path, arch: str, release: str) -> str:
    dates = [(include / part).stat().st_mtime_ns for part in ("linux", "asm-generic", "linux/bpf.h")]
    parts = (include, asm, arch, release, *dates, _KCONFIG, _TYPES, _VERSION)
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]


def _fill(tree: Path, include: Path, asm: Path, arch: str, release: str) -> None:
    kernel, uapi = tree / "include" / "linux", tree / "include" / "uapi" / "linux"
    for directory in (kernel, uapi):
        _link_all(include / "linux", directory)
        (directory / "bpf.h").unlink(missing_ok=True)
        (directory / "bpf.h").touch()  # BCC brings its own
    _link_all(include / "asm-generic", tree / "include" / "asm-generic")
    (tree / "include" / "generated").mkdir()
    uapi_asm = tree / "arch" / arch / "include" / "uapi"
    uapi_asm.mkdir(parents=True)
    (uapi_asm / "asm").symlink_to(asm)
    _write(kernel / "kconfig.h", _KCONFIG)
    _write(kernel / "types.h", _TYPES)
    _write(kernel / "version.h", _VERSION.format(", ".join(map(str, kernel_version(release)))))
    _write(kernel / "log2.h", "")
    _write(tree / "arch" / arch / "include" / "asm" / "page.h", "")


def _link_all(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for entry in source.iterdir():
        if entry.suffix == ".h" or entry.is_dir():
            (target / entry.name).symlink_to(entry)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # a link would be written through
    path.write_text(text)


def kernel_version(release: str) -> tuple[int, int, int]:
    """``"6.1.0-18-amd64"`` to ``(6, 1, 0)``. Raises ConfigurationError when there is no number in it."""
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
    if match is None:
        raise ConfigurationError(f"cannot read a version from kernel release {release!r}")
    return int(match[1]), int(match[2]), int(match[3] or 0)
