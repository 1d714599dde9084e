"""The engine as Python sees it: ``with Hooker(...)`` hooks the connections of a cgroup.

The control plane lives here: kernel programs, routing rule, redirect socket, the worker's thread, events.
What happens per packet or per flow happens in the worker (``hooker._fastpath``), without the GIL.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import warnings
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from hooker import __version__, checks, transports
from hooker._fastpath import Worker
from hooker.control import cgroup as cgroups
from hooker.control import headers, janitor, keyfile, rows
from hooker.control.abort import can_abort
from hooker.control.interfaces import Interfaces, names
from hooker.control.janitor import Janitor
from hooker.control.kernel import RING_SIZE, KernelPrograms, netns_cookie
from hooker.control.mtu import datagram_sizes, has_timestamps
from hooker.control.policy import Policy
from hooker.control.probes import verdicts
from hooker.control.rules import Way, all_skipped, change, find_ways, opened, require_free, without
from hooker.control.status_socket import ControlServer
from hooker.control.threads import STOP_TIMEOUT, EngineThreads
from hooker.engine.layout import MARK_OWN
from hooker.engine.slots import fill_free
from hooker.errors import (
    CarrierError,
    ConfigurationError,
    KernelError,
    UsageError,
    remedy_for,
    require_files,
    require_root,
)
from hooker.events import Event, Kind
from hooker.transports import Choice, Transport, classes, functions
from hooker.transports.functions import Function
from hooker.tun import Lane, check_device, require_open

if TYPE_CHECKING:
    from hooker._fastpath import RawEvent, Tap

ENDS = (Kind.FLOW_RELEASED.value, Kind.FLOW_CLOSED.value)
REDIRECT_CHOICES = ("auto", "always", "never")
INTERCEPT_CHOICES = ("segments", "messages")
TRAIL_CHOICES = ("auto", "always", "never")
LOOPBACK_TIMEOUT = 2.0  # s for a connection of this host to itself
SLOW_HOLD = 2.0  # s: where two round trips take longer than the hold time (engine/hold.pyx)
PATIENCE = 924.6  # s of silence of the peer's engine that pinned flows bear: TCP's, with tcp_retries2 15
RECENT = 1024  # ended flows that snapshot() still shows


_running: weakref.WeakSet[Hooker] = weakref.WeakSet()


def _forget_all() -> None:
    for engine in list(_running):
        engine._forget()


os.register_at_fork(after_in_child=_forget_all)


class Hooker:
    """Moves the TCP connections of a cgroup onto other transports while the context is open.

    ::

        with Hooker(cgroup="/sys/fs/cgroup/web", policy=Policy.parse(port="80,443")) as h:
            ...
            print(h.snapshot()["flows"])

    :param cgroup: cgroup v2 directory whose new connections are seen; None: the root, all of the machine.
    :param policy: which connections are candidates.
    :param intercept: "segments": what the applications' TCPs send is taken; connections begin on TCP, and go
        back to it at any moment. "messages": what non-blocking sockets send is taken, too, before it becomes
        segments; new connections are held until the peer's engine has agreed, and an engaged one never goes
        back: it ends with its engine, or its peer's. Engines of different kinds leave each other's
        connections to TCP.
    :param transport: what to move onto: names in the registry of transports, with commas or as a list, in
        order of preference; one of them may be ``module:Class``, a ``hooker.Transport`` of yours, which both
        hosts call by the same name (docs/prototypes.md). A connection goes to the first that its server has,
        too. What this machine lacks,
        what a key excludes and whose port another program has is skipped (the event TRANSPORT_SKIPPED) as
        long as another one remains.
    :param key_file: encrypt, with the pre-shared key in this file (``hooker.control.keyfile``); flows to
        peers without it stay on TCP. None: no encryption. A flow that has been engaged ends with its engine,
        or its peer's.
    :param congestion: congestion control: "auto", a name of ``hooker.vtl.congestion.names()``, or
        ``module:Class``, a class of yours: VTL then runs in a process of its own (docs/prototypes.md).
    :param reliability: what VTL does about packets that the path loses: a name of
        ``hooker.vtl.reliability.names()``, with limits as in "go-back-n:window=64" or
        "partial:deadline=200ms,repeats=2" (docs/transports.md, 3). Each host begins associations with its
        own, and takes its peers'; "partial" only where both name it.
    :param fec: forward error correction of what this engine sends, where the path loses packets (REPAIR
        frames, docs/vtl.md).
    :param listen_port: UDP port of this engine, and where peers are expected.
    :param hold: segments: new flows wait for the peer's engine, so that none of their payload is on the wire
        if it is there. Messages always do.
    :param hold_time: seconds they may wait before they go back to TCP, or two round trips if that is longer.
    :param max_flows: size of the flow table; a power of two.
    :param on_event: called with each Event, in a thread of the engine's own, which carries no data. What it
        raises is reported once (``threading.excepthook``) and counted (``event_errors``). It may close().
    :param tap: called with each batch of what applications send: a NumPy array of frames and the payload they
        point into, over the engine's own memory (``hooker.engine.tap``). It runs in the worker and holds it
        up, and may ask this object nothing: flows(), snapshot() and so on raise UsageError there, as in a
        controller. What it raises is reported once (``sys.excepthook``) and counted (``tap_errors``). Not
        with segments.
    :param control: serve `hooker status`.
    :param redirect: whether messages of non-blocking sockets take the redirect socket: "always", "never"
        (all data comes as segments), or "auto": where the probes find that nobody can tell. Segments never
        do.
    :param busy_poll: seconds the worker may wait awake for what comes next, while answers come that fast and
        nobody else needs the CPU (``hooker/engine/polling.pyx``); 0 always sleeps.
    :param trail: segments: whether firewalls and NAT between the hosts are shown, by bare ACKs, where
        engaged flows stand, so that these can go back to TCP through them. "auto": where the two hosts see
        different addresses; "always": for a firewall that translates nothing; "never".
    :param xdp: interfaces, with commas or as a list, on which a program meets VTL's packets before the kernel
        does: it drops and limits what a flood consists of, and answers handshakes (docs/ingress.md). Native
        where the driver can, else generic; "eth0:native" or "eth0:generic" says which, "eth0:auto": generic
        while the engine is flooded.
    :param probe: try this kernel with real sockets first (once per boot; the verdict is kept).

    Raises ConfigurationError for a wrong argument or a machine that lacks something, KernelError when the
    kernel refuses, CarrierError when the port cannot be had. Needs root.
    """

    def __init__(
        self,
        *,
        cgroup: str | Path | None = None,
        policy: Policy | None = None,
        intercept: str = "segments",
        transport: str | Sequence[str] = "vtl",
        congestion: str = "auto",
        reliability: str = "selective-repeat",
        fec: bool = True,
        key_file: str | Path | None = None,
        listen_port: int = transports.DEFAULT_PORT,
        hold: bool = False,
        hold_time: float = 0.3,
        max_flows: int = 65536,
        on_event: Callable[[Event], None] | None = None,
        tap: Tap | None = None,
        control: bool = True,
        redirect: str = "auto",
        busy_poll: float = 100e-6,
        trail: str = "auto",
        xdp: str | Sequence[str] = (),
        probe: bool = True,
    ) -> None:
        self.policy = _check_policy(policy)
        self.intercept = _check_choice("intercept", intercept, INTERCEPT_CHOICES)
        self._ways = self._wanted = find_ways(transport, reliability, self.policy.rules)
        self._opened = opened(self._wanted)
        self.congestion = transports.check_congestion(congestion)
        _require_use(self._opened, self._ways[0].function, self.congestion)
        if any(rule.reliability for rule in self.policy.rules):
            require_free(self._ways[0].function, self.congestion)
        self.fec = checks.flag("fec", fec)
        checks.path("cgroup", cgroup)
        self._keys = () if key_file is None else keyfile.read(key_file)
        self.listen_port = _check_port(listen_port, self._opened)
        self._pinned = bool(self._keys) or intercept == "messages"
        self.hold = checks.flag("hold", hold) or self._pinned
        self.hold_time = checks.real("hold time", hold_time, 0.01, 60, unit="s")
        self.max_flows = _check_flows(max_flows)
        checks.function("on_event", on_event)
        checks.function("tap", tap)
        self.on_event = on_event
        self._cgroup_wanted = cgroup
        self._tap = tap
        self._control = checks.flag("control", control)
        self.redirect = _check_choice("redirect", redirect, REDIRECT_CHOICES)
        self.busy_poll = checks.real("busy_poll", busy_poll, 0, 0.01, unit="s; 0 always sleeps")
        self.trail = _check_choice("trail", trail, TRAIL_CHOICES)
        self.xdp = names(xdp)
        self._probe = checks.flag("probe", probe)
        if intercept == "messages":
            _refuse_classes(self._opened, self.congestion)
        if intercept == "segments":
            _refuse_with_segments(tap=tap, redirect=redirect == "always")
        elif trail == "always":
            raise ConfigurationError(
                "a trail does not go with messages", remedy='leave it out, or give intercept "segments"'
            )
        else:
            self._require_repairs(self._ways)
        self._stack: ExitStack | None = None
        self._interfaces: Interfaces | None = None
        self._worker: Worker
        self._lane: Lane
        self._threads: EngineThreads | None = None
        self._owner = os.getpid()
        self._recent: deque[RawEvent] = deque(maxlen=RECENT)
        self._draining = threading.Lock()
        self._closing = threading.RLock()
        self._choosing = threading.Lock()

    # ---- life ----

    def probe(self) -> None:
        """Try this kernel, as start() does. Takes seconds once per boot; may be interrupted at any moment.

        Raises ConfigurationError or KernelError as start() does.
        """
        require_root("hooking")
        self._judge_kernel()

    def start(self) -> Hooker:
        """Load, attach, run. Either all of it, or an exception and nothing left behind."""
        if self._stack is not None:
            raise UsageError("this Hooker has been started already")
        require_root("hooking")
        require_files("start an engine")
        self.cgroup = cgroups.root() if self._cgroup_wanted is None else cgroups.check(self._cgroup_wanted)
        self._owner = os.getpid()
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        _running.add(self)
        return self

    def _start(self, stack: ExitStack) -> None:
        self._opened = opened(self._wanted)  # a start before may have had less
        self.redirect_off = self._judge_kernel()
        keeper = stack.enter_context(Janitor())
        self._kernel = stack.enter_context(KernelPrograms(self.max_flows, self.intercept))
        fill_free(self._kernel.free, self.max_flows)
        self._look_after_sockets(keeper)
        self._lane = stack.enter_context(
            Lane(
                keeper,
                entrance=self._kernel.entrance,
                pinned=self._pinned,
                mtu=transports.segment_mtu(self._opened, datagram_sizes()[0], has_timestamps()),
            )
        )
        self._worker = self._make_worker(stack)
        stack.callback(self._worker.close)
        self._ways = without(self._wanted, self._worker.skipped)
        self._opened = opened(self._ways)
        self._interfaces = (
            stack.enter_context(Interfaces(self.xdp, self._worker, keeper)) if self.xdp else None
        )
        self._kernel.configure(
            self.policy,
            mark=self._lane.mark,
            port=self._worker.port,
            offers=_offers(self._ways),
            ipv6=self._ipv6,
            hold=max(self.hold_time, SLOW_HOLD) if self.hold else 0.0,
            pinned=self._pinned,
            device=self._lane.device.index,
            device_mtu=self._lane.mtu,
        )
        self._started = time.monotonic()
        self._netns = netns_cookie()
        self._threads = EngineThreads(
            self._worker,
            install=self._lane.install,
            restore=self._lane.restore,
            take=self._drain,
            deliver=None if self.on_event is None else self._deliver,
            first=[rows.transport_skipped(*skipped) for skipped in all_skipped(self._ways).items()],
        )
        stack.callback(self._threads.stop)
        self._server = stack.enter_context(self._serve(keeper))
        if self.hold:
            self._lane.install()  # its worker does not wait for it: what is held would
        self._require_open_lane()
        self._attach()
        stack.callback(self._kernel.refuse_flows)

    def _look_after_sockets(self, keeper: Janitor) -> None:
        """Applications' sockets outlive this process; what it sets on them should not, nor wait while it is
        stopped."""
        for make, action in (
            (self._kernel.restorer, janitor.read()),
            (self._kernel.releaser, janitor.watch()),
        ):
            if (descriptor := make()) is None:
                continue
            try:
                keeper.register(action, keep=(descriptor,))
            finally:
                os.close(descriptor)

    def _require_open_lane(self) -> None:
        """Its rules go again until the first candidate comes, if nobody needs them."""
        require_open(self._worker, self._lane, self.policy, ruled=self.hold)
        if not self.hold and not self._blocked_lanes():
            self._worker.hang_up()
            self._lane.withdraw()

    def _unwatch_lane(self) -> None:
        """Start-up probes count what goes to the device; the engine's own connection there is none of it."""
        assert isinstance(self._worker, Worker)
        for version in self._worker.lanes():
            self._worker.unwatch(version)

    def _blocked_lanes(self) -> dict[str, float]:
        """By IP version, seconds until the next try."""
        lanes = self._worker.lanes()
        return {f"IPv{version}": lane.pause for version, lane in lanes.items() if lane.blocked}

    def _serve(self, keeper: Janitor) -> contextlib.AbstractContextManager[ControlServer | None]:
        if not self._control:
            return contextlib.nullcontext()
        return ControlServer(self.snapshot, change=self.set, janitor=keeper)

    def _judge_kernel(self) -> str:
        """Why messages are not redirected, or "". Raises KernelError when a required probe fails."""
        headers.check_named()  # the user's mistake, not a probe's failure
        self._judge_lane()
        results = verdicts(self.intercept) if self._probe else []
        for result in results:
            if result.required and not result.ok:
                raise KernelError(f"start-up probe {result.name}: {result.detail}", remedy=result.remedy)
        self._ipv6 = all(r.ok for r in results if r.name.endswith("-ipv6"))
        if self.intercept == "segments":
            return "segments are taken"
        if self.redirect == "never":
            return "switched off"
        failed = [f"{r.name}: {r.detail}" for r in results if not r.ok and r.name.startswith("redirect-")]
        return "; ".join(failed) if self.redirect == "auto" else ""

    def _judge_lane(self) -> None:
        check_device()  # its absence has another remedy than a probe's failure
        if self._pinned and not can_abort():
            raise KernelError(
                "this kernel does not end sockets on request, so pinned flows could not fail closed",
                remedy="a kernel with CONFIG_INET_DIAG_DESTROY, or --intercept segments and no --key-file",
            )

    def _make_worker(self, stack: ExitStack) -> Worker:
        hold: dict[str, Any] = {"hold_time": self.hold_time if self.hold else 0.0}
        if self._pinned:
            hold["dead_after"] = PATIENCE
        with _no_port():
            return Worker(
                tun_fd=self._lane.descriptor,
                tun_queue=self._lane.queue_length,
                warm_fd=self._kernel.warm,
                trail=self.trail,
                ring_fd=self._kernel.ring,
                ring_size=RING_SIZE,
                free_fd=self._kernel.free,
                avoid_fd=self._kernel.avoid,
                records=self._kernel.records,
                attention=self._kernel.attention,
                max_flows=self.max_flows,
                port=self.listen_port,
                peer_port=transports.DEFAULT_PORT if self.listen_port == 0 else self.listen_port,
                transports=tuple(one.wire_id for one in self._opened),
                parameters={one.wire_id: dict(one.given) for one in self._opened},
                named=next(((one.name, one.place) for one in self._opened if one.place), ("", "")),
                mark=self._lane.mark,
                datagrams=datagram_sizes(),
                congestion=self.congestion,
                rules=_of_worker(self._ways),
                fec=self.fec,
                keys=self._keys,
                busy_poll=self.busy_poll,
                listening=self.on_event is not None,
                **hold,
                **self._redirecting(stack),
            )

    def _redirecting(self, stack: ExitStack) -> dict[str, Any]:
        """What messages are redirected by."""
        if self.intercept != "messages":
            return {}
        redirect = _redirect_socket(stack).fileno()
        self._kernel.set_redirect_socket(redirect)
        return {
            "redirects": self._kernel.redirects,
            "adopt_fd": -1 if self.redirect_off else self._kernel.adopt,
            "redirect_fd": redirect,
            "tap": self._tap,
        }

    def _attach(self) -> None:
        """The guard first: no flow is held without it."""
        if self.hold:
            link = self._kernel.attach_guard(self.cgroup)
            if self._pinned:
                self._lane.guard(link)
        self._kernel.attach(self.cgroup)

    def close(self) -> None:
        """All flows go back to TCP; with messages or a key, those that have been engaged are reset.

        Twice is harmless; ``on_event`` may. Without it the engine runs as long as the process, whoever still
        holds this object. An ``on_event`` that does not return is left behind after 10 s, with a
        RuntimeWarning.

        Raises UsageError in a tap or a controller, which run in the worker, and when one of them does not
        return: then nothing that the worker uses has been freed, and close() may be called again. In a forked
        child it does nothing: the engine is its parent's.
        """
        if os.getpid() != self._owner:
            return
        here = self._threads.here() if self._threads else None
        if self._threads and here is self._threads.worker:
            raise UsageError(
                "close() in a tap or a congestion controller would wait for itself",
                remedy="call it in another thread",
            )
        if not self._closing.acquire(timeout=0 if here else 4 * STOP_TIMEOUT):
            return  # somebody else is closing
        try:
            self._close()
        finally:
            self._closing.release()

    def _close(self) -> None:
        stack, self._stack = self._stack, None
        if stack is None:
            return
        try:
            self._kernel.refuse_flows()  # until the flows have ended the programs give sockets back
            if self._server is not None:
                self._server.close()
            if self._threads is not None:
                self._threads.stop()
        except BaseException:
            self._kernel.detach()  # nobody is left to let go of what is held
            self._stack = stack
            raise
        _running.discard(self)
        stack.close()
        if self._threads is not None and self._threads.left_behind:  # at last: a warning may be an error
            text = f"on_event has not returned for {STOP_TIMEOUT:g} s; its thread is left behind"
            warnings.warn(text, RuntimeWarning, stacklevel=3)

    def _forget(self) -> None:
        """In a forked child: its copies of descriptors must not keep alive what ends with its parent."""
        self._kernel.detach()
        self._worker.forget()
        self._lane.forget()
        if self._interfaces is not None:
            self._interfaces.forget()
        if self._server is not None:
            self._server.forget()

    def __enter__(self) -> Hooker:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- settings ----

    def set(
        self,
        *,
        transport: str | Sequence[str] | None = None,
        reliability: str | None = None,
        rule: int = 0,
    ) -> None:
        """Change how connections that begin from now on are moved; those that there are stay as they are.

        :param transport: as for the constructor, of those that the engine was started with.
        :param reliability: as for the constructor; a function's limits, and "partial", hold as the engine was
            started.
        :param rule: of the policy, which is changed; 0: the engine's own settings, and what its rules leave
            open.

        All of it, or an exception and nothing: ConfigurationError for a wrong value, UsageError before
        start() and after close().
        """
        self._running_worker()
        if self._stack is None:
            raise UsageError("this Hooker does not run", remedy="start() it, or use `with`")
        if transport is None and reliability is None:
            raise ConfigurationError("nothing to change is given", remedy="give transport or reliability")
        if reliability is not None:
            require_free(self._ways[0].function, self.congestion)
        asked: dict[str, Any] = {"transport": transport, "reliability": reliability, "rule": rule}
        with self._choosing:
            self._go(change(self._ways, self.policy.rules, self._opened, failed=self._failed(), **asked))

    def _go(self, ways: tuple[Way, ...]) -> None:
        """New connections, from now on."""
        if self.intercept == "messages":
            self._require_repairs(ways)
        self._worker.set_rules(_of_worker(ways))
        failed = self._worker.failures()
        lost = [
            not way.choice.taken and any(name in failed for name, _ in way.choice.skipped) for way in ways
        ]
        self._kernel.negotiate(_offers(ways), lost)
        self._ways = ways

    @property
    def transports(self) -> Choice:
        """What flows are moved onto for which no rule says more."""
        return self._ways[0].choice

    @property
    def reliability(self) -> Function:
        """And VTL's function for them."""
        return self._ways[0].function

    def _require_repairs(self, ways: Sequence[Way]) -> None:
        for way in ways:
            if not functions.repairs(way.function):
                raise ConfigurationError(
                    f"reliability {way.function.name!r} does not go with messages, which TCP does not repair",
                    remedy='choose another function, or give intercept "segments"',
                )

    def _rules(self) -> list[dict[str, Any]]:
        """For whom each rule is, and what it comes to."""
        return [
            {"for": rule.whom(), "transport": str(way.choice), "reliability": str(way.function)}
            for rule, way in zip(self.policy.rules, self._ways[1:], strict=True)
        ]

    # ---- events ----

    def _deliver(self, raw: RawEvent) -> None:
        if self.on_event is not None:
            self.on_event(rows.event(raw))

    def _drain(self) -> list[RawEvent]:
        """What has happened since the last time; ends are kept, made readable when somebody looks."""
        with self._draining:
            events = self._worker.events() if self.on_event else self._worker.events(RECENT)
            self._recent.extend(raw for raw in events if raw[0] in ENDS)
        if any(raw[0] == Kind.TRANSPORT_FAILED.value for raw in events):
            self._leave_out_failed()
        return events

    def _leave_out_failed(self) -> None:
        """New connections go to another one, if there is one; else they stay on TCP."""
        with self._choosing:
            ways = without(self._ways, self._failed())
            if ways != self._ways:
                self._go(ways)

    def _failed(self) -> dict[int, str]:
        """Why transports carry nothing any more, by their numbers."""
        failed = self._worker.failures()
        return {one.wire_id: failed[one.name] for one in self._opened if one.name in failed}

    # ---- what is going on ----

    def _running_worker(self) -> Worker:
        """Raises UsageError before start(), and in a forked child, whose copies lead nowhere."""
        if self._threads is None:
            raise UsageError("this Hooker has not been started", remedy="start() it, or use `with`")
        if os.getpid() != self._owner:
            raise UsageError(f"this Hooker is process {self._owner}'s", remedy="ask there, or make another")
        return self._worker

    def flows(self) -> list[dict[str, Any]]:
        """Flows in the table: id, role, addresses, transport (what its handshake selected, "" if that is not
        known), state, reason, bytes, backlog (bytes), spills."""
        return [rows.flow(raw, self._names()) for raw in self._running_worker().flows()]

    def _names(self) -> dict[int, str]:
        """Of transports, as the user has written them."""
        return {one.wire_id: one.name for one in self._opened}

    def peers(self) -> list[dict[str, Any]]:
        """Associations that are up: address, port, transport, flows, round trips (ms), windows and bytes."""
        return [rows.peer(raw) for raw in self._running_worker().peers()]

    def counters(self) -> dict[str, int]:
        """Counters of the kernel programs (``kernel.*``; of that of xdp, ``ingress.*``) and of the worker."""
        self._running_worker()
        kernel = {f"kernel.{name}": value for name, value in self._kernel.counters().items()}
        if self._interfaces is not None:
            kernel |= {f"ingress.{name}": value for name, value in self._interfaces.counters().items()}
        counters = kernel | self._worker.counters()
        events = self._threads.events if self._threads else None
        counters["event_errors"] = events.errors if events else 0
        counters["notices_lost"] += events.dropped if events else 0
        return counters

    def reasons(self) -> dict[str, int]:
        """Why flows stayed on TCP or ended: the kernel's verdicts and the engine's together."""
        reasons = Counter(self._running_worker().reasons())
        kernel = self._kernel.counters()
        reasons.update({name: kernel[name] for name in rows.STAYED_ON_TCP if kernel.get(name)})
        return dict(reasons)

    def snapshot(self) -> dict[str, Any]:
        """All of it as plain data: engine, peers, states, flows, recent (ended), reasons, ended, counters.

        ``states`` counts all flows by state; ``flows`` has at most 1,000 of them, so that a snapshot of tens
        of thousands takes neither seconds nor memory. ``ended`` are those of the ``reasons`` for which flows
        ended that had run over the transport.
        """
        states, flows = self._running_worker().table(rows.SHOWN_FLOWS)
        counters = self.counters()
        if self.on_event is None:
            self._drain()
        return {
            "engine": {
                "pid": os.getpid(),
                "version": __version__,
                "netns": self._netns,
                "cgroup": str(self.cgroup),
                "intercept": self.intercept,
                "transport": str(self.transports),
                "skipped": all_skipped(self._ways),
                "rules": self._rules(),
                "failed": self._worker.failures(),
                "troubled": self._troubles(counters),
                "congestion": self.congestion,
                "reliability": str(self.reliability),
                "fec": self.fec,
                "encrypted": bool(self._keys),
                "listen_port": self._worker.port,
                "redirect": self.redirect_off or "on",
                "blocked": self._blocked_lanes(),
                "xdp": self._interfaces.rows() if self._interfaces is not None else [],
                "route_error": self._threads.route.error if self._threads else "",
                "uptime": time.monotonic() - self._started,
            },
            "peers": self.peers(),
            "states": rows.states(states),
            "flows": [rows.flow(raw, self._names()) for raw in flows],
            "recent": [rows.recent(rows.event(raw)) for raw in list(self._recent)],
            "reasons": self.reasons(),
            "ended": self._worker.ended(),
            "counters": counters,
        }

    def _troubles(self, counters: dict[str, int]) -> dict[str, str]:
        """What is seen of classes of the user's that carry badly, without having failed."""
        found = {}
        for name in (one.name for one in self._opened if one.is_class):
            damaged, silent = counters.get(f"{name}.damaged", 0), counters.get(f"{name}.silent", 0)
            if damaged or silent:
                found[name] = f"{damaged} messages came damaged, {silent} peers fell silent"
        return found


