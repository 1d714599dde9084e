"""``python -m hooker.lab clean`` removes what labs whose owner is dead have left behind."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hooker.lab import clean


def main(argv: Sequence[str]) -> int:
    """Returns the exit status: 2 for anything but ``clean``."""
    if list(argv) != ["clean"]:
        print("usage: python -m hooker.lab clean", file=sys.stderr)
        return 2
    print(f"removed: {clean()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
