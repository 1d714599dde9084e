"""The documents name what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hooker.cli import commands as cli
from hooker.engine.view import ACTIVE_SIZE, FLOW_SIZE

ROOT = Path(__file__).parents[2]


def options(command: str) -> set[str]:
    return {
        name
        for parameter in cli.cli.commands[command].params
        for name in (*parameter.opts, *parameter.secondary_opts)
        if name.startswith("--")
    }


def test_the_commands_page_has_every_option_and_no_other() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    real = {name for command in cli.cli.commands for name in options(command)}
    assert set(re.findall(r"--[a-z][a-z-]+", page)) - {"--version"} == real


def test_the_readme_names_only_verbs_and_files_that_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    verbs = set(re.findall(r"^  ([a-z]+)\)", (ROOT / "dev").read_text(), re.MULTILINE)) | {"help"}
    assert set(re.findall(r"\./dev ([a-z]+)", readme)) <= verbs
    for path in re.findall(r"`((?:bpf|hooker|tests|docs)/[a-z/]*)`", readme):
        assert (ROOT / path).is_dir(), path
    for path in re.findall(r"\]\(([A-Za-z./]+)\)", readme):
        assert (ROOT / path).exists(), path
    for option in re.findall(r"--[a-z][a-z-]+", readme):
        assert any(option in options(command) for command in cli.cli.commands), option


@pytest.mark.parametrize("page", ["tree.md", "architecture.md"])
def test_the_files_that_a_page_names_exist(page: str) -> None:
    """A bare name is one of the folder that was named last before it."""
    text = (ROOT / "docs" / page).read_text()
    folder = ROOT
    found = 0
    for name in re.findall(r"`([\w./]+(?:\.(?:py|pyx|pxd|c|h|md)|/))`", text):
        path = ROOT / name if "/" in name.rstrip("/") or name.endswith("/") else folder / name
        if not path.exists():
            path = folder / name
        assert path.exists(), name
        folder = path if path.is_dir() else path.parent
        found += 1
    assert found > 20


def test_each_source_file_is_named_somewhere() -> None:
    pages = "".join(page.read_text() for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    named = set(re.findall(r"[\w]+\.(?:py|pyx|c|h)\b", pages))
    files = [file for top in ("hooker", "bpf") for file in (ROOT / top).rglob("*")]
    ours = {file.name for file in files if file.suffix in (".py", ".pyx", ".c", ".h")}
    assert ours - named - {"__init__.py"} == set()


def test_ten_questions_have_answers() -> None:
    text = (ROOT / "docs" / "tree.md").read_text()
    rows = re.findall(r"^\| (\d+)\. .+\? \| (.+) \|$", text, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 11))
    assert all(re.search(r"`[\w./]+`", answer) for _, answer in rows)


def test_a_flow_is_no_larger_than_the_bounds_say() -> None:
    bounds = re.compile(r"less than (\d+) in the worker, (\d+) more while it moves")
    ((most, more),) = bounds.findall((ROOT / "docs" / "architecture.md").read_text())
    assert int(most) // 2 < FLOW_SIZE < int(most)
    assert int(more) >= ACTIVE_SIZE
