"""What TCP shows an application, case by case, as a table: on plain TCP and beside it hooked.

    cd tests && ../.venv/bin/python -m apps.what_tcp_shows --intercept segments

A case is a function of both ends of a connection, on a link with ``RTT``; it returns what was seen. Two
tables are equal if all of that is, times within 20 % or 50 ms. Cases on a dead path run all at once.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import select
import signal
import socket
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from hands import Hands, ready, received
from rich.console import Console
from rich.table import Table
from support import Pair, address
from ways import open_way

from hooker.lab import Lab
from hooker.lab.link import Link

RTT = 0.05  # s
LINK = Link(delay=RTT / 2)
RETRIES = "3"  # net.ipv4.tcp_retries2 on a dead path: less than 15 minutes
LATE = 1.5  # s after which a reader begins: a round trip or a delayed ACK more is less than may differ
SIOCOUTQNSD, SIOCATMARK = 0x894B, 0x8905
STATES = (
    "0 ESTABLISHED SYN_SENT SYN_RECV FIN_WAIT1 FIN_WAIT2 TIME_WAIT CLOSE CLOSE_WAIT LAST_ACK LISTEN CLOSING"
)
PORT = 7600


class Seconds(float):
    """A time; it may differ a little."""


Value = str | int | Seconds
Shown = dict[str, Value]


@dataclass
class Ends:
    """The connection of a case: a is the client's end, b the server's."""

    a: socket.socket
    b: socket.socket
    hands: Hands
    port: int
    begin: Callable[[], None] = field(default=lambda: None)  # waits until the path is dead

    def end(self, letter: str) -> tuple[socket.socket, socket.socket]:
        """The end named *letter*, and the other."""
        return (self.a, self.b) if letter == "a" else (self.b, self.a)


Case = Callable[[Ends], Shown]
ALIVE: dict[str, Case] = {}
DYING: dict[str, Case] = {}


def case(name: str, dead: bool = False) -> Callable[[Case], Case]:
    """Put a function into the table."""

    def add(function: Case) -> Case:
        (DYING if dead else ALIVE)[name] = function
        return function

    return add


# ---- what is looked at --------------------------------------------------------------------------


@dataclass
class Info:
    """Of TCP_INFO what the cases use (linux/tcp.h)."""

    state: str
    unacked: int  # segments
    rtt: float  # s
    least_rtt: float  # s

    @classmethod
    def of(cls, sock: socket.socket) -> Info:
        data = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 152)
        state, words = data[0], struct.unpack_from("36I", data, 8)
        return cls(STATES.split()[state], words[4], words[15] / 1e6, words[35] / 1e6)


def queue(sock: socket.socket, request: int = termios.TIOCOUTQ) -> int:
    """Ask the socket for one number, by ioctl."""
    answer = fcntl.ioctl(sock, request, struct.pack("i", -1))
    return int(struct.unpack("i", answer)[0])


def so_error(sock: socket.socket) -> str:
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return errno.errorcode[code] if code else "none"


def outcome(function: Callable[[], object]) -> str:
    """What a call gives: its error's name, or its value."""
    try:
        value = function()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, repr(error))
    return repr(value)


def events(sock: socket.socket) -> str:
    """What epoll says of *sock* now."""
    names = ("IN", "OUT", "PRI", "RDHUP", "ERR", "HUP")
    with select.epoll() as poll:
        poll.register(sock, sum(getattr(select, f"EPOLL{name}") for name in names))
        found = dict(poll.poll(0)).get(sock.fileno(), 0)
    return " ".join(name for name in names if found & getattr(select, f"EPOLL{name}")) or "nothing"


def linger(sock: socket.socket, seconds: int) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, seconds))


def timed(function: Callable[[], object]) -> Seconds:
    start = time.monotonic()
    function()
    return Seconds(time.monotonic() - start)


