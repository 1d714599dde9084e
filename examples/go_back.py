"""A reliability function: go-back-n. Packets are taken in their order; from a lost one on all go again.

A packet says how far before it the one is that it follows, 0 if it begins a run. What the receiver drops it
answers: the last packet that it took, the first and the newest that it dropped. Then the sender begins
another run.

From this directory, nginx and curl over VTL with it:

    sudo ../dev demo --reliability go_back:GoBack
"""

from __future__ import annotations

import hooker

WINDOW = 256  # packets


class GoBack(hooker.Reliability):
    def __init__(self) -> None:
        self.run = self.previous = 0  # of the sender: where the run begins, and the last packet that left
        self.last = self.first_dropped = self.dropped = 0  # of the receiver

    def may_send(self, outstanding: int) -> bool:
        return outstanding < WINDOW

    def order(self, number: int) -> int:
        if not self.previous:
            self.run = self.previous = number
        back, self.previous = number - self.previous, number
        return back

    def on_lost(self, number: int) -> int:
        if number < self.run:
            return 0
        self.rewind()
        return number

    def rewind(self) -> None:
        self.previous = 0

    def accepts(self, order: int, number: int) -> bool:
        if number > self.last and order in (0, number - self.last):
            return True
        if number > self.last:
            self.first_dropped = min(self.first_dropped or number, number)
            self.dropped = max(self.dropped, number)
        return False

    def accepted(self, number: int) -> None:
        self.last = number

    def answer(self) -> tuple[int, int, int]:
        said = self.last, max(self.first_dropped, self.last + 1), max(self.dropped, self.last + 1)
        self.first_dropped = self.dropped = 0
        return said

    def on_answer(self, one: int, two: int, three: int, following: int) -> tuple[int, int] | None:
        if not one < two <= three < following:
            return None
        if not self.previous or three < self.run:
            return 0, 0
        self.rewind()
        first = max(one + 1, self.run)
        return first, max(first, two)
