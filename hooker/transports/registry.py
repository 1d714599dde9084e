"""The transports by name: their numbers in the TCP option, what they need, and which can be had here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from types import ModuleType
from typing import Any

from hooker import checks
from hooker.errors import ConfigurationError, HookerError
from hooker.transports import classes, sockets
from hooker.transports.sockets import Probe

OFFER_MOST = 6  # that an option's list has room for: HK_OFFER_MOST
WIRE_IDS = (1, 15)
LEAST_DATAGRAM = 1200  # bytes, that each path of VTL's carries
NOT_BUILT = "this version of Hooker does not have it"
SEGMENT_HEADERS = 24  # bytes of a datagram beside a segment's payload
UDP_HEADERS, TCP_HEADERS, TIMESTAMPS = 28, 40, 12  # bytes, IPv4's included
VTL_OVER = "vtl+"  # and the carrier's name
PARAMETER = re.compile(r"[a-z][a-z0-9_-]{0,31}", re.ASCII)  # of another package's carrier
PARAMETER_MOST = (1 << 31) - 1
SELECTIVE_REPEAT, BY_TCP, OWN = "selective-repeat", "none", "its own"
NAMED = 13  # all that users' classes and others' carriers make: their names tell them apart


@dataclass(frozen=True, slots=True)
class Transport:
    """One way to move flows from engine to engine.

    ``wire_id`` stands for it in the TCP option and in HELLO. ``carrier``: what its packets or messages ride
    on, whose ports it listens on. ``reliability``: what repairs losses, a function of VTL's, "none" (the
    applications' TCPs do) or "its own". ``probe`` raises HookerError if this machine lacks what it needs;
    ``built``: there is code for it. ``takes``: names of parameters, with the least and the greatest number
    that each may be, None if only what makes it knows; ``given``: those that a user has written behind the
    name. ``place``: of a user's class, ``module:Class``, or the module of another package's carrier.
    ``space``: what only one of a host's has.
    ``overhead``: bytes of an IPv4 packet that are its carrier's. ``last_port``: the highest that an engine
    with it may have.
    """

    name: str
    wire_id: int
    summary: str
    carrier: str
    reliability: str
    probe: Probe = sockets.udp
    built: bool = True
    takes: tuple[tuple[str, int, int], ...] | None = ()
    given: tuple[tuple[str, int], ...] = ()
    place: str = ""
    space: str = ""
    overhead: int = 0
    last_port: int = 65535

    @property
    def is_class(self) -> bool:
        """Whether a user's class makes it."""
        return ":" in self.place

    @property
    def has_functions(self) -> bool:
        """Whether VTL is in it, whose functions and congestion control can be chosen."""
        return self.reliability == SELECTIVE_REPEAT

    def __str__(self) -> str:
        """As users write it."""
        return ":".join([self.name, *(f"{name}={value}" for name, value in self.given)])

    def available(self) -> tuple[bool, str]:
        """Whether flows can be moved onto it here, and why not."""
        reasons = [] if self.built else [NOT_BUILT]
        try:
            self.probe()
        except HookerError as error:
            reasons.append(str(error))
        return not reasons, "; ".join(reasons)


@dataclass(frozen=True, slots=True)
class Choice:
    """What a user's list comes to on this machine.

    ``taken`` is in order of preference; ``skipped`` are names, with the reason.
    """

    taken: tuple[Transport, ...]
    skipped: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return ",".join(map(str, self.taken))

    def without(self, skipped: Mapping[int, str]) -> Choice:
        """What remains when these, by their numbers and for these reasons, are skipped, too."""
        more = tuple((one.name, skipped[one.wire_id]) for one in self.taken if one.wire_id in skipped)
        taken = tuple(one for one in self.taken if one.wire_id not in skipped)
        return Choice(taken, self.skipped + more)


_registry: dict[str, Transport] = {}


def register(transport: Transport) -> Transport:
    """Raises ConfigurationError when the name or the number is taken or does not fit."""
    if not transport.name or set(",:") & set(transport.name):
        raise ConfigurationError(f"transport {transport.name!r}: a name has a letter, no comma and no colon")
    checks.integer(f"transport {transport.name!r}: wire id", transport.wire_id, *WIRE_IDS)
    for known in _registry.values():
        if known.name == transport.name or known.wire_id == transport.wire_id:
            raise ConfigurationError(f"transport {transport.name!r} collides with {known.name!r}")
    _registry[transport.name] = transport
    return transport


def get(name: str) -> Transport:
    """Raises ConfigurationError, which lists the known names."""
    try:
        return _registry[name]
    except KeyError:
        raise ConfigurationError(
            f"unknown transport {checks.shown(name)}" if name.strip() else "a transport has no name",
            remedy=f"known transports: {', '.join(names())}; or module:Class of your own",
        ) from None


def numbered(wire_id: int) -> Transport | None:
    return next((one for one in _registry.values() if one.wire_id == wire_id), None)


def known() -> list[Transport]:
    """All of them, by their numbers."""
    return sorted(_registry.values(), key=lambda transport: transport.wire_id)


