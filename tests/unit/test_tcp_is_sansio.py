"""The twin and its segments know no socket, no clock, and nothing of the engine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TCP = Path(__file__).parents[2] / "hooker" / "tcp"
FILES = sorted(path for path in TCP.glob("*.p[yx]*") if path.suffix in (".py", ".pyx", ".pxd"))
IMPORT = re.compile(r"^\s*(?:from|c?import)\s+([\w.]+)", re.MULTILINE)
KNOWN = re.compile(
    r"(hooker\.tcp|hooker\.includes\.bytes|libc\.(stdint|string)|cpython\.byte(s|array)|typing|__future__)\b"
)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_a_module_takes_nothing_from_outside(path: Path) -> None:
    text = path.read_text()
    assert [name for name in IMPORT.findall(text) if not KNOWN.match(name)] == []
    assert set(re.findall(r"cdef extern from \"<(.*)>\"", text)) <= {"endian.h"}
