"""A transport that a user's class makes, without an engine: what it gives, and how it fails."""

from __future__ import annotations

import contextlib
import importlib.util
import marshal
import os
import random
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lone import HOME, TOKEN, messages, told, until

from hooker import transports
from hooker.errors import ConfigurationError
from hooker.flow.messages import encode
from hooker.transports.children import PrototypeError
from hooker.transports.face import Lone
from hooker.transports.makers import Settings, make

ROOT = Path(__file__).parents[2]
NAME = bytes([1, 19]) + b"datagrams:Datagrams"  # HELLO's option


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOKER_PATH", f"{ROOT / 'examples'}:{ROOT / 'tests' / 'classes'}")


def lone(name: str, port: int = 0, **settings: Any) -> Lone:
    (chosen,) = transports.choose(name).taken
    return Lone(make(13, Settings(named=(chosen.name, chosen.place), **settings)), port)


class Pair:
    """Two, and one association that `a` has begun."""

    def __init__(self, name: str, other: str = "") -> None:
        self.a, self.b = lone(name), lone(other or name)
        self.there = self.a.connect(HOME, self.b.port)

    def until(self, done: Callable[[], Any], seconds: float = 10.0) -> None:
        until(done, self.a, self.b, seconds=seconds)

    def greet(self) -> Pair:
        self.until(lambda: self.a.is_up(self.there))
        assert self.a.say(
            self.there, encode("hello", epoch=1, position=65535, token=7, own_token=8, data=NAME)
        )
        self.until(lambda: messages(self.b, "hello"))
        self.here = int(told(self.b, "up")[0][1])
        assert self.b.say(
            self.here, encode("hello", epoch=1, position=65535, token=9, own_token=8, data=NAME)
        )
        self.until(lambda: messages(self.a, "hello"))
        return self

    def shut(self) -> None:
        self.a.shut()
        self.b.shut()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair("datagrams:Datagrams").greet()
    yield made
    made.shut()


def test_control_messages_arrive_in_both_directions(pair: Pair) -> None:
    words = [encode("open", epoch=1, token=5, own_token=n) for n in range(1, 9)]
    for word in words:
        assert pair.a.say(pair.there, word)
        assert pair.b.say(pair.here, word)
    pair.until(lambda: len(messages(pair.a, "open")) >= 8 and len(messages(pair.b, "open")) >= 8)
    for end in (pair.a, pair.b):
        assert {m["own_token"] for m in messages(end, "open")} == set(range(1, 9))
    assert pair.a.peer(pair.there) == (HOME, pair.b.port)


@pytest.mark.parametrize("size", [0, 1, 1372, 1373, 64000])
def test_data_arrives_cut_into_messages_with_its_flags_at_the_end(pair: Pair, size: int) -> None:
    payload = random.Random(size).randbytes(size)
    channel = pair.a.channel(pair.there)
    assert pair.a.send(channel, encode("data", epoch=1, flags=3, position=100, token=TOKEN, data=payload))
    got: dict[int, tuple[bytes, int]] = {}

    def here() -> bool:
        got.update({m["position"] - 100: (m["data"], m["flags"]) for m in messages(pair.b, "data")})
        return any(flags & 1 for _, flags in got.values()) and sum(len(d) for d, _ in got.values()) >= size

    pair.until(here)
    assert b"".join(got[at][0] for at in sorted(got)) == payload
    assert [at + len(d) for at, (d, flags) in got.items() if flags & 3] == [size]
    assert max(len(d) for d, _ in got.values()) <= 1400 - 24 - 4
    pair.until(lambda: pair.a.waiting(channel)[2] == 0)
    assert sum(one[2] for one in told(pair.a, "release")) == size


