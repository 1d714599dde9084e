"""Finding cgroup v2 in mount tables of several kinds."""

from __future__ import annotations

from pathlib import Path

import pytest

from hooker.control import cgroup

UNIFIED = "sysfs /sys sysfs rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n"
HYBRID = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
ODD = "none /mnt/a\\040b\\134c cgroup2 rw 0 0\nnone\n\n"


@pytest.mark.parametrize(
    ("mounts", "found"),
    [
        (UNIFIED, ["/sys/fs/cgroup"]),
        (HYBRID, ["/sys/fs/cgroup/unified"]),
        (ODD, ["/mnt/a b\\c"]),
        ("sysfs /sys sysfs rw 0 0\n", []),
    ],
)
def test_mounts_are_found_where_they_are(mounts: str, found: list[str]) -> None:
    assert cgroup.mount_points(mounts) == [Path(path) for path in found]


def test_other_file_systems_are_told_apart() -> None:
    assert not cgroup.is_cgroup2("/proc")
    assert not cgroup.is_cgroup2("/no/such/path")


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("1:cpu:/x\n0::/\n", ""),
        ("0::/user.slice/session.scope\n", "user.slice/session.scope"),
        ("0::/gone (deleted)\n", "gone"),
        ("0::/../other\n", ""),
    ],
)
def test_a_processs_group_is_read(monkeypatch: pytest.MonkeyPatch, text: str, group: str) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self: text)
    assert cgroup.of_process() == group


def test_what_is_no_cgroup_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, said in (
        ("", "empty"),
        (tmp_path / "file", "is not a directory"),
        (tmp_path, "not in a cgroup v2"),
        (tmp_path / "none", "does not exist"),
    ):
        with pytest.raises(cgroup.ConfigurationError, match=said):
            cgroup.check(path)


@pytest.mark.parametrize("name", ["none", ""])
def test_where_no_cgroups_are_visible_nobody_is_told_to_make_one(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As under ``ip netns exec``, which mounts another /sys."""
    monkeypatch.setattr(cgroup, "_is_visible", lambda: False)
    with pytest.raises(cgroup.ConfigurationError, match="cannot be reached") as caught:
        cgroup.check(tmp_path / name)
    assert "nsenter" in caught.value.remedy


def test_a_kernel_without_cgroup2_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self: "1:cpu:/x\n")
    with pytest.raises(cgroup.ConfigurationError, match="no cgroup v2"):
        cgroup.of_process()
