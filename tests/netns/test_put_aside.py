"""What is changed on an application's socket while its flow may be engaged, or is, is as it was on TCP.

That is its mark, and bbr: bbr paces, which loopback cannot use and TCP cannot unlearn, so reno has its place.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from owned import PORT, Bed, End, connection, engines, hooked_socket, say, used
from support import INTERCEPT, PLAIN, Pair, eventually

from hooker.control.kernel import can_walk
from hooker.lab import INTERFACE, Lab

TCP, MARK, NEVER, LEFT = 0, 1, 2, 3  # HK_WANT_*
ASIDE = 1.1  # s, more than HK_ASIDE_NS
SERVICE = 7203
SIZES = (3, 4, 10, 15, 16, 64)  # bytes that are asked for of a name of at most 16
MOVING = {  # what changes by itself
    socket.SOL_SOCKET: {
        7,  # SO_SNDBUF, SO_RCVBUF: as TCP needs it
        8,
        49,  # SO_INCOMING_CPU
        55,  # SO_MEMINFO
        56,  # SO_INCOMING_NAPI_ID
    },
    socket.IPPROTO_TCP: {
        10,  # TCP_WINDOW_CLAMP follows SO_RCVBUF
        11,  # TCP_INFO
        12,  # TCP_QUICKACK
        24,  # TCP_TIMESTAMP
        26,  # TCP_CC_INFO
        35,  # TCP_ZEROCOPY_RECEIVE
    },
    socket.IPPROTO_IP: {9},  # IP_PKTOPTIONS: of the way
    socket.IPPROTO_IPV6: {6},  # IPV6_2292PKTOPTIONS, too
}


MEANT = {  # what only TCP has (test_marking.py), or is each socket's own
    socket.SOL_SOCKET: {25, 36, 57, 62},  # SO_BINDTODEVICE, SO_MARK, SO_COOKIE, SO_BINDTOIFINDEX
    socket.IPPROTO_TCP: {14, 19, 32},  # TCP_MD5SIG, TCP_REPAIR, TCP_MD5SIG_EXT
    socket.IPPROTO_IP: {52},  # IP_PROTOCOL: its port
}


def options(s: socket.socket) -> dict[tuple[int, int], bytes]:
    """All that can be read."""
    found = {}
    for level, moving in MOVING.items():
        for name in set(range(1, 100)) - moving:
            with contextlib.suppress(OSError):
                found[level, name] = s.getsockopt(level, name, 64)
    return found


def path_mtu(s: socket.socket) -> int:
    """tcpi_pmtu, bytes."""
    return int(struct.unpack_from("I", s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64), 60)[0])


def shown(s: socket.socket) -> str:
    return s.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()


def choose(s: socket.socket, name: str) -> None:
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())


@pytest.fixture(autouse=True)
def _bbr() -> None:
    if "bbr" not in Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split():
        pytest.skip("this kernel has no bbr")


# ---- the kernel programs, as they are told ----------------------------------------------------------------


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    with Lab() as lab, engines(lab) as found:
        yield Bed(lab, found)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("end", [0, 1], ids=["client", "server"])
@pytest.mark.parametrize("left", [LEFT, NEVER], ids=["left", "never"])
def test_a_socket_that_was_marked_has_all_its_options_again(
    bed: Bed, family: int, end: int, left: int
) -> None:
    with connection(bed, family) as pair:
        one, other = pair[end], pair[1 - end]
        choose(one.socket, "bbr")
        say(one, other)
        before = options(one.socket)
        size = path_mtu(one.socket)
        for want in (MARK, left):
            one.want(want)
            say(one, other)
            assert path_mtu(one.socket) == size
            say(other, one)
            assert used(one.engine.host, PORT if end else one.port) == ("reno" if want == MARK else "bbr")
            assert options(one.socket) == before


def set_all(one: End) -> dict[tuple[int, int], list[tuple[int | None, bytes | int | None]]]:
    """What comes of each option that is set: the errno, and what is read then."""
    said: dict[tuple[int, int], list[tuple[int | None, bytes | int | None]]] = {}
    for level, moving in MOVING.items():
        for name in set(range(1, 100)) - moving - MEANT.get(level, set()):
            for value in (1, 0, 5000):
                error, found = None, None
                try:
                    one.socket.setsockopt(level, name, value)
                except OSError as refused:
                    error = refused.errno
                try:
                    found = one.socket.getsockopt(level, name, 32)
                except OSError as refused:
                    found = refused.errno
                said.setdefault((level, name), []).append((error, found))
    return said


@pytest.mark.parametrize("family", [4, 6])
def test_options_do_on_a_marked_socket_what_they_do_on_tcp(bed: Bed, family: int) -> None:
    said = []
    for want in (LEFT, MARK):
        with connection(bed, family) as (one, other):
            one.want(want)
            assert one.through_device(other) == (want == MARK)
            said.append(set_all(one))
            assert one.through_device(other) == (want == MARK)
    assert said[0] == said[1]


def test_one_that_may_be_engaged_in_a_moment_does_not_begin_bbr(bed: Bed) -> None:
    with connection(bed) as (one, other):
        choose(one.socket, "bbr")
        for want, begun in ((MARK, "reno"), (LEFT, "bbr"), (MARK, "reno"), (TCP, "reno")):
            one.want(want)
            say(one, other)
            assert (used(one.engine.host, one.port), shown(one.socket)) == (begun, "bbr")
        time.sleep(ASIDE)
        say(one, other)
        assert used(one.engine.host, one.port) == "bbr", "nobody has said anything"


def test_the_name_is_shown_also_to_who_asks_for_less_of_it(bed: Bed) -> None:
    with connection(bed) as (one, other):
        choose(one.socket, "bbr")
        asked = [one.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, size) for size in SIZES]
        one.want(MARK)
        say(one, other)
        assert used(one.engine.host, one.port) == "reno"
        for size, before in zip(SIZES, asked, strict=True):
            assert one.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, size) == before


@pytest.mark.parametrize("chosen", ["reno", "cubic", "bbr"])
def test_what_its_application_chooses_meanwhile_stays(bed: Bed, chosen: str) -> None:
    with connection(bed) as (one, other):
        choose(one.socket, "bbr")
        one.want(MARK)
        say(one, other)
        choose(one.socket, chosen)
        assert shown(one.socket) == chosen
        one.want(LEFT)
        say(one, other)
        assert (used(one.engine.host, one.port), shown(one.socket)) == (chosen, chosen)


def test_a_name_that_the_kernel_does_not_know_changes_nothing(bed: Bed) -> None:
    with connection(bed) as (one, other):
        choose(one.socket, "bbr")
        one.want(MARK)
        say(one, other)
        for name in ("renovated", "reno2"):
            with pytest.raises(FileNotFoundError):
                choose(one.socket, name)
            assert shown(one.socket) == "bbr"
        choose(one.socket, "reno\0more")
        assert shown(one.socket) == "reno"


# ---- and engines that tell them ---------------------------------------------------------------------------


@contextlib.contextmanager
def connected(pair: Pair) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Between hosts whose default is bbr."""
    for host, other in ((pair.a, pair.b), (pair.b, pair.a)):
        host.run(["ip", "route", "add", f"{other.v4}/32", "dev", INTERFACE, "congctl", "bbr"], hooked=False)
    with hooked_socket(pair.b, 4) as listener, hooked_socket(pair.a, 4) as client:
        listener.bind((pair.b.v4, SERVICE))
        listener.listen()
        client.connect((pair.b.v4, SERVICE))
        server, _ = listener.accept()
        with server:
            server.settimeout(10)
            client.settimeout(10)
            yield client, server


