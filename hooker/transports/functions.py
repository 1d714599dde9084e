"""What users say of a reliability function: its name, and limits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hooker import checks
from hooker.errors import ConfigurationError
from hooker.transports.classes import place_of

if TYPE_CHECKING:
    from hooker.vtl.reliability import Known

ALWAYS = 255  # repeats: a lost block goes again as often as it takes
EXAMPLES = {"window": "window=64", "repeats": "repeats=2", "deadline": "deadline=200ms"}
DEADLINE = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Function:
    """One of ``hooker.vtl.reliability``, with its limits.

    ``window``: packets outstanding; 0: its own. ``repeats``: how often a lost block is sent again.
    ``deadline``: seconds after which it is not; 0: none.
    """

    name: str = "selective-repeat"
    window: int = 0
    repeats: int = ALWAYS
    deadline: float = 0.0

    def __str__(self) -> str:
        """As ``parse()`` takes it."""
        limits = [f"window={self.window}"] if self.window else []
        if self.repeats != ALWAYS:
            limits.append(f"repeats={self.repeats}")
        if self.deadline:
            limits.append(f"deadline={self.deadline * 1000:g}ms")
        return ":".join(filter(None, (self.name, ",".join(limits))))


def parse(text: str) -> Function:
    """As in "none", "go-back-n:window=64", "partial:deadline=200ms,repeats=2"; or a user's class.

    Raises ConfigurationError, which lists the known names, or the limits of the one that is named.
    """
    if not isinstance(text, str):
        raise ConfigurationError(
            f"reliability {checks.shown(text)} is no text", remedy='give a name, as "go-back-n"'
        )
    if is_class(text):
        return Function(text)
    name, colon, rest = text.partition(":")
    limits = _known(name).limits
    given: dict[str, float] = {}
    for part in rest.split(",") if colon else []:
        key, equals, value = part.partition("=")
        if key not in limits or not equals:
            remedy = " or ".join(f"{name}:{EXAMPLES[limit]}" for limit in limits) or "leave it out"
            raise ConfigurationError(f"reliability {name!r} has no limit {checks.shown(part)}", remedy=remedy)
        if key in given:
            raise ConfigurationError(f"reliability {name!r}: {key} is given twice")
        given[key] = _seconds(value) if key == "deadline" else _count(key, value)
    if not given and "deadline" in limits:
        raise ConfigurationError(
            f"reliability {name!r} needs a limit", remedy=" or ".join(f"{name}:{EXAMPLES[x]}" for x in limits)
        )
    return Function(
        name, int(given.get("window", 0)), int(given.get("repeats", ALWAYS)), given.get("deadline", 0.0)
    )


def limits_of(functions: Sequence[Function]) -> Function:
    """The limits of all of them, with the name of the first: an engine has one of each.

    Raises ConfigurationError when one function is named with different limits.
    """
    by_name = {functions[0].name: functions[0]}
    for function in functions[1:]:
        if by_name.setdefault(function.name, function) != function:
            raise ConfigurationError(
                f"reliability {function.name!r} is given as {by_name[function.name]} and as {function}",
                remedy="give one function the same limits everywhere",
            )
    each = by_name.values()
    return Function(
        functions[0].name,
        max(one.window for one in each),
        min(one.repeats for one in each),
        max(one.deadline for one in each),
    )


def code(function: Function) -> int:
    """Its number in VTL's handshake; 0 for a user's class, which is known where it runs."""
    return 0 if is_class(function.name) else _known(function.name).code


def is_complete(function: Function) -> bool:
    """Whether every byte arrives, be it by the applications' TCPs; else holes are filled with zeros."""
    return not is_class(function.name) and _known(function.name).complete


def repairs(function: Function) -> bool:
    """Whether what the path loses is sent again; else, or perhaps, by the applications' TCPs only."""
    return not is_class(function.name) and _known(function.name).repairs


def is_class(text: str) -> bool:
    """Whether it is a user's, by name."""
    return text.partition(":")[0] not in _functions() and bool(place_of("reliability", text))


def _functions() -> dict[str, Known]:
    try:
        from hooker.vtl.reliability import known
    except ImportError as error:
        raise ConfigurationError(f"the engine is not built: {error}", remedy="./dev build") from None
    return known()


def _known(name: str) -> Known:
    functions = _functions()
    if name not in functions:
        raise ConfigurationError(
            f"unknown reliability function {checks.shown(name)}",
            remedy=f"known: {', '.join(sorted(functions))}; or module:Class of your own",
        )
    return functions[name]


def _count(key: str, value: str) -> int:
    low, high = (1, 65535) if key == "window" else (0, ALWAYS - 1)
    if not re.fullmatch(r"[0-9]{1,5}", value, re.ASCII):
        raise ConfigurationError(
            f"reliability: {key} {checks.shown(value)} is no number", remedy=f"give {low} to {high}"
        )
    return checks.integer(f"reliability: {key}", int(value), low, high)


def _seconds(value: str) -> float:
    match = DEADLINE.fullmatch(value)
    if not match:
        raise ConfigurationError(
            f"reliability: deadline {checks.shown(value)} is no time", remedy="as in 200ms or 1.5s"
        )
    seconds = float(match[1]) / (1000 if match[2] == "ms" else 1)
    return checks.real("reliability: deadline", seconds, 0.001, 60, unit="s")
