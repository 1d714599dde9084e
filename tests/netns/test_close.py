"""How flows end when one side's socket is gone before the other side's end of data comes."""

from __future__ import annotations

import pytest
from support import EACH_FAMILY, SEGMENTS, Pair, address, any_address, eventually, peer, result, results, same

pytestmark = pytest.mark.timeout(60)
PORT, MANY = 7960, 20
LATER, AT_ONCE = "sleep:0.5", "sleep:0"  # after a flow is engaged, and perhaps before


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_a_server_that_closes_first_has_sent_and_read_it_all(pair: Pair, family: str) -> None:
    many = ("--connections", str(MANY))
    server = peer(pair.b, "serve", any_address(family), PORT, "recv:1000", "send:2000", "close", options=many)
    actions = ("send:1000", "recv-all", "sleep:0.05", "close")
    sent = []
    with pair.engaged(flows=MANY):
        for _ in range(MANY):
            sent.append(result(peer(pair.a, "connect", address(pair.b, family), PORT, *actions)))
        received = results(server)
    for one, other in zip(sent, received, strict=True):
        same(one, other)
        same(other, one)


@pytest.mark.parametrize("pause", [LATER, AT_ONCE], ids=["later", "at once"])
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_bytes_for_a_socket_that_is_gone_are_refused(pair: Pair, family: str, pause: str) -> None:
    """They are not taken for delivered: the sender's connection is reset, as TCP does it."""
    server = peer(pair.b, "serve", any_address(family), PORT + 1, "send:1000", pause, "close")
    actions = ("recv-all", "sleep:0.2", "send:1000", "sleep:0.3", "send:1", "close")
    client = peer(pair.a, "connect", address(pair.b, family), PORT + 1, *actions)
    one, other = result(client), result(server)
    assert one["received_sha256"] == other["sent_sha256"]
    assert one["error"] == "EPIPE"
    if pair.client:
        status = pair.client.status
        ends = {("reset-by-peer", "closed")}
        if SEGMENTS and pause == AT_ONCE:
            # Its end may be there before the engines have agreed. Then no socket is left to engage: its
            # engine says LEAVE, and the RST is TCP's, by the wire: the connection was never engaged.
            ends.add(("peer-left", "released"))
        eventually(lambda: {(e["reason"], e["state"]) for e in status()["recent"][-1:]} & ends, 2)
