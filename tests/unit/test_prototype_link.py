"""What a class's process tells its engine, packet by packet."""

from __future__ import annotations

import socket

from hooker.prototype import link


def test_what_failed_is_told_though_a_wrong_frame_is_gathered() -> None:
    """It is what the failure is about, and would be one again."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, ours:
        end, other = link.Link(ours.detach()), link.Link(theirs.detach())
        end.frame(("::1", 6253), "text")  # type: ignore[arg-type]
        end.fail("mod:Class: a str is no message (mod.py:7)")
        told = other.hear()
        assert told is not None
        what, _, text = told
        assert (what, text) == (link.FAILED, b"mod:Class: a str is no message (mod.py:7)")