def _offers(ways: Sequence[Way]) -> list[tuple[Transport, ...]]:
    return [way.choice.taken for way in ways]


def _of_worker(ways: Sequence[Way]) -> tuple[tuple[int, Function], ...]:
    return tuple((way.first, way.function) for way in ways)


def _check_policy(policy: Policy | None) -> Policy:
    if policy is not None and not isinstance(policy, Policy):
        raise ConfigurationError(
            f"policy {checks.shown(policy)} is none", remedy='make it with Policy.parse(port="80,443")'
        )
    return policy or Policy()


def _check_port(port: int, wanted: Sequence[Transport]) -> int:
    """One that at least one of them can have."""
    last = max(one.last_port for one in wanted)
    return checks.integer("port", port, 0, last, remedy=f"give 0 to {last}; 0 takes any free one")


def _check_choice(name: str, choice: str, choices: tuple[str, ...]) -> str:
    if choice not in choices:
        raise ConfigurationError(
            f"{name} {checks.shown(choice)} is no choice", remedy=f"give {', '.join(choices)}"
        )
    return choice


def _refuse_with_segments(**given: object) -> None:
    for name, value in given.items():
        if value:
            raise ConfigurationError(
                f"{name} does not go with segments", remedy='leave it out, or give intercept "messages"'
            )


