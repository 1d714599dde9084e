"""Inner parts never import outer ones: folders are layers, and on the data path so are their modules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "hooker"
LAYERS = [  # each may import from itself and from those before it
    {"errors", "checks", "events", "start", "trust", "includes"},
    {"vtl", "tcp"},
    {"flow", "carriers", "transports"},
    {"engine"},
    {"_fastpath"},
    {"control"},
    {"prototype"},
    {"tun"},
    {"hooker"},
    {"metrics"},
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


@pytest.mark.parametrize("path", [p for p in sources() if p.stem == "_fastpath" or p.parent.name == "engine"],
                         ids=lambda p: str(p.relative_to(PACKAGE)))  # fmt: skip
def test_the_engine_knows_transports_by_their_contract_only(path: Path) -> None:
    """Which there are, and what is below them, it need not know: they are made by number."""
    named = set(re.findall(r"\bhooker\.((?:vtl|carriers|transports)[\w.]*)", path.read_text()))
    assert named <= {"transports.contract", "transports.makers"}


FOLDERS = sorted({path.parent.relative_to(PACKAGE).parts[0] for path in sources() if path.parent != PACKAGE})
NAMED = re.compile(
    r"^\s*(?:from|cimport|import) (hooker[\w.]*)(?: c?import (\([^)]*\)|[^\n]*))?", re.MULTILINE
)


def module_of(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph(package: Path) -> dict[str, set[str]]:
    """Which modules below `package` import which, by import or cimport; a module and its .pxd are one."""
    texts: dict[str, str] = {}
    for path in sorted(p for suffix in ("*.py", "*.pyx", "*.pxd") for p in package.rglob(suffix)):
        name = module_of(path, package)
        texts[name] = texts.get(name, "") + path.read_text()
    graph: dict[str, set[str]] = {}
    for name, text in texts.items():
        found = set()
        for module, names in NAMED.findall(text):
            named = {f"{module}.{n}" for n in re.findall(r"\w+", names)}
            found |= named if named and named <= set(texts) else {module, *named}
        graph[name] = found & set(texts) - {name}
    return graph


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    """Modules that all import one another, at least indirectly; empty: there are none."""
    left = {name: set(others) for name, others in graph.items()}
    while left:
        leaves = [name for name, others in left.items() if not others & set(left)]
        if not leaves:
            break
        for name in leaves:
            del left[name]
    importers = {name for name in left if any(name in others for others in left.values())}
    return sorted(importers)


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_module_imports_itself_through_others(folder: str) -> None:
    graph = import_graph(PACKAGE)
    inside = {name: others for name, others in graph.items() if f"{name}.".startswith(f"hooker.{folder}.")}
    assert inside
    assert not cycle_in(inside)


def test_a_cycle_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "hooker" / "vtl"
    folder.mkdir(parents=True)
    (folder / "low.pxd").write_text("from libc.string cimport memcpy\n")
    (folder / "one.pyx").write_text(
        "from hooker.vtl.low cimport x\nfrom hooker.vtl.two cimport (\n    y,\n)\n"
    )
    (folder / "two.pxd").write_text("from hooker.vtl.low cimport x\n")
    (folder / "two.pyx").write_text("from hooker.vtl cimport one\n")
    assert cycle_in(import_graph(tmp_path / "hooker")) == ["hooker.vtl.one", "hooker.vtl.two"]