def fill(sock: socket.socket) -> int:
    """Send until nothing has gone for half a second; return the bytes."""
    sock.setblocking(False)
    sent, block = 0, bytes(1 << 16)
    while ready(sock, select.POLLOUT, 0.5):
        with contextlib.suppress(BlockingIOError):
            sent += sock.send(block)
    sock.setblocking(True)
    return sent


def rest() -> None:
    """Let everything arrive that is on its way."""
    time.sleep(4 * RTT)


def rest_until(condition: Callable[[], bool]) -> None:
    """The same, and up to a second longer on a machine that is too busy for it."""
    deadline = time.monotonic() + 4 * RTT + 1
    rest()
    while not condition() and time.monotonic() < deadline:
        time.sleep(RTT / 5)


# ---- what is in flight, and in queues -----------------------------------------------------------


@case("TCP_INFO and queues")
def in_flight(ends: Ends) -> Shown:
    for _ in range(5):  # what is seen in flight must not be seen too late
        start = time.monotonic()
        ends.a.sendall(bytes(10_000))
        early, unsent, unacked = Info.of(ends.a), queue(ends.a, SIOCOUTQNSD), queue(ends.a)
        soon = time.monotonic() - start < RTT / 2
        rest()
        waiting = queue(ends.b, termios.FIONREAD)
        received(ends.b, 4000)
        left = queue(ends.b, termios.FIONREAD)
        received(ends.b, 6000)
        if soon:
            break
    late = Info.of(ends.a)
    return {
        "state": early.state,
        "unacked in flight": early.unacked,
        "SIOCOUTQ in flight": unacked,
        "SIOCOUTQNSD in flight": unsent,
        "unacked later": late.unacked,
        "SIOCOUTQ later": queue(ends.a),
        "SIOCINQ at the peer": waiting,
        "SIOCINQ, 4000 read": left,
    }


@case("round-trip time")
def round_trip(ends: Ends) -> Shown:
    for _ in range(12):  # it is a mean, and may have begun with one that was too long
        for one, other in ((ends.a, ends.b), (ends.b, ends.a)):
            one.sendall(b"x")
            received(other, 1)
    info = Info.of(ends.a)
    return {"rtt": Seconds(info.rtt), "least": Seconds(info.least_rtt)}


@case("nothing comes to a stopped reader's writer")
def outq_of_a_stopped_reader(ends: Ends) -> Shown:
    """What the peer's kernel has acknowledged and what not is its window, not an engine's."""
    ends.b.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)
    ends.a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200_000)
    sent = fill(ends.a)
    waiting, unacked = queue(ends.b, termios.FIONREAD), queue(ends.a)
    return {"unacked is what the peer does not have": waiting + unacked == sent}


# ---- closing ------------------------------------------------------------------------------------


@case("SO_LINGER 0")
def linger_zero(ends: Ends) -> Shown:
    ends.a.sendall(bytes(1000))
    rest()
    linger(ends.a, 0)
    ends.a.close()
    took = timed(lambda: ready(ends.b, 0, 5))
    return {
        "events": events(ends.b),
        "recv": outcome(lambda: len(ends.b.recv(9999))),
        "then": outcome(lambda: ends.b.recv(1)),
        "after": took,
    }


@case("SO_LINGER 5")
def linger_reading(ends: Ends) -> Shown:
    """It waits for the FIN's acknowledgement, which b's TCP may put off if the FIN came alone."""
    linger(ends.a, 5)
    ends.a.sendall(bytes(10_000))
    took = timed(ends.a.close)
    got = received(ends.b, 20_000)
    return {"close() waited": took > 0.9 * RTT, "arrived": len(got)}


@case("SO_LINGER 5, late reader")
def linger_late(ends: Ends) -> Shown:
    ends.a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 30_000)
    sent = fill(ends.a)
    linger(ends.a, 5)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lambda: time.sleep(LATE) or received(ends.b, sent + 1))
        took = timed(ends.a.close)
        return {"close() took": took, "all arrived": len(reading.result()) == sent}


