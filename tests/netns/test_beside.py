"""hk_ingress and other XDP programs on one interface, by libxdp's dispatcher: both run, and none stays."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from apart import FakeWorker, add_veth, apart, attached
from support import PLAIN, SLOWNESS, eventually

from hooker.control import bpf_calls, dispatcher, libxdp
from hooker.control.elf import object_file
from hooker.control.interfaces import BESIDE, Interfaces
from hooker.control.janitor import Janitor
from hooker.errors import ConfigurationError

PASS = struct.pack("BBhi", 0xB7, 0, 0, 2) + struct.pack("BBhi", 0x95, 0, 0, 0)  # r0 = XDP_PASS; exit
FIRST = "someone_elses"
NATIVE, GENERIC = 1, 2  # enum xdp_attach_mode
MODES = {NATIVE: "native", GENERIC: "generic"}
NEW_MOUNTS, PRIVATE, RECURSIVE = 0x20000, 1 << 18, 1 << 14  # linux/sched.h, sys/mount.h
PINNED = Path("/sys/fs/bpf/xdp")
PORT = 6253

# A first program, and with it the dispatcher.
LOADS = f"""
import ctypes, sys
from hooker.control import libxdp
from hooker.control.elf import object_file
content = object_file({FIRST!r}, bytes.fromhex({PASS.hex()!r}), "GPL")
lib = libxdp._Libxdp()
made = lib.pointer("bpf_object__open_mem", content, ctypes.c_size_t(len(content)), None)
program = lib.pointer("xdp_program__from_bpf_obj", ctypes.c_void_p(made), libxdp.SECTION.encode())
lib.call("xdp_program__attach", ctypes.c_void_p(program), int(sys.argv[1]), int(sys.argv[2]), 0)
"""
ASKS = """
import ctypes, sys
from hooker.control import libxdp
lib = libxdp._Libxdp()
try:
    there = lib.pointer("xdp_multiprog__get_from_ifindex", int(sys.argv[1]))
except libxdp.Refused:
    sys.exit(0)
"""
CALLED = "print(*(lib.name_of(one) for one in lib.programs(there)))"
DETACHED = "lib.call('xdp_multiprog__detach', ctypes.c_void_p(there))"
# An engine's part of it, until it is killed.
OWNS = f"""
import sys, time
sys.path[:0] = {[str(Path(__file__).parents[1])]}
from apart import FakeWorker
from hooker.control.interfaces import Interfaces
from hooker.control.janitor import Janitor
with Janitor() as keeper, Interfaces(("one",), FakeWorker("udp"), keeper) as there:
    print(there.rows()[0]["why"], flush=True)
    time.sleep(600)
"""

pytestmark = [pytest.mark.timeout(120), pytest.mark.skipif(PLAIN, reason="needs kernel programs")]


def shared(test: Callable[[], None], *, mounted: bool = True) -> None:
    """Apart, with a BPF filesystem of its own."""

    def body() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(NEW_MOUNTS) == 0
        assert libc.mount(b"none", b"/", None, RECURSIVE | PRIVATE, None) == 0
        kind = b"bpf" if mounted else b"tmpfs"
        assert libc.mount(kind, b"/sys/fs/bpf", kind, 0, None) == 0
        add_veth()
        test()

    apart(body)


def first(name: str, mode: int = NATIVE) -> None:
    """Skips where the kernel takes no program that is called by another one (BPF_PROG_TYPE_EXT)."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", LOADS, str(socket.if_nametoindex(name)), str(mode)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if not dispatcher.is_on(socket.if_nametoindex(name)):  # libxdp goes on without
        pytest.skip("this kernel refuses programs that replace a function of another one")


def asked(script: str, name: str) -> str:
    """What it prints, in a process of its own: libxdp keeps descriptors of what it has looked at."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", ASKS + script, str(socket.if_nametoindex(name))],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def called(name: str) -> list[str]:
    """The programs there, by name; someone else's first."""
    return sorted(asked(CALLED, name).split(), reverse=True)


def pins() -> int:
    return sum(1 for _ in PINNED.glob("*/prog*-prog"))


def open_on(keeper: Janitor, *wanted: str) -> Interfaces:
    return Interfaces(wanted, cast(Any, FakeWorker("udp")), keeper)


def garbage() -> None:
    """From the veth's other end to its own, as frames: VTL's port, and nothing of ours."""
    payload = b"\x28" + bytes(99)
    udp = struct.pack("!HHHH", 1, PORT, 8 + len(payload), 0) + payload
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, bytes(4), bytes([10, 99, 0, 1])
    )
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + head[12:]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind(("two", 0))
        out.send(b"\xff" * 6 + bytes(6) + b"\x08\x00" + head + udp)


@pytest.mark.parametrize("mode", [NATIVE, GENERIC])
def test_both_are_called_and_ours_goes(mode: int) -> None:
    def test() -> None:
        first("one", mode)
        before = attached("one")
        with Janitor() as keeper:
            with open_on(keeper, "one", "two") as interfaces:
                one, two = interfaces.rows()
                assert (one["mode"], one["why"]) == (MODES[mode], BESIDE)
                assert (two["mode"], two["why"]) == ("native", "")
                assert attached("one") != before
                names = called("one")
                assert len(names) == 2
                assert names[0] == FIRST
                assert names[1].startswith("hooker_")
                met = sum(interfaces.counters().values())
                garbage()
                eventually(lambda: sum(interfaces.counters().values()) > met)
            assert called("one") == [FIRST]
            assert not attached("two")
            assert pins() == 1

    shared(test)


