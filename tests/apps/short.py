"""Short connections: ``short.py serve ADDRESS PORT [defer] [device=NAME] [backlog=N] [slow=S]`` and
``short.py get ADDRESS PORT COUNT REQUEST ANSWER [THREADS]``

One request and one answer each, and an end in order. Every byte is checked at both ends: a request says its
number and the sizes, and the rest of both follows from the number. The client prints a JSON line: connections
that were right, errors by name, and the times (s) until connect() and from there to the end.
"""

from __future__ import annotations

import errno
import hashlib
import json
import socket
import struct
import sys
import threading
import time

HEAD = struct.Struct("!QII")
PATIENCE = 40.0  # s that a connection may take


def body(number: int, direction: int, size: int) -> bytes:
    """Bytes of which no two connections or directions have the same."""
    block = hashlib.sha256(HEAD.pack(number, direction, 0)).digest()
    return (block * (size // len(block) + 1))[:size]


def take(sock: socket.socket, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        part = sock.recv(min(1 << 16, size - len(got)))
        if not part:
            raise EOFError(f"{len(got)} of {size} bytes")
        got += part
    return bytes(got)


def answer(sock: socket.socket) -> None:
    with sock:
        sock.settimeout(PATIENCE)
        try:
            number, request, size = HEAD.unpack(take(sock, HEAD.size))
            assert take(sock, request) == body(number, 0, request), "a wrong byte in a request"
            sock.sendall(body(number, 1, size))
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b"", "more than the request"
        except (OSError, EOFError) as error:
            print(f"server: {error!r}", file=sys.stderr, flush=True)


def serve(address: str, port: int, options: dict[str, str]) -> None:
    """Until it is killed."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if "defer" in options:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
    if "device" in options:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, options["device"].encode())
    sock.bind((address, port))
    sock.listen(int(options.get("backlog", "256")))
    print("listening", flush=True)
    while True:
        time.sleep(float(options.get("slow", "0")))
        threading.Thread(target=answer, args=(sock.accept()[0],), daemon=True).start()


class Client:
    def __init__(self, address: str, port: int, request: int, size: int) -> None:
        self.address, self.port, self.request, self.size = address, port, request, size
        self.right, self.errors, self.times = 0, {}, []  # type: ignore[var-annotated]
        self.lock = threading.Lock()

    def get(self, number: int) -> None:
        begun = time.monotonic()
        try:
            with socket.create_connection((self.address, self.port), PATIENCE) as sock:
                connected = time.monotonic()
                sock.sendall(HEAD.pack(number, self.request, self.size) + body(number, 0, self.request))
                right = take(sock, self.size) == body(number, 1, self.size) and sock.recv(1) == b""
            name = "" if right else "wrong bytes"
        except (OSError, EOFError) as error:
            name = errno.errorcode.get(getattr(error, "errno", 0) or 0, repr(error))
            connected = begun
        ended = time.monotonic()
        with self.lock:
            self.right += not name
            self.times.append((connected - begun, ended - connected))
            if name:
                self.errors[name] = self.errors.get(name, 0) + 1

    def some(self, numbers: range) -> None:
        for number in numbers:
            self.get(number)


def get(address: str, port: int, count: int, request: int, size: int, threads: int = 1) -> None:
    client = Client(address, port, request, size)
    workers = [
        threading.Thread(target=client.some, args=(range(i + 1, count + 1, threads),)) for i in range(threads)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(json.dumps({"right": client.right, "errors": client.errors, "times": client.times}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]), dict(x.partition("=")[::2] for x in sys.argv[4:]))
    else:
        get(sys.argv[2], int(sys.argv[3]), *(int(x) for x in sys.argv[4:]))