def exchange(ends: tuple[socket.socket, socket.socket]) -> None:
    for one, other in (ends, ends[::-1]):
        one.sendall(bytes(1000))
        got = 0
        while got < 1000:
            got += len(other.recv(1000 - got))


def becomes(pair: Pair, ends: tuple[socket.socket, socket.socket], control: str) -> None:
    def there() -> bool:
        exchange(ends)
        return controls(pair) == [control] * 2

    eventually(there, 20, every=0.1)


def controls(pair: Pair) -> list[str]:
    return [used(host, SERVICE) for host in (pair.a, pair.b)]


@pytest.mark.parametrize(
    ("lost", "kind"),
    [((), INTERCEPT), (("vtl",), "messages"), (("vtl",), "segments")],
    ids=["engaged", "released", "given-up"],
)
def test_a_connection_left_to_tcp_keeps_its_congestion_control(
    lab: Lab, lost: tuple[str, ...], kind: str
) -> None:
    with Pair.open(lab, kind=kind) as pair:
        pair.lab.meter.drop(to_a=lost, to_b=lost)
        with connected(pair) as ends:
            until = time.monotonic() + 2
            while time.monotonic() < until:
                exchange(ends)
                time.sleep(0.1)
            assert controls(pair) == ["bbr" if lost or PLAIN else "reno"] * 2
            assert [shown(s) for s in ends] == ["bbr"] * 2


