"""From made snapshots to metrics, and what serves them: bounds, garbage, engines that do not answer."""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import re
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strictly
from prometheus_client.parser import text_string_to_metric_families
from support import eventually

from hooker.control.counted import names
from hooker.control.status_socket import ControlServer
from hooker.errors import ConfigurationError
from hooker.metrics import Collector, families, samples, server
from hooker.metrics.server import Server, parse_address

ROOT = Path(__file__).parents[2]
HOSTILE = 'a"b\\c\nd} 1\nhooker_up 7\n\udc80ü'
PEER = {"transport": "vtl", "srtt_ms": 2.0, "bytes_sent": 5, "packets_lost": 1}
NOBODY = 65534
Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


def engine(**more: Any) -> dict[str, Any]:
    return {"engine": {"pid": 7, "transport": "vtl,tcp", "uptime": 2.5, "encrypted": True}} | more


class Made:
    """An engine of this process."""

    def __init__(self, snapshot: Any) -> None:
        self.snapshot = lambda: snapshot


def text(*snapshots: Any) -> str:
    registry = CollectorRegistry()
    registry.register(Collector(*(Made(one) for one in snapshots)))
    strict = openmetrics.generate_latest(registry).decode()  # type: ignore[arg-type]
    assert list(strictly(strict))
    return generate_latest(registry).decode()


def values(said: str) -> Values:
    found: Values = {}
    for family in text_string_to_metric_families(said):
        assert family.documentation
        for one in family.samples:
            key = one.name, frozenset(one.labels.items())
            assert key not in found
            found[key] = one.value
    return found


def value(found: Values, name: str, **labels: str) -> float | None:
    """Of the first engine."""
    labels = {"engine": str(os.getpid())} | labels
    return found.get((f"hooker_{name}", frozenset(labels.items())))


def test_an_engine_is_told_of() -> None:
    found = values(
        text(
            engine(
                states={"engaged": 3, "closed": 1},
                reasons={"closed": 4, "loopback": 2},
                ended={"closed": 3},
                peers=[PEER, PEER | {"srtt_ms": 6.0}, PEER | {"transport": "tcp"}],
                counters={
                    "kernel.candidate": 9,
                    "ingress.drop-wire": 5,
                    "ingress.redirect": 6,
                    "segment_bytes": 77,
                    "flows": 4,
                    "starting": 1,
                    "udp_send_calls": 11,
                    "vtl.held": 12,
                    "vtl+ip.ip_send_calls": 13,
                    "udp.send_calls": 14,
                    "examples.fast:Class.damaged": 15,
                },
            )
        )
    )
    assert value(found, "up") == 1
    assert value(found, "engine_uptime_seconds") == 2.5
    assert value(found, "flows", state="engaged") == 3
    assert value(found, "flow_reasons_total", reason="loopback") == 2
    assert value(found, "flow_reasons_total", reason="peer-left") == 0
    assert value(found, "engaged_flow_ends_total", reason="closed") == 3
    assert value(found, "engaged_flow_ends_total", reason="loopback") == 0
    assert value(found, "peers", transport="vtl") == 2
    assert value(found, "peers_lost_packets", transport="vtl") == 2
    assert value(found, "peers_srtt_sum_seconds", transport="vtl") == 0.008
    assert value(found, "peers_srtt_max_seconds", transport="vtl") == 0.006
    assert value(found, "kernel_events_total", event="candidate") == 9
    assert value(found, "ingress_packets_total", verdict="drop", reason="wire") == 5
    assert value(found, "ingress_packets_total", verdict="redirect", reason="") == 6
    assert value(found, "segment_bytes_total") == 77
    assert value(found, "flows_starting") == 1
    assert value(found, "transport_send_calls_total", transport="vtl") == 11
    assert value(found, "transport_held_bytes", transport="vtl") == 12
    assert value(found, "transport_send_calls_total", transport="vtl+ip") == 13
    assert value(found, "transport_send_calls_total", transport="udp") == 14
    assert value(found, "transport_damaged_total", transport="examples.fast:Class") == 15
    assert not [name for name, _ in found if name == "hooker_unlisted"]


