"""Reliability functions, one a file: what VTL sends again, what it accepts, when it gives something up.

Each registers itself by name when it is imported; importing this package does that.
"""

from hooker.vtl.reliability import (  # type: ignore[attr-defined]
    go_back_n,  # noqa: F401
    none,  # noqa: F401
    partial,  # noqa: F401
    selective_repeat,  # noqa: F401
    stop_and_wait,  # noqa: F401
)
from hooker.vtl.reliability.interface import Known, codes, known, names

__all__ = ["Known", "codes", "known", "names"]
