"""Slots of the flow table: one flow each, however its end is noticed."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hooker import bpf_calls
from hooker._fastpath import Worker
from hooker.flowtable import fill_free
from hooker.kernel import import_bcc
from hooker.layout import layout

SLOTS = 64
RING = 4096  # bytes
EVENT = layout()["hk_event"]
RECORD = layout()["hk_flow"]
ESTABLISHED, CLOSED = 2, 3
SERVER = 2
TEST_RUN = 10  # enum bpf_cmd

PROGRAM = f"""
#include <uapi/linux/bpf.h>
#define PAGE_SIZE 4096
BPF_RINGBUF_OUTPUT(ring, 1);
BPF_STACK(slots, u64, {SLOTS});
BPF_HASH(avoid, u64, u64, 16);
int emit(struct __sk_buff *skb) {{
    void *e = ring.ringbuf_reserve({EVENT[""]});
    if (!e) return 1;
    if (bpf_skb_load_bytes(skb, 14, e, {EVENT[""]})) {{ ring.ringbuf_discard(e, 0); return 1; }}
    ring.ringbuf_submit(e, 0);
    return 0;
}}
"""


class Engine:
    """A worker whose kernel is this test: events and flow records are written here."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        bcc = import_bcc()
        self.bpf = bcc.BPF(text=PROGRAM.encode())
        self.emitter = self.bpf.load_func(b"emit", bcc.BPF.SCHED_CLS).fd
        self.attention = ctypes.c_uint64()
        self.records = (ctypes.c_uint8 * (RECORD[""] * SLOTS))()
        pair = socket.socketpair()
        for end in pair:
            stack.enter_context(end)
        fill_free(self.map("slots"), SLOTS)
        self.worker = Worker(
            ring_fd=self.map("ring"), ring_size=RING, free_fd=self.map("slots"), avoid_fd=self.map("avoid"),
            sockets_fd=-1, adopt_fd=-1, redirect_fd=pair[0].fileno(),
            records=ctypes.addressof(self.records), attention=ctypes.addressof(self.attention),
            max_flows=SLOTS, port=0, peer_port=1, transport=1, hold_time=0.3,
        )  # fmt: skip
        stack.callback(self.worker.close)
        thread = threading.Thread(target=self.worker.run)
        thread.start()
        stack.callback(thread.join)
        stack.callback(self.worker.stop)

    def map(self, name: str) -> int:
        return int(import_bcc().lib.bpf_table_fd(self.bpf.module, name.encode()))

    def emit(self, **fields: int) -> None:
        """One event into the ring."""
        packet = bytearray(14 + EVENT[""])
        for name, value in fields.items():
            size = {"type": 4, "slot": 4, "flow_id": 8, "client_nonce": 8, "role": 1}[name]
            at = 14 + EVENT[name]
            packet[at : at + size] = value.to_bytes(size, "little")
        data = (ctypes.c_uint8 * len(packet)).from_buffer(packet)
        attributes = (ctypes.c_uint64 * 16)()
        attributes[0] = self.emitter  # prog_fd, retval
        attributes[1] = len(packet)  # data_size_in, data_size_out
        attributes[2] = ctypes.addressof(data)
        libc = ctypes.CDLL(None, use_errno=True)
        done = libc.syscall(bpf_calls.SYS_BPF["x86_64"], TEST_RUN, attributes, ctypes.sizeof(attributes))
        assert done == 0, ctypes.get_errno()

    def take_slot(self) -> int:
        """What the kernel program does when a connection is established."""
        return int(self.bpf[b"slots"].pop().value)

    def poke(self) -> None:
        """A datagram that is none makes the loop go round."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"?", ("127.0.0.1", self.worker.port))

    def flows(self) -> int:
        self.poke()
        return int(self.worker.counters()["flows"])

    def say_closed(self, slot: int) -> None:
        """The flag in the record, which comes before the event."""
        self.records[slot * RECORD[""] + RECORD["app_closed"]] = 1


@pytest.fixture
def engine() -> Iterator[Engine]:
    with contextlib.ExitStack() as stack:
        yield Engine(stack)


def wait_for(condition: Any, what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_a_slot_goes_back_once_when_the_sweep_is_faster_than_the_event(engine: Engine) -> None:
    other = engine.take_slot()  # of a flow that goes on
    identity = engine.take_slot()
    slot = identity & 0xFFFFFFFF
    engine.emit(type=ESTABLISHED, slot=slot, flow_id=identity, client_nonce=7, role=SERVER)
    wait_for(lambda: engine.flows() == 1, "no flow")
    engine.say_closed(slot)
    wait_for(lambda: engine.flows() == 0, "the sweep did not find the end")
    engine.emit(type=CLOSED, slot=slot, flow_id=identity)
    engine.emit(type=ESTABLISHED, slot=other & 0xFFFFFFFF, flow_id=other, client_nonce=8, role=SERVER)
    wait_for(lambda: engine.flows() == 1, "no flow")
    free = [engine.take_slot() for _ in range(SLOTS - 1)]
    assert len({one & 0xFFFFFFFF for one in free}) == SLOTS - 1
    assert identity + (1 << 32) in free
