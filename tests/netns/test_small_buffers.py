"""Applications that set SO_RCVBUF or SO_SNDBUF to little: no transfer may crawl from timeout to timeout."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest
from hands import Hands
from support import PLAIN, Pair, any_address, peer, result, same

from hooker.lab import INTERFACE

pytestmark = [pytest.mark.timeout(120), pytest.mark.alone]
BOTH_KINDS = True
SIZE = 1 << 20  # bytes
SLOWLY = 60_000  # bytes to a reader that pauses
SOON = 3.0  # s; one window each persist timeout would be 7 to 88, TCP needs up to 0.1
SMALL = (2304, 16384)  # bytes; the first is the least that the kernel gives


def quick(pair: Pair, sender: str, *, before: int = 0, during: tuple[str, str] = ("", "")) -> None:
    """Move SIZE bytes from *sender* ("client" or "server"), byte-exact and soon.

    Args:
        before: SO_RCVBUF of the other side before listen() or connect().
        during: an action of the sender and one of the receiver, once the connection is there.
    """
    warm = ["recv:1", "send:1"]
    give, take = ([action] if action else [] for action in during)
    send, recv = [*give, f"send:{SIZE}", "close"], [*take, "recv-all", "close"]
    small = ("--receive-buffer", str(before)) if before else ()
    options = {"client": (small, ()), "server": ((), small)}[sender]
    actions = {"client": (recv, send), "server": (send, recv)}[sender]
    with pair.engaged(payload=SIZE):
        server = peer(pair.b, "serve", "0.0.0.0", 7960, *warm, *actions[0], options=options[0])
        client = peer(pair.a, "connect", pair.b.v4, 7960, *warm[::-1], *actions[1], options=options[1])
        one, other = result(client), result(server)
    same(one, other)
    same(other, one)
    received = other if sender == "client" else one
    assert received["last_byte"] - received["first_byte"] < SOON


@pytest.mark.parametrize("sender", ["client", "server"])
@pytest.mark.parametrize("size", SMALL)
def test_a_receive_buffer_that_is_small_from_the_start(pair: Pair, size: int, sender: str) -> None:
    quick(pair, sender, before=size)


@pytest.mark.parametrize("sender", ["client", "server"])
@pytest.mark.parametrize("size", SMALL)
def test_a_receive_buffer_that_becomes_small(pair: Pair, size: int, sender: str) -> None:
    quick(pair, sender, during=("", f"receive-buffer:{size}"))


@pytest.mark.parametrize("sender", ["client", "server"])
@pytest.mark.parametrize("size", [4608])
def test_a_small_send_buffer(pair: Pair, size: int, sender: str) -> None:
    quick(pair, sender, during=(f"send-buffer:{size}", ""))


STOPPED = r"""
import socket, sys, threading, time

who, address, port, flows, pause = sys.argv[1:]
port, flows, pause = int(port), int(flows), float(pause)
FIRST, SIZE = 20000, 60000      # bytes: those that are read at once, and all
LAST_ACK = 56                   # where struct tcp_info has tcpi_last_ack_recv, ms

def take(sock, n):
    while n:
        n -= len(sock.recv(min(n, 65536))) or n

def give(sock, at):
    piece = (100, 300, 700, 1000, 2000)
    while at < SIZE:
        at += sock.send(b"x" * min(piece[at % 5], SIZE - at))

socks = []
if who == "serve":
    listeners = []
    for at in range(4):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, (1, 1500, 2000, 2500)[at])
        listener.bind((address, port + at))
        listener.listen(flows)
        listeners.append(listener)
    for at in range(flows):
        socks.append(listeners[at % 4].accept()[0])
    for sock in socks:
        take(sock, FIRST)
    time.sleep(pause)
    for sock in socks:
        take(sock, SIZE - FIRST)
        sock.send(b"k")
    time.sleep(5)