def test_the_state_of_an_engines_ways_is_told() -> None:
    made = engine()
    made["engine"] |= {
        "skipped": {"sctp": "no SCTP here"},
        "failed": {"x:Y": "it raised"},
        "troubled": {},
        "blocked": {"IPv6": 3.0},
        "route_error": "gone",
        "rules": [{"for": "port 80", "transport": "tcp", "reliability": ""}],
        "xdp": [
            {"name": "eth0", "mode": "native", "queues": 2, "why": ""},
            {"name": "eth1", "mode": "", "switched": 3},
        ],
    }
    found = values(text(made))
    for name, state in (("vtl", "offered"), ("tcp", "offered"), ("sctp", "skipped"), ("x:Y", "failed")):
        assert value(found, "transport_state", transport=name, state=state) == 1
    assert value(found, "lane_blocked", ip_version="IPv4") == 0
    assert value(found, "lane_blocked", ip_version="IPv6") == 1
    assert value(found, "route_incomplete") == 1
    rule = {"rule": "1", "for": "port 80", "transport": "tcp", "reliability": ""}
    assert value(found, "rule_info", **rule) == 1
    assert value(found, "xdp_attached", interface="eth0", mode="native") == 1
    assert value(found, "xdp_attached", interface="eth1", mode="") == 0
    assert value(found, "xdp_queues", interface="eth0") == 2
    assert value(found, "xdp_switched_on_total", interface="eth1") == 3
    assert value(found, "xdp_switched_on_total", interface="eth0") is None


@pytest.mark.parametrize(
    "snapshot",
    [
        {"engine": {"pid": 7}},
        {"engine": {"pid": None, "transport": 5, "xdp": {}, "rules": [1], "skipped": [], "blocked": 0}},
        engine(peers={}, states=[], reasons=3, ended=None, counters="x", flows=0),
        engine(peers=[1, {}, {"srtt_ms": "x"}], states={"engaged": "many"}, counters={"opened": None}),
        engine(counters={"opened": 10**400, "closed": float("nan"), "left": float("inf"), "": 1, ".": 2}),
    ],
)
def test_what_a_snapshot_lacks_gives_no_sample(snapshot: dict[str, Any]) -> None:
    found = values(text(snapshot))
    assert value(found, "up") == 1
    assert value(found, "flows_opened_total") is None
    assert value(found, "flows_closed_total") is None


@pytest.mark.parametrize("snapshot", [{}, {"engine": {}}, {"engine": []}, {"error": "closing"}])
def test_no_snapshot_is_an_engine_that_is_not_up(snapshot: dict[str, Any]) -> None:
    found = values(text(snapshot, engine()))
    assert value(found, "up") == 0
    assert value(found, "up", engine=f"{os.getpid()}-2") == 1
    assert found["hooker_engines", frozenset()] == 2


def test_hostile_names_stay_values_of_labels() -> None:
    made = engine(
        reasons={HOSTILE: 1},
        states={HOSTILE: 2},
        counters={f"kernel.{HOSTILE}": 3, f"ingress.{HOSTILE}": 4, HOSTILE: 5, f"{HOSTILE}.held": 6},
        peers=[{"transport": HOSTILE, "srtt_ms": 1}],
    )
    made["engine"] |= {"cgroup": HOSTILE, "xdp": [{"name": HOSTILE, "mode": HOSTILE}]}
    found = values(text(made))
    whole = HOSTILE.replace("\udc80", "?")
    assert value(found, "up") == 1
    assert value(found, "flow_reasons_total", reason=whole) == 1
    assert value(found, "kernel_events_total", event=whole) == 3
    assert value(found, "unlisted", count=whole) == 5
    assert value(found, "transport_held_bytes", transport=whole) == 6
    assert {name for name, _ in found} <= {one.replace("hooker_hooker", "") for one in _names()}


