"""What a policy's rules say of how their connections are moved: onto which transports, with which function.

The first rule that is for a connection decides; what no rule is for, or what a rule leaves open, goes the
engine's own way. Rules choose among candidates, they make none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hooker import checks
from hooker.control.addressed import Addressed, parse_ports, parse_prefixes
from hooker.errors import ConfigurationError
from hooker.transports import Choice, Transport, choose, classes, functions
from hooker.transports.functions import Function

MOST_RULES = 15  # HK_RULES without the engine's own
EXAMPLE = "port=5004 to=10.0.0.0/8 transport=vtl reliability=partial:deadline=200ms"


@dataclass(frozen=True, slots=True)
class Rule(Addressed):
    """Immutable. ``ports``, ``prefixes``: for which connections, as in a Policy; an empty set means "all".

    ``transport``: names in order of preference, with commas; "": the engine's own. ``reliability``: VTL's
    function for what this host begins; "": the engine's own.
    """

    transport: str = ""
    reliability: str = ""

    def __post_init__(self) -> None:
        Addressed.__post_init__(self)
        for name, value in (("transport", self.transport), ("reliability", self.reliability)):
            if not isinstance(value, str):
                raise ConfigurationError(
                    f"{name} {checks.shown(value)} of a rule is no text", remedy=f"write {EXAMPLE}"
                )

    @classmethod
    def read(cls, text: str) -> Rule:
        """From command-line text: ``key=value`` pairs with spaces between them, as in EXAMPLE.

        Raises ConfigurationError, which names the offending part.
        """
        if not isinstance(text, str):
            raise ConfigurationError(f"rule {checks.shown(text)} is no text", remedy=f"write {EXAMPLE}")
        given: dict[str, str] = {}
        for part in text.split():
            key, equals, value = part.partition("=")
            if key not in ("port", "to", "transport", "reliability") or not equals:
                raise ConfigurationError(
                    f"rule {checks.shown(text)}: {checks.shown(part)} is no part of one",
                    remedy=f"write {EXAMPLE}",
                )
            if not value:
                raise ConfigurationError(
                    f"rule {checks.shown(text)}: {key} has no value", remedy=f"write {EXAMPLE}"
                )
            if key in given:
                raise ConfigurationError(f"rule {checks.shown(text)}: {key} is given twice")
            given[key] = value
        ports = parse_ports(given["port"]) if "port" in given else frozenset()
        prefixes = parse_prefixes(given["to"]) if "to" in given else ()
        if not {"transport", "reliability"} & set(given):
            raise ConfigurationError(
                f"rule {checks.shown(text)} says nothing about how to move", remedy=f"write {EXAMPLE}"
            )
        return cls(
            ports=ports,
            prefixes=prefixes,
            transport=given.get("transport", ""),
            reliability=given.get("reliability", ""),
        )

    def whom(self) -> str:
        """For people."""
        return Addressed.__str__(self)

    def __str__(self) -> str:
        said = [f"transport {self.transport}"] if self.transport else []
        said += [f"reliability {self.reliability}"] if self.reliability else []
        return ", ".join([self.whom(), *said])


@dataclass(frozen=True, slots=True)
class Way:
    """How the flows of a rule are moved. A ``choice`` of none leaves them to TCP."""

    choice: Choice
    function: Function

    @property
    def first(self) -> int:
        """The number of the transport that is asked for first; 0: none is."""
        return self.choice.taken[0].wire_id if self.choice.taken else 0


def find_ways(transport: str | Sequence[str], reliability: str, rules: Sequence[Rule]) -> tuple[Way, ...]:
    """The engine's own way, then one for each rule. Raises ConfigurationError, which names the rule."""
    if len(rules) > MOST_RULES:
        raise ConfigurationError(f"{len(rules)} rules are given, {MOST_RULES} are the most")
    ways = [Way(choose(transport), functions.parse(reliability))]
    for number, rule in enumerate(rules, 1):
        try:
            choice = choose(rule.transport, beside=opened(ways)) if rule.transport else ways[0].choice
            function = _parsed(rule.reliability) if rule.reliability else ways[0].function
        except ConfigurationError as error:
            raise ConfigurationError(f"rule {number}: {error.message}", remedy=error.remedy) from None
        ways.append(Way(choice, function))
    functions.limits_of([way.function for way in ways])
    return tuple(ways)