else:
    for at in range(flows):
        sock = socket.create_connection((address, port + at % 4))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
        threading.Thread(target=give, args=(sock, 0), daemon=True).start()
        socks.append(sock)
    time.sleep(pause)
    waits = []
    for sock in socks:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        waits.append(int.from_bytes(info[LAST_ACK:LAST_ACK + 4], sys.byteorder))
    for sock in socks:
        sock.settimeout(10)
        assert sock.recv(1) == b"k"
    print(max(waits))
"""
PAUSE = 12.0  # s
ANSWERED = 8000  # ms: a writer asks at 6.4 s and earlier, then at 12.8, or it repeats at 9.3


def test_writers_of_stopped_readers_are_answered(pair: Pair) -> None:
    """Also who has sent more than the window has room for: it repeats that, and unanswered it gives up."""
    command = [sys.executable, "-c", STOPPED]
    arguments = ["7500", "80", str(PAUSE)]
    with pair.programs():
        pair.b.popen([*command, "serve", "0.0.0.0", *arguments])
        pair.b.wait_listening(7503)
        client = pair.a.popen([*command, "connect", pair.b.v4, *arguments], stdout=subprocess.PIPE, text=True)
        assert int(client.communicate(timeout=60)[0]) < ANSWERED


MANY = r"""
import json, random, socket, sys, threading, time

who, address, port, buffers, until = sys.argv[1:]
port, buffers, until = int(port), json.loads(buffers), float(until)
WORKERS, SIZE, LONGEST = 4, 60000, 4.0      # bytes each way; s: then a connection counts as stuck
family = socket.AF_INET6 if ":" in address else socket.AF_INET
until += time.monotonic()

def give(sock, piece):
    for at in range(0, SIZE, piece):
        sock.sendall(b"x" * min(piece, SIZE - at))

def take(sock, n):
    while n:
        n -= len(sock.recv(min(n, 65536))) or n

def serve(listener):
    while True:
        sock = listener.accept()[0]
        sock.settimeout(LONGEST)
        try:
            take(sock, SIZE)
            give(sock, 1000)
        except OSError:
            pass
        sock.close()

def work(seed, out):
    choose = random.Random(seed)
    while time.monotonic() < until:
        at, small = choose.randrange(len(buffers)), choose.choice([0, 1, 2304, 4608])
        piece = choose.choice([300, 1000, SIZE])
        one = [buffers[at], small, piece, 0.0]
        with socket.socket(family) as sock:
            sock.settimeout(LONGEST)
            if small:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, small)
            if choose.random() < 0.5:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, choose.choice(buffers))
            sock.connect((address, port + at))
            since = time.monotonic()
            try:
                give(sock, piece)
                take(sock, SIZE)
            except OSError:
                pass
            one[-1] = time.monotonic() - since
        out.append(one)

if who == "serve":
    for at, size in enumerate(buffers):
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        listener.bind((address, port + at))
        listener.listen(64)
        for _ in range(WORKERS):
            threading.Thread(target=serve, args=(listener,), daemon=True).start()
    time.sleep(until - time.monotonic())
else:
    done = []
    workers = [threading.Thread(target=work, args=(seed, done)) for seed in range(WORKERS)]
    [one.start() for one in workers]
    [one.join() for one in workers]
    print(json.dumps(done))
