"""The sockets of this process, whoever opened them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path


def own_sockets() -> Iterator[tuple[int, socket.socket]]:
    """Descriptors that are sockets, each with a duplicate that is closed when the next one is asked for."""
    for entry in list(Path("/proc/self/fd").iterdir()):
        if not entry.is_socket():
            continue
        duplicate = os.dup(int(entry.name))
        try:
            one = socket.socket(fileno=duplicate)
        except OSError:  # its family has no names (AF_XDP)
            os.close(duplicate)
            continue
        with one:
            yield int(entry.name), one
