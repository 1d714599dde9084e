"""Metrics of engines at work, beside what `hooker status` says of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.request
from contextlib import ExitStack, closing
from typing import Any

import pytest
from hands import Hands
from in_process import started
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from support import PLAIN, Pair, eventually

from hooker.lab import INTERFACE, Lab
from hooker.metrics import Collector

pytestmark = [pytest.mark.timeout(120), pytest.mark.skipif(PLAIN, reason="needs engines")]
PORT = 8500
COMMAND = [sys.executable, "-P", "-m", "hooker"]
Row = dict[tuple[str, ...], float]


def rows(text: str, engine: int) -> dict[str, Row]:
    """Of one engine: by metric and by labels' values, in their names' order."""
    found: dict[str, Row] = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            if one.labels.pop("engine", "") == str(engine):
                found.setdefault(one.name.removeprefix("hooker_"), {})[
                    tuple(one.labels[name] for name in sorted(one.labels))
                ] = one.value
    return found


def test_what_is_served_is_what_status_says() -> None:
    with (
        Lab() as lab,
        Pair.open(lab, "a", options=("--transport", "vtl,tcp", "--xdp", INTERFACE), kind="segments") as pair,
        closing(started(lab.b, intercept="segments", policy=None)) as other,
        Hands(lab) as hands,
        subprocess.Popen([*COMMAND, "metrics", "--listen", "0"], stdout=-1, text=True) as serving,
        ExitStack() as ending,
    ):
        ending.callback(serving.kill)  # else a test that fails would wait for it
        assert pair.client is not None
        status = pair.client.status
        for flow in (1, 2, 3):
            client, server = hands.connected(PORT + flow)
            eventually(lambda flow=flow: status()["counters"]["engaged"] == flow)
            client.sendall(b"x" * 5000)
            assert len(server.recv(5000, socket.MSG_WAITALL)) == 5000
            if flow < 3:
                client.close()
                server.close()
        eventually(lambda: sum(status()["ended"].values()) == 2)

        assert serving.stdout is not None
        url = serving.stdout.readline().split()[-1]
        before = status()
        found = rows(urllib.request.urlopen(url, timeout=60).read().decode(), pair.client.pid)
        after = status()
        serving.terminate()
        assert serving.wait(30) == 0

        assert found["up"] == {(): 1}
        assert found["flows"][("engaged",)] == 1
        assert "unlisted" not in found
        for name, part in (("flow_reasons_total", "reasons"), ("engaged_flow_ends_total", "ended")):
            assert {why: n for (why,), n in found[name].items() if n} == after[part] == before[part]
        assert found["flows_opened_total"] == {(): after["counters"]["opened"]}
        assert found["segment_bytes_total"][()] > 10_000
        assert found["transport_datagrams_sent_total"].keys() == {("vtl",)}
        assert found["peers"] == {("vtl",): len(after["peers"])}
        assert found["transport_state"] == {("offered", "vtl"): 1, ("offered", "tcp"): 1}
        assert found["xdp_attached"] == {(INTERFACE, "native"): 1}
        between(before, found["kernel_events_total"], after, "kernel.", "")
        between(before, found["ingress_packets_total"], after, "ingress.", "-")
        assert sum(found["ingress_packets_total"].values()) > 0

        registry = CollectorRegistry()
        registry.register(Collector(other))
        own = rows(generate_latest(registry).decode(), os.getpid())
        assert own["up"] == {(): 1}
        assert own["injected_bytes_total"] == {(): other.counters()["injected_bytes"]}
        assert own["injected_bytes_total"][()] > 0
    assert rows(generate_latest(registry).decode(), os.getpid())["flows_opened_total"]


def between(before: dict[str, Any], found: Row, after: dict[str, Any], prefix: str, dash: str) -> None:
    """All counts with this prefix are there, each with a value of then."""
    counts = {name: n for name, n in after["counters"].items() if name.startswith(prefix)}
    assert len(counts) == len(found)
    for labels, value in found.items():
        name = prefix + dash.join(filter(None, reversed(labels)))
        assert before["counters"][name] <= value <= counts[name], name
