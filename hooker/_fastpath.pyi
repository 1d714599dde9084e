from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from hooker.transports.makers import Function

Tap = Callable[[np.ndarray[Any, np.dtype[np.void]], memoryview], object]
RawEvent = tuple[int, str, int, int, int, bytes, int, bytes, int, int, int, float, float]
RawFlow = tuple[int, int, int, str, bytes, int, bytes, int, int, int, int, int, bool, int]

class LaneRow(NamedTuple):
    watched: bool
    open: bool
    blocked: bool
    heard: bool
    pause: float

class Worker:
    port: int
    skipped: dict[int, str]

    def __init__(
        self,
        *,
        ring_fd: int,
        ring_size: int,
        free_fd: int,
        avoid_fd: int,
        records: int,
        attention: int,
        max_flows: int,
        port: int,
        peer_port: int,
        transports: tuple[int, ...],
        tun_fd: int,
        tun_queue: int = ...,
        warm_fd: int = ...,
        mark: int = ...,
        hold_time: float = 0.0,
        avoid_time: float = 60.0,
        dead_after: float = 5.0,
        datagrams: tuple[int, int] = (1472, 1472),
        keys: tuple[bytes, ...] = (),
        congestion: str = "auto",
        rules: tuple[tuple[int, Function], ...] = ...,
        fec: bool = True,
        busy_poll: float = 0.0,
        listening: bool = True,
        slabs: int = ...,
        trail: str = "auto",
        redirects: int = 0,
        adopt_fd: int = -1,
        redirect_fd: int = -1,
        tap: Tap | None = None,
        parameters: dict[int, dict[str, int]] = ...,
        named: tuple[str, str] = ...,
    ) -> None: ...
    def run(self) -> None: ...
    def stop(self) -> None: ...
    def close(self) -> None: ...
    def attach(self, wire_id: int, ifindex: int, queue: int) -> int: ...
    def forget(self) -> None: ...
    def fileno(self) -> int: ...
    def route_fileno(self) -> int: ...
    def route_installed(self, ok: bool) -> None: ...
    def missed_fileno(self) -> int: ...
    def route_restored(self, version: int) -> None: ...
    def set_rules(self, rules: tuple[tuple[int, Function], ...]) -> None: ...
    def watch(self, version: int, address: bytes, port: int, device: int = ...) -> None: ...
    def hang_up(self) -> None: ...
    def unwatch(self, version: int) -> None: ...
    def lanes(self) -> dict[int, LaneRow]: ...
    def events(self, most: int = ...) -> list[RawEvent]: ...
    def flows(self) -> list[RawFlow]: ...
    def peers(self) -> list[tuple[bytes, int, dict[str, Any]]]: ...
    def counters(self) -> dict[str, int]: ...
    def reasons(self) -> dict[str, int]: ...
    def ingress(self, known_fd: int, states_fd: int) -> list[dict[str, Any]]: ...
    def failures(self) -> dict[str, str]: ...
    def ended(self) -> dict[str, int]: ...
