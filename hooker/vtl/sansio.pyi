from typing import Final, Literal, TypedDict, overload

from hooker.vtl.events import Event, FlowOpened

Address = tuple[str, int]

DROP_REASONS: Final[tuple[str, ...]]
DEFAULTS: Final[dict[str, int | str | tuple[int, ...] | tuple[bytes, ...]]]
ENCRYPTED_VERSIONS: Final[tuple[int, ...]]

class Stats(TypedDict):
    packets_sent: int
    packets_received: int
    packets_lost: int
    packets_spurious: int
    bytes_sent: int
    bytes_received: int
    stream_bytes_sent: int
    stream_bytes_retransmitted: int
    stream_bytes_received: int
    srtt_ns: int
    min_rtt_ns: int
    rttvar_ns: int
    cwnd: int
    bytes_in_flight: int
    pto_count: int
    streams: int
    up: int
    packets_marked: int
    reordering: int
    receive_window: int
    ecn: int
    moves: int
    version: int
    key_updates: int
    forged: int
    repairs_sent: int
    packets_repaired: int
    datagram: int
    mtu_probes: int
    mtu_holes: int

class Endpoint:
    def __init__(
        self,
        *,
        seed: int = 0,
        versions: tuple[int, ...] = (1,),
        max_datagram: int = 1472,
        first_datagram: int = 0,
        stream_window: int = ...,
        assoc_window: int = ...,
        stream_window_max: int = 0,
        assoc_window_max: int = 0,
        window_budget: int = 0,
        max_ack_delay: int = ...,
        keepalive: int = ...,
        dead_after: int = ...,
        idle_after: int = ...,
        handshake_timeout: int = ...,
        congestion: str = "auto",
        keys: tuple[bytes, ...] = (),
        key_update_after: int = 0,
        fec: bool = True,
    ) -> None: ...
    def receive_datagram(self, data: bytes, addr: Address, now: int, ecn: int = 0) -> str: ...
    @overload
    def datagrams_to_send(self, now: int, *, ecn: Literal[False] = False) -> list[tuple[bytes, Address]]: ...
    @overload
    def datagrams_to_send(self, now: int, *, ecn: Literal[True]) -> list[tuple[bytes, Address, int]]: ...
    def get_timer(self) -> int | None: ...
    def handle_timer(self, now: int) -> None: ...
    def next_event(self) -> Event | None: ...
    def connect(self, addr: Address, now: int) -> int: ...
    def is_up(self, assoc: int) -> bool: ...
    def close(self, assoc: int, reason: int, now: int) -> None: ...
    def open(
        self,
        assoc: int,
        now: int,
        *,
        locator: int | None = None,
        key: bytes = ...,
        committed: bool = False,
    ) -> int: ...
    def prove(self, event: FlowOpened, key: bytes) -> bool: ...
    def accept(self, flow: int) -> None: ...
    def reject(self, flow: int, code: int) -> None: ...
    def confirm(self, flow: int) -> None: ...
    def cancel(self, flow: int) -> None: ...
    def write(self, flow: int, data: bytes) -> None: ...
    def fin(self, flow: int) -> None: ...
    def reset(self, flow: int, code: int) -> None: ...
    def consumed(self, flow: int, n: int) -> None: ...
    def unacked(self, flow: int) -> int: ...
    def send_target(self, flow: int) -> int: ...
    def flow_id(self, flow: int) -> int: ...
    def path_error(self, addr: Address, now: int, quoted: bytes = ...) -> None: ...
    def drops(self) -> dict[str, int]: ...
    def counters(self) -> dict[str, int]: ...
    def peer(self, assoc: int) -> Address: ...
    def stats(self, assoc: int) -> Stats: ...
    @property
    def associations(self) -> tuple[int, ...]: ...
    @property
    def flows(self) -> tuple[int, ...]: ...
    @property
    def borrowed(self) -> int: ...
