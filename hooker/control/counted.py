"""What kernel programs count for each CPU, by the names that their header gives it (``X(HK_…, "name")``)."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

from hooker.control.loaded import Loaded


@cache
def names(header: str, prefix: str) -> tuple[str, ...]:
    """In the order of the enum. ``header``: below ``bpf/``; ``prefix``: of the enum's constants."""
    text = resources.files("hooker.bpf").joinpath(header).read_text()
    return tuple(re.findall(rf'X\({prefix}\w+, "([\w-]+)"\)', text))


def counts(programs: Loaded, header: str, prefix: str) -> dict[str, int]:
    """Those in ``hk_counters``, summed over CPUs."""
    return {
        name: sum(one.value for one in programs.read("hk_counters", at))
        for at, name in enumerate(names(header, prefix))
    }