def test_the_first_connection_of_an_engine_shows_its_own(lab: Lab) -> None:
    with Pair.open(lab) as pair, connected(pair) as ends:
        assert [shown(s) for s in ends] == ["bbr"] * 2
        assert [s.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) for s in ends] == [0, 0]


@pytest.mark.skipif(PLAIN or INTERCEPT != "segments", reason="about flows that go back")
def test_a_choice_is_kept_on_the_way_back(lab: Lab) -> None:
    with Pair.open(lab) as pair, connected(pair) as ends:
        becomes(pair, ends, "reno")
        for s in ends:
            choose(s, "reno")
        assert [shown(s) for s in ends] == ["reno"] * 2
        pair.lab.meter.drop(to_a=("vtl",), to_b=("vtl",))
        until = time.monotonic() + 4
        while time.monotonic() < until:
            exchange(ends)
            time.sleep(0.1)
        assert controls(pair) == [shown(s) for s in ends] == ["reno"] * 2


@pytest.mark.skipif(PLAIN or INTERCEPT != "segments", reason="about flows that go back")
def test_one_that_leaves_has_it_again_and_puts_it_aside_when_it_is_engaged_again(lab: Lab) -> None:
    with Pair.open(lab) as pair, connected(pair) as ends:
        before = [options(s) for s in ends]
        for lost in ((), ("vtl",), ()):
            pair.lab.meter.drop(to_a=lost, to_b=lost)
            becomes(pair, ends, "bbr" if lost else "reno")
            assert [options(s) for s in ends] == before


@pytest.mark.skipif(PLAIN or INTERCEPT != "segments", reason="about flows that go back")
@pytest.mark.parametrize("killed", ["client", "server", "both"])
def test_one_whose_engine_is_killed_has_it_again_at_once(lab: Lab, killed: str) -> None:
    with Pair.open(lab) as pair, connected(pair) as ends:
        assert can_walk(os.uname()), "the kernel is older than those this is for"
        becomes(pair, ends, "reno")
        before = [options(s) for s in ends]
        for number, engine in enumerate((pair.client, pair.server)):
            if engine and killed in ("both", ("client", "server")[number]):
                engine.kill9()
                host = (pair.a, pair.b)[number]
                eventually(lambda host=host: used(host, SERVICE) == "bbr", 5)  # nothing is sent meanwhile
                assert ends[number].getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 0
        exchange(ends)  # a socket without a route has no IP_MTU
        assert [options(s) for s in ends] == before


def test_no_mark_or_control_of_an_engine_that_ended_is_there(lab: Lab) -> None:
    with Pair.open(lab) as pair, connected(pair) as ends:
        exchange(ends)
        for engine in (pair.client, pair.server):
            assert engine is None or engine.stop() == 0
        if INTERCEPT == "segments":
            assert controls(pair) == ["bbr"] * 2
            assert [s.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) for s in ends] == [0, 0]
