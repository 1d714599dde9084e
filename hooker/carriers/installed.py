"""Carriers of other packages, by the names that these give them (entry points of ``hooker.carriers``).

Such a carrier is compiled code in the engine's own process, which is root. So it is taken from where this
installation has its packages and from nowhere else, and only if nobody but root or the caller could have
written it.
"""

from __future__ import annotations

import re
import site
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import distributions
from importlib.util import find_spec
from types import ModuleType

from hooker import trust
from hooker.carriers import Settings
from hooker.carriers.contract import CONTRACT, CarrierHandle
from hooker.errors import ConfigurationError, HookerError

GROUP = "hooker.carriers"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}", re.ASCII)
MODULE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", re.ASCII)


class Unfit(ConfigurationError):
    """A carrier's module cannot be had, or is none."""


def names() -> dict[str, str]:
    """What installed packages offer: modules, by name. Nothing of them is imported."""
    found = {}
    for distribution in distributions(path=site.getsitepackages()):
        for point in distribution.entry_points:
            if point.group == GROUP and NAME.fullmatch(point.name) and MODULE.fullmatch(point.value):
                found[point.name] = point.value
    return found


def check(module: str) -> None:
    """Raises Unfit: it is not there, or not to be believed. Nothing of it is imported."""
    for name, spec in _way(module):
        _believe(name, spec)


def make(name: str, module: str, settings: Settings) -> CarrierHandle:
    """Raises Unfit: the module is not what a carrier's has to be. ConfigurationError: this machine lacks
    what it needs, or it cannot be as ``settings`` want it."""
    found = _load(name, module)
    contract = getattr(found, "CONTRACT", None)
    if contract != CONTRACT:
        raise Unfit(
            f"carrier {name}: {module} is made for contract {contract}, this is {CONTRACT}",
            remedy="build it with this version of Hooker; it says CONTRACT = CARRIER_CONTRACT",
        )
    _require_taken(name, module, getattr(found, "TAKES", ()), settings)
    try:
        handle = found.make(settings)
    except HookerError as error:
        raise ConfigurationError(error.message, remedy=error.remedy) from None
    except Exception as error:
        raise _raised(name, module, error) from None
    if not isinstance(handle, CarrierHandle):
        raise Unfit(f"carrier {name}: make() of {module} has given {handle!r:.80}, which is no carrier")
    handle.name = name  # that of the entry point: both hosts go by it
    return handle


def _require_taken(name: str, module: str, takes: object, settings: Settings) -> None:
    """Each parameter is one of ``TAKES``, and within its bounds. Raises Unfit."""
    try:
        ranges = {str(key): (int(least), int(most)) for key, least, most in takes}  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise Unfit(
            f"carrier {name}: TAKES of {module} is no list of names, least and greatest numbers"
        ) from None
    for key, value in settings.given.items():
        if key not in ranges:
            known = f", but {', '.join(ranges)}" if ranges else ""
            raise Unfit(f"carrier {name}: it takes no {key!r}{known}")
        least, most = ranges[key]
        if not least <= value <= most:
            raise Unfit(f"carrier {name}: {key} is from {least} to {most}, not {value}")


def _load(name: str, module: str) -> ModuleType:
    for part, spec in _way(module):
        _believe(part, spec)
        first = find_spec(part)  # what contains it has been imported
        if first is None or first.origin != spec.origin:
            other = "nothing" if first is None else first.origin
            raise Unfit(
                f"carrier {name}: Python finds {other} before {spec.origin}",
                remedy="run hooker isolated (python -I), or elsewhere",
            )
        try:
            found = import_module(part)
        except Exception as error:
            raise _raised(name, module, error) from None
    return found


def _way(module: str) -> list[tuple[str, ModuleSpec]]:
    """The packages that it is in, and itself, found where the installation has its packages."""
    places = site.getsitepackages()
    found, path = [], places
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        spec = PathFinder.find_spec(name, path)
        if spec is None:
            raise Unfit(
                f"module {module} is not installed in {', '.join(places)}",
                remedy="install its package there; what is linked from elsewhere is not taken",
            )
        found.append((name, spec))
        path = list(spec.submodule_search_locations or ())
    return found


def _believe(name: str, spec: ModuleSpec) -> None:
    try:
        trust.check_module(name, spec)
    except ConfigurationError as error:
        raise Unfit(error.message, remedy=error.remedy) from None
    except OSError as error:
        raise Unfit(f"module {name}: {error.strerror}") from None


def _raised(name: str, module: str, error: Exception) -> Unfit:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return Unfit(f"carrier {name}: {module}: {text:.240}")
