"""An engine reduced to its control of the kernel programs: it marks sockets and reads their segments.

    python segments_owner.py NETNS CGROUP PORT segments|messages

Segments that come out of its device go on to the wire, unaltered. It answers each line on standard input
(JSON: a name and arguments) with one on standard output. It may be killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import select
import socket
import struct
import sys
from typing import Any

from twin_relay import MTU, raw_socket

from hooker import transports
from hooker.control import bpf_calls, netns
from hooker.control.compiler import import_bcc
from hooker.control.janitor import Janitor
from hooker.control.kernel import KernelPrograms
from hooker.control.policy import Policy
from hooker.engine.layout import layout
from hooker.engine.slots import fill_free
from hooker.engine.tun import Queue
from hooker.hooker import _redirect_socket
from hooker.tcp.fields import Segment
from hooker.tcp.sansio import build, cut, parse
from hooker.tun import Lane

SLOTS = 64
ESTABLISHED = 2  # HK_EVENT_*
RECORD, EVENT, REDIRECT = (layout()[name] for name in ("hk_flow", "hk_event", "hk_redirect"))
FRAME = struct.Struct("=QII")  # hk_frame
TEST_RUN = 10  # enum bpf_cmd
REDIRECT_WIDTH = {"mode": "I", "spills": "I", "allowed": "I"}  # the others are 64 bits
WIDTH = {
    "flow_id": "Q",
    "client_nonce": "Q",
    "server_nonce": "Q",
    "cookie": "Q",
    "peer_port": "H",
    "mss": "H",
    "role": "B",
    "transport": "B",
}
WIDTH |= {"snd_wscale": "B", "rcv_wscale": "B", "tcp_options": "B"}
KEY = layout()["hk_key"]


def fields(memory: bytes, places: dict[str, int], widths: dict[str, str]) -> dict[str, int]:
    """The numbers of a record."""
    return {
        name: struct.unpack_from(f"={widths.get(name, 'I')}", memory, at)[0]
        for name, at in places.items()
        if name not in ("", "key")
    }


class _TestRun(ctypes.Structure):
    _fields_ = [
        ("prog_fd", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("data_in", ctypes.c_uint64),
        ("rest", ctypes.c_uint8 * 104),
    ]


class Owner:
    """The programs, the device, and what has been seen."""

    def __init__(self, name: str, cgroup: str, port: int, kernel: KernelPrograms, lane: Lane) -> None:
        self.kernel, self.lane = kernel, lane
        self.queue = Queue(lane.descriptor)
        self.raw = {family: raw_socket(name, family) for family in (4, 6)}
        self.events: list[dict[str, int]] = []
        self.segments: list[dict[str, int]] = []
        fill_free(kernel.free, SLOTS)
        policy = Policy.parse(port=str(port))
        vtl = transports.get("vtl")
        netns.call(name, lambda: kernel.configure(policy, mark=lane.mark, port=6253, offers=[[vtl]]))
        self.name = name
        self.redirected = b""
        self.stack = contextlib.ExitStack()
        if kernel.redirects:
            self.redirect_socket = netns.call(name, lambda: _redirect_socket(self.stack))
            kernel.set_redirect_socket(self.redirect_socket.fileno())
        self.keys: dict[int, bytes] = {}
        self.bcc = import_bcc()
        self.heard = self.bcc.libbcc._RINGBUF_CB_TYPE(self.event)  # held as long as the ring
        self.ring = self.bcc.lib.bpf_new_ringbuf(kernel.ring, self.heard, None)
        kernel.attach(cgroup)

    def event(self, _: Any, data: int, size: int) -> int:
        memory = ctypes.string_at(data, size)
        key = memory[EVENT["key"] : EVENT["key"] + KEY[""]]
        event = {
            "local_port": struct.unpack_from("=H", key, KEY["local_port"])[0],
            **fields(memory, EVENT, WIDTH),
        }
        self.events.append(event)
        if event["type"] == ESTABLISHED:
            self.keys[event["slot"]] = key
        return 0

    def poll(self) -> None:
        self.bcc.lib.bpf_consume_ringbuf(self.ring)
        for packet in self.queue.read():
            s = parse(packet)
            self.segments.append(
                {"port": s.src_port, "seq": s.seq, "ack": s.ack, "flags": s.flags, "length": len(s.data)}
            )
            family = 4 if len(s.dst) == 4 else 6
            where = socket.inet_ntop(socket.AF_INET if family == 4 else socket.AF_INET6, s.dst)
            for piece in cut(packet, MTU):
                self.raw[family].sendto(piece, (where, 0))

    # -- commands

    def take(self, what: str) -> list[dict[str, int]]:
        found: list[dict[str, int]] = getattr(self, what)
        setattr(self, what, [])
        return found

    def record(self, slot: int) -> dict[str, int]:
        size = RECORD[""]
        return fields(ctypes.string_at(self.kernel.records + slot * size, size), RECORD, {"flow_id": "Q"})

    def want(self, slot: int, what: int) -> None:
        at = self.kernel.records + slot * RECORD[""] + RECORD["want"]
        ctypes.c_uint32.from_address(at).value = what

    def forget(self, slot: int) -> None:
        """The slot is another flow's."""
        ctypes.c_uint64.from_address(self.kernel.records + slot * RECORD[""]).value += 1 << 32

    def adopt(self, slot: int) -> int:
        """HK_ADOPT_*: the program run as the worker does it."""
        packet = ctypes.create_string_buffer(bytes(14) + self.keys[slot])
        run = _TestRun(self.kernel.adopt, 0, len(packet) - 1, 0, ctypes.addressof(packet))
        netns.call(self.name, lambda: bpf_calls._bpf(TEST_RUN, run, "cannot run hk_adopt"))
        return int(run.retval)

    def redirect_record(self, slot: int) -> dict[str, int]:
        size = REDIRECT[""]
        memory = ctypes.string_at(self.kernel.redirects + slot * size, size)
        return fields(memory, REDIRECT, dict.fromkeys(REDIRECT, "Q") | REDIRECT_WIDTH)

    def set_redirect(self, slot: int, values: dict[str, int]) -> None:
        for name, value in values.items():
            kind = ctypes.c_uint32 if name in REDIRECT_WIDTH else ctypes.c_uint64
            kind.from_address(self.kernel.redirects + slot * REDIRECT[""] + REDIRECT[name]).value = value

    def frames(self) -> list[list[Any]]:
        """Of the redirect socket, since the last time: flow id and payload (latin-1)."""
        with contextlib.suppress(BlockingIOError):
            while part := self.redirect_socket.recv(1 << 20):
                self.redirected += part
        found = []
        while len(self.redirected) >= FRAME.size:
            flow_id, length, _ = FRAME.unpack_from(self.redirected)
            end = FRAME.size + length
            found.append([flow_id, self.redirected[FRAME.size : end].decode("latin-1")])
            self.redirected = self.redirected[end:]
        return found

    def give_back(self, flow_id: int) -> None:
        """The slot is free again; the next flow's."""
        free = ctypes.c_uint64(flow_id)
        self.bcc.lib.bpf_update_elem(self.kernel.free, None, ctypes.byref(free), 0)

    def inject(self, src: str, dst: str, src_port: int, dst_port: int, seq: int, ack: int) -> bool:
        family = socket.AF_INET6 if ":" in src else socket.AF_INET
        ends = socket.inet_pton(family, src), socket.inet_pton(family, dst)
        return self.queue.write(build(Segment(*ends, src_port, dst_port, seq, ack, 0x10, 1000), partial=True))

    def closing(self) -> None:
        self.kernel.refuse_flows()

    def negotiate(self, ids: list[int]) -> None:
        """None: there was a class of the user's, which has failed."""
        """What is asked for as a client, in this order, and taken as a server, by HK_TRANSPORT_*."""
        self.kernel.negotiate([[transports.Transport(str(n), n, "", "", "") for n in ids]], [not ids])

    def mark(self) -> int:
        return self.lane.mark

    def device(self) -> str:
        return self.lane.device.name

    def counters(self) -> dict[str, int]:
        return self.kernel.counters()


def main(name: str, cgroup: str, port: int, kind: str) -> None:
    """Until the end of standard input."""
    with Janitor() as keeper, KernelPrograms(SLOTS, kind) as kernel:
        lane = netns.call(name, Lane(keeper, entrance=kernel.entrance).__enter__)
        owner = Owner(name, cgroup, port, kernel, lane)
        try:
            lane.install()
            print(json.dumps("ready"), flush=True)
            serve(owner)
        finally:
            owner.stack.close()
            lane.__exit__(None, None, None)


def serve(owner: Owner) -> None:
    poll = select.poll()
    poll.register(0, select.POLLIN)
    poll.register(owner.queue.descriptor, select.POLLIN)
    while True:
        ready = dict(poll.poll(1000))
        owner.poll()
        if 0 in ready:
            line = sys.stdin.buffer.raw.readline()  # type: ignore[attr-defined]
            if not line:
                return
            command, *arguments = json.loads(line)
            print(json.dumps(getattr(owner, command)(*arguments)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
