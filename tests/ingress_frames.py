"""Frames for hk_ingress, written out by hand: Ethernet, VLANs, IPv4 and IPv6, UDP and protocol 253, VTL."""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

ETHERNET, TAG = 14, 4
OUR_MAC, THEIR_MAC = bytes.fromhex("02 00 00 00 00 01"), bytes.fromhex("02 00 00 00 00 02")
V4, V6, VLAN, SERVICE_VLAN = 0x0800, 0x86DD, 0x8100, 0x88A8
UDP, PROTOCOL_253 = 17, 253
OURS = {4: "192.0.2.1", 6: "2001:db8::1"}
THEIRS = {4: "198.51.100.7", 6: "2001:db8:7::7"}
PORT, THEIR_PORT = 6253, 40_000
LEAST_FRAME = 60


def ones(data: bytes | bytearray) -> int:
    """The ones' complement sum of 16-bit words (RFC 1071)."""
    data = bytes(data) + bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def udp(payload: bytes, source: str, to: str, *, port: int = PORT, length: int | None = None) -> bytes:
    n = 8 + len(payload) if length is None else length
    header = struct.pack("!HHHH", THEIR_PORT, port, n, 0)
    pseudo = packed(source) + packed(to) + struct.pack("!II", n, UDP)
    check = ~ones(pseudo + header + payload) & 0xFFFF or 0xFFFF
    return header[:6] + struct.pack("!H", check) + payload


def carried(payload: bytes, way: str, source: str, to: str) -> tuple[int, bytes]:
    """The IP protocol, and what follows IP's header."""
    if way == "udp":
        return UDP, udp(payload, source, to)
    return PROTOCOL_253, payload + struct.pack("!I", crc32c(payload))


def ipv4(
    protocol: int, payload: bytes, source: str = THEIRS[4], to: str = OURS[4], *, options: bytes = b"",
    fragment: int = 0, total: int | None = None, first: int | None = None, check: int | None = None,
) -> bytes:  # fmt: skip
    words = 5 + len(options) // 4
    n = 4 * words + len(payload) if total is None else total
    start = 4 << 4 | words if first is None else first
    header = struct.pack("!BBHHHBB", start, 0, n, 0, fragment, 64, protocol)
    rest = packed(source) + packed(to) + options
    due = ~ones(header + bytes(2) + rest) & 0xFFFF if check is None else check
    return header + struct.pack("!H", due) + rest + payload


def ipv6(
    protocol: int, payload: bytes, source: str = THEIRS[6], to: str = OURS[6], *,
    extensions: Sequence[tuple[int, bytes]] = (), length: int | None = None, first: int = 0x60,
) -> bytes:  # fmt: skip
    """``extensions``: the number of each header, and what is in it behind the first byte."""
    following = [number for number, _ in extensions[1:]] + [protocol]
    chain = b"".join(bytes([n]) + body for n, (_, body) in zip(following, extensions, strict=False))
    begin = extensions[0][0] if extensions else protocol
    n = len(chain) + len(payload) if length is None else length
    return struct.pack("!BBHHBB", first, 0, 0, n, begin, 64) + packed(source) + packed(to) + chain + payload


def ethernet(payload: bytes, kind: int, tags: Sequence[int] = ()) -> bytes:
    header = OUR_MAC + THEIR_MAC
    for tag in tags:
        header += struct.pack("!HH", tag, 5)
    return (header + struct.pack("!H", kind) + payload).ljust(LEAST_FRAME, b"\0")


def frame(
    vtl: bytes, way: str = "udp", family: int = 4, *, source: str = "", to: str = "", tags: Sequence[int] = ()
) -> bytes:
    source, to = source or THEIRS[family], to or OURS[family]
    protocol, payload = carried(vtl, way, source, to)
    packet = (ipv4 if family == 4 else ipv6)(protocol, payload, source, to)
    return ethernet(packet, V4 if family == 4 else V6, tags)


