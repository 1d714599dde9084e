"""Applications that set SO_RCVBUF or SO_SNDBUF to little: no transfer may crawl from timeout to timeout."""

from __future__ import annotations

import pytest
from support import Pair, peer, result, same

from hooker.lab import INTERFACE

pytestmark = [pytest.mark.timeout(90), pytest.mark.alone]
SIZE = 1 << 20  # bytes
SOON = 3.0  # s; one window each persist timeout would be 7 to 88, TCP needs up to 0.1
SMALL = (2304, 16384)  # bytes; the first is the least that the kernel gives


def quick(pair: Pair, sender: str, *, before: int = 0, during: tuple[str, str] = ("", "")) -> None:
    """Move SIZE bytes from *sender* ("client" or "server"), byte-exact and soon.

    Args:
        before: SO_RCVBUF of the other side before listen() or connect().
        during: an action of the sender and one of the receiver, once the connection is there.
    """
    warm = ["recv:1", "send:1"]
    give, take = ([action] if action else [] for action in during)
    send, recv = [*give, f"send:{SIZE}", "close"], [*take, "recv-all", "close"]
    small = ("--receive-buffer", str(before)) if before else ()
    options = {"client": (small, ()), "server": ((), small)}[sender]
    actions = {"client": (recv, send), "server": (send, recv)}[sender]
    with pair.engaged(payload=SIZE):
        server = peer(pair.b, "serve", "0.0.0.0", 7960, *warm, *actions[0], options=options[0])
        client = peer(pair.a, "connect", pair.b.v4, 7960, *warm[::-1], *actions[1], options=options[1])
        one, other = result(client), result(server)
    same(one, other)
    same(other, one)
    received = other if sender == "client" else one
    assert received["last_byte"] - received["first_byte"] < SOON


@pytest.mark.parametrize("sender", ["client", "server"])
@pytest.mark.parametrize("size", SMALL)
def test_a_receive_buffer_that_is_small_from_the_start(pair: Pair, size: int, sender: str) -> None:
    quick(pair, sender, before=size)


@pytest.mark.parametrize("sender", ["client", "server"])
@pytest.mark.parametrize("size", SMALL)
def test_a_receive_buffer_that_becomes_small(pair: Pair, size: int, sender: str) -> None:
    quick(pair, sender, during=("", f"receive-buffer:{size}"))


@pytest.mark.parametrize("sender", ["client", "server"])
@pytest.mark.parametrize("size", [4608])
def test_a_small_send_buffer(pair: Pair, size: int, sender: str) -> None:
    quick(pair, sender, during=(f"send-buffer:{size}", ""))


@pytest.mark.parametrize("mtu", [9000, 65535])
def test_a_small_receive_buffer_behind_a_link_with_large_packets(pair: Pair, mtu: int) -> None:
    for host in pair.lab.hosts:
        host.run(["ip", "link", "set", INTERFACE, "mtu", str(mtu)], hooked=False)
    for sender in ("client", "server"):
        quick(pair, sender, before=8192)
