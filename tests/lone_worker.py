"""A worker whose kernel is the test: events go into its ring by the programs' own bpf/events.h."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import socket
import threading
import time
from functools import cache
from typing import Any

from hooker._fastpath import Worker
from hooker.control import bpf_calls
from hooker.control.compiled import Module, compiled, source
from hooker.control.loaded import Loaded
from hooker.engine.layout import layout
from hooker.engine.slots import fill_free

SLOTS = 64
EVENT = layout()["hk_event"]
RECORD = layout()["hk_flow"]
TEST_RUN, POP = 10, 21  # enum bpf_cmd
SIZES = {"type": 4, "slot": 4, "flow_id": 8, "client_nonce": 8, "snd_nxt": 4, "rcv_nxt": 4, "role": 1}
SIZES |= {"snd_wnd": 4, "snd_wscale": 1, "tcp_options": 1}

PROGRAM = f"""
#include <uapi/linux/bpf.h>
{source("hooker_kern_user.h")}
#define PAGE_SIZE {mmap.PAGESIZE}
BPF_RINGBUF_OUTPUT(hk_events, PAGES);
BPF_F_TABLE("array", u32, struct hk_attention, hk_attention, 1, 1024 /* BPF_F_MMAPABLE */);
BPF_STACK(slots, u64, {SLOTS});
BPF_HASH(avoid, u64, u64, 16);
{source("events.h")}
static __always_inline int emit(struct __sk_buff *skb, int urgent) {{
    struct hk_event *e = hk_event_new(0);
    if (!e) return 1;
    if (bpf_skb_load_bytes(skb, 14, e, sizeof(*e))) {{ hk_events.ringbuf_discard(e, 0); return 1; }}
    hk_submit(e, urgent);
    return 0;
}}
int emit_urgent(struct __sk_buff *skb) {{ return emit(skb, 1); }}
int emit_lazy(struct __sk_buff *skb) {{ return emit(skb, 0); }}
"""


@cache
def _compiled(pages: int) -> Module:
    return compiled(PROGRAM, [f"-DPAGES={pages}"])


class LoneWorker:
    """A worker whose kernel is this test: events and flow records are written here.

    `pages`: of the ring, a power of two. With `asleep` it does nothing before `begin()`.
    """

    def __init__(
        self,
        stack: contextlib.ExitStack,
        flows: int = SLOTS,
        *,
        pages: int = 1,
        asleep: bool = False,
        **options: Any,
    ) -> None:
        self.bpf = stack.enter_context(Loaded(_compiled(pages)))
        self.emitters = [self.bpf.program(n, bpf_calls.SCHED_CLS) for n in ("emit_lazy", "emit_urgent")]
        self._memory = mmap.mmap(self.map("hk_attention"), mmap.PAGESIZE)
        self.attention = ctypes.c_uint32.from_buffer(self._memory)
        self.lost = ctypes.c_uint32.from_buffer(self._memory, layout()["hk_attention"]["lost"])
        self.records = (ctypes.c_uint8 * (RECORD[""] * flows))()
        # what the test sends into `device` comes out of hk0, and what goes into hk0 comes out of it
        self.device, self.hk0 = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in (self.device, self.hk0):
            end.setblocking(False)
            stack.enter_context(end)
        fill_free(self.map("slots"), SLOTS)
        chosen: dict[str, Any] = {"port": 0, "transports": (1,)} | options
        self.worker = Worker(
            ring_fd=self.map("hk_events"), ring_size=pages * mmap.PAGESIZE,
            free_fd=self.map("slots"), avoid_fd=self.map("avoid"),
            tun_fd=self.hk0.fileno(),
            records=ctypes.addressof(self.records), attention=ctypes.addressof(self.attention),
            max_flows=flows, peer_port=1, **chosen,
        )  # fmt: skip
        stack.callback(lambda: self.worker.close())  # until then what it reads stays, too
        self._stack = stack
        if not asleep:
            self.begin()

    def begin(self) -> None:
        thread = threading.Thread(target=self.worker.run)
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(self.worker.stop)

    def map(self, name: str) -> int:
        return self.bpf.map(name)

    def emit(self, urgent: bool = True, key: bytes = b"", **fields: int) -> None:
        """One event into the ring; without a key, connections of different slots have different ports."""
        packet = bytearray(14 + EVENT[""])
        at = 14 + EVENT["key"] + layout()["hk_key"]["local_port"]
        packet[at : at + 2] = (fields.get("slot", 0) & 0xFFFF).to_bytes(2, "little")
        at = 14 + EVENT["key"]
        packet[at : at + len(key)] = key
        for name, value in fields.items():
            size = SIZES[name]
            at = 14 + EVENT[name]
            packet[at : at + size] = value.to_bytes(size, "little")
        data = (ctypes.c_uint8 * len(packet)).from_buffer(packet)
        attributes = (ctypes.c_uint64 * 16)()
        attributes[0] = self.emitters[urgent]  # prog_fd, retval
        attributes[1] = len(packet)  # data_size_in, data_size_out
        attributes[2] = ctypes.addressof(data)
        libc = ctypes.CDLL(None, use_errno=True)
        done = libc.syscall(bpf_calls.SYS_BPF["x86_64"], TEST_RUN, attributes, ctypes.sizeof(attributes))
        assert done == 0, ctypes.get_errno()

    def take_slot(self) -> int:
        """What the kernel program does when a connection is established."""
        found = ctypes.c_uint64()
        popped = bpf_calls._Element(self.map("slots"), 0, 0, ctypes.addressof(found), 0)
        bpf_calls._bpf(POP, popped, "there is no free slot")
        return found.value

    def poke(self) -> None:
        """A datagram that is none makes the loop go round."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"?", ("127.0.0.1", self.worker.port))

    def flows(self) -> int:
        self.poke()
        return int(self.worker.counters()["flows"])

    def field(self, slot: int, name: str) -> int:
        """32 bits of a flow's record."""
        return ctypes.c_uint32.from_buffer(self.records, slot * RECORD[""] + RECORD[name]).value

    def say_closed(self, slot: int, closed: bool = True) -> None:
        """The flag in the record, and its event is lost; not `closed`: as the next flow's is."""
        self.records[slot * RECORD[""] + RECORD["app_closed"]] = closed
        self.lost.value += closed


def wait_for(condition: Any, what: str, limit: float = 20) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
