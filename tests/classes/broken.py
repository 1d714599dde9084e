"""A transport that misbehaves on purpose: as ``$HOOKER_TEST_BREAK`` says, from the AFTERth message on."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from typing import Any

import hooker

HOW = os.environ.get("HOOKER_TEST_BREAK", "")
AFTER = int(os.environ.get("HOOKER_TEST_AFTER", "400"))


class Unspeakable(Exception):
    """What cannot be told."""

    def __str__(self) -> str:
        raise ValueError("on purpose")


if HOW == "import":
    raise ValueError("on purpose")


class Broken(hooker.Transport):
    """One datagram a message, and what is asked for."""

    def __init__(self) -> None:
        if HOW == "init":
            raise ValueError("on purpose")
        self.count = 0
        self.random = random.Random(1)
        self.kept: list[Any] = []

    def open(self, port: int) -> int:
        if HOW == "open":
            raise ValueError("on purpose")
        self.udp = self.socket()
        if HOW == "forks":
            command = ["sh", "-c", "trap '' TERM HUP; sleep 600 & sleep 600"]
            subprocess.Popen(command, pass_fds=[self.udp.fileno()], start_new_session=True)
        self.udp.bind(("::", port))
        self.loop.add_reader(self.udp, self.receive)
        return int(self.udp.getsockname()[1])

    def send(self, peer: tuple[str, int], message: bytes) -> None:
        self.count += 1
        action = getattr(self, f"send_{HOW}", None) if self.count > AFTER else None
        for one in (message,) if action is None else action(peer, message) or ():
            self.put(peer, one)

    def put(self, peer: tuple[str, int], message: bytes) -> None:
        try:
            self.udp.sendto(message, peer)
        except OSError:
            pass

    def receive(self) -> None:
        for _ in range(64):
            try:
                message, source = self.udp.recvfrom(2048)
            except OSError:
                return
            self.count += 1
            if HOW == "receive" and self.count > AFTER:
                raise ValueError("on purpose")
            self.deliver(source[:2], message)

    # ---- what send() may do instead; what it returns is sent ----

    def send_send(self, peer: tuple[str, int], message: bytes) -> Any:
        raise ValueError("on purpose")

    def send_unspeakable(self, peer: tuple[str, int], message: bytes) -> Any:
        raise Unspeakable

    def send_null(self, peer: tuple[str, int], message: bytes) -> Any:
        raise ValueError("on\0purpose")

    def send_thread(self, peer: tuple[str, int], message: bytes) -> Any:
        threading.Thread(target=self.send_send, args=(peer, message), daemon=True).start()
        return (message,)

    def send_stalls(self, peer: tuple[str, int], message: bytes) -> Any:
        time.sleep(60)

    def send_spins(self, peer: tuple[str, int], message: bytes) -> Any:
        while True:
            pass

    def send_exits(self, peer: tuple[str, int], message: bytes) -> Any:
        os._exit(3)

    def send_quits(self, peer: tuple[str, int], message: bytes) -> Any:
        raise SystemExit(3)

    def send_killed(self, peer: tuple[str, int], message: bytes) -> Any:
        os.kill(os.getpid(), 9)

    def send_allocates(self, peer: tuple[str, int], message: bytes) -> Any:
        while True:
            self.kept.append(bytes(1 << 26))

    def send_nonsense(self, peer: tuple[str, int], message: bytes) -> Any:
        self._link._socket.send(bytes([18]) + bytes(19) + b"\xff" * 100)

    def send_floods(self, peer: tuple[str, int], message: bytes) -> Any:
        for _ in range(200_000):
            self.deliver(peer, b"no message")

    def send_loses(self, peer: tuple[str, int], message: bytes) -> Any:
        return ()

    def send_loses_large(self, peer: tuple[str, int], message: bytes) -> Any:
        return (message,) if len(message) <= 600 else ()

    def send_damages(self, peer: tuple[str, int], message: bytes) -> Any:
        return (self.damaged(message),)

    def send_damages_some(self, peer: tuple[str, int], message: bytes) -> Any:
        return (self.damaged(message) if self.random.random() < 0.002 else message,)

    def send_duplicates(self, peer: tuple[str, int], message: bytes) -> Any:
        return (message, message)

    def send_reorders(self, peer: tuple[str, int], message: bytes) -> Any:
        self.kept.append((peer, message))
        if len(self.kept) == 1:
            self.loop.call_later(0.001, self.shuffled)

    def shuffled(self) -> None:
        kept, self.kept = self.kept, []
        self.random.shuffle(kept)
        for peer, message in kept:
            self.put(peer, message)

    def damaged(self, message: bytes) -> bytes:
        at = self.random.randrange(len(message))
        return message[:at] + bytes([message[at] ^ 1 << self.random.randrange(8)]) + message[at + 1 :]


class Silent(hooker.Transport):
    """It lacks send()."""

    def open(self, port: int) -> int:
        return port


class Large(Broken):
    max_message = 1 << 20


class Other(Broken):
    """The same with another name."""


class Unrelated:
    pass


def function() -> None:
    pass
