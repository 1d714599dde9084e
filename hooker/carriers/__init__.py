"""Carriers: what moves VTL's datagrams between two hosts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a transport wants of its carrier: the argument of each carrier's ``make()``.

    ``headers``: bytes at the beginning of each datagram that are the transport's own. ``given``: the
    parameters that a user has written behind the transport's name. ``bounded``: the transport bounds what
    waits for the path; otherwise a carrier that holds some back drops what is beyond a short queue.
    """

    headers: int = 0
    given: Mapping[str, int] = field(default_factory=dict)
    bounded: bool = True
