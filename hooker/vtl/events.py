"""What happens in a sans-I/O :class:`hooker.vtl.sansio.Endpoint`, as values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VtlEvent:
    """Base of all events. ``assoc`` and ``flow`` are handles, numbers given out by the endpoint."""

    assoc: int


@dataclass(frozen=True, slots=True)
class AssociationUp(VtlEvent):
    """The handshake is done."""

    peer: tuple[str, int]


@dataclass(frozen=True, slots=True)
class AssociationDown(VtlEvent):
    """The association is gone; its flows were reset and closed before."""

    reason: int


@dataclass(frozen=True, slots=True)
class FlowEvent(VtlEvent):
    """Something happened to one flow."""

    flow: int


@dataclass(frozen=True, slots=True)
class FlowOpened(FlowEvent):
    """The peer opened a flow: accept or reject it, now or later."""

    locator: int
    committed: bool
    proof: int


@dataclass(frozen=True, slots=True)
class FlowAccepted(FlowEvent):
    """The peer accepted a flow of ours."""


@dataclass(frozen=True, slots=True)
class FlowRejected(FlowEvent):
    """The peer rejected a flow of ours; it closes next."""

    code: int


@dataclass(frozen=True, slots=True)
class FlowConfirmed(FlowEvent):
    """The opener is engaged; bytes follow."""


@dataclass(frozen=True, slots=True)
class FlowCancelled(FlowEvent):
    """The opener took the flow back; it closes next."""


@dataclass(frozen=True, slots=True)
class DataReceived(FlowEvent):
    """In-order bytes. They use up credit until :meth:`Endpoint.consumed` is told of them."""

    data: bytes


@dataclass(frozen=True, slots=True)
class FinReceived(FlowEvent):
    """The peer's direction is complete."""


@dataclass(frozen=True, slots=True)
class DataAcked(FlowEvent):
    """The peer has ``size`` more bytes of ours, in stream order.

    At 0 it has some behind a hole, and there is room to write more."""

    size: int


@dataclass(frozen=True, slots=True)
class FlowReset(FlowEvent):
    """The peer reset the flow, or its association went down."""

    code: int


@dataclass(frozen=True, slots=True)
class FlowClosed(FlowEvent):
    """Done in both directions; the handle is not valid any more."""


@dataclass(frozen=True, slots=True)
class BlockReceived(VtlEvent):
    """Bytes of a flow, at a position; in whatever order, perhaps twice."""

    id: int
    position: int
    epoch: int
    flags: int
    data: bytes


@dataclass(frozen=True, slots=True)
class HoleReceived(VtlEvent):
    """The peer gave up ``size`` bytes of a flow, and sent some behind them; perhaps said twice."""

    id: int
    position: int
    epoch: int
    flags: int
    size: int


@dataclass(frozen=True, slots=True)
class MessageReceived(VtlEvent):
    """A control message or a report, perhaps twice."""

    data: bytes


@dataclass(frozen=True, slots=True)
class ChannelDown(VtlEvent):
    """The channel's association is down; the channel is still to be closed."""

    channel: int
    reason: int
