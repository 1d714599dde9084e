"""Which connections are candidates for hooking, and the rules for how they are moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hooker import checks
from hooker.control.addressed import Addressed, parse_ports, parse_prefixes
from hooker.control.rules import Rule
from hooker.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Policy(Addressed):
    """Immutable. ``ports``, ``prefixes``: candidates; an empty set means "all".

    ``rules``: of those for a candidate the first says how it is moved; without one the engine's settings do.
    """

    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        Addressed.__post_init__(self)
        rules = checks.items("rules", self.rules, remedy="give a list of what Rule.read() makes")
        object.__setattr__(self, "rules", rules)
        for rule in rules:
            if not isinstance(rule, Rule):
                raise ConfigurationError(
                    f"rule {checks.shown(rule)} is none", remedy="make it with Rule.read()"
                )

    @classmethod
    def parse(cls, *, port: str | None = None, to: str | None = None, rules: Sequence[str] = ()) -> Policy:
        """From command-line text, as in ``port="80,8000-8010"``, ``to="10.0.0.0/8,fd00::/8"``; each rule as
        ``Rule.read`` takes it.

        Raises ConfigurationError, which names the offending part.
        """
        for name, text in (("port", port), ("to", to)):
            if text is not None and not isinstance(text, str):
                raise ConfigurationError(
                    f"{name}={checks.shown(text)} is no text",
                    remedy=f'write it as on the command line: {name}="…"',
                )
        if isinstance(rules, str) or not isinstance(rules, Sequence):
            raise ConfigurationError(
                f"rules={checks.shown(rules)} is no list", remedy='give rules=["port=80 transport=tcp"]'
            )
        return cls(
            ports=frozenset() if port is None else parse_ports(port),
            prefixes=() if to is None else parse_prefixes(to),
            rules=tuple(map(Rule.read, rules)),
        )
