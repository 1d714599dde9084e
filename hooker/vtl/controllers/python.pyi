from collections.abc import Callable
from typing import Any, NamedTuple

class Ack(NamedTuple):
    now: int
    bytes: int
    lost: int
    marked: int
    sent_at: int
    srtt: int
    latest_rtt: int
    min_rtt: int
    in_flight: int
    delivered: int
    rate: int
    sampled: int
    prior_delivered: int
    tx_in_flight: int
    lost_since: int
    rtt_sample: bool
    app_limited: bool
    round_start: bool
    limited: bool

class Loss(NamedTuple):
    now: int
    bytes: int
    sent_at: int
    tx_in_flight: int
    lost_since: int
    app_limited: bool

def register(name: str, factory: Callable[[int], Any]) -> None: ...
def unregister(name: str) -> None: ...
