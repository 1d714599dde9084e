"""A host: one VTL endpoint, the application on it, and the clock both see."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from sim.link import Link

from hooker.vtl import events as ev
from hooker.vtl.sansio import Endpoint

Address = tuple[str, int]


@dataclass
class Flow:
    """What one side saw of a flow."""

    received: bytearray = field(default_factory=bytearray)
    acked: int = 0
    fin: bool = False
    resets: list[int] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    closed: bool = False


class Host:
    """Times given to its methods are the world's; the endpoint sees them `ahead` ns later.

    The application accepts, confirms and consumes at once unless told otherwise.
    """

    def __init__(self, name: str, address: Address, endpoint: Endpoint, uplink: Link) -> None:
        self.name = name
        self.address = address  # how the others see it
        self.endpoint = endpoint
        self.uplink = uplink
        self.ahead = 0
        self.flows: defaultdict[int, Flow] = defaultdict(Flow)
        self.events: list[ev.VtlEvent] = []
        self.blocks: list[ev.BlockReceived] = []
        self.messages: list[bytes] = []
        self.holes: list[ev.HoleReceived] = []
        self.auto_accept = True
        self.auto_confirm = True
        self.auto_consume = True
        self.on_accepted: Callable[[ev.FlowAccepted], None] | None = None
        self.on_opened: Callable[[ev.FlowOpened], None] | None = None
        self.on_data: Callable[[ev.DataReceived], None] | None = None
        self.on_acked: Callable[[ev.DataAcked], None] | None = None

    # --- the endpoint, in the world's time

    def datagrams(self, now: int) -> list[tuple[bytes, Address]]:
        return self.endpoint.datagrams_to_send(now + self.ahead)

    def flight(self, now: int) -> list[tuple[bytes, Address, int]]:
        """The same, with the ECN bits."""
        return self.endpoint.datagrams_to_send(now + self.ahead, ecn=True)

    def receive(self, data: bytes, source: Address, now: int, ecn: int = 0) -> str:
        return self.endpoint.receive_datagram(data, source, now + self.ahead, ecn)

    def timer(self) -> int | None:
        at = self.endpoint.get_timer()
        return None if at is None else at - self.ahead

    def on_timer(self, now: int) -> None:
        self.endpoint.handle_timer(now + self.ahead)

    def connect(self, to: Address, now: int) -> int:
        return self.endpoint.connect(to, now + self.ahead)

    # --- the application

    def take_events(self) -> None:
        while (event := self.endpoint.next_event()) is not None:
            if isinstance(event, ev.BlockReceived):
                self.blocks.append(event)
            elif isinstance(event, ev.HoleReceived):
                self.holes.append(event)
            elif isinstance(event, ev.MessageReceived):
                self.messages.append(event.data)
            elif not isinstance(event, ev.DataReceived):
                self.events.append(event)
            if isinstance(event, ev.FlowEvent):
                self._flow_event(event, self.flows[event.flow])

    def _flow_event(self, event: ev.FlowEvent, flow: Flow) -> None:
        assert not flow.closed, f"{self.name}: {event} after FlowClosed"
        if not isinstance(event, ev.DataReceived | ev.DataAcked):
            flow.log.append(type(event).__name__)
        match event:
            case ev.FlowOpened() | ev.FlowAccepted():
                self._answer(event)
            case ev.DataReceived():
                assert not flow.fin, "bytes after FIN"
                flow.received += event.data
                if self.on_data is not None:
                    self.on_data(event)
                elif self.auto_consume:
                    self.endpoint.consumed(event.flow, len(event.data))
            case ev.DataAcked():
                flow.acked += event.size
                if self.on_acked is not None:
                    self.on_acked(event)
            case ev.FinReceived():
                assert not flow.fin, "two FINs"
                flow.fin = True
            case ev.FlowReset():
                flow.resets.append(event.code)
            case ev.FlowClosed():
                flow.closed = True

    def _answer(self, event: ev.FlowEvent) -> None:
        if event.flow not in self.endpoint.flows:
            return
        if isinstance(event, ev.FlowAccepted):
            if self.on_accepted is not None:
                self.on_accepted(event)
            elif self.auto_confirm:
                self.endpoint.confirm(event.flow)
        elif isinstance(event, ev.FlowOpened):
            if self.on_opened is not None:
                self.on_opened(event)
            elif self.auto_accept:
                self.endpoint.accept(event.flow)

    def kinds(self) -> list[str]:
        """Names of the events but bytes and their acknowledgments."""
        return [type(e).__name__ for e in self.events if not isinstance(e, ev.DataAcked)]

    def down_reasons(self) -> list[int]:
        """Why associations of this host ended."""
        return [e.reason for e in self.events if isinstance(e, ev.AssociationDown)]
