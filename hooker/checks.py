"""What users give, on the command line, to the API or in a file: one check for each type.

Numbers are finite, within a range, and as text in ASCII: ``float("nan")`` is neither below nor above any
limit, and ``int("٣")`` or ``int("1_0")`` are numbers for Python, though nobody meant them.
"""

from __future__ import annotations

import math
import numbers
import operator
import os
import re
from collections.abc import Iterable
from typing import Any

from hooker.errors import ConfigurationError

PATH_MAX = 4096  # bytes, with the end (limits.h)
LONGEST = 60  # characters of a wrong value that a message shows
_DIGITS = 40  # of a whole number that is worth reading: what has more is beyond every range
_INTEGER = re.compile(r"([+-]?)0*([0-9]+)")
_REAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def integer(name: str, value: Any, low: int, high: int, *, remedy: str = "") -> int:
    """``value`` if it is a whole number from ``low`` to ``high``. Raises ConfigurationError, which names it.

    Text counts as what it says; a float or a truth value is no whole number.
    """
    remedy = remedy or f"give a whole number from {low} to {high}"
    try:
        if isinstance(value, str):
            sign, digits = _matched(_INTEGER, value).groups()
            whole = int(sign + digits[:_DIGITS])
        elif isinstance(value, bool):
            raise TypeError
        else:
            whole = operator.index(value)
    except (TypeError, ValueError):
        raise ConfigurationError(f"{name} {shown(value)} is not a whole number", remedy=remedy) from None
    if not low <= whole <= high:
        raise ConfigurationError(f"{name} {shown(value)} is out of range", remedy=remedy)
    return whole


def real(name: str, value: Any, low: float, high: float, *, unit: str = "", remedy: str = "") -> float:
    """``value`` as a float if it is a finite number from ``low`` to ``high``, both finite.

    Raises ConfigurationError, which names it.
    """
    remedy = remedy or f"give {low:g} to {high:g}{' ' + unit if unit else ''}"
    try:
        if isinstance(value, str):
            number = float(_matched(_REAL, value)[0])
        elif isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError
        else:
            number = float(value)
    except (TypeError, ValueError):
        raise ConfigurationError(f"{name} {shown(value)} is not a number", remedy=remedy) from None
    except OverflowError:
        number = math.inf
    if not (math.isfinite(number) and low <= number <= high):
        raise ConfigurationError(f"{name} {shown(value)} is out of range", remedy=remedy)
    return number


def flag(name: str, value: Any) -> bool:
    """``value`` if it is True or False: "no" and 0.0 would be taken for something that nobody meant."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} {shown(value)} is no truth value", remedy="give True or False")
    return value


def function(name: str, value: Any) -> None:
    """Raises ConfigurationError unless ``value`` can be called, or is None."""
    if value is not None and not callable(value):
        raise ConfigurationError(f"{name} {shown(value)} is no function", remedy="give one, or None")


def items(name: str, value: Any, *, remedy: str) -> tuple[Any, ...]:
    """What a list, a set or their like has. Text is none, though it could be walked through."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise ConfigurationError(f"{name}={shown(value)} is no list", remedy=remedy)
    return tuple(value)


def path(name: str, value: Any) -> None:
    """Raises ConfigurationError unless ``value`` is None, or text or a path that can name a file."""
    if value is None:
        return
    named = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(named, str):
        raise ConfigurationError(f"{name} {shown(value)} is not a path", remedy="give text or a Path")
    if not named:
        raise ConfigurationError(f"the path of {name} is empty", remedy="name one, or leave it out")
    try:
        raw = os.fsencode(named)
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        raw = b"\0"
    if len(raw) >= PATH_MAX:
        raise ConfigurationError(f"{name} {shown(named)} is too long", remedy="name a shorter path")
    if b"\0" in raw:
        raise ConfigurationError(
            f"{name} {shown(value)} has characters that no path has", remedy="name a file or directory"
        )


def shown(value: Any) -> str:
    """A wrong value, for a message: a line of bounded length, whatever it is."""
    try:
        said = repr(value)
    except Exception:  # a number with too many digits, or a class of the user's
        said = f"of type {type(value).__name__}"
    return said if len(said) <= LONGEST else f"{said[: LONGEST - 1]}…"


def _matched(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    found = pattern.fullmatch(text)
    if found is None:
        raise ValueError
    return found
