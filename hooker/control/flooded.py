"""Whether a host is flooded, by how much its engine refuses. Knows no clock and asks nobody: it is told.

On above ON a second for RISE, off below OFF for REST: one who floods in bursts, or just about as much, does
not make it go up and down with every packet.
"""

from __future__ import annotations

ON, OFF = 5_000.0, 1_000.0  # refused a second; what a flood costs at 20,000: docs/ingress.md
RISE, REST = 2.0, 10.0  # s
LEAST = 0.5  # s: a rate is of no less


class Flooded:
    """Attribute ``on``: whether it is."""

    def __init__(self) -> None:
        self.on = False
        self._count, self._at = -1, 0.0  # as last told; -1: never
        self._since = 0.0  # of what says that it has changed

    def hear(self, refused: int, now: float) -> bool:
        """``refused``: how many so far; ``now``: seconds. Whether it is flooded."""
        if self._count < 0 or refused < self._count:  # another engine's
            self._count, self._at, self._since = refused, now, now
            return self.on
        if now - self._at < LEAST:
            return self.on
        rate = (refused - self._count) / (now - self._at)
        stays = rate >= OFF if self.on else rate < ON
        if stays:
            self._since = now
        elif now - self._since >= (REST if self.on else RISE):
            self.on, self._since = not self.on, now
        self._count, self._at = refused, now
        return self.on
