"""How processes of our own are started: isolated, by absolute path, in an environment of our choosing.

What starts them is root, and the directory it stands in, ``PATH``, ``PYTHONPATH`` and their like may be
somebody else's. So an interpreter is started isolated (``-I``) and runs the same package as its parent, tools
are looked for where the system has them, and only the variables named here are handed on.

Run as a script, ``start.py MODULE ARGUMENTS`` is what such an interpreter runs.
"""

from __future__ import annotations

import os
import runpy
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve()
TOOL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HANDED_ON = ("LANG", "LC_ALL", "LC_CTYPE", "TERM", "TZ", "BCC_KERNEL_SOURCE")
OWN_PREFIX = "HOOKER_"
# where a compiler inside this process would look for files and programs (clang's manual page, BCC's source)
COMPILERS = (
    "CPATH",
    "C_INCLUDE_PATH",
    "COMPILER_PATH",
    "GCC_EXEC_PREFIX",
    "LIBRARY_PATH",
    "CCC_",
    "CPLUS",
    "OBJC",
)


def interpreter() -> str:
    """This interpreter, by absolute path."""
    return sys.executable if Path(sys.executable or "").is_absolute() else "/usr/bin/python3"


def module(name: str, *arguments: str) -> list[str]:
    """The command line that runs a module of this package without the caller's directory and variables."""
    return [interpreter(), "-I", str(HERE), name, *arguments]


def tool(name: str) -> str:
    """A program of the system by its absolute path. Raises ConfigurationError when there is none."""
    found = shutil.which(name, path=TOOL_PATH)
    if found is None:
        from hooker.errors import ConfigurationError

        raise ConfigurationError(f"there is no program {name} in {TOOL_PATH}", remedy=f"install {name}")
    return found


def environment() -> dict[str, str]:
    """What processes of our own get: the system's PATH, language, time zone, and our own variables."""
    kept = {
        name: value for name, value in os.environ.items() if name in HANDED_ON or name.startswith(OWN_PREFIX)
    }
    return {**kept, "PATH": TOOL_PATH}


def for_compilers(name: str) -> bool:
    """Whether a variable would tell a compiler in this process where to look."""
    return name.startswith(COMPILERS) or (name.startswith("BCC_") and name != "BCC_KERNEL_SOURCE")


def _main() -> None:
    """Let ``hooker`` be this very package, whatever else of the name is installed; then run the module."""
    from importlib.util import module_from_spec, spec_from_file_location

    directory = HERE.parent
    spec = spec_from_file_location(
        "hooker", directory / "__init__.py", submodule_search_locations=[str(directory)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = module_from_spec(spec)
    sys.modules["hooker"] = package
    spec.loader.exec_module(package)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
