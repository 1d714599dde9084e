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


class Bare:
    def __init__(self, mss: int = 0) -> None:
        pass


class Half(hooker.Reliability):
    def order(self, number: int) -> int:
        return number