def test_two_engines_are_there_at_a_time() -> None:
    def test() -> None:
        first("one")
        with Janitor() as keeper:
            with open_on(keeper, "one"), open_on(keeper, "one"):
                assert len(called("one")) == 3
            assert called("one") == [FIRST]

    shared(test)


def test_a_kill_leaves_only_the_others() -> None:
    def test() -> None:
        first("one")
        owner = subprocess.Popen([sys.executable, "-P", "-c", OWNS], stdout=subprocess.PIPE, text=True)
        try:
            assert owner.stdout
            assert owner.stdout.readline().strip() == BESIDE
            assert len(called("one")) == 2
        finally:
            os.kill(owner.pid, signal.SIGKILL)
            owner.wait()
        eventually(lambda: called("one") == [FIRST], 20 * SLOWNESS)
        assert pins() == 1

    shared(test)


def test_it_goes_with_the_interface() -> None:
    from pyroute2 import IPRoute

    def test() -> None:
        first("one")
        with Janitor() as keeper, open_on(keeper, "one") as interfaces:
            with IPRoute() as netlink:
                netlink.link("del", ifname="one")
            eventually(lambda: interfaces.rows()[0]["why"] == "there is no interface one", 20 * SLOWNESS)
            assert pins() == 0
            add_veth()
            eventually(lambda: interfaces.rows()[0]["mode"] == "native", 20 * SLOWNESS)
            assert interfaces.rows()[0]["why"] == ""
        assert not attached("one")

    shared(test)


def test_a_dispatcher_that_is_taken_off_takes_ours_with_it() -> None:
    def test() -> None:
        first("one")
        with Janitor() as keeper, open_on(keeper, "one") as interfaces:
            asked(DETACHED, "one")
            eventually(lambda: interfaces.rows()[0]["why"] == "", 20 * SLOWNESS)
            assert interfaces.rows()[0]["mode"] == "native"
            assert not called("one")

    shared(test)


def test_the_mode_is_the_dispatchers() -> None:
    def test() -> None:
        first("one", GENERIC)
        with Janitor() as keeper:
            with pytest.raises(ConfigurationError, match=r"dispatcher in generic mode \(name one:generic"):
                open_on(keeper, "one:native")
            assert called("one") == [FIRST]
            with open_on(keeper, "one:auto") as interfaces:
                assert interfaces.rows()[0]["mode"] == ""
                assert called("one") == [FIRST]

    shared(test)


def test_what_libxdp_refuses_is_one_line() -> None:
    def test() -> None:
        first("one")
        os.environ["LIBXDP_SKIP_DISPATCHER"] = "1"  # nobody's, here: it is not handed on
        try:
            with Janitor() as keeper, open_on(keeper, "one"):
                assert len(called("one")) == 2
        finally:
            del os.environ["LIBXDP_SKIP_DISPATCHER"]
        libc = ctypes.CDLL(None)
        assert libc.umount2(b"/sys/fs/bpf", 2) == 0
        assert libc.mount(b"tmpfs", b"/sys/fs/bpf", b"tmpfs", 0, None) == 0
        with (
            Janitor() as keeper,
            pytest.raises(ConfigurationError, match="has other XDP programs: cannot") as raised,
        ):
            open_on(keeper, "one")
        assert "\n" not in str(raised.value)

    shared(test)


def test_no_dispatcher_is_none_of_ours() -> None:
    def test() -> None:
        assert dispatcher.is_on(socket.if_nametoindex("one")) == ""
        assert dispatcher.is_on(1 << 20) == ""
        link = bpf_calls.link_xdp(
            bpf_calls.load_program("others", bpf_calls.XDP, PASS, "GPL", bpf_calls.XDP_ATTACH, 0, 0),
            socket.if_nametoindex("one"),
            bpf_calls.XDP_NATIVE,
        )
        assert dispatcher.is_on(socket.if_nametoindex("one")) == ""
        os.close(link)

    shared(test, mounted=False)


def test_an_object_file_is_what_libbpf_takes() -> None:
    """Its function has a type, and it is found by its section."""
    content = object_file("hooker_12345678", PASS, "GPL")
    lib = libxdp._Libxdp()
    made = lib.pointer("bpf_object__open_mem", content, ctypes.c_size_t(len(content)), None)
    program = lib.pointer("xdp_program__from_bpf_obj", ctypes.c_void_p(made), libxdp.SECTION.encode())
    assert lib.name_of(program) == "hooker_12345678"
    lib._xdp.xdp_program__close(ctypes.c_void_p(program))
    for at in range(0, len(content), 97):  # what is cut is refused, not read beyond
        with pytest.raises(libxdp.Refused):
            lib.pointer("bpf_object__open_mem", content[:at], ctypes.c_size_t(at), None)
