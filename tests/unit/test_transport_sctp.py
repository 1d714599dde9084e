"""SCTP as a transport: what the kernel delivers, and what peers may do to it. Skipped where there is none."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from lone_transport import HELLO, TOKEN, Pair, Stranger, data, lone, messages, pair_up, told, wait
from own_sockets import own_sockets
from support import SLOWNESS

from hooker.flow.messages import encode
from hooker.transports.face import Lone

SOL_SCTP, SCTP_RTOINFO, SCTP_ASSOCINFO, SCTP_NODELAY = 132, 0, 1, 3  # linux/sctp.h
CONFIRMED, UNCONFIRMED = "2", "3"  # states of a peer's address in /proc/net/sctp/remaddr
INIT, INIT_ACK, COOKIE_ECHO, STATE_COOKIE = 1, 2, 10, 7  # RFC 9260, 3.2 and 3.3.3


@pytest.fixture
def sctp() -> Iterator[Lone]:
    made = lone("sctp", dead_after=1.0)
    yield made
    made.shut()


def stranger(who: Lone, source: int = 1) -> Stranger:
    made = Stranger(who, source, socket.IPPROTO_SCTP)
    made.sock.setsockopt(SOL_SCTP, SCTP_NODELAY, 1)
    return made


def greeted(who: Lone, source: int = 1) -> Stranger:
    before, made = len(told(who, "up")), stranger(who, source)
    made.send(HELLO)
    wait(who, lambda: len(told(who, "up")) > before)
    return made


# ---- messages ----------------------------------------------------------------------------------------------


def test_what_it_says_of_itself(sctp: Lone) -> None:
    assert sctp.properties == 1 << 0 | 1 << 2 | 1 << 4 | 1 << 5  # REPAIRS, INTEGRITY, CONGESTION, WHOLE


def test_many_flows_at_once_arrive_whole() -> None:
    pair = Pair("sctp")
    payloads = [random.Random(seed).randbytes(700 * seed) for seed in range(1, 60)]
    channels = [pair.a.channel(pair.there) for _ in payloads]
    for at, (channel, payload) in enumerate(zip(channels, payloads, strict=True)):
        assert pair.a.send(channel, data(at << 20, payload))
    ends = sum(1 + (len(payload) - 1) // 32768 for payload in payloads)
    pair.until(lambda: len(told(pair.b, "message")) >= 1 + ends, 30)
    got: dict[int, bytes] = {}
    for m in sorted(messages(pair.b, "data"), key=lambda m: int(m["position"])):
        got[m["position"] >> 20] = got.get(m["position"] >> 20, b"") + m["data"]
    assert [got[at] for at in range(len(payloads))] == payloads
    assert pair.b.counters()["sctp.held"] == 0
    assert pair.a.stats(pair.there)["cwnd"] > 0
    assert pair.a.stats(pair.there)["streams"] == 1
    pair.a.shut()
    pair.b.shut()


def test_a_message_that_comes_in_parts_is_put_together(sctp: Lone) -> None:
    """It is longer than what one read takes of it."""
    one, payload = greeted(sctp), random.Random(1).randbytes(65535)
    one.send(data(1, payload))
    one.send(data(70000, b"behind it"))
    wait(sctp, lambda: len(messages(sctp, "data")) == 2)
    assert [m["data"] for m in messages(sctp, "data")] == [payload, b"behind it"]
    assert sctp.counters()["sctp.held"] == 0
    one.sock.close()


def test_a_peer_that_does_not_read_does_not_get_all_in_the_way_of_control() -> None:
    """The kernel has what the path takes and some; the rest waits where control messages overtake it."""
    pair = Pair("sctp")
    channel = pair.a.channel(pair.there)
    while pair.a.send(channel, data(1, bytes(60000))):
        pass
    waited = pair.a.waiting(channel)[0]
    for _ in range(20):
        pair.a.turn()  # and b does not read
    assert pair.a.waiting(channel)[0] > waited // 2
    pair.a.shut()
    pair.b.shut()


# ---- a path that carries nothing for a while --------------------------------------------------------------


def elsewhere(first: str, program: str) -> str:
    """What this prints in a network namespace of its own, behind a command of the shell's."""
    lone("sctp").shut()
    command = ["unshare", "--net", "sh", "-c", f'{first} && exec "$0" -c "$1"', sys.executable, program]
    tests = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=tests, capture_output=True, text=True, timeout=30 * SLOWNESS)
    assert done.returncode == 0, done.stderr
    return done.stdout


