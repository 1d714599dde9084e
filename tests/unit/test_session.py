"""What the commands say of events."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from hooker.cli import session
from hooker.cli.session import Options, describe
from hooker.control import keyfile
from hooker.events import Event, Kind, Role, SocketAddress

NEAR, FAR = SocketAddress(ip_address("10.0.0.1"), 4000), SocketAddress(ip_address("fd00::2"), 80)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (Event(Kind.PEER_DOWN, 0.0, FAR), "peer down [fd00::2]:80"),
        (Event(Kind.LANE_RESTORED, 0.0, SocketAddress(ip_address("0.0.0.0"), 0)), "lane restored for IPv4"),
        (Event(Kind.FLOW_OPENED, 0.0, FAR, NEAR, 1, Role.CLIENT), "flow opened 10.0.0.1:4000 → [fd00::2]:80"),
        (
            Event(Kind.FLOW_RELEASED, 0.0, FAR, NEAR, 1, Role.SERVER, "no-answer", 0.3),
            "flow released [fd00::2]:80 → 10.0.0.1:4000: no-answer, held 300.0 ms",
        ),
        (
            Event(Kind.HOLE, 0.0, FAR, NEAR, 1, Role.SERVER, position=70000, length=1240),
            "hole [fd00::2]:80 → 10.0.0.1:4000, 1240 B are zeros behind 70000 B",
        ),
        (
            Event(Kind.FLOW_CLOSED, 0.0, FAR, NEAR, 1, Role.CLIENT, "", 0.1, 5, 7),
            "flow closed 10.0.0.1:4000 → [fd00::2]:80, 5 B sent, 7 B received",
        ),
    ],
)
def test_an_event_is_one_readable_line_from_client_to_server(event: Event, said: str) -> None:
    assert describe(event) == said


def test_connections_end_with_their_engine_only_if_they_must_not_go_back_to_tcp(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(keyfile.make() + "\n")
    key.chmod(0o600)
    assert Options().fate == Options(hold=True).fate == "hooked connections go on over TCP"
    assert Options(intercept="messages").fate == "hooked connections are reset, if they were engaged"
    assert Options(key_file=str(key)).fate == "hooked connections are reset, if they were engaged"


@contextlib.contextmanager
def stderr_pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """Standard error is this pipe: (read end, write end). Within the test: pytest sets it, too."""
    reader, writer = os.pipe()
    monkeypatch.setattr(session, "PRINT_TIMEOUT", 0.05)
    with os.fdopen(reader, "rb") as out, os.fdopen(writer, "w") as into:
        monkeypatch.setattr(sys, "stderr", into)
        yield out.fileno(), writer


UP = Event(Kind.PEER_UP, 0.0, FAR)


@pytest.mark.timeout(20)
def test_an_event_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    with stderr_pipe(monkeypatch) as (reader, _):
        session._print_event(UP)
        assert os.read(reader, 100) == b"hooker: peer up [fd00::2]:80\n"


@pytest.mark.timeout(20)
def test_a_reader_that_has_stopped_does_not_hold_up_what_comes_next(monkeypatch: pytest.MonkeyPatch) -> None:
    with stderr_pipe(monkeypatch) as (_, writer):
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(4096))
        os.set_blocking(writer, True)
        session._print_event(UP)


def test_a_standard_error_that_nobody_reads_or_that_is_closed_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as into:
        monkeypatch.setattr(sys, "stderr", into)
        session._print_event(UP)
    session._print_event(UP)
    monkeypatch.setattr(sys, "stderr", None)
    session._print_event(UP)
