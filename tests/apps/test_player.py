"""A real player goes on over ``partial``, and is told what it misses (examples/player.py)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from apps.servers import need
from support import PLAIN

from examples.player import make_film, play, reference
from hooker.lab.link import Link

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(PLAIN, reason="needs engines"),
    pytest.mark.soak,
]


def test_a_player_goes_on_over_holes(tmp_path: Path) -> None:
    need("ffmpeg")
    film = tmp_path / "film.ts"
    make_film(film, 8)
    right = reference(film)
    seen = play(film, right, "partial:repeats=0", Link(rate=2e6, delay=0.02, loss=0.03))
    assert seen.exit == 0
    assert len(right) == 200
    assert seen.frames[-1].number == max(right)  # to the end
    assert len(seen.frames) > 0.9 * len(right)
    assert 0.5 * len(right) < seen.right < len(right)  # most, and not all: there were holes
    counters = seen.status["counters"]
    assert [row["reliability"] for row in seen.status["peers"]] == ["partial"]
    told = [int(size) for size in re.findall(r"hole .*, (\d+) B are zeros behind \d+ B", seen.log)]
    assert len(told) == counters["holes_filled"] > 0
    assert sum(told) == counters["bytes_zeroed"]
