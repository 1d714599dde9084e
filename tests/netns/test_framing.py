"""A redirect socket says what is no frame, or ends: nobody can tell any more whose bytes are whose."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections.abc import Callable, Iterator

import pytest
from hands import Hands, ready, received, talk_until_adopted
from in_process import OTHER, engines, until
from own_sockets import own_sockets

import hooker.hooker
from hooker import Hooker
from hooker.lab import Lab

ENDED = "Connection reset|caused connection abort|Broken pipe"
ALWAYS = {"redirect": "always"}


@pytest.fixture
def redirects(monkeypatch: pytest.MonkeyPatch) -> list[socket.socket]:
    """The redirect sockets of the engines that start, in their order."""
    made: list[socket.socket] = []
    make = hooker.hooker._redirect_socket

    def note(stack: object) -> socket.socket:
        made.append(make(stack))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(hooker.hooker, "_redirect_socket", note)
    return made


def far_end(one: socket.socket) -> socket.socket:
    """What a socket of this process is connected to, in this process."""
    for _, found in own_sockets():
        with contextlib.suppress(OSError):
            if (found.getsockname(), found.getpeername()) == (one.getpeername(), one.getsockname()):
                return found.dup()
    raise AssertionError("it has no other end here")


@pytest.fixture
def adopted(lab: Lab, redirects: list[socket.socket]) -> Iterator[tuple[list[Hooker], list[socket.socket]]]:
    """Engines of this process, and both ends of a connection whose messages are redirected."""
    with engines(lab, at_a=dict(ALWAYS), b=dict(ALWAYS)) as made, Hands(lab) as hands:
        ends = hands.connected(OTHER)
        talk_until_adopted(ends)
        assert [engine.counters()["adopted"] for engine in made] == [1, 1]
        yield made, list(ends)


def garbage(sock: socket.socket) -> None:
    sock.send(b"this is no frame")


def end(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_WR)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", [garbage, end], ids=["garbage", "end"])
def test_all_that_was_adopted_ends_with_an_error_and_new_flows_are_not(
    adopted: tuple[list[Hooker], list[socket.socket]],
    redirects: list[socket.socket],
    lab: Lab,
    how: Callable[[socket.socket], None],
) -> None:
    (at_a, at_b), ends = adopted
    with far_end(redirects[0]) as other:
        how(other)
        for sock in ends:
            with pytest.raises(OSError, match=ENDED):
                while True:
                    assert ready(sock, select.POLLIN, 5)
                    assert sock.recv(1 << 16), "an end of data would hide that bytes are missing"
    until(lambda: at_a.counters()["flows"] == 0, "a flow is left")
    assert at_a.counters()["bad_frames"] == 1
    loops = at_a.counters()["loops"]
    with Hands(lab) as hands:
        client, server = hands.connected(OTHER)
        client.setblocking(False)
        for n in range(12):
            client.send(b"%02d" % n)
            assert received(server, 2) == b"%02d" % n
    assert [engine.counters()["adopted"] for engine in (at_a, at_b)] == [1, 1]
    assert at_a.counters()["loops"] - loops < 20000, "it wakes for a socket that it does not read"


@pytest.mark.parametrize("gone", [False, True], ids=["stays", "has reset it"])
def test_a_stranger_does_not_become_the_redirect_sockets_other_end(
    gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who connects to the listener first is not asked for by anybody."""
    listen, strangers = socket.socket.listen, []

    def first(listener: socket.socket, backlog: int) -> None:
        listen(listener, backlog)
        strangers.append(socket.create_connection(listener.getsockname(), timeout=5))
        if gone:
            strangers[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            strangers[0].close()

    monkeypatch.setattr(socket.socket, "listen", first)
    with contextlib.ExitStack() as stack:
        one = hooker.hooker._redirect_socket(stack)
        far_end(one).close()
        assert gone or strangers[0].recv(1) == b""
        strangers[0].close()
