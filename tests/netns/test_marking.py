"""Sockets are marked in mid-flow, on request: from then on their segments come out of the engine's device.

The engine is a stand-in (segments_owner.py) that passes on to the wire what comes: every connection here is
an ordinary one, whose segments take another way for a while.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from owned import (
    CLOSED,
    ESTABLISHED,
    FAMILY,
    PORT,
    Bed,
    End,
    connection,
    engines,
    hooked_socket,
    receive,
    say,
)
from support import eventually

from hooker.control import netns
from hooker.control.janitor import Janitor
from hooker.control.kernel import KernelPrograms
from hooker.lab import Host, Lab
from hooker.tcp.fields import FIN
from hooker.tun import Lane

TCP, MARK, NEVER = 0, 1, 2  # HK_WANT_*
STEERED = 4  # HK_EVENT_*
CLIENT, SERVER = 1, 2  # HK_ROLE_*
VTL = 1  # HK_TRANSPORT_*
ABORTED, LINGERS = 2, 3  # HK_APP_*
TCPI_SND_WND, TCPI_RCV_WND = 228, 232  # offsets in struct tcp_info
SO_BINDTODEVICE = 25
SIGNED, REPAIR = 2, 3  # HK_STEERED_*
MD5_KEY = (  # struct tcp_md5sig: for 192.0.2.9
    struct.pack("HH4B", socket.AF_INET, 0, 192, 0, 2, 9).ljust(128, b"\0")
    + struct.pack("BBHI", 0, 0, 3, 0)
    + b"key".ljust(80, b"\0")
)
MB = 1 << 20

both_families = pytest.mark.parametrize("family", [4, 6])
both_ends = pytest.mark.parametrize("end", ["client", "server"])


@pytest.fixture(scope="module")
def shared() -> Iterator[Bed]:
    with Lab() as lab, engines(lab) as found:
        yield Bed(lab, found)


@pytest.fixture
def own() -> Iterator[Bed]:
    """For tests that leave the engines in another state."""
    with Lab() as lab, engines(lab) as found:
        yield Bed(lab, found)


def ends(pair: tuple[End, End], end: str) -> tuple[End, End]:
    """The one that the test is about first."""
    return pair if end == "client" else pair[::-1]


def tcp_info(s: socket.socket, offset: int) -> int:
    info = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return int(struct.unpack_from("=I", info, offset)[0])


# ---- negotiation ------------------------------------------------------------------------------------------


@both_families
def test_a_connection_begins_on_tcp_and_both_engines_know_it(shared: Bed, family: int) -> None:
    with connection(shared, family) as (client, server):
        assert (client.begun["role"], server.begun["role"]) == (CLIENT, SERVER)
        for name in ("client_nonce", "server_nonce"):
            assert client.begun[name] == server.begun[name] != 0
        assert client.begun["snd_nxt"] == server.begun["rcv_nxt"]
        assert client.begun["rcv_nxt"] == server.begun["snd_nxt"]
        assert (client.begun["peer_port"], server.begun["peer_port"]) == (6253, 0)
        assert (client.record["transport"], server.record["transport"]) == (VTL, VTL)
        for one, other in ((client, server), (server, client)):
            assert not one.through_device(other)
            assert (one.record["marked"], one.record["want"]) == (0, TCP)
            assert one.record["flow_id"] == one.begun["flow_id"]


def test_a_listener_that_defers_is_known_by_the_first_data(shared: Bed) -> None:
    """Nothing is held back; the option goes with all that the client says before the server has spoken."""
    with connection(shared, defer=True) as (client, server):
        assert server.socket.recv(100) == b"a word"
        assert server.begun["client_nonce"] == client.begun["client_nonce"]
        assert server.begun["rcv_nxt"] == client.begun["snd_nxt"]


def test_segments_have_no_option_of_ours_once_the_server_has_spoken(shared: Bed) -> None:
    """With one, their payload would be 16 bytes shorter."""
    with connection(shared) as (client, server):
        say(server, client)
        client.want(MARK)
        say(client, server, bytes(100_000))
        full = [s["length"] for s in client.segments() if s["length"] > 2000]
        assert full
        assert any(n % 1448 == 0 for n in full)
        assert not any(n % 1432 == 0 for n in full)


def test_with_an_engine_of_the_other_kind_a_connection_stays_on_tcp(lab: Lab) -> None:
    with engines(lab, "a") as found:
        other = lab.b.hooker("--intercept", "messages")
        bed = Bed(lab, found)
        with hooked_socket(lab.b, 4) as listener, hooked_socket(lab.a, 4) as client:
            listener.bind((lab.b.v4, PORT))
            listener.listen()
            client.connect((lab.b.v4, PORT))
            server, _ = listener.accept()
            with server:
                begun = bed.engines["a"].event(ESTABLISHED, client.getsockname()[1])
                assert begun["server_nonce"] == 0
                client.sendall(b"a word")
                assert server.recv(100) == b"a word"
        assert other.status()["flows"] == []
        assert other.stop() == 0


# ---- marks ------------------------------------------------------------------------------------------------


@both_families
@both_ends
def test_a_marked_socket_comes_by_the_device_and_goes_back(shared: Bed, family: int, end: str) -> None:
    with connection(shared, family) as pair:
        one, other = ends(pair, end)
        for _ in range(3):
            one.want(MARK)
            assert one.through_device(other)
            assert one.record["marked"] == 1
            say(other, one)
            one.want(TCP)
            assert not one.through_device(other)
            assert one.record["marked"] == 0
        assert one.record["marks"] == 2 * 3  # odd while the numbers are written


@both_families
@both_ends
def test_the_record_says_where_the_connection_stands(shared: Bed, family: int, end: str) -> None:
    with connection(shared, family) as pair:
        one, other = ends(pair, end)
        say(one, other, bytes(3_000_000))
        say(other, one, bytes(50_000))
        time.sleep(0.1)  # acknowledged by then
        one.segments()
        one.want(MARK)
        granted, grants = tcp_info(one.socket, TCPI_SND_WND), tcp_info(one.socket, TCPI_RCV_WND)
        say(one, other)
        first = next(s for s in one.segments() if s["length"])
        record = one.record
        assert record["snd_una"] == record["snd_nxt"] == first["seq"]
        assert (record["snd_nxt"] - one.begun["snd_nxt"]) % 2**32 == 3_000_000
        assert record["rcv_nxt"] == first["ack"]
        assert (record["rcv_nxt"] - one.begun["rcv_nxt"]) % 2**32 == 50_000
        assert record["mss"] == {4: 1448, 6: 1428}[family]
        assert record["ts_recent"] > 0
        assert granted == record["snd_wnd"] > 10_000
        assert grants == record["rcv_wnd"] > 10_000


@both_families
@both_ends
def test_the_record_says_the_newest_timestamp_that_has_come_by_the_wire(
    shared: Bed, family: int, end: str
) -> None:
    """What says an older one is dropped (PAWS), so the engine must not, be it only waking up."""
    with connection(shared, family) as pair:
        one, other = ends(pair, end)
        one.want(MARK)
        say(one, other)
        before = one.record["ts_recent"]
        time.sleep(0.3)
        say(other, one)
        eventually(lambda: one.record["ts_recent"] != before)  # when it has been acknowledged
        assert 250 < one.record["ts_recent"] - before < 10_000  # ms


def test_what_is_unacknowledged_is_in_the_record(shared: Bed) -> None:
    with connection(shared) as (client, server):
        say(client, server, bytes(1000))
        time.sleep(0.1)
        shared.lab.meter.drop(to_b=("tcp",))
        try:
            client.socket.sendall(bytes(5000))
            time.sleep(0.05)
            client.want(MARK)
            eventually(lambda: client.record["marked"])  # with the retransmission
        finally:
            shared.lab.meter.drop()
        record = client.record
        assert (record["snd_una"] - client.begun["snd_nxt"]) % 2**32 == 1000
        assert (record["snd_nxt"] - client.begun["snd_nxt"]) % 2**32 == 6000
        assert receive(server, 5000) == bytes(5000)


@both_families
def test_a_socket_that_is_silent_is_marked_and_unmarked_by_a_probe(shared: Bed, family: int) -> None:
    with connection(shared, family) as (client, server):
        say(client, server)
        say(server, client)
        time.sleep(0.1)
        a, b = ({4: h.v4, 6: h.v6}[family] for h in shared.lab.hosts)
        seq, ack = (client.begun[n] + 5 & 0xFFFFFFFF for n in ("rcv_nxt", "snd_nxt"))

        def probe() -> None:
            assert client.engine.ask("inject", b, a, PORT, client.port, seq, ack)

        client.segments()
        client.want(MARK)
        time.sleep(0.1)
        assert client.record["marked"] == 0
        probe()
        eventually(lambda: client.record["marked"])
        assert [s["length"] for s in client.segments()] == [0]
        client.want(TCP)
        time.sleep(0.6)  # the kernel answers so once in 500 ms
        probe()
        eventually(lambda: not client.record["marked"])
        assert client.segments() == []


def test_never_is_for_good(shared: Bed) -> None:
    with connection(shared) as (client, server):
        client.want(MARK)
        assert client.through_device(server)
        client.want(NEVER)
        assert not client.through_device(server)
        assert client.record["marked"] == 0
        client.want(MARK)
        assert not client.through_device(server)
        client.socket.close()
        client.engine.event(CLOSED, 0)


def test_a_flow_whose_record_is_anothers_loses_the_mark(shared: Bed) -> None:
    with connection(shared) as (client, server):
        client.want(MARK)
        assert client.through_device(server)
        client.engine.ask("forget", client.slot)
        assert not client.through_device(server)
        client.engine.ask("forget", client.slot)


def test_an_engine_that_ends_gives_sockets_back(own: Bed) -> None:
    with connection(own) as (client, server):
        client.want(MARK)
        assert client.through_device(server)
        client.engine.ask("closing")
        assert not client.through_device(server)
        assert client.record["marked"] == 0


def test_applications_do_not_see_the_mark(shared: Bed) -> None:
    with connection(shared) as (client, server):
        client.want(MARK)
        assert client.through_device(server)
        assert client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 0


# ---- an application that chooses a route ------------------------------------------------------------------


@pytest.mark.parametrize("what", [77, 0, "device"])
@pytest.mark.parametrize("marked", [True, False])
@both_ends
def test_an_application_that_chooses_a_route_gets_it(
    shared: Bed, what: int | str, marked: bool, end: str
) -> None:
    with connection(shared) as pair:
        one, other = ends(pair, end)
        if marked:
            one.want(MARK)
            assert one.through_device(other)
        one.engine.ask("take", "events")
        if isinstance(what, int):
            one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, what)
            assert one.socket.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == what
        else:
            one.socket.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, b"eth0\0")
            assert one.socket.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 0
        event = one.engine.event(STEERED, 0)
        assert (event["slot"], event["flow_id"]) == (one.slot, one.begun["flow_id"])
        assert (one.record["steered"], one.record["marked"]) == (1, 0)  # at once
        one.want(MARK)
        assert not one.through_device(other)
        say(other, one)
        assert one.record["marked"] == 0
        if isinstance(what, int):
            assert one.socket.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == what


@pytest.mark.parametrize(
    ("option", "value", "why"), [(14, MD5_KEY, SIGNED), (32, MD5_KEY, SIGNED), (19, 1, REPAIR)]
)
@both_ends
def test_one_that_wants_what_only_tcp_has_is_left_to_it(
    shared: Bed, option: int, value: bytes | int, why: int, end: str
) -> None:
    with connection(shared) as pair:
        one, other = ends(pair, end)
        one.want(MARK)
        assert one.through_device(other)
        one.engine.ask("take", "events")
        one.socket.setsockopt(socket.IPPROTO_TCP, option, value)
        assert one.engine.event(STEERED, 0)["flow_id"] == one.begun["flow_id"]
        assert (one.record["steered"], one.record["marked"]) == (why, 0)  # at once
        if why == REPAIR:
            one.socket.setsockopt(socket.IPPROTO_TCP, option, 0)
            one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # which it takes away
        assert not one.through_device(other)


@both_ends
def test_options_that_leave_a_flow_where_it_is(shared: Bed, end: str) -> None:
    with connection(shared) as pair:
        one, other = ends(pair, end)
        one.want(MARK)
        for option, value in ((19, b"\1"), (19, 2), (1, 1), (3, 1), (3, 0), (18, 5000)):
            with contextlib.suppress(OSError):
                one.socket.setsockopt(socket.IPPROTO_TCP, option, value)
        assert one.through_device(other)
        assert one.record["steered"] == 0


def test_a_socket_bound_before_it_connects_is_no_flow(shared: Bed) -> None:
    before = shared.engines["a"].ask("counters")["socket-bound-to-device"]
    with hooked_socket(shared.lab.b, 4) as listener, hooked_socket(shared.lab.a, 4) as client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((shared.lab.b.v4, PORT))
        listener.listen()
        client.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, b"eth0\0")
        client.connect((shared.lab.b.v4, PORT))
        assert shared.engines["a"].ask("counters")["socket-bound-to-device"] == before + 1


# ---- the end ----------------------------------------------------------------------------------------------


def test_an_abort_leaves_by_the_wire_and_the_socket_can_be_used_again(shared: Bed) -> None:
    with connection(shared) as (client, server):
        client.want(MARK)
        assert client.through_device(server)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        libc_disconnect(client.socket)
        closed = client.engine.event(CLOSED, 0)
        assert closed["flow_id"] == client.begun["flow_id"]
        assert client.record["app_closed"] == ABORTED
        with pytest.raises(ConnectionResetError):
            server.socket.recv(1)
        assert client.segments() == []
        assert client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 0
        server.socket.close()
        with hooked_socket(shared.lab.b, 4) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((shared.lab.b.v4, PORT + 1))
            listener.listen()
            client.socket.connect((shared.lab.b.v4, PORT + 1))  # a port that nobody hooks
            again, _ = listener.accept()
            with again:
                client.socket.sendall(b"again")
                assert again.recv(5) == b"again"
        assert client.segments() == []


def libc_disconnect(s: socket.socket) -> None:
    """connect(AF_UNSPEC), which Python does not have."""
    import ctypes

    address = ctypes.create_string_buffer(16)
    assert ctypes.CDLL(None, use_errno=True).connect(s.fileno(), address, 16) == 0


def test_an_orderly_end_comes_by_the_device_to_the_last_ack(shared: Bed) -> None:
    with connection(shared) as (client, server):
        client.want(MARK)
        assert client.through_device(server)
        client.socket.shutdown(socket.SHUT_WR)
        assert server.socket.recv(1) == b""
        server.socket.shutdown(socket.SHUT_WR)
        assert client.socket.recv(1) == b""
        seen = client.segments()
        assert any(s["flags"] & FIN for s in seen)
        assert not seen[-1]["flags"] & FIN  # the TIME_WAIT's
        client.engine.event(CLOSED, 0)
        assert client.record["app_closed"] == LINGERS


# ---- while much is going on -------------------------------------------------------------------------------


class Transfer(threading.Thread):
    """Random bytes one way, until told to end."""

    def __init__(self, one: End, other: End) -> None:
        super().__init__(daemon=True)
        self.one, self.other = one.socket, other.socket
        self.sent, self.received = hashlib.sha256(), hashlib.sha256()
        self.bytes = 0
        self.silence = 0.0
        self.ending = threading.Event()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.start()
        self.reader.start()

    def run(self) -> None:
        block = random.Random(5).randbytes(MB)
        at = 0
        while not self.ending.is_set():
            piece = block[at : at + 100_000]
            self.one.sendall(piece)
            self.sent.update(piece)
            at = (at + 99_991) % MB
        self.one.shutdown(socket.SHUT_WR)

    def read(self) -> None:
        last = time.monotonic()
        while piece := self.other.recv(1 << 18):
            now = time.monotonic()
            self.silence, last = max(self.silence, now - last), now
            self.received.update(piece)
            self.bytes += len(piece)
            time.sleep(0.0005)  # not as fast as the machine can: others work here

    def equal(self) -> bool:
        self.ending.set()
        self.join(30)
        self.reader.join(30)
        assert not self.is_alive()
        assert not self.reader.is_alive()
        return self.sent.digest() == self.received.digest()


@both_families
def test_marks_come_and_go_in_a_transfer_and_no_byte_is_lost(shared: Bed, family: int) -> None:
    with connection(shared, family) as (client, server):
        both = Transfer(client, server), Transfer(server, client)
        for round_ in range(8):
            for end in (client, server):
                end.want(MARK if round_ % 2 == 0 else TCP)
                eventually(lambda e=end, r=round_: e.record["marked"] == (r % 2 == 0))
            time.sleep(0.1)
        assert [t.equal() for t in both] == [True, True]
        assert (client.record["marks"], server.record["marks"]) == (2 * 4, 2 * 4)


@both_families
def test_a_killed_engine_leaves_its_connections_on_tcp(own: Bed, family: int) -> None:
    with connection(own, family) as (client, server):
        both = Transfer(client, server), Transfer(server, client)
        for end in (client, server):
            end.want(MARK)
            eventually(lambda e=end: e.record["marked"])
        time.sleep(0.3)
        for engine in own.engines.values():
            os.kill(engine.process.pid, signal.SIGKILL)
        for host in own.lab.hosts:
            eventually(lambda h=host: not leftovers(h, FAMILY[family]))
        before = [t.bytes for t in both]
        eventually(lambda: all(t.bytes > b + MB for t, b in zip(both, before, strict=True)))
        assert [t.equal() for t in both] == [True, True]
        assert max(t.silence for t in both) < 5


def leftovers(host: Host, family: int) -> list[Any]:
    """Devices, rules and tables of a segments engine in this host's namespace."""

    def look() -> list[Any]:
        from pyroute2 import IPRoute

        with IPRoute() as netlink:
            found: list[Any] = [name for _, name in socket.if_nameindex() if name.startswith("hk")]
            found += [r for r in netlink.get_rules(family=family) if r.get_attr("FRA_FWMARK")]
            found += [
                r for r in netlink.get_routes(family=family) if (r.get_attr("RTA_TABLE") or 0) > 1 << 16
            ]
            return found

    return netns.call(host.netns, look)


def test_engines_of_one_namespace_have_devices_and_marks_of_their_own(lab: Lab) -> None:
    with Janitor() as keeper, KernelPrograms(64, "segments") as kernel:
        first, second = (Lane(keeper, entrance=kernel.entrance) for _ in range(2))
        netns.call(lab.a.netns, first.__enter__)
        netns.call(lab.a.netns, second.__enter__)
        try:
            assert (first.device.name, second.device.name) == ("hk0", "hk1")
            assert first.mark != second.mark
            first.install()
            first.install()  # from the time before
            assert len(leftovers(lab.a, socket.AF_INET)) == 2 + 1 + 2
        finally:
            first.__exit__(None, None, None)
            second.__exit__(None, None, None)
        second.install()  # too late: nothing
        assert leftovers(lab.a, socket.AF_INET) == leftovers(lab.a, socket.AF_INET6) == []
