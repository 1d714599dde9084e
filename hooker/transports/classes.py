"""Users' classes, by name: how they are written, what packages call them, where they are looked for."""

from __future__ import annotations

import os
import re
from pathlib import Path

GROUPS = {
    "transport": "hooker.transports",
    "reliability": "hooker.reliability",
    "congestion": "hooker.congestion",
}
PLACE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
DIRECTORIES = "HOOKER_PATH"  # with colons; else the working directory


def place_of(kind: str, name: str) -> str:
    """``module:Class`` that a name stands for: it is one, or that of an entry point in the group of ``kind``.

    "": it is no user's class. Nothing is imported.
    """
    if PLACE.fullmatch(name):
        return name
    found = installed(kind).get(name, "")
    return found if PLACE.fullmatch(found) else ""


def installed(kind: str) -> dict[str, str]:
    """What installed packages offer, by name."""
    from importlib.metadata import entry_points  # slow to load, and only an unknown name is looked for

    return {point.name: point.value.replace(" ", "") for point in entry_points(group=GROUPS[kind])}


def directories() -> list[str]:
    """Where classes are looked for that are not installed, by absolute paths."""
    named = os.environ.get(DIRECTORIES, "")
    try:
        here = str(Path.cwd())
    except OSError:  # it was removed
        here = ""
    return [str(Path(here or "/") / one) for one in (named.split(":") if named else [here]) if one]
