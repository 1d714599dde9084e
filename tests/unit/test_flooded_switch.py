"""When an engine counts as flooded: what it refuses a second, for how long."""

from __future__ import annotations

from collections.abc import Iterable

from hooker.control.flooded import OFF, ON, REST, RISE, Flooded


def told(flooded: Flooded, rates: Iterable[float], at: float = 0.0, step: float = 1.0) -> list[bool]:
    """What it says, told each *step* of the rate since the last time."""
    count, said = 0.0, [flooded.hear(0, at)]
    for rate in rates:
        at += step
        count += rate * step
        said.append(flooded.hear(int(count), at))
    return said


def test_on_after_some_seconds_of_a_flood_and_off_after_some_of_rest() -> None:
    flood, rest = [2 * ON] * 5, [0.0] * 15
    said = told(Flooded(), [0.0, *flood, *rest])
    on = said.index(True)
    assert on == 1 + int(RISE) + 1 - 1
    assert said[on:].index(False) == 1 + len(flood) - on + int(REST)
    assert not any(said[on + said[on:].index(False) :])


def test_what_is_short_or_little_changes_nothing() -> None:
    assert not any(told(Flooded(), [2 * ON, 0.0] * 20))
    assert not any(told(Flooded(), [ON - 1] * 60))
    flooded = Flooded()
    assert told(flooded, [2 * ON] * 5)[-1]
    assert all(told(flooded, [OFF, 0.0, 0.0, OFF + 1] * 10, at=5.0))


def test_told_as_often_as_one_likes() -> None:
    for step in (0.01, 0.3, 2.0):
        flooded = Flooded()
        steps = int((RISE + 3) / step) + 1
        assert told(flooded, [2 * ON] * steps, step=step)[-1]
        assert not told(flooded, [0.0] * (int((REST + 3) / step) + 1), at=steps * step, step=step)[-1]


def test_counts_that_begin_anew_are_no_flood() -> None:
    flooded = Flooded()
    assert not flooded.hear(10**9, 0.0)
    assert not flooded.hear(10, 10.0)
    assert not flooded.hear(20, 11.0)
