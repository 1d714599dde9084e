"""The first segment of a connection, when its event is behind others."""

from __future__ import annotations

import contextlib
import socket
import struct

from by_hand import checksum
from lone_worker import LoneWorker, wait_for

ESTABLISHED, NOTHING = 2, 0
SERVER = 2
WANT_LEFT = 3
EVENTS_A_ROUND = 4096  # hooker/engine/kernel.pyx
LOCAL, REMOTE = ("127.0.0.1", 7), ("127.0.0.2", 4000)  # nobody is there
MAPPED = b"\0" * 10 + b"\xff\xff"
NEEDS_CSUM = 1
VNET_HEADER = struct.pack("=BBHHHH", NEEDS_CSUM, 0, 0, 0, 20, 16)  # from byte 20 on, to byte 16 behind


def key() -> bytes:
    ends = b"".join(MAPPED + socket.inet_aton(address) for address, _ in (LOCAL, REMOTE))
    return ends + struct.pack("<HH", LOCAL[1], REMOTE[1])


def segment(seq: int, ack: int) -> bytes:
    """A bare ACK, as it comes out of hk0: the kernel has left the TCP checksum to the device."""
    ends = socket.inet_aton(LOCAL[0]) + socket.inet_aton(REMOTE[0])
    tcp = struct.pack("!HHIIBBHHH", LOCAL[1], REMOTE[1], seq, ack, 5 << 4, 0x10, 512, 0, 0)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, 6, 0)
    return VNET_HEADER + head[:10] + struct.pack("!H", checksum(head + ends)) + ends + tcp


def test_it_is_not_taken_for_one_of_the_connection_before_with_the_same_ports() -> None:
    """The old socket's record says that it is closed; the new one's event is not read in this round."""
    with contextlib.ExitStack() as stack:
        lone = LoneWorker(stack, pages=256, asleep=True)
        old, new = lone.take_slot(), lone.take_slot()
        for number, (identity, isn) in enumerate(((old, 1000), (new, 9000))):
            lone.emit(
                type=ESTABLISHED, slot=identity & 0xFFFFFFFF, flow_id=identity, client_nonce=7 + number,
                role=SERVER, snd_nxt=isn + 1, rcv_nxt=isn + 501, key=key(),
            )  # fmt: skip
            for _ in range(0 if number else EVENTS_A_ROUND - 1):
                lone.emit(type=NOTHING)
        lone.say_closed(old & 0xFFFFFFFF)
        lone.device.send(segment(9001, 9501))
        lone.begin()
        wait_for(lambda: lone.worker.counters()["segments_bridged"], "the segment did not come")
        assert lone.field(new & 0xFFFFFFFF, "want") == WANT_LEFT  # it is not engaged, so its mark must go
        assert lone.field(old & 0xFFFFFFFF, "want") == 0
