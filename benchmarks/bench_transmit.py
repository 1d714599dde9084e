"""What a packet costs to send through a veth: by raw sockets as the carrier ``ip`` does, by AF_XDP, by UDP.

``transmit.c`` does it, in a network namespace of its own.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).with_name("transmit.c")
PACKETS, ROUNDS, SIZES = 640, 201, (100, 1400)


@pytest.mark.skipif(os.geteuid() != 0, reason="this is not root")
def test_what_a_packet_costs_to_send(report: Any, tmp_path: Path) -> None:
    program = tmp_path / "transmit"
    subprocess.run(["gcc", "-O2", "-o", program, SOURCE], check=True, timeout=60)
    command = [program, *map(str, (PACKETS, ROUNDS, *SIZES))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        pytest.skip(done.stderr.strip())  # a kernel without AF_XDP
    for line in done.stdout.splitlines():
        way, size, nanoseconds = line.split()
        report.rates.append((f"veth, {way}, {size} B", "ns/packet", float(nanoseconds)))
