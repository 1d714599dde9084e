"""The process that carries the frames of an emulated link (``hooker.lab.link`` starts it)."""

from __future__ import annotations

import os
import sys

from hooker.lab._link import Wire

REAL_TIME = 1  # the lowest real-time priority: a relay that waits for the CPU is a delay of its own


def main(arguments: list[str]) -> None:
    """Shared file, two devices, MTU, seed: the descriptors' numbers are its parent's."""
    memory, tap_a, tap_b, mtu, seed = map(int, arguments)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(REAL_TIME))
    except PermissionError:
        os.nice(-10)
    Wire(memory).relay(tap_a, tap_b, mtu, seed)


if __name__ == "__main__":
    main(sys.argv[1:])
