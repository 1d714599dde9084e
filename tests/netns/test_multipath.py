"""MPTCP over two interfaces: flows go on when one of the paths is gone, the one that their TCP has, too."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Iterator

import pytest
from support import PLAIN, Pair, counts, eventually, peer, result, same

from hooker.lab import Host, Lab
from hooker.lab.link import Link

pytestmark = [pytest.mark.timeout(120), pytest.mark.skipif(PLAIN, reason="needs engines")]
MB = 1 << 20
SECOND = "second"
LINK = Link(rate=200e6, delay=0.002)
SIZE = 40 * MB


def ip(host: Host, *words: str) -> None:
    host.run(["ip", *words], hooked=False)


def crossed(host: Host, interface: str) -> int:
    """Bytes that it has sent there."""
    text = str(host.run(["cat", "/proc/net/dev"], hooked=False, text=True).stdout)
    line = next(line for line in text.splitlines() if line.strip().startswith(f"{interface}:"))
    return int(line.partition(":")[2].split()[8])


@pytest.fixture
def pair() -> Iterator[Pair]:
    """The path manager of the kernel is told of the second address, as its user would (ip-mptcp(8))."""
    with Lab(link=LINK) as lab:
        ip(lab.a, "link", "add", SECOND, "type", "veth", "peer", "name", SECOND, "netns", lab.b.netns)
        for host, address in ((lab.a, "10.99.0.1"), (lab.b, "10.99.0.2")):
            ip(host, "address", "add", f"{address}/24", "dev", SECOND)
            ip(host, "link", "set", SECOND, "up")
            ip(host, "mptcp", "limits", "set", "subflow", "2", "add_addr_accepted", "2")
        ip(lab.a, "mptcp", "endpoint", "add", "10.99.0.1", "dev", SECOND, "subflow")
        ip(lab.b, "mptcp", "endpoint", "add", "10.99.0.2", "dev", SECOND, "signal")
        with Pair.open(lab, options=("--transport", "mptcp"), kind="segments") as made:
            yield made


def subflows(host: Host) -> int:
    shown: subprocess.CompletedProcess[str] = host.run(
        ["ss", "-tnH", "state", "established"], hooked=False, text=True
    )
    return sum("10.99.0." in line for line in shown.stdout.splitlines())


@pytest.mark.parametrize("gone", ["the other interface", "the path that TCP has"])
def test_a_transfer_outlives_one_of_two_paths(pair: Pair, gone: str) -> None:
    go, more = pair.lab.tmp / "go", pair.lab.tmp / "more"
    server = peer(pair.b, "serve", "0.0.0.0", 7800, "recv:100", "send:100", "recv-all", "close")
    script = ("send:100", "recv:100", f"wait-file:{go}", f"send:{SIZE}", f"wait-file:{more}", f"send:{SIZE}")
    client = peer(pair.a, "connect", pair.b.v4, 7800, *script, "close")
    eventually(lambda: all(counts(engine.status())["engaged"] for engine in pair.engines))
    eventually(lambda: subflows(pair.a))
    before = crossed(pair.a, SECOND)
    go.touch()
    eventually(lambda: crossed(pair.a, SECOND) > before + 2 * MB, 30)
    if gone == "the other interface":
        ip(pair.a, "link", "set", SECOND, "down")
    else:
        assert pair.lab.link
        pair.lab.link.set(dataclasses.replace(LINK, loss=1.0))
    more.touch()
    sent, received = result(client, 60), result(server, 60)
    same(sent, received)
    assert (sent["error"], received["error"]) == (None, None)
    assert received["received"] == 2 * SIZE + 100
    if gone == "the path that TCP has":  # else it may go back to it meanwhile
        for engine in pair.engines:
            assert set(engine.status()["ended"]) <= {"closed"}
