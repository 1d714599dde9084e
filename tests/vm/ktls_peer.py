"""A program that turns kernel TLS on in mid-connection: ``ktls_peer.py serve|connect ADDRESS PORT``

First some plain lines each way, so that the connection is well under way; then both ends switch to kTLS with
a fixed key, and the client sends a stream that begins every 64 bytes with MARKER. One JSON line at the end.
A kernel that refuses kTLS on this socket is reported, and nothing more is sent. ``--blocking`` leaves the
sockets blocking, ``--lines`` says how many plain lines come first.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import select
import socket
import struct
from typing import Any

SOL_TCP, TCP_ULP = 6, 31
SOL_TLS, TLS_TX, TLS_RX = 282, 1, 2
TLS_1_2, AES_GCM_128 = 0x0303, 51  # linux/tls.h
KEYS = (bytes(range(16)), bytes(range(16, 32)))  # client to server, server to client
MARKER = b"plaintext that must never be seen on a wire"
BLOCK = (MARKER.ljust(63, b".") + b"\n") * 256
PLAIN = b"a line of the part that is plain".ljust(99) + b"\n"


def crypto(key: bytes) -> bytes:
    """struct tls12_crypto_info_aes_gcm_128: iv, key, salt, sequence number."""
    return struct.pack("HH", TLS_1_2, AES_GCM_128) + bytes(8) + key + b"salt" + bytes(8)


class Refused(Exception):
    """The kernel does not give kTLS to this socket."""


def secure(sock: socket.socket, sending: bytes, receiving: bytes) -> None:
    steps = (
        (SOL_TCP, TCP_ULP, b"tls"),
        (SOL_TLS, TLS_TX, crypto(sending)),
        (SOL_TLS, TLS_RX, crypto(receiving)),
    )
    for name, step in zip(("TCP_ULP", "TLS_TX", "TLS_RX"), steps, strict=True):
        try:
            sock.setsockopt(*step)
        except OSError as error:
            raise Refused(f"{name}: {errno.errorcode[error.errno or 0]}") from None


class Stream:
    """Whole sends and receives on a socket of either kind."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def wait(self, events: int) -> None:
        poll = select.poll()
        poll.register(self.sock, events)
        if not poll.poll(60000):
            raise TimeoutError("nothing happened for a minute")

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self.sock.send(view) :]
            except BlockingIOError:
                self.wait(select.POLLOUT)

    def some(self) -> bytes:
        while True:
            self.wait(select.POLLIN)
            try:
                return self.sock.recv(65536)
            except BlockingIOError:
                continue

    def receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.sock.recv(size - len(data)) if self.sock.getblocking() else self.some()
            if not part:
                raise EOFError(f"the end after {len(data)} of {size} bytes")
            data += part
        return data


def talk(stream: Stream, client: bool, blocks: int, lines: int) -> dict[str, Any]:
    for _ in range(lines):  # one after the other
        for mine in (client, not client):
            if mine:
                stream.send(PLAIN)
            elif stream.receive(len(PLAIN)) != PLAIN:
                raise ValueError("a plain line is wrong")
    secure(stream.sock, *(KEYS if client else KEYS[::-1]))
    digest, wanted = hashlib.sha256(), hashlib.sha256(BLOCK * blocks)
    if client:
        for _ in range(blocks):
            stream.send(BLOCK)
        answer = stream.receive(32)
        return {"ok": answer == wanted.digest()}
    left = len(BLOCK) * blocks
    while left:
        part = stream.receive(min(left, 16384))
        digest.update(part)
        left -= len(part)
    stream.send(digest.digest())
    return {"ok": digest.digest() == wanted.digest()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["serve", "connect"])
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--blocking", action="store_true")
    parser.add_argument("--blocks", type=int, default=64)
    parser.add_argument("--lines", type=int, default=40)
    args = parser.parse_args()
    if args.role == "serve":
        with socket.create_server((args.address, args.port)) as listener:
            listener.settimeout(60)
            sock, _ = listener.accept()
    else:
        sock = socket.create_connection((args.address, args.port), timeout=60)
    sock.settimeout(None)
    sock.setblocking(args.blocking)
    try:
        result = talk(Stream(sock), args.role == "connect", args.blocks, args.lines)
    except Refused as refusal:
        result = {"ok": False, "refused": str(refusal)}
    except Exception as error:
        result = {"ok": False, "error": repr(error)}
    print(json.dumps(result), flush=True)
    sock.close()


if __name__ == "__main__":
    main()