def test_what_is_no_message_is_dropped_and_counted(pair: Pair) -> None:
    """Whoever can send to its socket can send anything."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as anybody:
        for junk in (b"", b"x", b"\x14" * 15, b"\x01" * 64, random.Random(1).randbytes(1400)):
            anybody.sendto(junk, ("127.0.0.1", pair.b.port))
        good = encode("open", epoch=1, token=5, own_token=1, checked=True)
        for at in range(len(good)):
            anybody.sendto(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :], ("127.0.0.1", pair.b.port))
        anybody.sendto(good, ("127.0.0.1", pair.b.port))  # whole, of nobody's
    pair.until(lambda: pair.b.counters()["datagrams:Datagrams.unwanted"] >= 5 + len(good))
    assert not messages(pair.b, "open")
    assert not told(pair.b, "failed")
    assert pair.b.counters()["bad_messages"] >= 4 + len(good)


def test_strangers_are_bounded_and_soon_forgotten(pair: Pair) -> None:
    hello = encode("hello", epoch=1, own_token=8, data=NAME, checked=True)
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(40)]
    for one in sockets:
        one.sendto(hello, ("127.0.0.1", pair.b.port))
    pair.until(lambda: pair.b.counters()["datagrams:Datagrams.refused"] >= 20)
    assert pair.b.counters()["datagrams:Datagrams.associations"] <= 17
    pair.until(lambda: pair.b.counters()["datagrams:Datagrams.associations"] == 1)
    for one in sockets:
        one.close()


def test_where_all_are_there_the_one_unused_for_longest_makes_room(pair: Pair) -> None:
    greeting = encode("hello", epoch=1, own_token=8, data=NAME, checked=True)
    hello = encode("hello", epoch=1, position=65535, token=7, own_token=8, data=NAME, checked=True)
    name = "datagrams:Datagrams"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    sockets = []

    def come(source: int) -> None:
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sockets.append(one)
        one.bind((f"127.0.3.{source}", 0))
        one.connect(("127.0.0.1", pair.b.port))
        ups, end = len(told(pair.b, "up")), time.monotonic() + 5
        one.send(greeting)
        pair.until(lambda: select.select([one], [], [], 0)[0])
        while len(told(pair.b, "up")) == ups:
            assert time.monotonic() < end
            one.send(hello)
            pair.b.turn(0.001)

    try:
        held = pair.b.channel(pair.here)
        for n in range(767):
            come(1 + n // 60)
        assert pair.b.counters()[f"{name}.associations"] == 768
        come(100)
        downs = [one[1:] for one in told(pair.b, "down")]
        assert downs == [(told(pair.b, "up")[1][1], "closed")]  # the first is in use
        pair.b.channel_close(held)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for one in sockets:
            one.close()


def test_who_has_another_name_is_not_spoken_to() -> None:
    pair = Pair("broken:Broken", "broken:Other")
    pair.until(lambda: told(pair.a, "down"))
    assert told(pair.a, "down") == [("down", pair.there, "name")]
    assert not told(pair.b, "up")
    pair.shut()


def test_nobody_there_is_unreachable() -> None:
    a = lone("datagrams:Datagrams")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("::", 0))
        there = a.connect(HOME, nobody.getsockname()[1])
        until(lambda: told(a, "down"), a)
    assert told(a, "down") == [("down", there, "unreachable")]
    a.shut()


def test_another_engine_at_the_same_address_replaces_the_first(pair: Pair) -> None:
    port = pair.b.port
    pair.b.shut()
    pair.b = lone("datagrams:Datagrams", port)
    back = pair.b.connect(HOME, pair.a.port)
    pair.until(lambda: pair.b.is_up(back))
    assert pair.b.say(back, encode("hello", epoch=1, position=65535, token=11, own_token=8, data=NAME))
    pair.until(lambda: told(pair.a, "down"))
    assert told(pair.a, "down") == [("down", pair.there, "replaced")]
    pair.until(lambda: len(told(pair.a, "up")) == 2)  # the first has said so once: it need not begin anew


def test_its_process_ends_with_the_transport() -> None:
    a = lone("datagrams:Datagrams")
    assert len(prototypes()) == 2
    a.shut()
    _await(lambda: not prototypes())


@pytest.mark.parametrize("killed", [False, True])
def test_what_it_has_started_ends_with_it(monkeypatch: pytest.MonkeyPatch, killed: bool) -> None:
    """And with that goes the port, which the next one wants."""
    monkeypatch.setenv("HOOKER_TEST_BREAK", "forks")
    a = lone("broken:Broken")
    port = a.port
    _await(lambda: len(_sleeping()) == 2)
    if killed:
        os.kill(max(prototypes()), signal.SIGKILL)
        until(lambda: told(a, "failed"), a)
    else:
        a.shut()
    _await(lambda: not _sleeping())
    monkeypatch.setenv("HOOKER_TEST_BREAK", "")
    again = lone("broken:Broken", port)
    again.shut()
    if killed:
        a.shut()


FREED = f"""
import ctypes, gc, struct, sys
sys.path[:0] = {[str(ROOT / "tests"), str(ROOT / "tests/unit")]}
from test_prototypes import lone
made = lone("datagrams:Datagrams")
LOAD, EQUAL, SAY = 0x20, 0x15, 0x06  # linux/bpf_common.h
rules = [(LOAD, 0, 0, 0), (EQUAL, 0, 3, 3), (LOAD, 0, 0, 16), (EQUAL, 0, 1, 0x7F7F7F7F),
         (SAY, 0, 0, 0x80000000), (SAY, 0, 0, 0x7FFF0000)]  # close(0x7f7f7f7f) kills the process
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(rules), ctypes.addressof(code)))
assert libc.prctl(22, 2, program, 0, 0) == 0
made.shut()
del made
gc.collect()
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of system calls are x86-64's")
def test_what_is_freed_is_not_read_again() -> None:
    """A descriptor that is read there is any number: what is closed then is somebody else's file."""
    own = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0:glibc.malloc.perturb=127"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", FREED],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def _sleeping() -> list[int]:
    """What the class has started, wherever it is now."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if entry.read_bytes() == b"sleep\x00600\x00" and _runs(int(entry.parent.name)):
                found.append(int(entry.parent.name))
    return found


def prototypes() -> list[int]:
    """Processes of users' classes, and their keepers, that we have started and that run."""
    ours = [pid for pid in _descendants(os.getpid()) if _runs(pid)]
    return [pid for pid in ours if b"hooker.prototype" in _command(pid)]


