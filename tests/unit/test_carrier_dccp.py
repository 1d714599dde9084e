"""The carrier of DCCP as far as it needs no kernel that has it, and VTL's window over such a carrier."""

from __future__ import annotations

from pathlib import Path

import pytest

from hooker import transports
from hooker.carriers import Settings, dccp
from hooker.carriers.face import Lone
from hooker.errors import ConfigurationError
from hooker.transports.makers import Settings as Wanted
from hooker.transports.makers import make
from hooker.vtl._parts import Controller

THERE, _ = transports.get("vtl+dccp").available()


def files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("ccid", [0, 1, 4, 9, 258])
def test_a_ccid_that_there_is_not_is_an_error(ccid: int) -> None:
    with pytest.raises(ConfigurationError, match=f"CCID {ccid}"):
        dccp.make(Settings(20, {"ccid": ccid}))


@pytest.mark.skipif(THERE, reason="there is DCCP")
def test_without_dccp_it_cannot_be_opened_and_nothing_is_left() -> None:
    before = files()
    for _ in range(20):
        with pytest.raises(OSError, match="not supported"):
            Lone(dccp.make(Settings(20)), 0)
    assert files() == before


def test_one_that_was_never_opened_is_freed() -> None:
    before = files()
    for _ in range(50):
        assert dccp.make(Settings(20)).name == "dccp"
    assert files() == before


def test_vtl_over_it_leaves_congestion_control_to_the_kernel() -> None:
    """Whatever was chosen; a choice that there is not is still an error."""
    from hooker.vtl import congestion

    assert make(3, Wanted(congestion="cubic")).name == "vtl+dccp"
    assert "carried" in congestion.names()
    with pytest.raises(ConfigurationError, match="unknown congestion controller"):
        make(3, Wanted(congestion="pigeons"))


def test_its_window_is_a_bound_and_no_more() -> None:
    """Twice what the path delivers in its least round trip, and 256 KiB; losses change nothing."""
    make(3, Wanted())
    least, most, second = 256 << 10, 2 << 20, 10**9
    one = Controller("carried")
    assert one.cwnd == least
    one.on_ack(second, 1000, 0, second // 10, rate=1_000_000)
    assert one.cwnd == least + 200_000
    one.on_loss(second, second + 1, packets=50)
    assert one.cwnd == least + 200_000
    one.on_ack(second + 2, 1000, second + 1, second, rate=1_000_000)  # what waits makes it no larger
    assert one.cwnd == least + 200_000
    one.on_ack(second + 3, 1000, second + 2, second // 10, rate=1 << 40)
    assert one.cwnd == most
    for n in range(17):  # what the path delivered long ago counts no more
        one.on_ack(second + 4 + n, 1000, second + 3 + n, second // 10, rate=1000)
    assert one.cwnd == least + 200
