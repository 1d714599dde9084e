"""A congestion controller: adds a datagram a round trip, gives up a quarter for a loss, and paces.

From this directory, nginx and curl over VTL with it:

    sudo ../dev demo --congestion gentle:Gentle
"""

from __future__ import annotations

from hooker.vtl.congestion import Ack


class Gentle:
    def __init__(self, mss: int) -> None:
        self.mss = mss
        self.cwnd = 10 * mss  # bytes
        self.pacing_rate = 0  # bytes/s; 0: from cwnd and the round-trip time

    def on_ack(self, ack: Ack) -> None:
        if not ack.limited:
            self.cwnd += self.mss * ack.bytes // self.cwnd
        if ack.rate and not ack.app_limited:
            self.pacing_rate = 2 * ack.rate

    def on_loss(self, now: int) -> None:
        self.cwnd = max(self.cwnd * 3 // 4, 2 * self.mss)
