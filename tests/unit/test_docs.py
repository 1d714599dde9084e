"""The documents name what there is."""

from __future__ import annotations

import re
from pathlib import Path

from hooker.cli import commands as cli

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
