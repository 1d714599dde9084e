"""Inner parts never import outer ones: the tree's folders are its layers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "hooker"
LAYERS = [  # each may import from itself and from those before it
    {"errors", "checks", "events", "start", "includes"},
    {"vtl", "tcp"},
    {"flow", "carriers", "transports"},
    {"engine"},
    {"_fastpath"},
    {"control"},
    {"tun"},
    {"hooker"},
    {"cli"},
    {"lab"},
    {"__init__", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
KNOWN = {("control/probe_bed.py", "hooker"): "the probes run whole engines"}
IMPORT = re.compile(
    r"^\s*(?:from|cimport|import) hooker\.(\w+)|^\s*from hooker c?import ([\w, ]+)", re.MULTILINE
)


def sources() -> list[Path]:
    return sorted(p for suffix in ("*.py", "*.pyx", "*.pxd") for p in PACKAGE.rglob(suffix))


def imported(text: str) -> set[str]:
    found = set()
    for module, names in IMPORT.findall(text):
        found |= {module} if module else {name.split(" as ")[0].strip() for name in names.split(",")}
    return found & set(LEVEL)


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_is_imported_from_farther_out(path: Path) -> None:
    name = str(path.relative_to(PACKAGE))
    level = LEVEL[Path(name).parts[0].split(".")[0]]
    outer = {
        other for other in imported(path.read_text()) if LEVEL[other] > level and (name, other) not in KNOWN
    }
    assert not outer, f"{name} imports {outer}"