# ---- VTL (docs/vtl.md, 1 and 2) ------------------------------------------------------------------------


def header(kind: int, to_id: int = 0, number: int = 0, wire: int = 2) -> bytes:
    return struct.pack("!BBHQQ", wire << 4 | kind, 0, 0, to_id, number)


_numbers = itertools.count(7)


def init(
    number: int = 0, cookie: tuple[int, int, int] = (0, 0, 0), *, versions: Sequence[int] = (1,),
    size: int = 128, claimed: int | None = None,
) -> bytes:  # fmt: skip
    n = len(versions) if claimed is None else claimed
    number = number or next(_numbers)  # 0: one that was not there before
    body = struct.pack("!BBHIQQ3Q", n, 0, 0, 1000, 1 << 20, 1 << 16, *cookie)
    return (header(1, 0, number) + body + struct.pack(f"!{len(versions)}I", *versions)).ljust(size, b"\0")


def cookie(to_id: int, versions: Sequence[int] = (1,), claimed: int | None = None) -> bytes:
    n = len(versions) if claimed is None else claimed
    return header(2, to_id, 9) + struct.pack(f"!B3xQQ{len(versions)}I", n, 1, 2, *versions)


def init_ack(to_id: int, versions: Sequence[int] = (1,), claimed: int | None = None) -> bytes:
    n = len(versions) if claimed is None else claimed
    body = struct.pack(f"!IIQQBBH{len(versions)}I", 1, 1000, 1, 1, n, 0, 0, *versions)
    return header(3, to_id, 9) + body


def close(to_id: int) -> bytes:
    return header(6, to_id, 9) + struct.pack("!I", 0x10001)


def data(to_id: int, body: bytes = b"\1", kind: int = 8) -> bytes:
    return struct.pack("!BQI", 2 << 4 | kind, to_id, 5) + body


# ---- what comes back -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    family: int
    protocol: int
    source: str
    to: str
    ports: tuple[int, int]
    tags: tuple[bytes, ...]
    vtl: bytes


def read_answer(content: bytes) -> Answer:
    """A frame, of which every length and checksum is right; asserts that they are."""
    assert (content[:6], content[6:12]) == (THEIR_MAC, OUR_MAC)
    at, tags = 12, []
    while content[at : at + 2] in (VLAN.to_bytes(2, "big"), SERVICE_VLAN.to_bytes(2, "big")):
        tags.append(content[at : at + 4])
        at += 4
    kind, at = int.from_bytes(content[at : at + 2], "big"), at + 2
    ip = content[at:]
    if kind == V4:
        assert ip[0] == 0x45
        assert ones(ip[:20]) == 0xFFFF
        assert int.from_bytes(ip[2:4], "big") == len(ip)
        protocol, family, pair, payload = ip[9], 4, (ip[12:16], ip[16:20]), ip[20:]
    else:
        assert kind == V6
        assert ip[0] == 0x60
        assert int.from_bytes(ip[4:6], "big") == len(ip) - 40
        protocol, family, pair, payload = ip[6], 6, (ip[8:24], ip[24:40]), ip[40:]
    ports = (0, 0)
    if protocol == UDP:
        source, to, n, check = struct.unpack_from("!HHHH", payload)
        assert n == len(payload)
        assert check
        assert ones(pair[0] + pair[1] + struct.pack("!II", n, UDP) + payload) == 0xFFFF
        ports, vtl = (source, to), payload[8:]
    else:
        assert protocol == PROTOCOL_253
        vtl = payload[:-4]
        assert crc32c(vtl) == int.from_bytes(payload[-4:], "big")
    family_number = socket.AF_INET if family == 4 else socket.AF_INET6
    source_text, to_text = (socket.inet_ntop(family_number, one) for one in pair)
    return Answer(family, protocol, source_text, to_text, ports, tuple(tags), vtl)