def names() -> list[str]:
    return sorted(_registry)


def name_of(wire_id: int) -> str:
    """For people; "" for 0, which is none."""
    if transport := numbered(wire_id):
        return transport.name
    if wire_id == NAMED:
        return "prototype"
    return f"number {wire_id}" if wire_id else ""


def choose(
    wanted: str | Sequence[str],
    among: Sequence[Transport] | None = None,
    beside: Sequence[Transport] = (),
) -> Choice:
    """The transports that are offered to peers, and taken from them: names with commas, or a list of names,
    each with parameters if it takes any (``vtl+udplite:coverage=40``).

    ``among`` are those that a running engine has; None: it is not there yet, but will have those of
    ``beside`` in any case. What cannot be had is skipped as
    long as another one remains. Raises ConfigurationError if none does, with each reason, and for a list
    that is a mistake wherever it is given: a name that there is not, or twice, a parameter that does not
    fit, more than OFFER_MOST.
    """
    taken: list[Transport] = []
    skipped: list[tuple[str, str]] = []
    meant = [_meant(name) for name in _split(wanted)]
    _require_distinct(meant)
    for transport in meant:
        if why := _why_not(transport, taken, among, beside):
            skipped.append((str(transport), why))
        else:
            taken.append(transport)
    if not taken:
        said = "; ".join(f"transport {name!r}: {why}" for name, why in skipped) or "no transport is named"
        there = _here() if among is None else [transport.name for transport in among]
        raise ConfigurationError(said, remedy=f"here there are {', '.join(there)}; see `hooker transports`")
    return Choice(tuple(taken), tuple(skipped))


def _split(wanted: str | Sequence[str]) -> list[str]:
    names = wanted.split(",") if isinstance(wanted, str) else wanted
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(
            f"transport {checks.shown(wanted)} is no list of names", remedy='give "vtl", or a list'
        )
    return [name.strip() for name in names]


def _require_distinct(meant: Sequence[Transport]) -> None:
    for at, transport in enumerate(meant):
        same = next((before for before in meant[:at] if transport.wire_id == before.wire_id), None)
        if same is None:
            continue
        if transport.name == same.name:
            raise ConfigurationError(f"transport {transport.name!r} is named twice")
        raise ConfigurationError(
            f"{same.name!r} and {transport.name!r} have one number, {same.wire_id}: an engine has one",
            remedy="leave one out",
        )
    if len(meant) > OFFER_MOST:
        raise ConfigurationError(
            f"{len(meant)} transports are named, {OFFER_MOST} are the most that are offered"
        )


def _meant(text: str) -> Transport:
    """The transport with the parameters that are behind its name. Raises ConfigurationError."""
    name, *parameters = text.split(":")
    if name not in _registry and (place := classes.place_of("transport", text)):
        return prototype(text, place)
    transport = _over_anothers(name) or get(name)
    given: dict[str, int] = {}
    for parameter in parameters:
        key, value = _parameter(transport, parameter)
        if key in given:
            raise _wrong(name, f"{key} is given twice")
        given[key] = value
    return replace(transport, given=tuple(given.items()))


def _parameter(transport: Transport, text: str) -> tuple[str, int]:
    """Name and number, as far as can be told before the transport is made. Raises ConfigurationError."""
    key, _, value = text.partition("=")
    if transport.takes is None:
        ranges = {key: (0, PARAMETER_MOST)} if PARAMETER.fullmatch(key) else {}
    else:
        ranges = {known: (least, most) for known, least, most in transport.takes}
    if key not in ranges:
        raise _wrong(
            transport.name,
            f"it takes no {checks.shown(key)}" + (f", but {', '.join(ranges)}" if ranges else ""),
        )
    least, most = ranges[key]
    if not (value.isascii() and value.isdigit() and len(value) <= len(str(most))):
        raise _wrong(transport.name, f"{key} is one number from {least} to {most}")
    if not least <= int(value) <= most:
        raise _wrong(transport.name, f"{key} is from {least} to {most}, not {value}")
    return key, int(value)


def prototype(name: str, place: str) -> Transport:
    """One that a user's class makes, at ``module:Class``."""
    return Transport(name, NAMED, f"the class {place}", OWN, OWN, place=place)


def over(carrier: str, module: str) -> Transport:
    """VTL over the carrier of another package."""

    def probe() -> None:
        carriers().check(module)

    summary = f"vtl over the carrier of {module}"
    return Transport(
        VTL_OVER + carrier, NAMED, summary, carrier, SELECTIVE_REPEAT, probe, takes=None, place=module
    )


def _over_anothers(name: str) -> Transport | None:
    carrier = name.removeprefix(VTL_OVER)
    if name in _registry or carrier == name:
        return None
    module = carriers().names().get(carrier)
    return None if module is None else over(carrier, module)


def carriers() -> ModuleType:
    """Of other packages. They need the engine, and are looked for only where one is named."""
    try:
        return import_module("hooker.carriers.installed")
    except ImportError as error:
        raise ConfigurationError(f"the engine is not built: {error}", remedy="./dev build") from None


