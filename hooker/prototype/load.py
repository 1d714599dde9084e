"""A user's class, found and imported, in the process where it runs: if nobody else could have written it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from hooker import trust
from hooker.errors import ConfigurationError


class Unfit(Exception):
    """What is wrong with the class, for people."""


def load(place: str, directories: Sequence[str], base: type, required: Sequence[str]) -> type:
    """The class at ``module:Class``, a subclass of ``base`` that has the required methods itself.

    Installed packages come first, then ``directories``. Raises Unfit, and whatever the module raises.
    """
    module_name, _, class_name = place.partition(":")
    for directory in directories:
        _believe_directory(Path(directory))
    sys.path += [one for one in directories if one not in sys.path]
    behind_what_is_built_in = sys.meta_path.index(PathFinder)
    sys.meta_path.insert(behind_what_is_built_in, _Believed(directories))
    parts = module_name.split(".")
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        _believe(name, _find(name, directories))
        importlib.import_module(name)
    module = sys.modules[module_name]
    found = getattr(module, class_name, None)
    kind = f"{base.__module__.partition('.')[0]}.{base.__name__}"
    if found is None:
        raise Unfit(f"module {module_name} ({getattr(module, '__file__', 'built in')}) has no {class_name}")
    if not isinstance(found, type):
        raise Unfit(f"{class_name} is no class, but {found!r:.80}")
    if not issubclass(found, base) or found is base:
        raise Unfit(f"{class_name} is no subclass of {kind}")
    for method in required:
        if getattr(found, method) is getattr(base, method):
            raise Unfit(f"{class_name} has no method {method}()")
    return found


class _Believed(MetaPathFinder):
    """What is imported from the directories of classes, by whom and when ever, is as the class's module."""

    def __init__(self, directories: Sequence[str]) -> None:
        self._directories = [Path(one).resolve() for one in directories]

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.origin is not None:
            parents = Path(spec.origin).resolve().parents
            if any(one in parents for one in self._directories):
                _believe(name, spec)
        return spec


def _find(name: str, directories: Sequence[str]) -> ModuleSpec:
    """Raises Unfit: there is none."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        where = ", ".join(directories) or "no directory"
        raise Unfit(f"there is no module {name}, neither installed nor in {where}")
    return spec


def _believe(name: str, spec: ModuleSpec) -> None:
    """Raises Unfit when another user, who is not root, could have written it."""
    try:
        trust.check_module(name, spec)
    except ConfigurationError as error:
        raise Unfit(str(error)) from None


def _believe_directory(directory: Path) -> None:
    """Modules are looked for in it. Raises Unfit."""
    try:
        trust.check_searched(directory, "the directory of classes")
    except ConfigurationError as error:
        raise Unfit(str(error)) from None
    except OSError as error:
        raise Unfit(f"the directory of classes {directory}: {error.strerror}") from None
