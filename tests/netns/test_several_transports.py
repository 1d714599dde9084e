"""A worker of several transports: what it cannot have of them it leaves out, and says why."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from lone_worker import LoneWorker

from hooker import ConfigurationError, _fastpath
from hooker.carriers import Settings, ip
from hooker.carriers.face import Lone
from hooker.transports import makers

pytestmark = pytest.mark.timeout(60)
VTL, VTL_IP, TCP = 1, 4, 12
KEY = (bytes(32),)


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as made:
        yield made


@pytest.fixture
def taken(stack: contextlib.ExitStack) -> int:
    """A TCP port on which another program listens."""
    other = stack.enter_context(socket.socket())
    other.bind(("", 0))
    other.listen()
    return int(other.getsockname()[1])


def names(lone: LoneWorker) -> set[str]:
    return {name.split(".")[0] for name in lone.worker.counters() if "." in name}


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_all_of_them_have_the_same_port(stack: contextlib.ExitStack) -> None:
    lone = LoneWorker(stack, transports=(TCP, VTL))
    assert lone.worker.skipped == {}
    assert "tcp" in names(lone)
    assert listens(lone.worker.port)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other, pytest.raises(OSError, match="in use"):
        other.bind(("", lone.worker.port))


@pytest.mark.parametrize("ids", [(VTL,), (VTL, TCP)])
def test_what_peers_may_make_an_engine_hold_is_not_more_with_more_transports(
    stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch, ids: tuple[int, ...]
) -> None:
    made: list[int] = []

    def make(wire_id: int, settings: makers.Settings) -> Any:
        made.append(settings.budget)
        return makers.make(wire_id, settings)

    monkeypatch.setattr(_fastpath, "make", make)
    LoneWorker(stack, transports=ids)
    assert len(made) == len(ids)
    assert sum(made) <= makers.BUDGET


@pytest.mark.parametrize("ids", [(TCP, VTL), (VTL, TCP)])
def test_one_that_the_settings_exclude_is_left_out(stack: contextlib.ExitStack, ids: tuple[int, ...]) -> None:
    lone = LoneWorker(stack, transports=ids, keys=KEY)
    assert list(lone.worker.skipped) == [TCP]
    assert "does not encrypt" in lone.worker.skipped[TCP]
    assert "tcp" not in names(lone)
    assert not listens(lone.worker.port)


@pytest.mark.parametrize("ids", [(TCP, VTL), (VTL, TCP)])
def test_one_whose_port_another_program_has_is_left_out(
    stack: contextlib.ExitStack, taken: int, ids: tuple[int, ...]
) -> None:
    lone = LoneWorker(stack, transports=ids, port=taken)
    assert lone.worker.port == taken
    assert lone.worker.skipped == {TCP: f"transport tcp: cannot open port {taken}: Address already in use"}
    assert "tcp" not in names(lone)


def test_where_another_engine_has_protocol_253_that_is_said(stack: contextlib.ExitStack) -> None:
    other = Lone(ip.make(Settings(20)), 0)
    stack.callback(other.close)
    why = "transport vtl+ip: another engine in this network namespace has IP protocol 253: end that one"
    lone = LoneWorker(stack, transports=(VTL_IP, VTL))
    assert lone.worker.skipped == {VTL_IP: why}
    with pytest.raises(OSError, match=re.escape(why)):
        LoneWorker(stack, transports=(VTL_IP,))


def test_without_any_left_each_reason_is_said(stack: contextlib.ExitStack, taken: int) -> None:
    with pytest.raises(ConfigurationError, match="does not encrypt"):
        LoneWorker(stack, transports=(TCP,), keys=KEY)
    with pytest.raises(OSError, match=f"tcp: cannot open port {taken}: Address already in use"):
        LoneWorker(stack, transports=(TCP,), port=taken)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", 0))
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=rf"tcp does not encrypt.*; transport vtl: cannot open port {port}"):
            LoneWorker(stack, transports=(TCP, VTL), port=port, keys=KEY)


def test_one_that_is_told_twice_or_none_at_all_is_the_callers_mistake(stack: contextlib.ExitStack) -> None:
    for ids in ((), (VTL, VTL), (VTL, TCP, VTL)):
        with pytest.raises(ValueError, match="each once"):
            LoneWorker(stack, transports=ids)
