"""Options that an application sets on a hooked connection: no byte is lost by them, and it sees its own."""

from __future__ import annotations

import errno
import json
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
from support import PLAIN, SEGMENTS, Pair, address, any_address, counts

from hooker.lab import Lab

pytestmark = pytest.mark.timeout(120)
PORT = 7960

SERVER = textwrap.dedent("""
    import socket, sys, threading
    listener = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((sys.argv[1], int(sys.argv[2])))
    listener.listen(9)
    def serve(s):
        if len(sys.argv) > 3:
            s.setsockopt(1, 36, int(sys.argv[3]))
        while data := s.recv(65536):
            s.sendall(data)
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
""")

CLIENT = textwrap.dedent("""
    import ctypes, json, os, socket, struct, sys, time
    host, port = sys.argv[1], int(sys.argv[2])
    libc = ctypes.CDLL(None, use_errno=True)
    said = {}
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    s.settimeout(10)
    def echo(n=50000):
        data, got = os.urandom(n), b""
        s.sendall(data)
        while len(got) < n:
            part = s.recv(65536)
            assert part, "end of data"
            got += part
        assert got == data
    def option(name, value):
        try:
            s.setsockopt(1, name, value)
        except OSError as error:
            return error.errno
        return 0
    def mark():
        return s.getsockopt(1, 36)
    def congestion():
        return s.getsockopt(6, 13, 16).decode()
    def use_again():
        assert libc.connect(s.fileno(), (ctypes.c_char * 28)(), 28) == 0      # AF_UNSPEC
""")


def say(pair: Pair, family: str, program: str) -> dict[str, Any]:
    """What a client did that runs *program*, connected or not yet as it says."""
    text = CLIENT + textwrap.dedent(program) + "\nprint(json.dumps(said))"
    done = pair.a.run([sys.executable, "-c", text, address(pair.b, family), str(PORT)], timeout=60)
    return dict(json.loads(done.stdout))


def serve(pair: Pair, family: str, *marks: str) -> None:
    pair.b.popen([sys.executable, "-c", SERVER, any_address(family), str(PORT), *marks])
    pair.b.wait_listening(PORT)


def counted(pair: Pair, name: str) -> int:
    return counts(pair.client.status())[name] if pair.client else 0


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_a_mark_that_is_set_in_mid_flow(pair: Pair, family: str) -> None:
    """The flow goes on; the mark is the socket's again when the flow is over."""
    serve(pair, family)
    with pair.engaged():
        said = say(
            pair,
            family,
            """
            before = congestion()
            s.connect((host, port))
            echo()
            said["shown"], said["errors"] = [mark()], []
            for value in (0x55, 0x66, 0, 0x77):
                said["errors"].append(option(36, value))
                said["shown"].append(mark())
                echo()
            said["congestion"] = congestion() == before
            use_again()
            said["left"] = mark()
            """,
        )
    assert said["errors"] == [0] * 4
    assert said["shown"] == [0, 0x55, 0x66, 0, 0x77]
    assert said["congestion"], "what the application chose"
    assert said["left"] == 0x77


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_a_least_number_of_hops_left_keeps_nothing_out(pair: Pair, family: str) -> None:
    """IP_MINTTL, IPV6_MINHOPCOUNT (RFC 5082): what comes from the twin is no farther away than the peer."""
    serve(pair, family)
    level, least, own = (0, 21, 2) if family == "v4" else (41, 73, 16)
    with pair.engaged():
        say(
            pair,
            family,
            f"""
            s.setsockopt({level}, {own}, 255)
            s.connect((host, port))
            s.setsockopt({level}, {least}, 200)
            echo()
            echo()
            """,
        )


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_a_mark_that_is_set_at_once(pair: Pair, family: str) -> None:
    """Whether the flow is held or engaged by then; at both ends."""
    serve(pair, family, "7")
    said = say(
        pair,
        family,
        """
        s.connect((host, port))
        said["error"], said["shown"] = option(36, 0x55), [mark()]
        echo()
        said["shown"].append(mark())
        use_again()
        said["shown"].append(mark())
        """,
    )
    assert said == {"error": 0, "shown": [0x55] * 3}