def _names() -> set[str]:
    suffixes = {"counter": "_total", "info": "_info"}
    return {f"hooker_{one.name}{suffixes.get(one.kind, '')}" for one in families.ALL.values()}


def test_rows_are_bounded_and_their_sum_is_kept() -> None:
    many = {f"state {n}": 1 for n in range(5 * samples.MOST_ROWS)}
    found = values(text(engine(states=many, peers=[{"transport": "x" * 9999 + str(n)} for n in range(9)])))
    states = {labels: n for (name, labels), n in found.items() if name == "hooker_flows"}
    assert len(states) == samples.MOST_ROWS + 1
    assert sum(states.values()) == len(many)
    assert value(found, "peers", transport="x" * samples.LONGEST) == 9


def fields(path: str, struct: str) -> set[str]:
    """64-bit ones, but for arrays."""
    body = re.search(rf"struct {struct}:.*\n((?:    .*\n)+)", (ROOT / "hooker" / path).read_text())
    assert body is not None
    lines = re.findall(r"^    uint64_t ([\w, ]*?\w)(?: *#.*)?$", body[1], re.MULTILINE)
    return {name for line in lines for name in line.split(", ")}


@pytest.mark.parametrize(
    ("path", "struct", "known"),
    [
        ("engine/worker.pxd", "worker_counters", families.WORKER),
        ("vtl/api.pxd", "vtl_counters", families.TRANSPORT),
        ("transports/connection.pxd", "ConnectionCounts", families.TRANSPORT),
        ("transports/quic_core.pxd", "QuicCounts", families.TRANSPORT),
        ("transports/bare_state.pxd", "BareCounts", families.TRANSPORT),
        ("transports/named.pxd", "NamedCounts", families.TRANSPORT),
    ],
)
def test_every_count_has_a_name(path: str, struct: str, known: dict[str, Any]) -> None:
    found = fields(path, struct)
    assert len(found) > 10
    assert found <= set(known)


def test_every_verdict_of_the_ingress_is_read() -> None:
    found = [samples.counted(f"ingress.{name}", 1.0) for name in names("ingress/layout.h", "HK_I_")]
    assert {one.labels[0] for one in found} == {"pass", "drop", "tx", "redirect"}
    assert len(set(found)) == len(found) > 10


def test_ways_out_have_a_label() -> None:
    found = samples.counted("vtl+ip.left_in_turn", 7.0)
    assert found == ("transport_left", 7.0, ("vtl+ip", "in_turn"))


def test_the_page_has_every_family_and_no_other() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `hooker_(\w+)` \| (\w+) \| ([^|]*) \| ([^|]+) \|$", page, re.MULTILINE)
    suffixes = {"counter": "_total", "info": "_info"}
    wanted = [
        (one.name + suffixes.get(one.kind, ""), one.kind, ", ".join(one.labels), one.meaning)
        for one in families.ALL.values()
    ]
    assert rows == wanted


# ---- served ----


@pytest.fixture
def run_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HOOKER_RUN_DIR", str(tmp_path / "run"))
    return tmp_path / "run"