def _parsed(text: str) -> Function:
    function = functions.parse(text)
    if functions.is_class(function.name):
        raise ConfigurationError(
            f"{function} is a class of yours, which moves all of an engine's flows",
            remedy="give it with --reliability",
        )
    return function


def require_free(function: Function, congestion: str) -> None:
    """A user's class in VTL runs in a process that has one function. Raises ConfigurationError for one."""
    if functions.is_class(function.name) or classes.place_of("congestion", congestion):
        raise ConfigurationError(
            "with a class of yours in VTL its function is the same for all connections",
            remedy="choose transports by rules, or leave the class out",
        )


def opened(ways: Sequence[Way]) -> list[Transport]:
    """What all of them need, in their order."""
    found: dict[int, Transport] = {}
    for way in ways:
        for transport in way.choice.taken:
            found.setdefault(transport.wire_id, transport)
    return list(found.values())


def without(ways: Sequence[Way], skipped: Mapping[int, str]) -> tuple[Way, ...]:
    """What remains when these transports, by their numbers and for these reasons, cannot be had."""
    return tuple(replace(way, choice=way.choice.without(skipped)) for way in ways)


def all_skipped(ways: Sequence[Way]) -> dict[str, str]:
    """Reasons by name."""
    return {name: why for way in ways for name, why in way.choice.skipped}


def change(
    ways: Sequence[Way],
    rules: Sequence[Rule],
    among: Sequence[Transport],
    *,
    transport: str | Sequence[str] | None = None,
    reliability: str | None = None,
    rule: int = 0,
    failed: Mapping[int, str] | None = None,
) -> tuple[Way, ...]:
    """The ways with that of ``rule`` changed; 0 is the engine's own, and that of rules which leave it open.

    ``among``: transports that the engine was started with; ``failed``: those that carry nothing any more, by
    number, with the reason. Raises ConfigurationError.
    """
    number = checks.integer("rule", rule, 0, len(ways) - 1, remedy=_numbers(len(ways) - 1))
    choice = None if transport is None else _alive(choose(transport, among=among), failed or {})
    function = None if reliability is None else _known_limits(_parsed(reliability), ways)
    changed = list(ways)
    for at, way in enumerate(ways):
        open_transport = at == number or (number == 0 and not rules[at - 1].transport)
        open_function = at == number or (number == 0 and not rules[at - 1].reliability)
        changed[at] = Way(
            choice if choice is not None and open_transport else way.choice,
            function if function is not None and open_function else way.function,
        )
    return tuple(changed)


def _alive(choice: Choice, failed: Mapping[int, str]) -> Choice:
    alive = choice.without(failed)
    if not alive.taken:
        raise ConfigurationError(
            "; ".join(f"transport {name!r} has failed: {why}" for name, why in alive.skipped),
            remedy="choose another one, or start the engine again",
        )
    return alive


def _known_limits(function: Function, ways: Sequence[Way]) -> Function:
    """Limits, and whether bytes may be given up, hold for an engine as long as it runs."""
    started = {way.function.name: way.function for way in ways}
    before = started.get(function.name)
    if before is not None:
        if function not in (before, Function(function.name)):
            raise ConfigurationError(f"the engine was started with reliability {before}, not {function}")
        return before
    if function != Function(function.name) or not functions.is_complete(function):
        raise ConfigurationError(
            f"the engine was started without reliability {function}",
            remedy="give it, or a rule with it, when the engine is started",
        )
    return function


def _numbers(last: int) -> str:
    return f"0 is the engine's own way, 1 to {last} are its rules" if last else "the engine has no rules"
