"""One engine's life as the commands use it: its options, start, control socket and end."""

from __future__ import annotations

import ctypes
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from hooker import checks, transports
from hooker.control import keyfile
from hooker.control.policy import Policy
from hooker.control.rules import find_ways
from hooker.control.status_socket import Snapshot
from hooker.errors import CarrierError, ConfigurationError
from hooker.events import OF_LANES, Event, Kind, Role
from hooker.transports import DEFAULT_PORT

SETTLED = ("released", "closed")  # states of flows that need the engine no more
POLL_INTERVAL = 0.02  # s
PRINT_TIMEOUT = 1.0  # s that a line of --verbose waits for its reader

_PR_SET_THP_DISABLE = 41  # linux/prctl.h


class Engine(Protocol):
    """What the commands use of ``hooker.Hooker``."""

    def probe(self) -> None: ...

    def start(self) -> object: ...

    def close(self) -> None: ...

    def snapshot(self) -> Snapshot: ...


@dataclass(frozen=True, slots=True)
class Options:
    """The engine's settings, checked. ``listen_port`` is UDP; None: DEFAULT_PORT if it is free, else any."""

    policy: Policy = field(default_factory=Policy)
    intercept: str = "segments"
    hold: bool = False
    transport: str = "vtl"
    listen_port: int | None = DEFAULT_PORT
    congestion: str = "auto"
    reliability: str = "selective-repeat"
    fec: bool = True
    key_file: str | None = None
    redirect: str = "auto"
    trail: str = "auto"
    xdp: tuple[str, ...] = ()
    busy_poll: float = 100e-6  # s
    verbose: bool = False

    def __post_init__(self) -> None:
        if self.listen_port is not None:
            object.__setattr__(self, "listen_port", checks.integer("port", self.listen_port, 0, 65535))
        object.__setattr__(self, "busy_poll", checks.real("busy_poll", self.busy_poll, 0, 0.01, unit="s"))
        transports.check_congestion(self.congestion)
        find_ways(self.transport, self.reliability, self.policy.rules)
        if self.key_file is not None:
            keyfile.read(self.key_file)

    @property
    def fate(self) -> str:
        """What becomes of hooked connections without their engine, for people."""
        pinned = self.key_file is not None or self.intercept == "messages"
        return f"hooked connections {'are reset, if they were engaged' if pinned else 'go on over TCP'}"


def make_engine(options: Options, cgroup: Path, port: int) -> Engine:
    """The engine for one cgroup, not started. Raises ConfigurationError when it has not been built."""
    try:
        from hooker import Hooker
    except ImportError as error:
        raise ConfigurationError(f"the engine is not built: {error}", remedy="./dev build") from None
    engine: Engine = Hooker(
        cgroup=cgroup,
        policy=options.policy,
        intercept=options.intercept,
        hold=options.hold,
        transport=options.transport,
        listen_port=port,
        congestion=options.congestion,
        reliability=options.reliability,
        fec=options.fec,
        key_file=options.key_file,
        redirect=options.redirect,
        trail=options.trail,
        xdp=options.xdp,
        busy_poll=options.busy_poll,
        on_event=_print_event if options.verbose else None,
    )
    return engine


def _start(options: Options, cgroup: Path) -> Engine:
    wanted = options.listen_port
    engine = make_engine(options, cgroup, _free_port() if wanted is None else wanted)
    try:
        engine.start()
    except CarrierError:
        if wanted is not None:
            raise
        engine = make_engine(options, cgroup, 0)  # another engine was faster
        engine.start()
    return engine


def _free_port() -> int:
    """Several commands may be hooked at a time; only one can have the well-known port."""
    dual = socket.has_dualstack_ipv6()
    with socket.socket(socket.AF_INET6 if dual else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", DEFAULT_PORT))
        except OSError:
            return 0
    return DEFAULT_PORT


@contextmanager
def running(options: Options, cgroup: Path) -> Iterator[Engine]:
    """Start the engine; end it afterwards."""
    _refuse_huge_pages()
    engine = _start(options, cgroup)
    try:
        yield engine
    finally:
        engine.close()


def _refuse_huge_pages() -> None:
    """Of this process, which is the engine's alone. Where the system makes them of all memory ("always"),
    what a crowd of flows has given back comes back: khugepaged fills the holes.
    """
    ctypes.CDLL(None).prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)  # without it there is only more of it resident


def drain(engine: Engine, timeout: float, stopped: Callable[[], bool]) -> bool:
    """Wait until no flow needs the engine: the bytes of a process that has exited are still on their way.

    Ends after ``timeout`` seconds, or when ``stopped()`` says so; whether all flows were settled.
    """
    deadline = time.monotonic() + timeout
    while any(state not in SETTLED for state in engine.snapshot()["states"]):
        if stopped() or time.monotonic() >= deadline:
            return False
        time.sleep(POLL_INTERVAL)
    return True


def _print_event(event: Event) -> None:
    """One write, past Python's buffer: a thread that nobody's reading stops would be left with its lock."""
    if sys.stderr is None:
        return
    line = f"hooker: {describe(event)}\n".encode()
    try:
        descriptor = sys.stderr.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        if poll.poll(PRINT_TIMEOUT * 1000):
            os.write(descriptor, line)
    except (OSError, ValueError):
        pass  # its reader has gone, or it is closed: the connections go on


def describe(event: Event) -> str:
    """One line for people, as in "flow released 10.0.0.1:4000 → 10.0.0.2:80: no-answer, held 300.0 ms"."""
    what = event.kind.name.lower().replace("_", " ")
    if event.kind in OF_LANES:
        return f"{what} for IPv{event.remote.address.version}"
    if event.kind in (Kind.TRANSPORT_SKIPPED, Kind.TRANSPORT_FAILED):
        return f"{what}: {event.reason}"
    if event.local is None or event.role is None:
        return f"{what} {event.remote}"
    ends = (event.local, event.remote) if event.role is Role.CLIENT else (event.remote, event.local)
    text = f"{what} {ends[0]} → {ends[1]}" + (f": {event.reason}" if event.reason else "")
    if event.kind in (Kind.FLOW_ENGAGED, Kind.FLOW_RELEASED):
        text += f", held {event.held * 1000:.1f} ms"
    if event.kind is Kind.HOLE:
        text += f", {event.length} B are zeros behind {event.position} B"
    if event.kind is Kind.FLOW_CLOSED:
        text += f", {event.bytes_sent} B sent, {event.bytes_received} B received"
    return text
