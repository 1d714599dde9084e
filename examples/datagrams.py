"""A transport: one UDP datagram for each message. What the path loses, the applications' TCPs repair.

From this directory, both hosts made by the demo, nginx on one and curl on the other:

    sudo ../dev demo --transport datagrams:Datagrams
"""

from __future__ import annotations

import hooker

AT_ONCE = 64  # datagrams, before anything else has its turn


class Datagrams(hooker.Transport):
    max_message = 1400  # bytes; with UDP's and IPv6's headers it fits into a packet

    def open(self, port: int) -> int:
        self.udp = self.socket()
        self.udp.bind(("::", port))
        self.loop.add_reader(self.udp, self.receive)
        return int(self.udp.getsockname()[1])

    def send(self, peer: tuple[str, int], message: bytes) -> None:
        try:
            self.udp.sendto(message, peer)
        except OSError:
            pass  # no room, or no route: it is lost

    def receive(self) -> None:
        for _ in range(AT_ONCE):
            try:
                message, source = self.udp.recvfrom(2048)
            except OSError:
                return
            self.deliver(source[:2], message)