@case("SO_LINGER 1, stopped reader")
def linger_stopped(ends: Ends) -> Shown:
    ends.a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 100_000)
    sent = fill(ends.a)
    linger(ends.a, 1)
    took = timed(ends.a.close)
    return {"close() took": took, "all arrived": len(received(ends.b, sent + 1)) == sent}


def close_unread(ends: Ends, letter: str) -> Shown:
    one, other = ends.end(letter)
    other.sendall(bytes(1000))
    rest()
    one.close()
    took = timed(lambda: ready(other, 0, 5))
    return {
        "events": events(other),
        "recv": outcome(lambda: other.recv(10)),
        "send": outcome(lambda: other.send(b"x", socket.MSG_NOSIGNAL)),
        "after": took,
    }


@case("close with unread data by the server")
def close_unread_b(ends: Ends) -> Shown:
    return close_unread(ends, "b")


@case("close with unread data by the client")
def close_unread_a(ends: Ends) -> Shown:
    return close_unread(ends, "a")


@case("simultaneous close")
def simultaneous(ends: Ends) -> Shown:
    for sock in (ends.a, ends.b):
        sock.sendall(b"last words")
        sock.shutdown(socket.SHUT_WR)
    at_once = [Info.of(sock).state for sock in (ends.a, ends.b)]
    rest()
    return {
        "states at once": " ".join(at_once),
        "states later": " ".join(Info.of(sock).state for sock in (ends.a, ends.b)),
        "events": " / ".join(events(sock) for sock in (ends.a, ends.b)),
        "recv": " ".join(outcome(lambda s=sock: received(s, 100)) for sock in (ends.a, ends.b)),  # type: ignore[misc]
        "error": " ".join(so_error(sock) for sock in (ends.a, ends.b)),
    }


def half_close(ends: Ends, letter: str) -> Shown:
    one, other = ends.end(letter)
    one.sendall(b"question")
    one.shutdown(socket.SHUT_WR)
    rest_until(lambda: Info.of(one).state != "FIN_WAIT1")
    middle = " ".join((Info.of(one).state, Info.of(other).state, "/", events(one), "/", events(other)))
    question, end = received(other, 8), outcome(lambda: other.recv(1))
    other.sendall(bytes(100_000))
    got = len(received(one, 100_000))
    other.close()
    took = timed(lambda: ready(one, 0, 5))
    return {
        "half-way": middle,
        "asked": question.decode(),
        "end": end,
        "answered": got,
        "events at the end": events(one),
        "recv at the end": outcome(lambda: one.recv(1)),
        "send at the end": outcome(lambda: one.send(b"x", socket.MSG_NOSIGNAL)),
        "after": took,
    }


@case("half-close by the client")
def half_close_a(ends: Ends) -> Shown:
    return half_close(ends, "a")


@case("half-close by the server")
def half_close_b(ends: Ends) -> Shown:
    return half_close(ends, "b")


# ---- errors and events --------------------------------------------------------------------------


@case("refused")
def refused(ends: Ends) -> Shown:
    family = "v4" if ends.a.family == socket.AF_INET else "v6"
    sock = ends.hands.socket(ends.hands.lab.a, family)
    sock.setblocking(False)
    begun = errno.errorcode[sock.connect_ex((address(ends.hands.lab.b, family), ends.port + 1000))]
    took = timed(lambda: ready(sock, select.POLLOUT, 5))
    seen = events(sock)
    return {
        "connect": begun,
        "events": seen,
        "SO_ERROR": so_error(sock),
        "again": so_error(sock),
        "after": took,
    }