def test_a_mark_without_the_privilege(pair: Pair) -> None:
    serve(pair, "v4")
    with pair.engaged():
        said = say(
            pair,
            "v4",
            """
            s.connect((host, port))
            echo()
            os.setuid(65534)
            said["errors"], said["shown"] = [option(36, 5), option(36, 0)], mark()
            echo()
            """,
        )
    assert said == {"errors": [errno.EPERM] * 2, "shown": 0}


@pytest.mark.skipif(PLAIN, reason="TCP takes it")
@pytest.mark.parametrize(("name", "value"), [("25", "b'eth0\\0'"), ("62", "socket.if_nametoindex('eth0')")])
def test_a_device_in_mid_flow_is_refused_or_gets_the_connection(pair: Pair, name: str, value: str) -> None:
    """Bytes would leave by it, past the transport. An engine that takes segments leaves the flow to TCP."""
    serve(pair, "v4")
    before = counted(pair, "kernel.device-binding-refused")
    with pair.engaged():
        said = say(
            pair,
            "v4",
            f"""
            s.connect((host, port))
            echo()
            said["error"] = option({name}, {value})
            echo()
            use_again()
            said["later"] = option({name}, {value})
            """,
        )
    refused = not SEGMENTS
    assert said == {"error": errno.EPERM if refused else 0, "later": 0}
    assert counted(pair, "kernel.device-binding-refused") == before + refused


def test_options_with_more_than_a_page_of_value(pair: Pair) -> None:
    serve(pair, "v4")
    say(
        pair,
        "v4",
        """
        s.connect((host, port))
        echo()
        s.setsockopt(1, 8, struct.pack("i", 20000) + bytes(8192))
        size, value = ctypes.c_uint(8192), ctypes.create_string_buffer(8192)
        assert libc.getsockopt(s.fileno(), 6, 11, value, ctypes.byref(size)) == 0      # TCP_INFO
        assert 100 < size.value < 1000
        size = ctypes.c_uint(8192)
        assert libc.getsockopt(s.fileno(), 1, 36, value, ctypes.byref(size)) == 0
        assert size.value == 4
        """,
    )


# ---- MSG_ZEROCOPY, where messages may be redirected ----

ZEROCOPY = """
    def completions():
        got, until = 0, time.monotonic() + 10
        while got < 30 and time.monotonic() < until:
            try:
                _, found, _, _ = s.recvmsg(0, 512, 0x2040)      # MSG_ERRQUEUE
            except OSError:
                time.sleep(0.01)
                continue
            for one in found:
                first, last = struct.unpack_from("IBBBBII", one[2])[5:]
                got += last - first + 1
        return got
    def send_all():
        for _ in range(30):
            s.send(b"y" * 1000, 0x4000000)                      # MSG_ZEROCOPY
    s.connect((host, port))
"""


@pytest.fixture(scope="module")
def redirecting() -> Iterator[Pair]:
    with Lab() as lab, Pair.open(lab, options=("--redirect", "always"), kind="messages") as made:
        yield made


def test_zerocopy_sends_complete(redirecting: Pair) -> None:
    with redirecting.programs():
        serve(redirecting, "v4")
        before = counted(redirecting, "adopt_zerocopy")
        said = say(
            redirecting,
            "v4",
            ZEROCOPY
            + """
    said["error"] = option(60, 1)
    for _ in range(20):
        echo(100)
    send_all()
    said["completions"] = completions()
            """,
        )
    assert said == {"error": 0, "completions": 30}
    assert PLAIN or counted(redirecting, "adopt_zerocopy") == before + 1


@pytest.mark.skipif(PLAIN, reason="TCP takes it")
def test_zerocopy_is_refused_once_messages_are_redirected(redirecting: Pair) -> None:
    """As a kernel without it does; the same sends without completions would be a trap."""
    with redirecting.programs():
        serve(redirecting, "v4")
        adopted = counted(redirecting, "adopted")
        said = say(
            redirecting,
            "v4",
            ZEROCOPY
            + """
    for _ in range(20):
        echo(100)
    said["errors"] = [option(60, 1), option(60, 0)]
    echo()
            """,
        )
    assert counted(redirecting, "adopted") == adopted + 1
    assert said == {"errors": [errno.EOPNOTSUPP, 0]}