OUTAGE = """
import subprocess
from lone_transport import Pair, data, messages
pair = Pair("sctp", dead_after=60.0)
channel = pair.a.channel(pair.there)
subprocess.run("tc qdisc add dev lo root netem loss 100%", shell=True, check=True)
pair.a.send(channel, data(1, b"in the outage"))
pair.rest(9)
print(pair.a.patience(pair.there) - pair.a.stats(pair.there)["srtt_ns"] * 1e-9)
subprocess.run("tc qdisc del dev lo root", shell=True, check=True)
pair.until(lambda: bool(messages(pair.b, "data")))
"""


def test_after_an_outage_it_goes_on_soon() -> None:
    """Timeouts double up to 2 s: after 9 s the next one is not 6.4 s later."""
    assert 1.0 < float(elsewhere("ip link set lo up", OUTAGE)) < 2.1


def sockets_of_ours() -> Iterator[socket.socket]:
    for _, one in own_sockets():
        if one.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == socket.IPPROTO_SCTP:
            yield one


@pytest.mark.parametrize("dead_after", [5.0, 924.6])
def test_the_kernel_does_not_give_a_peer_up_before_we_do(dead_after: float) -> None:
    """Pinned flows bear silence as long as TCP does."""
    made = lone("sctp", dead_after=dead_after)
    found = 0
    for one in sockets_of_ours():
        _, _, most, _ = struct.unpack("iIII", one.getsockopt(SOL_SCTP, SCTP_RTOINFO, 16))
        _, tries = struct.unpack("iH", one.getsockopt(SOL_SCTP, SCTP_ASSOCINFO, 20)[:6])
        assert sum(min(200 << n, most) for n in range(tries)) > dead_after * 1000
        assert most <= 2000
        found += 1
    assert found
    made.shut()


# ---- who connects is an attacker -----------------------------------------------------------------------


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", b"\0", encode("ping"), b"\x7f" + bytes(15)])
def test_who_begins_with_anything_but_hello_is_out(sctp: Lone, first: bytes) -> None:
    one = stranger(sctp)
    one.send(first)
    assert one.is_out(2.0 * SLOWNESS)
    assert not told(sctp, "up")
    assert sctp.counters()["sctp.broken"] == 1
    pair_up(sctp, "sctp")


def test_a_message_longer_than_any_ends_the_association(sctp: Lone) -> None:
    one = greeted(sctp)
    one.sock.settimeout(5)
    one.send(bytes(100_000))
    one.sock.settimeout(0.01)
    assert one.is_out(2.0 * SLOWNESS)
    assert [down[2] for down in told(sctp, "down")] == ["protocol"]
    wait(sctp, lambda: sctp.counters()["sctp.held"] == 0)


def test_a_bad_message_is_counted_and_dropped(sctp: Lone) -> None:
    one = greeted(sctp)
    for text in (b"\x7f" + bytes(15), encode("ping") + b"x", b"short", data(1, b"y")):
        one.send(text)
    wait(sctp, lambda: bool(messages(sctp, "data")))
    assert sctp.counters()["bad_messages"] == 3
    one.sock.close()


def test_random_messages_do_no_harm(sctp: Lone) -> None:
    for seed in range(50):
        one, noise = stranger(sctp, 1 + seed), random.Random(seed)
        with contextlib.suppress(OSError):
            one.send(HELLO if seed % 2 else noise.randbytes(20))
            for _ in range(5):
                one.send(noise.randbytes(noise.randrange(1, 3000)))
                sctp.turn(0.002)
        one.sock.close()
        sctp.turn(0.002)
    pair_up(sctp, "sctp")
    wait(sctp, lambda: sctp.counters()["sctp.associations"] <= 1)