@case("SO_ERROR after a reset")
def reset(ends: Ends) -> Shown:
    linger(ends.b, 0)
    ends.b.close()
    took = timed(lambda: ready(ends.a, 0, 5))
    return {
        "events": events(ends.a),
        "SO_ERROR": so_error(ends.a),
        "again": so_error(ends.a),
        "recv": outcome(lambda: ends.a.recv(1)),
        "send": outcome(lambda: ends.a.send(b"x", socket.MSG_NOSIGNAL)),
        "state": Info.of(ends.a).state,
        "after": took,
    }


@case("SIGPIPE")
def sigpipe(ends: Ends) -> Shown:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})  # of this thread: then it waits for us
    ends.b.close()
    rest()
    shown: Shown = {"first send": outcome(lambda: ends.a.send(b"x"))}
    shown["after"] = timed(lambda: ready(ends.a, 0, 5))
    shown["events"] = events(ends.a)
    for name, flags in (("MSG_NOSIGNAL", socket.MSG_NOSIGNAL), ("no flag", 0)):
        shown[f"send, {name}"] = outcome(lambda f=flags: ends.a.send(b"x", f))  # type: ignore[misc]
        shown[f"signal, {name}"] = signal.sigtimedwait({signal.SIGPIPE}, 0) is not None
    return shown


@case("EPOLLRDHUP and HUP")
def epoll(ends: Ends) -> Shown:
    shown: Shown = {"at rest": events(ends.b)}
    ends.a.sendall(b"x")
    rest()
    shown["data"] = events(ends.b)
    ends.a.shutdown(socket.SHUT_WR)
    rest()
    shown["data and end"] = events(ends.b)
    received(ends.b, 1)
    shown["end"] = events(ends.b)
    ends.b.shutdown(socket.SHUT_WR)
    rest()
    return shown | {"both ends": " / ".join((events(ends.a), events(ends.b)))}


@case("urgent data")
def urgent(ends: Ends) -> Shown:
    ends.a.sendall(b"abc")
    ends.a.send(b"d!", socket.MSG_OOB)
    ends.a.sendall(b"efg")
    rest()
    shown: Shown = {"events": events(ends.b), "urgent byte": outcome(lambda: ends.b.recv(1, socket.MSG_OOB))}
    before = ends.b.recv(100)
    at_mark = queue(ends.b, SIOCATMARK)
    return shown | {
        "before": before.decode(),
        "at mark": at_mark,
        "behind": outcome(lambda: ends.b.recv(100, socket.MSG_DONTWAIT)),
    }


@case("urgent data in line")
def urgent_inline(ends: Ends) -> Shown:
    ends.b.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    ends.a.sendall(b"abc")
    ends.a.send(b"!", socket.MSG_OOB)
    ends.a.sendall(b"efg")
    rest()
    before, behind = ends.b.recv(100), outcome(lambda: ends.b.recv(100, socket.MSG_DONTWAIT))
    return {"up to the mark": before.decode(), "behind": behind}


# ---- windows and timers -------------------------------------------------------------------------


@case("zero window and reopening")
def zero_window(ends: Ends) -> Shown:
    ends.a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 100_000)
    sent = fill(ends.a)
    time.sleep(2)
    seen = events(ends.a)
    reader = threading.Thread(target=lambda: received(ends.b, sent))
    reader.start()
    took = timed(lambda: ready(ends.a, select.POLLOUT, 5))
    reader.join()
    ends.a.sendall(b"again")
    return {
        "events while closed": seen,
        "error": so_error(ends.a),
        "again": received(ends.b, 5).decode(),
        "after": took,
    }


@case("keepalive on a live path")
def keepalive(ends: Ends) -> Shown:
    keep_alive(ends.a)
    keep_alive(ends.b)
    time.sleep(3.5)  # without answers it would be dead after 3 s
    ends.a.sendall(b"hello")
    return {
        "state": Info.of(ends.a).state,
        "error": so_error(ends.a),
        "arrives": received(ends.b, 5).decode(),
    }