"""
BUFFERS = (
    1,
    1500,
    2000,
    2500,
    3000,
    4000,
    6000,
    8192,
    16384,
)  # SO_RCVBUF; the kernel gives twice as much, 2,304 at least
ETH_P_IP = 0x0800
OPTION = bytes((253, 16))  # kind and length
TIME = 9.0  # s of connections, four at a time


def slow_ones(pair: Pair, family: str) -> list[list[float]]:
    """Return those of many connections that took longer than SOON: buffers, bytes a call, seconds."""
    address = {"v4": pair.b.v4, "v6": pair.b.v6}[family]

    def start(who: str, where: str, seconds: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", MANY, who, where, "7400", json.dumps(BUFFERS), str(seconds)]
        return (pair.b if who == "serve" else pair.a).popen(command, stdout=subprocess.PIPE, text=True)

    with pair.programs():
        start("serve", any_address(family), 60)
        pair.b.wait_listening(7400 + len(BUFFERS) - 1)
        done = json.loads(start("connect", address, TIME).communicate(timeout=60)[0])
    assert len(done) > 50
    return [one for one in done if one[-1] > SOON]


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_many_connections_with_windows_of_a_segment_or_two(pair: Pair, family: str) -> None:
    """A receiver opens its window by the size of what it is given, which may not be what its sender sends."""
    assert not slow_ones(pair, family)


SEND_MSS, RECEIVE_MSS = 16, 20  # where struct tcp_info has tcpi_snd_mss and tcpi_rcv_mss


def told(sock: socket.socket, at: int) -> int:
    """A number of 32 bits of TCP_INFO."""
    return int(struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), at)[0])


@pytest.mark.parametrize("sender", ["client", "server"])
def test_a_receiver_knows_the_size_of_its_senders_segments(pair: Pair, sender: str) -> None:
    """It opens a narrow window by that. If it takes it for less, each window is too narrow for a segment, and
    the sender waits for its persist timer each time: on TCP, afterwards, where no engine shows it more."""
    with Hands(pair.lab) as hands:
        listener, client = hands.socket(pair.b), hands.socket(pair.a)
        for sock in (listener, client):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2000)
        port = 7990 + (sender == "client")
        listener.bind((pair.b.v4, port))
        listener.listen()
        client.connect((pair.b.v4, port))
        ends = client, hands.accepted(listener)
        one, other = ends if sender == "client" else ends[::-1]
        writing = threading.Thread(target=one.sendall, args=(bytes(SLOWLY),))
        writing.start()
        left = SLOWLY
        while left:
            left -= len(other.recv(700))
            time.sleep(0.002 if left % 3 else 0.02)
        writing.join()
        assert told(other, RECEIVE_MSS) == told(one, SEND_MSS)


@pytest.mark.skipif(PLAIN, reason="there is no option of ours")
@pytest.mark.parametrize(("buffer", "expected"), [(2000, False), (200000, True)])
def test_our_option_shortens_no_segments_for_a_small_window(pair: Pair, buffer: int, expected: bool) -> None:
    """They are the size by which such a window is opened afterwards, on TCP, too."""
    if pair.kind != "segments":
        pytest.skip("its connections hold their first segments back")
    port = 7600 + expected  # a cold service: the first segments go by the wire
    wire = pair.b.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP))
    with wire:
        peer(
            pair.b, "serve", "0.0.0.0", port, "recv:5000", "close", options=("--receive-buffer", str(buffer))
        )
        result(peer(pair.a, "connect", pair.b.v4, port, "send:5000", "close"))
        wire.setblocking(False)
        found = alone = False
        with contextlib.suppress(BlockingIOError):
            while True:
                packet = wire.recv(65536)
                tcp = packet[20:]
                if packet[9] != socket.IPPROTO_TCP or int.from_bytes(tcp[2:4], "big") != port:
                    continue
                header, syn = tcp[12] // 4, tcp[13] & 2
                if OPTION in tcp[20:header] and not syn:
                    found |= int.from_bytes(packet[2:4], "big") > 20 + header
                    alone |= int.from_bytes(packet[2:4], "big") == 20 + header
    assert alone  # by it the server's engine has a flow
    assert found == expected


@pytest.mark.parametrize("mtu", [9000, 65535])
def test_a_small_receive_buffer_behind_a_link_with_large_packets(pair: Pair, mtu: int) -> None:
    for host in pair.lab.hosts:
        host.run(["ip", "link", "set", INTERFACE, "mtu", str(mtu)], hooked=False)
    for sender in ("client", "server"):
        quick(pair, sender, before=8192)