def test_a_stranger_that_says_nothing_is_let_go(sctp: Lone) -> None:
    one = stranger(sctp)
    began = time.monotonic()
    assert one.is_out(6.0 * SLOWNESS)
    assert time.monotonic() - began > 2.0
    assert sctp.counters()["sctp.associations"] == 0


def test_strangers_of_one_source_are_few(sctp: Lone) -> None:
    some = []
    for _ in range(40):
        some.append(stranger(sctp))
        sctp.turn()
    for _ in range(20):
        sctp.turn(0.005)
    counts = sctp.counters()
    assert counts["sctp.associations"] <= 16
    assert counts["sctp.refused"] >= 20
    for one in some:
        one.sock.close()


def test_a_peer_that_never_reads_holds_up_nobody_else(sctp: Lone) -> None:
    one = greeted(sctp)
    channel = sctp.channel(told(sctp, "up")[0][1])
    taken, end = 0, time.monotonic() + 0.5
    while time.monotonic() < end:
        taken += bool(sctp.send(channel, data(1, bytes(60000))))
        sctp.turn(0.001)
    assert 60 < taken < 1000
    said = sum(bool(sctp.send(channel, encode("leave", epoch=1, token=TOKEN))) for _ in range(100))
    assert said <= 32
    pair_up(sctp, "sctp")
    sctp.channel_close(channel)
    one.sock.close()


# ---- another engine by the same port ----------------------------------------------------------------------


def crc32c(text: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in text:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def packet(ports: tuple[int, int], tag: int, kind: int, body: bytes) -> bytes:
    head = struct.pack("!HHI", *ports, tag)
    chunk = struct.pack("!BBH", kind, 0, 4 + len(body)) + body + bytes(-len(body) % 4)
    return head + struct.pack("<I", crc32c(head + bytes(4) + chunk)) + chunk


def begin_anew(ours: int, theirs: int) -> None:
    """As a host does that knows nothing of its association any more (RFC 9260, 5.2.2)."""
    ports = (ours, theirs)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_SCTP) as raw:
        raw.bind(("127.0.1.1", 0))
        raw.settimeout(5)
        raw.sendto(packet(ports, 0, INIT, struct.pack("!IIHHI", 77, 1 << 17, 1, 1, 1)), ("127.0.0.1", 0))
        while True:
            answer = raw.recv(65536)[20:]
            if answer[12] == INIT_ACK and struct.unpack("!I", answer[4:8]) == (77,):
                break
        (tag,) = struct.unpack("!I", answer[16:20])
        at = 32
        while struct.unpack("!H", answer[at : at + 2])[0] != STATE_COOKIE:
            at += (struct.unpack("!H", answer[at + 2 : at + 4])[0] + 3) & ~3
        (size,) = struct.unpack("!H", answer[at + 2 : at + 4])
        raw.sendto(packet(ports, tag, COOKIE_ECHO, answer[at + 4 : at + size]), ("127.0.0.1", 0))


def test_an_association_that_is_begun_anew_is_down(sctp: Lone) -> None:
    one = greeted(sctp)
    begin_anew(one.sock.getsockname()[1], sctp.port)
    wait(sctp, lambda: bool(told(sctp, "down")))
    assert [down[2] for down in told(sctp, "down")] == ["replaced"]
    one.sock.close()


# ---- hosts with several addresses -------------------------------------------------------------------------

WITH_ONE_MORE = "ip link set lo up && ip address add 192.0.0.8/32 dev lo"
SOME_TIME = """
from lone_transport import Pair
pair = Pair("sctp")
pair.rest(3)
print(open("/proc/net/sctp/remaddr").read())
"""


def test_a_peer_hears_of_one_address_and_of_its_own_one_only_is_asked() -> None:
    """The engines' devices have the same address on every host: what is sent there comes back."""
    states = defaultdict(list)
    for words in map(str.split, elsewhere(WITH_ONE_MORE, SOME_TIME).strip().splitlines()[1:]):
        states[words[1]].append(words[-1])
    assert sorted(map(sorted, states.values())) == [[CONFIRMED], [CONFIRMED, UNCONFIRMED]]
