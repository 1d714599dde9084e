"""What a person sees of an engine's snapshot."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from hooker.cli import status
from hooker.control import rows

ENGINE = {
    "pid": 7,
    "netns": 1,
    "cgroup": "/sys/fs/cgroup",
    "intercept": "segments",
    "transport": "vtl",
    "listen_port": 6253,
    "uptime": 61.0,
}
PEER = {
    "address": "fd00::2",
    "port": 6253,
    "transport": "quic",
    "state": "up",
    "srtt_ms": 1.234,
    "flows": 2,
    "bytes_sent": 104857600,
    "bytes_received": 12,
}
FLOW = {
    "flow_id": 4294967296,
    "role": "client",
    "local": "10.0.0.1:4000",
    "remote": "10.0.0.2:80",
    "transport": "sctp",
    "state": "released",
    "reason": "no answer [3]",
    "bytes_sent": 1500,
    "bytes_received": 0,
}


def text(*snapshots: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=140)
    status.show(list(snapshots), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_no_engine_is_said() -> None:
    assert text() == "no engine is running\n"


def test_an_engine_that_does_not_answer_is_named() -> None:
    console = Console(file=io.StringIO(), width=140)
    status.show([], console, {77: "it is busy"})
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "engine 77 does not answer: it is busy\n"


def test_engine_peers_flows_and_reasons_are_shown() -> None:
    shown = text({"engine": ENGINE, "peers": [PEER], "flows": [FLOW], "reasons": {"no answer": 3, "none": 0}})
    for part in (
        "engine 7",
        "segments of cgroup",
        "1 min 1 s",
        "[fd00::2]:6253",
        "1.23 ms",
        "104.9 MB",
        "10.0.0.2:80",
        "quic",
        "sctp",
        "released",
    ):
        assert part in shown
    assert "1.5 kB" in shown
    assert "no answer" in shown
    assert "none" not in shown


def test_where_xdp_is_and_what_met_it_is_shown() -> None:
    row = {"name": "eth0", "mode": "generic", "queues": 2, "why": "native: Operation not supported"}
    engine = ENGINE | {
        "xdp": [
            row,
            {"name": "eth1", "mode": "", "queues": 0, "why": "there is no interface eth1"},
            {"name": "eth2", "mode": "generic", "queues": 0, "why": "flooded", "switched": 3},
        ]
    }
    counters = {"ingress.tx-cookie": 77, "ingress.drop-wire": 0, "ingress.pass-other": 88, "engaged": 99}
    shown = text({"engine": engine, "counters": counters})
    assert "xdp eth0: generic, 2 by AF_XDP (native: Operation not supported)" in shown
    assert "xdp eth1: not there (there is no interface eth1)" in shown
    assert "xdp eth2: generic, 3 floods so far (flooded)" in shown
    assert "tx-cookie" in shown
    assert "77" in shown
    for part in ("drop-wire", "pass-other", "88", "99"):
        assert part not in shown


def test_of_many_flows_some_are_shown_and_all_counted() -> None:
    counted = {"engine": ENGINE, "flows": [FLOW] * 3, "states": {"engaged": 49_990, "closed": 10}}
    assert "flows, 3 of 50000" in text(counted)
    assert " of " not in text({**counted, "states": {"released": 3}}).split("flows")[1]


def test_rows_say_state_and_transport() -> None:
    ip = bytes(10) + b"\xff\xff\x0a\0\0\1"
    raws = [(n, 1, 2, "", ip, 80, ip, n, 5, 6, 0, 0, n == 0, 12 * n) for n in range(2)]
    shown = [rows.flow(raw, {}) for raw in raws]
    assert [row["flow_id"] for row in shown] == [0, 1]
    assert [row["state"] for row in shown] == ["closed", "engaged"]
    assert [row["transport"] for row in shown] == ["", "tcp"]
    assert rows.SHOWN_FLOWS == 1000  # as docs/cli.md says


def test_states_are_named() -> None:
    assert rows.states({0: 1000, 2: 49_000}) == {"closed": 1000, "engaged": 49_000}


def test_flows_that_ran_over_the_transport_are_not_left_on_tcp() -> None:
    shown = text(
        {"engine": ENGINE, "reasons": {"closed": 7, "peer-lost": 3}, "ended": {"closed": 7, "peer-lost": 1}}
    )
    left, ended = shown.split("ended after running over another transport")
    assert "left on TCP" in left
    assert "closed" not in left
    assert [line.split() for line in left.splitlines()[-1:]] == [["peer-lost", "2"]]
    assert ["closed", "7"] in [line.split() for line in ended.splitlines()]


def test_an_idle_engine_has_no_empty_tables() -> None:
    assert len(text({"engine": ENGINE, "peers": [], "flows": [], "reasons": {}}).splitlines()) == 1


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999950, "1.0 MB"), (1 << 30, "1.1 GB")]
)
def test_sizes_are_readable(count: int, said: str) -> None:
    assert status.size(count) == said


@pytest.mark.parametrize(("seconds", "said"), [(5.9, "5 s"), (65, "1 min 5 s"), (7380, "2 h 3 min")])
def test_durations_are_readable(seconds: float, said: str) -> None:
    assert status.duration(seconds) == said