def _command(pid: int) -> bytes:
    """b"": it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _descendants(pid: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):  # it has ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *_descendants(int(child))]
    return found


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def _await(done: Callable[[], Any], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


# ---- what fails while it runs ------------------------------------------------------------------------

WORDS = {
    "send": "broken:Broken: ValueError: on purpose (broken.py:",
    "unspeakable": "broken:Broken: Unspeakable (broken.py:",
    "null": "broken:Broken: ValueError: on purpose (broken.py:",
    "thread": "broken:Broken: ValueError: on purpose (broken.py:",
    "stalls": "broken:Broken: it has stood still for three seconds",
    "spins": "broken:Broken: it has stood still for three seconds",
    "exits": "broken:Broken: its process has ended (exit status 3)",
    "quits": "broken:Broken: SystemExit: 3 (broken.py:",
    "killed": "broken:Broken: its process was killed by signal 9",
    "allocates": "broken:Broken: MemoryError",
    "nonsense": "broken:Broken: what its process says is no packet of the link",
    "floods": "broken:Broken: it floods the engine with what is no message",
}


@pytest.mark.parametrize("how", WORDS)
def test_one_that_fails_is_down_with_the_reason(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOKER_TEST_BREAK", how)
    monkeypatch.setenv("HOOKER_TEST_AFTER", "0")
    a = lone("broken:Broken")
    there = a.connect(HOME, 9)
    channel = a.channel(there)
    a.send(channel, encode("data", epoch=1, position=1, token=TOKEN, data=bytes(5000)))
    until(lambda: told(a, "down") and told(a, "failed"), a)
    slow = how in (
        "stalls",
        "spins",
        "allocates",
    )  # the peer, whom nobody greets, may have been given up before
    assert told(a, "down") in [[("down", there, why)] for why in ("prototype", "unreachable")[: 1 + slow]]
    ((_, why),) = told(a, "failed")
    assert why.startswith(WORDS[how])
    assert told(a, "channel_down") == [("channel_down", channel)]
    assert sum(one[2] for one in told(a, "release")) == 5000
    again = a.connect(HOME, 10)  # nothing comes up any more, and who asks is told at once
    until(lambda: len(told(a, "down")) == 2, a, seconds=1)
    assert told(a, "down")[1] == ("down", again, "prototype")
    _await(lambda: not prototypes())
    a.shut()


@pytest.mark.parametrize("unread", [True, False])
def test_what_its_process_died_of_is_read_before_its_end(unread: bool) -> None:
    a = lone("datagrams:Datagrams")
    a.connect(HOME, 9)
    a.turn()
    child = max(prototypes())
    if unread:
        os.kill(child, signal.SIGSTOP)
        a.connect(HOME, 10)
        a.turn()
    os.kill(child, signal.SIGKILL)
    _await(lambda: not prototypes())
    a.connect(HOME, 11)  # something is said before anything is read
    until(lambda: told(a, "failed"), a)
    ((_, why),) = told(a, "failed")
    assert why == "datagrams:Datagrams: its process was killed by signal 9"
    a.shut()


# ---- what cannot be had ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "how", "why"),
    [
        ("nosuch.mod:Mine", "", "there is no module nosuch, neither installed nor in "),
        ("broken:Mine", "", f"module broken ({ROOT}/tests/classes/broken.py) has no Mine"),
        ("broken:function", "", "function is no class, but <function function"),
        ("broken:Unrelated", "", "Unrelated is no subclass of hooker.Transport"),
        ("broken:Silent", "", "Silent has no method send()"),
        ("broken:Large", "", "max_message is no number from 1200 to 65000"),
        ("broken:Broken", "import", "ValueError: on purpose (broken.py:"),
        ("broken:Broken", "init", "ValueError: on purpose (broken.py:"),
    ],
)
def test_what_is_wrong_with_a_class_is_one_line(
    name: str, how: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOKER_TEST_BREAK", how)
    with pytest.raises(PrototypeError) as error:
        lone(name)
    assert str(error.value).startswith(f"{name}: {why}")
    assert "\n" not in str(error.value)


def test_a_port_that_is_taken_is_an_os_error() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other:
        other.bind(("::", 0))
        with pytest.raises(OSError, match="in use"):
            lone("datagrams:Datagrams", other.getsockname()[1])


def test_open_that_raises_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOKER_TEST_BREAK", "open")
    with pytest.raises(OSError):
        lone("broken:Broken")


def test_a_key_does_not_go_with_it() -> None:
    with pytest.raises(ConfigurationError, match="a key does not go with it"):
        lone("datagrams:Datagrams", keys=(bytes(32),))


def test_names_of_classes_and_of_transports() -> None:
    (one, other) = transports.choose("datagrams:Datagrams,vtl").taken
    assert (one.wire_id, one.place, other.name) == (13, "datagrams:Datagrams", "vtl")
    assert str(one) == "datagrams:Datagrams"
    for wrong in ("vtl:Mine", "a.b:", ":Mine", "a b:Mine", "a:b:c", "a/b:Mine", "1a:Mine", "a:Mine=1"):
        with pytest.raises(ConfigurationError):
            transports.choose(wrong)
    with pytest.raises(ConfigurationError, match="'a:B' and 'c:D' have one number, 13: an engine has one"):
        transports.choose("a:B,c:D")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user's file")
@pytest.mark.parametrize("what", ["file", "directory", "writable"])
def test_what_another_user_could_have_written_is_not_imported(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = tmp_path / "proof"
    (tmp_path / "classes").mkdir()
    file = tmp_path / "classes" / "theirs.py"
    file.write_text(f"open({str(proof)!r}, 'w')\n")
    if what == "writable":
        (tmp_path / "classes").chmod(0o777)
    else:
        os.chown(file if what == "file" else file.parent, 12345, 12345)
    monkeypatch.setenv("HOOKER_PATH", str(tmp_path / "classes"))
    with pytest.raises(PrototypeError, match="user"):
        lone("theirs:Mine")
    assert not proof.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user's file")
@pytest.mark.parametrize("what", ["cache", "compiled", "imported"])
def test_nor_is_what_stands_for_it_or_what_it_imports(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python runs a compiled file in a module's place if date and size are right."""
    proof = tmp_path / "proof"
    directory = tmp_path / "classes"
    (directory / "__pycache__").mkdir(parents=True)
    (directory / "mine.py").write_text("import more\n" if what == "imported" else " " * 60)
    theirs = f"open({str(proof)!r}, 'w')\n"
    (directory / "more.py").write_text(theirs)
    if what == "imported":
        os.chown(directory / "more.py", 12345, 12345)
    else:
        info = (directory / "mine.py").stat()
        code = compile(theirs, str(directory / "mine.py"), "exec")
        file = Path(importlib.util.cache_from_source(str(directory / "mine.py")))
        stamp = int(info.st_mtime).to_bytes(4, "little") + info.st_size.to_bytes(4, "little")
        file.write_bytes(importlib.util.MAGIC_NUMBER + bytes(4) + stamp + marshal.dumps(code))
        if what == "cache":
            (directory / "__pycache__").chmod(0o777)
        else:
            os.chown(file, 12345, 12345)
    monkeypatch.setenv("HOOKER_PATH", str(directory))
    with pytest.raises(PrototypeError, match="user"):
        lone("mine:Mine")
    assert not proof.exists()


