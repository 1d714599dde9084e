"""What the commands say of events."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from hooker.events import Endpoint, Event, Kind, Role
from hooker.session import describe

NEAR, FAR = Endpoint(ip_address("10.0.0.1"), 4000), Endpoint(ip_address("fd00::2"), 80)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (Event(Kind.PEER_DOWN, 0.0, FAR), "peer down [fd00::2]:80"),
        (Event(Kind.FLOW_OPENED, 0.0, FAR, NEAR, 1, Role.CLIENT), "flow opened 10.0.0.1:4000 → [fd00::2]:80"),
        (
            Event(Kind.FLOW_RELEASED, 0.0, FAR, NEAR, 1, Role.SERVER, "no-answer", 0.3),
            "flow released [fd00::2]:80 → 10.0.0.1:4000: no-answer, held 300.0 ms",
        ),
        (
            Event(Kind.FLOW_CLOSED, 0.0, FAR, NEAR, 1, Role.CLIENT, "", 0.1, 5, 7),
            "flow closed 10.0.0.1:4000 → [fd00::2]:80, 5 B sent, 7 B received",
        ),
    ],
)
def test_an_event_is_one_readable_line_from_client_to_server(event: Event, said: str) -> None:
    assert describe(event) == said
