"""A TUN device's packets by read() and writev(), and by io_uring: CPU for each packet, in batches of 64.

``tun_io.c`` does it, in a network namespace of its own.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).with_name("tun_io.c")
PACKETS, ROUNDS, SIZES = 2000, 7, (64, 1400, 64000)


@pytest.mark.skipif(os.geteuid() != 0, reason="this is not root")
def test_what_a_packet_costs(report: Any, tmp_path: Path) -> None:
    program = tmp_path / "tun_io"
    subprocess.run(["gcc", "-O2", "-o", program, SOURCE], check=True, timeout=60)
    command = [program, *map(str, (PACKETS, ROUNDS, *SIZES))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        pytest.skip(done.stderr.strip())  # a kernel without io_uring, or without multishot reads (6.7)
    for line in done.stdout.splitlines():
        way, size, nanoseconds = line.split()
        report.rates.append((f"TUN, {way}, {size} B", "ns/packet", float(nanoseconds)))
