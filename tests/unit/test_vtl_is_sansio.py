"""VTL's core and the flow protocol know no socket, no clock and no event loop."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

VTL = Path(__file__).parents[2] / "hooker" / "vtl"
FLOW = VTL.parent / "flow"
MODULES = sorted(
    path for folder in (VTL, FLOW) for path in folder.rglob("*") if path.suffix in (".py", ".pyx", ".pxd")
)
FORBIDDEN = {"socket", "_socket", "time", "asyncio", "select", "selectors"}
C_HEADERS = re.compile(r"<(?:time|sys/time|sys/socket|sys/epoll|netinet/\w+|poll)\.h>")
IMPORT = re.compile(r"^\s*(?:from|import|cimport)\s+([\w.]+)", re.MULTILINE)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.name)
def test_no_module_imports_io_or_time(path: Path) -> None:
    text = path.read_text()
    roots = {name.split(".")[0] for name in IMPORT.findall(text)}
    assert not roots & FORBIDDEN
    assert not re.search(r"libc\.time|posix\.(time|unistd|select)", text)
    assert not C_HEADERS.search(text)


def test_importing_the_core_loads_no_io_or_time() -> None:
    code = (
        "import sys, hooker.vtl; before = set(sys.modules);"
        "import hooker.vtl.endpoint;"
        "print(*sorted(set(sys.modules) - before))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20)
    loaded = set(run.stdout.split())
    assert "hooker.vtl.endpoint" in loaded
    assert not loaded & FORBIDDEN


@pytest.mark.parametrize("path", sorted(FLOW.glob("*.p[yx]*")), ids=lambda p: p.name)
def test_the_flow_protocol_imports_nothing_of_the_engine(path: Path) -> None:
    ours = {name for name in IMPORT.findall(path.read_text()) if name.startswith("hooker")}
    no_protocol = {"hooker.includes.bytes", "hooker.vtl.aead", "hooker.vtl.sendbuf"}  # bytes; HMAC; a queue
    assert {name for name in ours if not name.startswith("hooker.flow")} <= no_protocol