def installed() -> list[Transport]:
    """Those that installed packages offer (entry points of ``hooker.transports`` and ``hooker.carriers``)."""
    made = [prototype(name, place) for name, place in sorted(classes.installed("transport").items())]
    return made + [over(name, module) for name, module in sorted(carriers().names().items())]


def _wrong(name: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"transport {name!r}: {why}")


def _why_not(
    transport: Transport,
    taken: list[Transport],
    among: Sequence[Transport] | None,
    beside: Sequence[Transport],
) -> str:
    opened = next((one for one in among or beside if one.wire_id == transport.wire_id), None)
    if opened is not None:
        same = transport.name == opened.name and transport.given in ((), opened.given)
        return "" if same else f"the engine {'was' if among else 'is'} started with {opened}"
    if among is not None:
        return "the engine was started without it, or skipped it (hooker status)"
    space = transport.space
    before = next((one.name for one in [*beside, *taken] if space and one.space == space), "")
    return f"{before}, which is named before it, has {space}" if before else transport.available()[1]


def _here() -> list[str]:
    return [transport.name for transport in known() if transport.available()[0]]


def offer(chosen: Sequence[Transport]) -> int:
    """The list as a client's option has it: 4 bits each, the first choice in the highest of 24."""
    return sum(transport.wire_id << 20 - 4 * at for at, transport in enumerate(chosen))


def bitmap(chosen: Sequence[Transport]) -> int:
    """A bit ``1 << wire_id`` for each."""
    return sum({1 << transport.wire_id for transport in chosen})


def segment_mtu(chosen: Sequence[Transport], datagram: int, timestamps: bool = True) -> int:
    """Bytes of a TCP packet, so that each transport that puts one segment into a datagram has room for it.

    ``datagram``: bytes of UDP's payload over IPv4 that the links carry; ``timestamps``: TCP has them here.
    0: there is room in all that the links carry.
    """
    headers = TCP_HEADERS + (TIMESTAMPS if timestamps else 0)
    bare = [one for one in chosen if one.reliability == BY_TCP]  # none has datagrams larger than UDP's
    more = [max(one.overhead, UDP_HEADERS) + SEGMENT_HEADERS for one in bare]
    excess = max([*more, 0]) - headers
    return datagram + UDP_HEADERS - excess if excess > 0 else 0


def _over_ours(
    carrier: str,
    summary: str,
    *,
    numbers: tuple[int, int],
    space: str,
    overhead: int,
    probe: Probe,
    vtl: str = "",
    takes: tuple[tuple[str, int, int], ...] = (),
) -> None:
    """The two over ``hooker/carriers/CARRIER.pyx``: VTL, and one segment a datagram."""
    name = vtl or VTL_OVER + carrier
    both: dict[str, Any] = {
        "probe": probe,
        "takes": takes,
        "space": space,
        "overhead": overhead,
    }
    register(Transport(name, numbers[0], summary, carrier, SELECTIVE_REPEAT, **both))
    register(Transport(carrier, numbers[1], "one segment a datagram", carrier, BY_TCP, **both))


def _own(name: str, wire_id: int, summary: str, carrier: str, probe: Probe, **more: Any) -> None:
    """One with a module of its own, ``hooker.transports.NAME``."""
    register(Transport(name, wire_id, summary, carrier, OWN, probe, **more))


_over_ours(
    "udp",
    "datagrams of our own: BBR or CUBIC, FEC, encryption",
    vtl="vtl",
    numbers=(1, 5),
    space="the UDP port",
    overhead=28,
    probe=sockets.udp,
)
_over_ours(
    "udplite",
    "vtl over udplite: how much the kernel's checksum covers can be set",
    numbers=(2, 6),
    space="the UDP-Lite port",
    overhead=32,
    probe=sockets.udplite,
    takes=(("coverage", 0, LEAST_DATAGRAM),),
)
_over_ours(
    "dccp",
    "vtl over dccp: the kernel's congestion control, CCID 2 (or 3, for steady streams)",
    numbers=(3, 7),
    space="the DCCP port",
    overhead=84,
    probe=sockets.dccp,
    takes=(("ccid", 2, 3),),
)
_over_ours(
    "ip",
    "vtl over IP itself, protocol 253: no ports",
    numbers=(4, 8),
    space="IP protocol 253",
    overhead=24,
    probe=sockets.raw,
    takes=(("frames", 0, 1),),
)
_own("sctp", 9, "one association for a pair of hosts", "sctp", sockets.sctp)
_own("quic", 10, "one connection for a pair of hosts, encrypted", "udp", sockets.quic, last_port=65534)
_own(
    "mptcp",
    11,
    "one connection for a pair of hosts, over all of their paths",
    "mptcp",
    sockets.mptcp,
    space="the TCP port",
)
_own("tcp", 12, "one connection for a pair of hosts", "tcp", sockets.tcp, space="the TCP port")
