"""Marks of engines: each one's is new, and not that of their own sockets."""

from __future__ import annotations

from pathlib import Path

import pytest

from hooker.control import marks
from hooker.engine.layout import MARK_BASE, MARK_OTHER, MARK_OWN


@pytest.fixture(autouse=True)
def _directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOOKER_RUN_DIR", str(tmp_path / "run"))


def test_numbers_are_counted_on_and_begin_again() -> None:
    first = [marks.next_number() for _ in range(3)]
    assert len(set(first)) == 3
    (Path(marks.run_directory()) / marks.FILE).write_text(str(marks.NUMBERS - 2))
    assert [marks.next_number() for _ in range(3)] == [marks.NUMBERS - 1, 1, 2]


@pytest.mark.parametrize("text", ["", "-1", "x", "9" * 40])
def test_a_damaged_file_does_no_harm(text: str) -> None:
    (Path(marks.run_directory()) / marks.FILE).write_text(text)
    assert 0 < marks.next_number() < marks.NUMBERS


def test_marks_differ_from_each_other_and_from_those_of_the_engines_own_sockets() -> None:
    made = [marks.mark(number) for number in range(1, marks.NUMBERS)]
    assert len(set(made)) == len(made)
    assert not {MARK_OWN & marks.BITS, MARK_BASE} & set(made), "as routing sees them"
    assert all(m & 0xFFFF0000 == MARK_BASE and not m & MARK_OTHER for m in made)
