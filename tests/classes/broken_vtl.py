"""Classes for VTL that are wrong on purpose."""

from __future__ import annotations

import hooker

number = 1


class Raises:
    def __init__(self, mss: int) -> None:
        self.cwnd = 10 * mss

    def on_ack(self, ack: object) -> None:
        raise ValueError("on purpose")


class RaisesToo(hooker.Reliability):
    def may_send(self, outstanding: int) -> bool:
        raise ValueError("on purpose")


class Wide:
    """Its window is no number, once something has been acknowledged."""

    def __init__(self, mss: int) -> None:
        self.cwnd: object = 10 * mss

    def on_ack(self, ack: object) -> None:
        self.cwnd = "wide"


class Ordered(hooker.Reliability):
    """All of an order's methods; what they give is wrong."""

    def order(self, number: int) -> int:
        return number

    def on_lost(self, number: int) -> int:
        return number

    def rewind(self) -> None:
        pass

    def accepts(self, order: int, number: int) -> bool:
        return True

    def accepted(self, number: int) -> None:
        pass

    def answer(self) -> tuple[int, int, int]:
        return 0, 0, 0

    def on_answer(self, first: int, second: int, third: int, following: int) -> tuple[int, int] | None:
        return None


class WrongOrder(Ordered):
    def order(self, number: int) -> int:
        return "first"  # type: ignore[return-value]


class NoOrder(Ordered):
    def order(self, number: int) -> int:
        return -1


class Greedy(hooker.Reliability):
    def __init__(self, window: int) -> None:
        pass


class Late(hooker.Reliability):
    def __init__(self) -> None:
        raise ValueError("on purpose")


class Text:
    def __init__(self, mss: int) -> None:
        self.cwnd = "wide"


class NotANumber:
    def __init__(self, mss: int) -> None:
        self.cwnd = float("nan")


class Bare:
    def __init__(self, mss: int = 0) -> None:
        pass


class Half(hooker.Reliability):
    def order(self, number: int) -> int:
        return number
