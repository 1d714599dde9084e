"""A twin has the address of a remote end, not the port number of that on this host: others may use it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support import EACH_FAMILY, Pair, address, any_address, eventually, peer, result, same

pytestmark = pytest.mark.timeout(60)
PORT = 7950


def transferred(client: subprocess.Popen[str], server: subprocess.Popen[str]) -> None:
    one, other = result(client), result(server)
    same(one, other)
    same(other, one)


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_a_listener_on_the_port_that_flows_go_to(pair: Pair, family: str, tmp_path: Path) -> None:
    go, arrived = tmp_path / "go", tmp_path / "arrived"
    actions = ("recv:1000", f"touch:{arrived}", f"wait-file:{go}", "send:10", "close")
    with pair.engaged(flows=2):
        there = peer(pair.b, "serve", any_address(family), PORT, *actions)
        client = peer(pair.a, "connect", address(pair.b, family), PORT, "send:1000", "recv-all", "close")
        eventually(arrived.exists)  # over twins, then
        own = peer(pair.a, "serve", any_address(family), PORT, "recv-all", "send:100000", "close")
        back = peer(
            pair.b, "connect", address(pair.a, family), PORT, "send:100000", "fin", "recv-all", "close"
        )
        transferred(back, own)
        go.touch()
        transferred(client, there)
