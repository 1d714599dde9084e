"""Numbers and paths that users give, on the command line, to the API or in a file: one check for all.

Finite, within a range, and as text in ASCII: ``float("nan")`` is neither below nor above any limit, and
``int("٣")`` or ``int("1_0")`` are numbers for Python, though nobody meant them.
"""

from __future__ import annotations

import math
import numbers
import operator
import os
import re
from typing import Any

from hooker.errors import ConfigurationError

_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
_REAL = re.compile(r"[+-]?(?:[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(?:[eE][+-]?[0-9]{1,3})?")


def integer(name: str, value: Any, low: int, high: int, *, remedy: str = "") -> int:
    """``value`` if it is a whole number from ``low`` to ``high``. Raises ConfigurationError, which names it.

    Text counts as what it says; a float or a truth value is no whole number.
    """
    remedy = remedy or f"give a whole number from {low} to {high}"
    try:
        if isinstance(value, str):
            whole = int(_matched(_INTEGER, value))
        elif isinstance(value, bool):
            raise TypeError
        else:
            whole = operator.index(value)
    except (TypeError, ValueError):
        raise ConfigurationError(f"{name} {value!r} is not a whole number", remedy=remedy) from None
    if not low <= whole <= high:
        raise ConfigurationError(f"{name} {value!r} is out of range", remedy=remedy)
    return whole


def real(name: str, value: Any, low: float, high: float, *, unit: str = "", remedy: str = "") -> float:
    """``value`` as a float if it is a finite number from ``low`` to ``high``, both finite.

    Raises ConfigurationError, which names it.
    """
    remedy = remedy or f"give {low:g} to {high:g}{' ' + unit if unit else ''}"
    try:
        if isinstance(value, str):
            number = float(_matched(_REAL, value))
        elif isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError
        else:
            number = float(value)
    except (TypeError, ValueError):
        raise ConfigurationError(f"{name} {value!r} is not a number", remedy=remedy) from None
    except OverflowError:
        number = math.inf
    if not (math.isfinite(number) and low <= number <= high):
        raise ConfigurationError(f"{name} {value!r} is out of range", remedy=remedy)
    return number


def path(name: str, value: Any) -> None:
    """Raises ConfigurationError unless ``value`` is text, a path or None."""
    if value is not None and not isinstance(value, str | os.PathLike):
        raise ConfigurationError(f"{name} {value!r} is not a path", remedy="give text or a Path")


def _matched(pattern: re.Pattern[str], text: str) -> str:
    if pattern.fullmatch(text) is None:
        raise ValueError
    return text
