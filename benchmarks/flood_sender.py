"""Sends a flood for a time, as a host of the lab: ``flood_sender.py PROGRAM TARGET PORT SECONDS RATE``.

Prints how many packets have left. PROGRAM: ``flood``, or ``held``, and then they are made and thrown away
(flood.c). RATE is packets a second; 0: as many as one CPU can.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
import sys
import time
from pathlib import Path

from hooker.control import bpf_calls, compiled
from hooker.control.loaded import Loaded
from hooker.lab import INTERFACE

CHUNK, LEAST = 64_000, 64  # packets for one call
SIOCETHTOOL, ETHTOOL_SGRO = 0x8946, 0x2C
INIT = 128  # bytes
SOURCE = Path(__file__).with_name("flood.c")
FROM_PORT, LONGER = 40_000, 2  # FLOODS_PORT; bytes


def polled(interface: str) -> None:
    """By NAPI: a veth takes frames from its peer's XDP only so (GRO, which switches that on)."""
    value = ctypes.create_string_buffer(struct.pack("II", ETHTOOL_SGRO, 1))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(
            any_socket, SIOCETHTOOL, struct.pack("16sQ16x", interface.encode(), ctypes.addressof(value))
        )


def template(target: str, port: int, to_mac: bytes, from_mac: bytes) -> bytes:
    """One frame of it; the program changes the rest. The halves of its source add up to nothing."""
    vtl = (
        struct.pack("!BBHQQ", 0x21, 0, 0, 0, 1) + struct.pack("!BBHIQQ24xI", 1, 0, 0, 1000, 1, 1, 1)
    ).ljust(INIT, b"\0")
    udp = struct.pack("!HHHH", FROM_PORT, port, 8 + len(vtl), 0) + vtl
    head = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(udp), 0, 0x4000, 64, 17)
    to = socket.inet_aton(target)
    total = sum(struct.unpack("!5H", head)) + sum(struct.unpack("!2H", to)) + 0xFFFF
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    check = struct.pack("!H", ~total & 0xFFFF)
    return to_mac + from_mac + b"\x08\0" + head + check + b"\x0b\x00\xf4\xff" + to + udp


def neighbour(target: str) -> bytes:
    """The target's link address."""
    from pyroute2 import IPRoute

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ask, IPRoute() as netlink:
        for _ in range(50):
            ask.sendto(b"", (target, 9))
            for row in netlink.get_neighbours(dst=target):
                if row.get_attr("NDA_LLADDR"):
                    return bytes.fromhex(row.get_attr("NDA_LLADDR").replace(":", ""))
            time.sleep(0.02)
    raise RuntimeError(f"{target} does not answer")


def programs() -> compiled.Module:
    """Those of flood.c."""
    return compiled.compiled(SOURCE.read_text(), [compiled.QUIET])


def send(program: str, target: str, port: int, seconds: float, rate: float) -> int:
    """Packets that have left."""
    own = bytes.fromhex(Path(f"/sys/class/net/{INTERFACE}/address").read_text().strip().replace(":", ""))
    frame = template(target, port, neighbour(target), own)
    index = socket.if_nametoindex(INTERFACE)
    sent = 0
    with Loaded(programs()) as loaded:
        flood = loaded.program(program, bpf_calls.XDP)
        loaded.write("frames", 0, frame[: len(frame) // 8 * 8])
        began = time.monotonic()
        while (now := time.monotonic() - began) < seconds:
            due = CHUNK if rate == 0 else min(CHUNK, int(rate * now) - sent)
            if due < LEAST:
                time.sleep(0.0005)
                continue
            bpf_calls.send_frames(flood, frame + bytes(LONGER), index, due)
            sent += due
    return sent


if __name__ == "__main__":
    print(send(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5])))
