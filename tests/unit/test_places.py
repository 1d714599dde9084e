"""The room for what only flows that move have: no place twice, and no memory for what was given back."""

from __future__ import annotations

import random

import pytest

from hooker.engine.places import Room

PLACES, PLACE, IN_A_PAGE, FEW = 4096, 256, 16, 64


def test_each_place_is_given_once_and_then_no_more() -> None:
    room = Room(PLACES)
    places = [room.take() for _ in range(PLACES)]
    assert sorted(place for place in places if place is not None) == list(range(PLACES))
    assert room.take() is None
    room.give(77)
    assert (room.take(), room.take()) == (77, None)


@pytest.mark.parametrize("page", [4096, 16384, 65536])
@pytest.mark.parametrize("place", [PLACE, 440])
def test_what_is_used_moves_together_and_the_rest_goes_back(place: int, page: int) -> None:
    """In whatever order places come and go. A kernel with larger pages takes back whole ones of those."""
    rng = random.Random(7)
    room = Room(PLACES, place, page)
    in_a_page = page // 4096 * (4096 // place)
    used: list[int] = []
    for target in (PLACES, 40, 2000, 0, 600, 3000, 30):
        while len(used) > target:
            room.give(used.pop(rng.randrange(len(used))))
        while len(used) < target:
            place = room.take()
            assert place is not None
            used.append(place)
        assert len(set(used)) == len(used)
        room.trim()
        whole = len({place // in_a_page for place in used}) * (page // 4096)
        assert room.pages <= whole + FEW
    for place in sorted(used):
        room.give(place)
    assert [room.take() for _ in range(3)] == [0, 1, 2]


def test_a_few_pages_are_worth_no_system_call() -> None:
    room = Room(PLACES)
    used = [room.take() for _ in range(FEW * IN_A_PAGE)]
    for place in used:
        assert place is not None
        room.give(place)
    room.trim()
    assert room.pages == FEW
