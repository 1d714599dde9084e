"""What ruff does not see: lines of Cython sources are as short as Python's. ``./dev lint`` runs it.

    python line_limit.py

Files in ``LONGER`` have longer ones from before: up to ``MOST`` characters, or the number beside the name.
One that has none any more is taken off the list.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["line-length"]
MOST = 130
LONGER = """
fuzz/flow.pyx
fuzz/frames.pyx
fuzz/option.pyx
fuzz/packets.pyx
fuzz/side.pxd
hooker/_fastpath.pyx 191
hooker/carriers/datagrams.pyx
hooker/engine/actions.pxd
hooker/engine/actions.pyx
hooker/engine/destroy.pyx 131
hooker/engine/flows.pxd
hooker/engine/flows.pyx
hooker/engine/frames.pyx
hooker/engine/greeting.pxd
hooker/engine/greeting.pyx
hooker/engine/hk0.pxd
hooker/engine/hk0.pyx
hooker/engine/hold.pxd
hooker/engine/hold.pyx
hooker/engine/index.pxd
hooker/engine/index.pyx
hooker/engine/kept.pxd
hooker/engine/kept.pyx
hooker/engine/kernel.pxd
hooker/engine/kernel.pyx
hooker/engine/layout.pyx 143
hooker/engine/lent.pxd
hooker/engine/lent.pyx 134
hooker/engine/local.pyx
hooker/engine/peers.pxd
hooker/engine/peers.pyx
hooker/engine/polling.pxd
hooker/engine/polling.pyx
hooker/engine/remote.pxd
hooker/engine/remote.pyx
hooker/engine/ringbuf.pxd
hooker/engine/ringbuf.pyx
hooker/engine/slab.pxd
hooker/engine/slots.pxd
hooker/engine/stash.pyx
hooker/engine/tap.pyx
hooker/engine/trail.pxd 133
hooker/engine/trail.pyx
hooker/engine/turns.pxd
hooker/engine/turns.pyx
hooker/engine/view.pyx
hooker/engine/warm.pyx
hooker/engine/wire.pxd
hooker/engine/wire.pyx
hooker/engine/worker.pxd 183
hooker/flow/face.pyx 148
hooker/flow/machine.pxd
hooker/flow/machine.pyx
hooker/flow/messages.pxd
hooker/flow/messages.pyx
hooker/flow/proof.pxd
hooker/flow/proof.pyx
hooker/flow/sender.pxd
hooker/flow/sender.pyx
hooker/lab/_link.pyx
hooker/tcp/segment.pxd
hooker/tcp/twin.pxd
hooker/tcp/twin.pyx
hooker/transports/vtl.pxd
hooker/transports/vtl.pyx
hooker/vtl/aead.pxd
hooker/vtl/aead.pyx
hooker/vtl/answers.pxd
hooker/vtl/answers.pyx
hooker/vtl/api.pxd 136
hooker/vtl/blackhole.pxd
hooker/vtl/budget.pxd
hooker/vtl/budget.pyx 141
hooker/vtl/builder.pxd
hooker/vtl/channel.pxd
hooker/vtl/channel.pyx
hooker/vtl/channel_out.pyx
hooker/vtl/controllers/bbr.pyx
hooker/vtl/controllers/interface.pxd
hooker/vtl/controllers/python.pyx
hooker/vtl/cookie.pxd
hooker/vtl/cookie.pyx
hooker/vtl/core.pxd
hooker/vtl/ecn.pxd
hooker/vtl/endpoint.pxd 145
hooker/vtl/endpoint.pyx
hooker/vtl/fec.pxd
hooker/vtl/fec.pyx
hooker/vtl/handshake.pyx
hooker/vtl/keys.pxd
hooker/vtl/keys.pyx
hooker/vtl/lifecycle.pyx
hooker/vtl/liveness.pyx
hooker/vtl/packet_in.pyx
hooker/vtl/packet_out.pyx
hooker/vtl/path.pxd
hooker/vtl/path.pyx
hooker/vtl/pmtu.pxd
hooker/vtl/pmtu.pyx
hooker/vtl/proof.pxd
hooker/vtl/proof.pyx
hooker/vtl/recovery.pxd
hooker/vtl/recovery.pyx
hooker/vtl/registry.pyx
hooker/vtl/sansio.pyx
hooker/vtl/sendbuf.pxd
hooker/vtl/stream.pyx 150
"""


def allowed() -> dict[str, int]:
    """Characters in a line, for the files that may have more than others."""
    rows = (row.split() for row in LONGER.split("\n") if row)
    return {row[0]: int(row[1]) if len(row) > 1 else MOST for row in rows}


def longest(path: Path) -> tuple[int, int]:
    """Characters of the longest line, and its number."""
    lines = path.read_text().splitlines()
    return max(((len(line), number) for number, line in enumerate(lines, 1)), default=(0, 0))


def complaints() -> list[str]:
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.pyx", "*.pxd"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    sizes = {name: longest(ROOT / name) for name in names if name and (ROOT / name).exists()}
    found, longer = [], allowed()
    for name, (size, number) in sizes.items():
        limit = longer.get(name, LIMIT)
        if size > limit:
            found.append(f"{name}:{number}: {size} characters, more than {limit}")
    for name in longer:
        if sizes.get(name, (0, 0))[0] <= LIMIT:
            found.append(f"{name}: no longer needs its place in LONGER (tests/line_limit.py)")
    return found


if __name__ == "__main__":
    sys.exit("\n".join(complaints()) or 0)
