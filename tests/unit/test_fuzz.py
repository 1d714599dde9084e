"""What the fuzzers have kept goes through the ordinary build, each input once."""

from __future__ import annotations

import errno
import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from fuzz import kept as corpus
from fuzz.__main__ import TARGETS, main
from fuzz.build import ROOT, copy_plain, sources


@pytest.mark.parametrize("target", TARGETS)
def test_the_kept_corpus_breaks_nothing(target: str) -> None:
    module = importlib.import_module(f"fuzz.{target}")
    kept = corpus.read(target)
    assert kept
    broken = []
    for name, data in kept.items():
        try:
            module.replay(data)
        except AssertionError as exc:
            broken.append(f"{exc}\n  ./dev fuzz {target} --replay {name}")
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("target", TARGETS)
def test_an_empty_input_breaks_nothing(target: str) -> None:
    importlib.import_module(f"fuzz.{target}").replay(b"")


def test_an_archive_gives_back_what_was_put_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "KEPT", tmp_path)
    inputs = {"by-hand": b"", "0" * 40: bytes(range(256))}
    corpus.write("packets", inputs)
    first = corpus.archive("packets").read_bytes()
    corpus.write("packets", dict(reversed(inputs.items())))
    assert corpus.read("packets") == inputs
    assert corpus.archive("packets").read_bytes() == first
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "stale").touch()
    corpus.unpack("packets", tmp_path / "files")
    assert {p.name: p.read_bytes() for p in (tmp_path / "files").iterdir()} == inputs


def test_what_is_fuzzed_is_there_and_needs_no_more(tmp_path: Path) -> None:
    """In a tree that has the ordinary modules where the fuzzers have theirs."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for source in sources():
        built = source.with_name(source.stem + suffix)
        at = tmp_path / built.relative_to(ROOT)
        at.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(built, at)
    for directory in {at.parent for at in tmp_path.rglob(f"*{suffix}")} | {tmp_path / "hooker"}:
        (directory / "__init__.py").touch()
    copy_plain(tmp_path)
    site = [
        path for path in sys.path if path.endswith("site-packages")
    ]  # -S: not what was installed to be edited
    for target in TARGETS:
        done = subprocess.run(
            [sys.executable, "-S", "-P", "-c", f"import fuzz.{target}; print(fuzz.__file__)"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *site])},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == str(tmp_path / "fuzz" / "__init__.py"), done.stderr


def test_a_tree_that_may_not_be_written_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> Path:
        raise PermissionError(errno.EACCES, "Permission denied", "/tree/build")

    monkeypatch.setattr("fuzz.__main__.build", refuse)
    with pytest.raises(SystemExit) as caught:
        main(["flow"])
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "/tree/build: Permission denied (run it as the user who owns the tree)" in said
