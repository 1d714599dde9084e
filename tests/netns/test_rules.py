"""Rules of the policy: connections of some services and hosts are moved by another transport or function."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import PLAIN, Pair, eventually, peer, result, same

from hooker.control import status_socket
from hooker.lab import Lab

pytestmark = [pytest.mark.timeout(120), pytest.mark.skipif(PLAIN, reason="needs engines")]
OTHERS, BY_TCP, BACK, GIVES_UP, REFUSED = 7400, 7401, 7402, 7403, 7404
CLIENT = (
    f"port={BY_TCP} transport=tcp",
    f"port={BACK} reliability=go-back-n:window=64",
    f"port={GIVES_UP},{REFUSED} reliability=partial:repeats=1",
)
SERVER = (f"port={GIVES_UP} reliability=partial:repeats=0",)


def with_rules(*rules: str) -> list[str]:
    return [word for rule in rules for word in ("--rule", rule)]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with Lab() as lab:
        a = lab.a.hooker("--transport", "vtl", *with_rules(*CLIENT))
        b = lab.b.hooker("--transport", "vtl,tcp", *with_rules(*SERVER))
        yield Pair(lab, a, b, "segments")
        assert [engine.stop() for engine in (a, b)] == [0, 0]


def moved(pair: Pair, port: int, go: Path, address: str = "") -> tuple[str, set[str], set[str]]:
    """By which transport and functions a connection went, and why it did not; whatever, its bytes arrive."""
    server, client = pair.server, pair.client
    assert server
    assert client
    family = "::" if ":" in address else "0.0.0.0"
    reader = peer(pair.b, "serve", family, port, "recv-all", "close")
    writer = peer(pair.a, "connect", address or pair.b.v4, port, "send:300000", f"wait-file:{go}", "close")

    def mine() -> list[dict[str, object]]:
        flows = client.status()["flows"]
        return [f for f in flows if f["remote"].endswith(f":{port}") and f["state"] != "held"]

    eventually(lambda: [f for f in mine() if f["state"] == "engaged" or f["reason"]])
    flow = mine()[0]
    functions = {str(p["reliability"]) for p in client.status()["peers"] if p.get("reliability")}
    go.touch()
    same(result(writer), result(reader))
    return str(flow["transport"]), functions, {str(flow["reason"])} - {""}


def test_the_first_rule_for_a_service_says_by_what_it_is_moved(pair: Pair, tmp_path: Path) -> None:
    assert moved(pair, OTHERS, tmp_path / "0")[::2] == ("vtl", set())
    assert moved(pair, BY_TCP, tmp_path / "1")[::2] == ("tcp", set())
    transport, functions, why = moved(pair, BACK, tmp_path / "2")
    assert (transport, why) == ("vtl", set())
    assert functions == {"selective-repeat", "go-back-n"}  # an association for each


def test_bytes_are_given_up_only_where_both_hosts_rules_say_so(pair: Pair, tmp_path: Path) -> None:
    transport, functions, why = moved(pair, GIVES_UP, tmp_path / "3")
    assert (transport, why) == ("vtl", set())
    assert "partial" in functions
    assert moved(pair, REFUSED, tmp_path / "4")[2]
    assert pair.server
    assert pair.server.status()["reasons"]["function-not-chosen-here"] == 1


def test_a_rule_may_be_changed_while_the_engine_runs(pair: Pair, tmp_path: Path) -> None:
    assert pair.client
    shown = status_socket.change(pair.client.pid, {"transport": "vtl", "rule": 1})["engine"]
    assert [rule["transport"] for rule in shown["rules"]] == ["vtl", "vtl", "vtl"]
    assert moved(pair, BY_TCP, tmp_path / "5")[::2] == ("vtl", set())
    shown = status_socket.change(pair.client.pid, {"reliability": "stop-and-wait"})["engine"]
    assert shown["reliability"] == "stop-and-wait"
    assert [rule["reliability"] for rule in shown["rules"]][:2] == ["stop-and-wait", "go-back-n:window=64"]
    assert "stop-and-wait" in moved(pair, OTHERS, tmp_path / "6")[1]


def test_a_rule_is_for_the_hosts_of_the_longest_and_of_shorter_prefixes(lab: Lab, tmp_path: Path) -> None:
    """The kernel's table knows one prefix for an address: it has what all that cover it say."""
    v4, v6 = lab.b.v4, lab.b.v6
    rules = (f"to={v4}/32 port={OTHERS} transport=tcp", f"to=0.0.0.0/0,{v6} transport=vtl")
    client, server = (
        lab.a.hooker("--transport", "tcp", *with_rules(*rules)),
        lab.b.hooker("--transport", "tcp,vtl"),
    )
    pair = Pair(lab, client, server, "segments")
    assert moved(pair, OTHERS, tmp_path / "7")[0] == "tcp"
    assert moved(pair, OTHERS + 1, tmp_path / "8")[0] == "vtl"  # rule 2, though rule 1's prefix is longer
    assert moved(pair, OTHERS + 2, tmp_path / "9", v6)[0] == "vtl"
    assert [engine.stop() for engine in (client, server)] == [0, 0]
