"""What ``hooker transports`` prints."""

from __future__ import annotations

import json

from hooker.transports import Transport, installed, known


def show(*, as_json: bool) -> None:
    """One line a transport: ``✓`` connections can be moved onto it here, ``–`` they cannot."""
    rows = [(transport, *transport.available()) for transport in [*known(), *installed()]]
    if as_json:
        print(json.dumps({"transports": [_row(*row) for row in rows]}))
        return
    width = max(len(transport.name) for transport, _, _ in rows)
    for transport, there, why in rows:
        print(f"{'✓' if there else '–'} {transport.name:{width}}  {transport.summary if there else why}")


def _row(transport: Transport, there: bool, why: str) -> dict[str, object]:
    return {
        "name": transport.name,
        "available": there,
        "reason": why,
        "carrier": transport.carrier,
        "reliability": transport.reliability,
    }