def keep_alive(sock: socket.socket) -> None:
    """Idle for 1 s, then two probes 1 s apart."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)


def dies(sock: socket.socket) -> Shown:
    """Wait until *sock* has an error."""
    took = timed(lambda: ready(sock, 0, 20))
    return {"events": events(sock), "recv": outcome(lambda: sock.recv(1, socket.MSG_DONTWAIT)), "after": took}


@case("keepalive on a dead path", dead=True)
def dead_keepalive(ends: Ends) -> Shown:
    ends.begin()
    keep_alive(ends.a)
    return dies(ends.a)


@case("keepalive on a dead path, server", dead=True)
def dead_keepalive_b(ends: Ends) -> Shown:
    ends.begin()
    keep_alive(ends.b)
    return dies(ends.b)


def dead_user_timeout(ends: Ends, letter: str) -> Shown:
    one, _ = ends.end(letter)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1500)
    ends.begin()
    one.sendall(bytes(1000))
    return dies(one)


@case("TCP_USER_TIMEOUT 1.5 s on a dead path", dead=True)
def dead_user_timeout_a(ends: Ends) -> Shown:
    return dead_user_timeout(ends, "a")


@case("TCP_USER_TIMEOUT 1.5 s on a dead path, server", dead=True)
def dead_user_timeout_b(ends: Ends) -> Shown:
    return dead_user_timeout(ends, "b")


@case("TCP_USER_TIMEOUT 1.5 s and keepalive on a dead path, at rest", dead=True)
def dead_user_timeout_at_rest(ends: Ends) -> Shown:
    ends.begin()
    keep_alive(ends.a)
    ends.a.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1500)
    return dies(ends.a)


@case(f"tcp_retries2={RETRIES} on a dead path", dead=True)
def dead_retries(ends: Ends) -> Shown:
    ends.begin()
    ends.a.sendall(bytes(1000))
    return dies(ends.a)


def dead_linger(ends: Ends, seconds: int) -> Shown:
    linger(ends.a, seconds)
    ends.begin()
    ends.a.sendall(bytes(1000))
    return {"close() took": timed(ends.a.close)}


@case("SO_LINGER 1 on a dead path", dead=True)
def dead_linger_1(ends: Ends) -> Shown:
    return dead_linger(ends, 1)


@case("SO_LINGER 5 on a dead path", dead=True)
def dead_linger_5(ends: Ends) -> Shown:
    """It does not outlive the connection, whose timeouts are used up before."""
    return dead_linger(ends, 5)


@case("SO_LINGER 0 on a dead path", dead=True)
def dead_linger_0(ends: Ends) -> Shown:
    ends.begin()
    ends.a.sendall(bytes(1000))
    linger(ends.a, 0)
    return {"close() took": timed(ends.a.close)}


@case("SO_ERROR and SIGPIPE on a dead path", dead=True)
def dead_errors(ends: Ends) -> Shown:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    ends.a.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1500)
    ends.begin()
    ends.a.sendall(bytes(1000))
    ready(ends.a, 0, 20)
    return {
        "SO_ERROR": so_error(ends.a),
        "again": so_error(ends.a),
        "send": outcome(lambda: ends.a.send(b"x")),
        "signal": signal.sigtimedwait({signal.SIGPIPE}, 0) is not None,
        "recv": outcome(lambda: ends.a.recv(1)),
    }


# ---- the table ----------------------------------------------------------------------------------


def see(function: Case, ends: Ends) -> Shown:
    """Run a case; what it raises is shown, too."""
    try:
        return function(ends)
    except Exception as error:
        return {"raised": repr(error)}


class Bench:
    """The cases, on one lab."""

    def __init__(self, hands: Hands, family: str = "v4") -> None:
        self.hands, self.family = hands, family
        self._ports = iter(range(PORT, PORT + 900))

    def alive(self, names: list[str]) -> dict[str, Shown]:
        """Run these cases, a few at a time."""
        with ThreadPoolExecutor(12) as pool:
            futures = {name: pool.submit(see, ALIVE[name], ends) for name, ends in self._connect(names)}
            return {name: future.result() for name, future in futures.items()}

    def dead(self, names: list[str]) -> dict[str, Shown]:
        """Let the path die under all of these cases at once."""
        lab, gate = self.hands.lab, threading.Barrier(len(names) + 1)
        for host in lab.hosts:
            host.sysctl("net.ipv4.tcp_retries2", RETRIES)

        def begin() -> None:
            gate.wait(30)  # all are ready
            gate.wait(30)  # the path is dead

        try:
            with ThreadPoolExecutor(len(names)) as pool:
                futures = {}
                for name, ends in self._connect(names):
                    ends.begin = begin
                    futures[name] = pool.submit(see, DYING[name], ends)
                gate.wait(30)
                lab.link.change(loss=1)
                gate.wait(30)
                return {name: future.result() for name, future in futures.items()}
        finally:
            lab.link.change(loss=0)

    def run(self, names: list[str]) -> dict[str, Shown]:
        """Run these cases, of either kind."""
        dying = [name for name in names if name in DYING]
        shown = self.alive([name for name in names if name in ALIVE])
        return shown | (self.dead(dying) if dying else {})

    def _connect(self, names: list[str]) -> Iterator[tuple[str, Ends]]:
        ports = [next(self._ports) for _ in names]
        pairs = [self.hands.connected(port, self.family, settle=0) for port in ports]
        time.sleep(0.5)  # for engines to agree
        for name, port, (a, b) in zip(names, ports, pairs, strict=True):
            yield name, Ends(a, b, self.hands, port)


def equal(one: Value, other: Value) -> bool:
    """Whether two tables may have these two in the same place."""
    if isinstance(one, Seconds) and isinstance(other, Seconds):
        return abs(one - other) <= max(0.05, 0.2 * max(one, other))
    return type(one) is type(other) and one == other


def differences(one: Shown, other: Shown) -> dict[str, tuple[Value | None, Value | None]]:
    """Return what is not equal."""
    return {
        key: (one.get(key), other.get(key))
        for key in {**one, **other}
        if key not in one or key not in other or not equal(one[key], other[key])
    }


def text(value: Value | None) -> str:
    return f"{value * 1000:.0f} ms" if isinstance(value, Seconds) else str(value)


def draw(columns: dict[str, dict[str, Shown]]) -> Table:
    """Return the table of several runs, side by side."""
    table = Table("case", "what", *columns, "", title=f"What TCP shows (RTT {RTT * 1000:.0f} ms)")
    first = next(iter(columns.values()))
    for name, shown in first.items():
        for number, key in enumerate(shown):
            row = [column[name].get(key) for column in columns.values()]
            same = all(value is not None and equal(shown[key], value) for value in row)
            table.add_row("" if number else name, key, *map(text, row), "" if same else "[red]differs")
        table.add_section()
    return table


@contextlib.contextmanager
def bench(way: str, family: str = "v4") -> Iterator[tuple[Bench, Pair]]:
    """A lab with the engines of *way*, ready for cases."""
    with Lab(link=LINK) as lab, open_way(lab, way) as pair, Hands(lab) as hands:
        yield Bench(hands, family), pair


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the table.")
    parser.add_argument(
        "--intercept", action="append", default=[], help="messages or segments; may be repeated"
    )
    parser.add_argument("--family", choices=["v4", "v6"], default="v4")
    parser.add_argument("--case", action="append", help="this one only; may be repeated")
    args = parser.parse_args()
    names = args.case or [*ALIVE, *DYING]
    columns = {}
    for way in ("plain", *args.intercept):
        with bench(way, args.family) as (made, _):
            columns[way] = made.run(names)
    Console(width=None if sys.stdout.isatty() else 160).print(draw(columns))
    plain = columns["plain"]
    return int(any(differences(plain[name], shown[name]) for shown in columns.values() for name in names))


if __name__ == "__main__":
    sys.exit(main())