@pytest.fixture
def served(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(server, "LOOK", 0.05)
    with Server(*parse_address("0")) as one:
        yield one


def get(one: Server, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(*one.server_address[:2], timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_a_process_without_descriptors_left_does_not_spin(
    served: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[float] = []

    def accept(_: object) -> None:
        tried.append(time.monotonic())
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socketserver.TCPServer, "get_request", accept)
    with socket.create_connection(("127.0.0.1", served.server_port)):
        eventually(lambda: len(tried) >= 3)
    assert all(after - before >= 0.9 * server.ACCEPT_PAUSE for before, after in pairwise(tried))


def test_engines_are_asked_for_whoever_asks(served: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FRESH", 0.0)
    assert "hooker_engines 0.0" in get(served)[1]
    with ControlServer(engine):
        status, said = get(served)
        assert status == 200
        assert value(values(said), "engine_uptime_seconds") == 2.5
        assert list(strictly(get(served, Accept="application/openmetrics-text; version=1.0.0")[1]))


def test_many_who_ask_are_one_for_the_engine(served: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FRESH", 60.0)
    asked = []
    with ControlServer(lambda: asked.append(1) or engine()):  # type: ignore[func-returns-value]
        assert all("hooker_up" in get(served)[1] for _ in range(5))
    assert len(asked) == 1


def test_an_engine_that_does_not_answer_hides_no_other(
    served: Server, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "FRESH", 0.0)
    with ControlServer(engine), socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(run_dir / f"{os.getpid()}-9.sock"))
        mute.listen()
        monkeypatch.setattr("hooker.control.question.STANDSTILL", 0.3)
        found = values(get(served)[1])
    assert value(found, "up") == 1
    assert value(found, "up", engine=f"{os.getpid()}-9") == 0


def test_an_engine_that_is_at_work_is_not_waited_for_long(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process is at work meanwhile: it asks."""
    monkeypatch.setattr(server, "WITHIN", 0.3)
    asked = threading.Event()
    freed = []
    with ControlServer(lambda: freed.append(asked.wait(15)) or engine()):  # type: ignore[func-returns-value]
        ((_, answer),) = server.Shared().replies()
        asked.set()
    assert answer is None
    assert freed == [True]


def test_anothers_socket_is_not_believed(served: Server, run_dir: Path) -> None:
    if os.geteuid():
        pytest.skip("root only")
    with ControlServer(engine) as made:
        assert made.path is not None
        os.chown(made.path, NOBODY, NOBODY)
        assert "hooker_engines 0.0" in get(served)[1]


def test_a_run_directory_that_others_can_write_is_said(served: Server, run_dir: Path) -> None:
    run_dir.mkdir()
    run_dir.chmod(0o777)
    status, said = get(served)
    assert status == 503
    assert "run-time directory" in said


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0\xff" * 100 + b"\r\n\r\n",
        b"GET /" + b"a" * 70000 + b" HTTP/1.0\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /metrics HTTP/1.0\r\n" + b"X: y\r\n" * 500 + b"\r\n",
        b"GET /metrics?name[]=%00%ff HTTP/1.0\r\nAccept: application/openmetrics-text;version=x\r\n\r\n",
        b"POST /metrics HTTP/1.0\r\nContent-Length: 99999999999\r\n\r\n",
        b"",
    ],
    ids=["binary", "long", "version", "headers", "accept", "post", "nothing"],
)
def test_garbage_ends_nothing_and_says_nothing(
    served: Server, garbage: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_connection(served.server_address[:2], timeout=20) as client:
        client.sendall(garbage)
        client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while client.recv(65536):
                pass
    assert get(served)[0] == 200
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("version", ["x", "1.0.0.0.0", "1" * 5000, "", " 1.0.0;q=0.5,text/plain", "0.0.4"])
def test_an_accept_that_makes_no_sense_is_disregarded(served: Server, version: str) -> None:
    connection = http.client.HTTPConnection(*served.server_address[:2], timeout=20)
    accept = f"application/openmetrics-text;version={version}"
    connection.request("GET", "/metrics", headers={"Accept": accept})
    assert connection.getresponse().status == 200


@pytest.mark.parametrize("path", ["/", "/metrics/", "/favicon.ico", "/%2e/metrics"])
def test_other_paths_have_nothing(served: Server, path: str) -> None:
    connection = http.client.HTTPConnection(*served.server_address[:2], timeout=20)
    connection.request("GET", path)
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (404, b"there is /metrics\n")


def test_clients_are_bounded_in_number(served: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server._Handler, "timeout", 60.0)
    with contextlib.ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection(served.server_address[:2], timeout=20))
            for _ in range(server.MOST + 1)
        ]
        assert idle[-1].recv(1) == b""
        assert select.select(idle[:-1], [], [], 0)[0] == []
    eventually(lambda: not served._open)
    assert get(served)[0] == 200


def test_a_client_that_says_a_byte_now_and_then_is_bounded(
    served: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server._Handler, "timeout", 60.0)
    monkeypatch.setattr(server, "LONGEST", 0.5)
    with socket.create_connection(served.server_address[:2], timeout=20) as client:
        client.sendall(b"GET")
        assert client.recv(1) == b""


@pytest.mark.parametrize("when", ["at once", "half-way"])
def test_what_goes_wrong_is_in_no_log(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], when: str
) -> None:
    """A client that reads nothing, for one, is a TimeoutError half-way."""

    def broken() -> Iterator[bytes]:
        yield b"x" * 10
        raise TimeoutError

    def app(_: object, start_response: Any) -> Iterator[bytes]:
        if when == "at once":
            raise KeyError("x")
        start_response("200 OK", [])
        return broken()

    monkeypatch.setattr(server, "LOOK", 0.05)
    monkeypatch.setattr(server, "make_wsgi_app", lambda _: app)
    with Server(*parse_address("0")) as one:
        status, said = get(one)
    assert (status, said) == ((500, "KeyError: 'x'\n") if when == "at once" else (200, "x" * 10))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "where",
    ["", "x", "-1", "65536", "1.2.3:80", ":80", "localhost:80", "::1:80", "[::1:80", "[1.2.3.4]:80", "[]:1"],
)
def test_a_bad_address_is_named(where: str) -> None:
    with pytest.raises(ConfigurationError, match=r"ADDRESS"):
        parse_address(where)


@pytest.mark.parametrize(
    ("where", "said"),
    [("9753", "127.0.0.1 9753"), ("0.0.0.0:1", "0.0.0.0 1"), ("[::1]:9753", "::1 9753"), ("[::]:0", ":: 0")],
)
def test_an_address_is_understood(where: str, said: str) -> None:
    assert " ".join(map(str, parse_address(where))) == said


# ---- the command ----

COMMAND = [sys.executable, "-P", "-m", "hooker", "metrics"]


def test_a_port_in_use_is_one_line(served: Server) -> None:
    where = f"127.0.0.1:{served.server_port}"
    done = subprocess.run([*COMMAND, "--listen", where], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert where in done.stderr
    assert done.stdout == ""


def test_without_the_package_there_is_one_line() -> None:
    code = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from hooker.cli.commands import main; main(['metrics'])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(run_dir: Path, number: int) -> None:
    with (
        subprocess.Popen([*COMMAND, "--listen", "[::1]:0"], stdout=-1, stderr=-1, text=True) as proc,
        contextlib.ExitStack() as ending,
        ControlServer(engine),
    ):
        ending.callback(proc.kill)  # else a test that fails would wait for it
        assert proc.stdout is not None
        said = proc.stdout.readline()
        found = re.fullmatch(r"hooker: metrics at http://\[::1\]:(\d+)/metrics\n", said)
        assert found is not None, said
        with socket.create_connection(("::1", int(found[1]))) as standing:
            connection = http.client.HTTPConnection("::1", int(found[1]), timeout=60)
            connection.request("GET", "/metrics")
            assert value(values(connection.getresponse().read().decode()), "up") == 1
            proc.send_signal(number)
            assert proc.wait(30) == 0
            standing.close()
        assert proc.stderr is not None
        assert proc.stderr.read() == ""


def test_a_signal_ends_it_in_order_without_standard_output(run_dir: Path) -> None:
    command = ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, "--listen", "[::1]:0"]
    with subprocess.Popen(command, stderr=-1, text=True) as proc, contextlib.ExitStack() as ending:
        ending.callback(proc.kill)
        eventually(lambda: _listens(proc.pid))
        proc.send_signal(signal.SIGTERM)
        assert proc.wait(30) == 0
        assert proc.stderr is not None
        assert proc.stderr.read() == ""


def _listens(pid: int) -> bool:
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp6").read_text().splitlines()]
    listening = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"}
    try:
        return any(str(link.readlink()) in listening for link in Path(f"/proc/{pid}/fd").iterdir())
    except FileNotFoundError:  # closed meanwhile
        return False
