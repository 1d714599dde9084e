"""What the fuzzers have kept goes through the ordinary build, each input once."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from fuzz.__main__ import CORPUS, TARGETS


def inputs(target: str) -> list[Path]:
    return sorted((CORPUS / target).iterdir())


@pytest.mark.parametrize("target", TARGETS)
def test_the_kept_corpus_breaks_nothing(target: str) -> None:
    module = importlib.import_module(f"fuzz.{target}")
    assert inputs(target)
    broken = []
    for path in inputs(target):
        try:
            module.replay(path.read_bytes())
        except AssertionError as exc:
            broken.append(f"{exc}\n  ./dev fuzz {target} --replay {path}")
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("target", TARGETS)
def test_an_empty_input_breaks_nothing(target: str) -> None:
    importlib.import_module(f"fuzz.{target}").replay(b"")
