"""Which transport a connection's option asks for, and what the server selects: also with options that lie.

Engines are stand-ins (segments_owner.py) that say they have transports which nobody has built; the other end
is one, too, or is made by hand. Whatever is selected, the bytes arrive.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from by_hand import ACK, CLIENT, SEGMENTS, SERVER, SYN, Connection, Wire, checksum, option
from owned import ESTABLISHED, PORT, Bed, connection, engines, hooked_socket
from support import PLAIN, eventually, peer, result, same

from hooker import ConfigurationError, Event, Hooker, Kind, UsageError
from hooker.control import keyfile, netns, status_socket
from hooker.lab import Lab
from hooker.transports import registry

pytestmark = [pytest.mark.timeout(60), pytest.mark.skipif(PLAIN, reason="plain TCP has no option")]

VTL, UDPLITE, SCTP, TCP = 1, 6, 9, 12  # HK_TRANSPORT_*
NONE, OTHERS = 0, 255
ASKS = 1  # HK_EVENT_SYN
NOBODYS = (14, 15)
LISTENS = 6253
_ports = iter(range(20000, 60000))


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    with Lab() as lab, engines(lab) as found:
        yield Bed(lab, found)


@pytest.fixture
def wire(bed: Bed) -> Iterator[Wire]:
    made = Wire(bed.lab, SEGMENTS)
    with made.socket:
        yield made


def negotiate(bed: Bed, client: tuple[int, ...], server: tuple[int, ...]) -> None:
    bed.engines["a"].ask("negotiate", client)
    bed.engines["b"].ask("negotiate", server)


def counted(bed: Bed, host: str, name: str) -> int:
    return int(bed.engines[host].ask("counters")[name])


def begun(bed: Bed, host: str) -> list[dict[str, int]]:
    """Flows that the engine has heard of since the last time."""
    return [event for event in bed.engines[host].ask("take", "events") if event["type"] == ESTABLISHED]


# ---- two engines ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "server", "selected"),
    [
        ((VTL,), (VTL,), VTL),
        ((TCP, VTL), (VTL,), VTL),
        ((TCP, VTL), (VTL, TCP), TCP),  # the client's order
        ((1, 2, 3, 4, 5, UDPLITE), (UDPLITE, SCTP), UDPLITE),
        ((*NOBODYS, SCTP), (VTL, SCTP), SCTP),
        ((VTL, VTL, SCTP, SCTP), (SCTP,), SCTP),
    ],
)
def test_both_ends_have_the_first_of_the_clients_list_that_the_server_takes(
    bed: Bed, client: tuple[int, ...], server: tuple[int, ...], selected: int
) -> None:
    negotiate(bed, client, server)
    for family in (4, 6):
        with connection(bed, family) as (one, other):
            assert (one.record["transport"], other.record["transport"]) == (selected, selected)
            assert one.begun["server_nonce"] == other.begun["server_nonce"] != 0
            assert one.begun["peer_port"] == LISTENS


def test_without_a_common_one_it_is_tcp_and_both_have_counted_it(bed: Bed) -> None:
    negotiate(bed, (TCP, SCTP), (VTL,))
    before = [counted(bed, host, "no-common-transport") for host in "ab"]
    not_asked = counted(bed, "b", "peer-did-not-ask")
    for host in "ab":
        begun(bed, host)
    word_on_tcp(bed)
    after = [counted(bed, host, "no-common-transport") for host in "ab"]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1]
    assert counted(bed, "b", "peer-did-not-ask") == not_asked  # one connection, one reason
    assert not any(begun(bed, host) for host in "ab")


@pytest.mark.parametrize("lacks", ["a", "b"])
def test_a_host_whose_class_has_failed_says_so_each_time(bed: Bed, lacks: str) -> None:
    negotiate(bed, *[() if host == lacks else (VTL,) for host in "ab"])
    before = counted(bed, lacks, "prototype-failed")
    common = counted(bed, "a", "no-common-transport")
    for _ in range(3):
        word_on_tcp(bed)
    assert counted(bed, lacks, "prototype-failed") == before + 3
    assert counted(bed, "a", "no-common-transport") == common + (3 if lacks == "b" else 0)
    assert not any(begun(bed, host) for host in "ab")


def word_on_tcp(bed: Bed) -> None:
    with hooked_socket(bed.lab.b, 4) as listener, hooked_socket(bed.lab.a, 4) as client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((bed.lab.b.v4, PORT))
        listener.listen()
        client.settimeout(10)
        client.connect((bed.lab.b.v4, PORT))
        server, _ = listener.accept()
        with server:
            client.sendall(b"a word")
            assert server.recv(100) == b"a word"


def test_a_listener_older_than_its_engine_selects_from_the_last_ack() -> None:
    """Nobody answers the SYN, so the client does not know what it is."""
    with Lab() as lab, hooked_socket(lab.b, 4) as listener:
        listener.bind((lab.b.v4, PORT))
        listener.listen()
        with engines(lab) as found, hooked_socket(lab.a, 4) as client:
            negotiate(Bed(lab, found), (TCP, VTL, SCTP), (SCTP, VTL))
            client.settimeout(10)
            client.connect((lab.b.v4, PORT))
            server, _ = listener.accept()
            with server:
                one = found["a"].event(ESTABLISHED, client.getsockname()[1])
                other = found["b"].event(ESTABLISHED, PORT)
                assert (one["server_nonce"], other["server_nonce"]) == (0, 0)
                assert found["a"].ask("record", one["slot"])["transport"] == NONE
                assert found["b"].ask("record", other["slot"])["transport"] == VTL


# ---- a client by hand -------------------------------------------------------------------------------------


@pytest.fixture
def service(bed: Bed) -> Iterator[socket.socket]:
    with hooked_socket(bed.lab.b, 4) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((bed.lab.b.v4, PORT))
        listener.listen()
        yield listener


@pytest.mark.parametrize(
    ("offer", "selected"),
    [
        (b"\x10\x00\x00", VTL),
        (b"\xc1\x00\x00", VTL),
        (b"\xee\xff\xc1", VTL),  # all six places
        (b"\x11\x11\x11", VTL),
        (b"\x01\x00\x00", OTHERS),  # nothing counts behind its end
        (b"\x00\x00\x00", OTHERS),
        (b"\xef\xef\xef", OTHERS),
        (b"\xcc\xcc\xcc", OTHERS),
    ],
)
def test_any_list_has_an_answer_from_it_or_none(
    bed: Bed, wire: Wire, service: socket.socket, offer: bytes, selected: int
) -> None:
    negotiate(bed, (VTL,), (VTL,))
    made = Connection(wire, wire.address(77), next(_ports), PORT, offer=offer)
    made.ask()
    made.reset()
    assert made.selected == (selected, LISTENS)
    assert bool(made.server_nonce) == (selected != OTHERS)


@pytest.mark.parametrize("late", [b"\xc0\x00\x00", b"\x00\x10\x00"])
def test_who_changes_its_list_after_the_answer_is_left_to_tcp(
    bed: Bed, wire: Wire, service: socket.socket, late: bytes
) -> None:
    negotiate(bed, (VTL,), (VTL,))
    before = counted(bed, "b", "no-common-transport")
    begun(bed, "b")
    made = Connection(wire, wire.address(77), next(_ports), PORT)
    made.ask()
    made.offer = late
    made.establish()
    service.settimeout(10)
    accepted, _ = service.accept()
    accepted.close()
    made.reset()
    assert counted(bed, "b", "no-common-transport") == before + 1
    assert not begun(bed, "b")


# ---- a server by hand -------------------------------------------------------------------------------------


class Server:
    """Answers one SYN of host b's, with any option, and reads what follows."""

    def __init__(self, wire: Wire) -> None:
        self.wire, self.address, self.port, self.isn = wire, wire.address(88), PORT, 1000
        self.client_port = self.client_isn = 0

    def syn(self) -> bytes:
        """The option of the SYN, from its version on."""
        segment = self.next(lambda s: s[13] == SYN)
        self.client_port, _, self.client_isn = struct.unpack_from("!HHI", segment)
        at = segment.find(b"\xfd\x10HK")
        return segment[at + 4 : at + 16]

    def answer(self, options: bytes) -> None:
        options = b"\x02\x04\x05\xb4" + options
        head = struct.pack("!HHII", self.port, self.client_port, self.isn, self.client_isn + 1)
        head += struct.pack("!BBHHH", (20 + len(options)) // 4 << 4, SYN | ACK, 65000, 0, 0) + options
        ends = socket.inet_aton(self.address) + socket.inet_aton(self.wire.server)
        total = checksum(ends + struct.pack("!HH", 6, len(head)) + head)
        self.wire.send(6, self.address, head[:16] + struct.pack("!H", total) + head[18:])

    def last_ack(self) -> bytes:
        """The header of the handshake's."""
        segment = self.next(lambda s: s[13] & ACK and s[:2] == struct.pack("!H", self.client_port))
        return segment[: (segment[12] >> 4) * 4]

    def next(self, wanted: Callable[[bytes], object]) -> bytes:
        """An earlier test's connections may still say something."""
        until = time.monotonic() + 10
        while time.monotonic() < until:
            segment = self.wire.receive(6, self.address, self.port, 1)
            if segment and wanted(segment):
                return segment
        raise AssertionError("nothing came")

    def has_option(self) -> bool:
        """Whether the handshake's last ACK has one."""
        return b"\xfd\x10HK" in self.last_ack()


def rest(transport: int) -> bytes:
    return struct.pack("!BH", transport, LISTENS)


@pytest.mark.parametrize(
    ("transport", "reason"),
    [
        (TCP, "transport-not-offered"),
        (15, "transport-not-offered"),
        (16 + VTL, "transport-not-offered"),
        (254, "transport-not-offered"),
        (OTHERS, "no-common-transport"),
        (NONE, "peer-declines-service"),
    ],
)
def test_an_answer_that_selects_nothing_of_the_list_means_plain_tcp(
    bed: Bed, wire: Wire, transport: int, reason: str
) -> None:
    bed.engines["b"].ask("negotiate", (SCTP, VTL))
    before = counted(bed, "b", reason)
    begun(bed, "b")
    server = Server(wire)
    with hooked_socket(bed.lab.b, 4) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # nothing follows
        client.setblocking(False)
        client.connect_ex((server.address, PORT))
        asked = server.syn()
        assert asked[:4] == bytes((SEGMENTS << 4 | CLIENT, SCTP << 4 | VTL, 0, 0))
        server.answer(option(SEGMENTS, SERVER, 5, rest(transport)))
        assert not server.has_option()
        eventually(lambda: counted(bed, "b", reason) == before + 1)
    assert not begun(bed, "b")


def test_the_engine_is_told_what_is_asked_for_first(bed: Bed, wire: Wire) -> None:
    """It looks for the peer's engine there while the handshake goes on."""
    bed.engines["b"].ask("negotiate", (SCTP, VTL))
    bed.engines["b"].ask("take", "events")
    server = Server(wire)
    with hooked_socket(bed.lab.b, 4) as client:
        client.setblocking(False)
        client.connect_ex((server.address, PORT))
        server.syn()
    found = [event for event in bed.engines["b"].ask("take", "events") if event["type"] == ASKS]
    assert [event["transport"] for event in found] == [SCTP]


def test_an_answer_from_the_list_is_what_the_last_ack_repeats_alone(bed: Bed, wire: Wire) -> None:
    bed.engines["b"].ask("negotiate", (SCTP, VTL))
    server = Server(wire)
    with hooked_socket(bed.lab.b, 4) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # nothing follows
        client.setblocking(False)
        client.connect_ex((server.address, PORT))
        nonce = server.syn()[4:]
        server.answer(option(SEGMENTS, SERVER, 5, rest(VTL)))
        header = server.last_ack()
        event = bed.engines["b"].event(ESTABLISHED, server.client_port)
        assert bed.engines["b"].ask("record", event["slot"])["transport"] == VTL
    assert header[-16:] == b"\xfd\x10HK" + bytes((SEGMENTS << 4 | CLIENT, VTL << 4, 0, 0)) + nonce


# ---- the whole engine -------------------------------------------------------------------------------------


def test_what_is_skipped_is_told_and_the_list_may_be_changed_while_it_runs(lab: Lab) -> None:
    told: list[Event] = []

    def run() -> None:
        with Hooker(cgroup=lab.b.cgroup, transport=["dccp", "vtl"], on_event=told.append) as engine:
            eventually(lambda: told)
            assert (told[0].kind, told[0].reason) == (
                Kind.TRANSPORT_SKIPPED,
                f"dccp: {registry.get('dccp').available()[1]}",
            )
            shown = engine.snapshot()["engine"]
            assert (shown["transport"], list(shown["skipped"])) == ("vtl", ["dccp"])
            with pytest.raises(ConfigurationError, match="the engine was started without it"):
                engine.set(transport="tcp")
            shown = status_socket.change(os.getpid(), {"transport": "tcp,vtl"})["engine"]
            assert (shown["transport"], list(shown["skipped"])) == ("vtl", ["tcp"])
            with pytest.raises(ConfigurationError, match="colour"):
                status_socket.change(os.getpid(), {"colour": "red"})
        with pytest.raises(UsageError):
            engine.set(transport="vtl")

    netns.call(lab.b.netns, run)


def test_what_the_key_or_the_port_excludes_is_skipped_with_its_reason(lab: Lab, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch(0o600)
    key.write_text(keyfile.make() + "\n")

    def skipped(engine: Hooker) -> str:
        shown = engine.snapshot()["engine"]
        assert (shown["transport"], list(shown["skipped"])) == ("vtl", ["tcp"])
        assert shown["listen_port"] == LISTENS
        return str(shown["skipped"]["tcp"])

    def run() -> None:
        told: list[Event] = []
        with Hooker(cgroup=lab.b.cgroup, transport="tcp,vtl", key_file=key, on_event=told.append) as keyed:
            assert "does not encrypt" in skipped(keyed)
            eventually(lambda: [event.kind for event in told][:1] == [Kind.TRANSPORT_SKIPPED])
            with pytest.raises(ConfigurationError, match="started without it"):
                keyed.set(transport="tcp")
            with pytest.raises(ConnectionRefusedError):  # nobody listens
                socket.create_connection(("127.0.0.1", LISTENS), 5)
        plain = Hooker(cgroup=lab.b.cgroup, transport="tcp,vtl")
        with socket.socket() as other:
            other.bind(("", LISTENS))
            other.listen()
            with plain:
                assert f"port {LISTENS}: Address already in use" in skipped(plain)
        with plain:  # the port is free again
            assert plain.snapshot()["engine"]["transport"] == "tcp,vtl"

    netns.call(lab.b.netns, run)


def test_flows_go_by_the_clients_list_as_it_is_now(lab: Lab) -> None:
    client, server = lab.a.hooker("--transport", "tcp,vtl"), lab.b.hooker("--transport", "vtl,tcp")

    def shown() -> list[str]:
        flows = [flow for engine in (client, server) for flow in engine.status()["flows"]]
        return [flow["transport"] for flow in flows if flow["state"] == "engaged"]

    for port, chosen in ((PORT, "tcp"), (PORT + 1, "vtl")):
        go = lab.tmp / chosen
        status_socket.change(client.pid, {"transport": "tcp,vtl" if chosen == "tcp" else "vtl,tcp"})
        reader = peer(lab.b, "serve", "0.0.0.0", port, "recv-all", "close")
        writer = peer(lab.a, "connect", lab.b.v4, port, "send:300000", f"wait-file:{go}", "close")
        eventually(lambda chosen=chosen: shown() == [chosen, chosen])
        go.touch()
        same(result(writer), result(reader))
        eventually(lambda: not shown())
    assert {p["transport"] for p in client.status()["peers"]} == {"tcp", "vtl"}
    assert [engine.stop() for engine in (client, server)] == [0, 0]