@pytest.mark.skipif("xxsubtype" not in sys.builtin_module_names, reason="needs one that nobody has imported")
def test_what_is_built_in_is_not_taken_from_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "xxsubtype.py").write_text("raise ValueError('from a directory')\n")
    (tmp_path / "mine.py").write_text("import xxsubtype\n")
    monkeypatch.setenv("HOOKER_PATH", str(tmp_path))
    with pytest.raises(PrototypeError, match="has no Mine"):
        lone("mine:Mine")


OPENS = """import hooker, os, socket
HOW = os.environ["HOOKER_TEST_BREAK"]
class Mine(hooker.Transport):
    def open(self, port):
        if HOW == "resolver":
            raise socket.gaierror(-2, "Name or service not known")
        if HOW == "words":
            raise OSError("the pigeons are asleep")
        if HOW == "text":
            raise OSError("abc", "x")
        if HOW == "huge":
            raise OSError(1 << 40, "x")
        if HOW == "true":
            return True
        print("here I am")
        made = self.socket()
        made.bind(("::", port))
        return made.getsockname()[1]
    def send(self, peer, message):
        peer = {"name": ("nosuch", 5), "port": (peer[0], 1 << 16), "letters": (peer[0], "5")}.get(HOW, peer)
        what = {"string": "text", "number": 7}.get(HOW, message)
        try:
            self.deliver(peer, what)
        except (ValueError, TypeError) as error:
            raise RuntimeError(f"caught {type(error).__name__}")
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    (tmp_path / "mine.py").write_text(OPENS)
    monkeypatch.setenv("HOOKER_PATH", str(tmp_path))
    monkeypatch.setenv("HOOKER_TEST_BREAK", request.param)


@pytest.mark.parametrize(
    ("mine", "why"),
    [
        ("resolver", "gaierror: [Errno -2] Name or service not known (mine.py:6, in open)"),
        ("words", "OSError: the pigeons are asleep (mine.py:8, in open)"),
        ("text", "OSError: [Errno abc] x (mine.py:10, in open)"),
        ("huge", f"OSError: [Errno {1 << 40}] x (mine.py:12, in open)"),
        ("true", "TypeError: open() has given True, which is no port"),
    ],
    indirect=["mine"],
)
def test_what_open_raises_is_told_as_it_was_said(mine: None, why: str) -> None:
    with pytest.raises(OSError, match=re.escape(f"mine:Mine: {why}")):
        lone("mine:Mine")


@pytest.mark.parametrize(
    ("mine", "error"),
    [
        ("name", "ValueError"),
        ("port", "ValueError"),
        ("letters", "ValueError"),
        ("string", "TypeError"),
        ("number", "TypeError"),
    ],
    indirect=["mine"],
)
def test_what_cannot_be_delivered_is_refused_there(mine: None, error: str) -> None:
    """The class can catch it, and it is told whose line it was."""
    a = lone("mine:Mine")
    a.connect(HOME, 9)
    until(lambda: told(a, "failed"), a)
    ((_, why),) = told(a, "failed")
    assert why.startswith(f"mine:Mine: RuntimeError: caught {error} (mine.py:")
    a.shut()


@pytest.mark.parametrize("mine", ["prints"], indirect=True)
def test_what_it_prints_is_seen_at_once(mine: None, capfd: pytest.CaptureFixture[str]) -> None:
    """Its process may be killed, with all that it has not written yet."""
    a = lone("mine:Mine")
    _await(lambda: "here I am" in capfd.readouterr().err)
    a.shut()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_its_process_keeps_three_capabilities() -> None:
    a = lone("datagrams:Datagrams")
    child = max(prototypes(), key=lambda pid: not _descendants(pid))
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{child}/status").read_text().splitlines())
    assert {status[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {
        f"{1 << 10 | 1 << 12 | 1 << 13:016x}"
    }
    assert status["NoNewPrivs"] == "1"
    kinds = [str(fd.readlink()).split(":")[0] for fd in Path(f"/proc/{child}/fd").iterdir()]
    assert kinds.count("socket") <= 4  # the link, its own, the loop's pair
    a.shut()
