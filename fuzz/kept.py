"""The kept corpus: one archive for each target, its members the inputs by name.

libFuzzer names an input by its SHA-1. One with a name of its own was written by hand,
and is never dropped.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

KEPT = Path(__file__).parent / "corpus"
SAME_DATE = (1980, 1, 1, 0, 0, 0)  # equal inputs make an equal archive


def archive(target: str) -> Path:
    return KEPT / f"{target}.zip"


def read(target: str) -> dict[str, bytes]:
    """Inputs by name; none if nothing is kept yet."""
    if not archive(target).exists():
        return {}
    with zipfile.ZipFile(archive(target)) as z:
        return {name: z.read(name) for name in sorted(z.namelist())}


def write(target: str, inputs: dict[str, bytes]) -> None:
    KEPT.mkdir(exist_ok=True)
    with zipfile.ZipFile(archive(target), "w", zipfile.ZIP_DEFLATED) as z:
        for name in sorted(inputs):
            z.writestr(zipfile.ZipInfo(name, SAME_DATE), inputs[name], zipfile.ZIP_DEFLATED, 9)


def unpack(target: str, directory: Path) -> None:
    """As libFuzzer reads them: a file each, and nothing else there."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.iterdir():
        path.unlink()
    for name, data in read(target).items():
        (directory / Path(name).name).write_bytes(data)


def by_hand(name: str) -> bool:
    return not re.fullmatch("[0-9a-f]{40}", name)
