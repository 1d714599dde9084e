"""The base class of reliability functions that are written in Python."""

from __future__ import annotations

from typing import ClassVar

ORDERED = ("order", "accepts", "on_lost", "answer", "on_answer")  # all of them, or none


class Reliability:
    """Decides what VTL sends again, what it takes, and when it gives something up; one for each association.

    What a subclass does not have is as with selective-repeat. Numbers are those of packets: they rise, and
    none is used twice. Both hosts run the same class, else their associations have selective-repeat.

    A function that takes packets in order only has all of ``order``, ``accepts``, ``on_lost``, ``answer`` and
    ``on_answer``; ``examples/go_back.py`` is one. What is dropped is not acknowledged.
    """

    repairs: ClassVar[bool] = True
    """What is lost is sent again; else the applications' TCPs see to it."""

    ack_every: ClassVar[int] = 2
    """Packets that the receiver acknowledges together, 1 to 255."""

    def may_send(self, outstanding: int) -> bool:
        """Whether one more packet may leave beside so many that are not acknowledged."""
        raise NotImplementedError

    def gives_up(self, repeats: int, age: float) -> bool:
        """Whether a lost block, sent again so often and first so many seconds ago, is not sent again.

        The application at the other end then reads zeros in its place.
        """
        raise NotImplementedError

    # ---- in order only ----

    def order(self, number: int) -> int:
        """This packet leaves: 32 bits that travel with it."""
        raise NotImplementedError

    def accepts(self, order: int, number: int) -> bool:
        """A packet has come, with those bits: whether it is taken. If not, an answer is sent."""
        raise NotImplementedError

    def accepted(self, number: int) -> None:
        """It was taken, and nothing else was wrong with it."""

    def on_lost(self, number: int) -> int:
        """This packet counts as lost: from which one on all go again; 0: it alone."""
        raise NotImplementedError

    def rewind(self) -> None:
        """All that are on their way go again, after a timeout or to another address, and may still arrive."""

    def answer(self) -> tuple[int, int, int]:
        """What the receiver says when it has dropped something: three numbers of 64 bits."""
        raise NotImplementedError

    def on_answer(self, one: int, two: int, three: int, following: int) -> tuple[int, int] | None:
        """The receiver's answer, and the number of the next packet.

        From which one on all go again (0: none), and from which one on they arrived in vain, those before
        being lost. None: no receiver can say that.
        """
        raise NotImplementedError