def _require_use(chosen: Sequence[Transport], function: Function, congestion: str) -> None:
    """A class of the user's that nothing asks would not even be looked for."""
    named = [function.name] if functions.is_class(function.name) else []
    named += [congestion] if classes.place_of("congestion", congestion) else []
    if named and not any(one.has_functions for one in chosen):
        raise ConfigurationError(
            f"{named[0]} is a class for VTL, which is in none of {', '.join(map(str, chosen))}",
            remedy="name a transport with it, as vtl, or leave the class out",
        )


def _refuse_classes(chosen: Sequence[transports.Transport], congestion: str) -> None:
    named = [one.name for one in chosen if one.is_class]
    if classes.place_of("congestion", congestion):
        named.append(congestion)
    if named:
        raise ConfigurationError(
            f"{named[0]} is a class of yours, which does not go with messages: TCP could not repair",
            remedy='give intercept "segments"',
        )


@contextlib.contextmanager
def _no_port() -> Iterator[None]:
    """A worker that cannot be made has no port."""
    try:
        yield
    except OSError as error:
        remedy = remedy_for(error.errno or 0) or "choose another port, or end the engine that has it"
        raise CarrierError(error.strerror or str(error), remedy=remedy) from None


def _check_flows(count: int) -> int:
    remedy = "give a power of two from 64 to 1048576"
    count = checks.integer("max_flows", count, 64, 1 << 20, remedy=remedy)
    if count & (count - 1):
        raise ConfigurationError(f"max_flows {count} will not do", remedy=remedy)
    return count


def _redirect_socket(stack: ExitStack) -> socket.socket:
    """One end of a loopback connection; its peer does nothing but exist."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK_OWN)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        listener.settimeout(LOOPBACK_TIMEOUT)
        one = stack.enter_context(socket.socket())
        one.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK_OWN)
        one.settimeout(LOOPBACK_TIMEOUT)
        try:
            one.connect(listener.getsockname())
        except TimeoutError:
            raise ConfigurationError(
                "packets from this host to itself are dropped",
                remedy="let the firewall pass what goes over lo",
            ) from None
        try:
            other, whose = listener.accept()
            while whose != one.getsockname():  # anybody of this host may connect, and be gone again
                other.close()
                other, whose = listener.accept()
            stack.enter_context(other)
        except OSError:
            raise ConfigurationError(
                "another program of this host takes the engine's own connection", remedy="try again"
            ) from None
    one.setblocking(False)
    return one
