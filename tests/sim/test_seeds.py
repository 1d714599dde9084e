"""Random scenarios by the number: 400 in every run, 20,000 with ``--soak``. See :mod:`sim.scenario`."""

from __future__ import annotations

import os

import pytest
from sim.scenario import Scenario

SEEDS = range(400)
SOAK = range(400, 20_400)
AT_ONCE = 100  # seeds of one soak test


def chosen(seeds: range) -> list[int]:
    only = os.environ.get("HOOKER_SIM_SEED")
    return [int(only)] if only else list(seeds)


@pytest.mark.parametrize("seed", chosen(SEEDS))
def test_random_flows_over_a_random_path(seed: int) -> None:
    Scenario(seed).go()


def test_equal_seeds_give_equal_runs() -> None:
    def trace(seed: int) -> list[int]:
        scenario = Scenario(seed)
        scenario.go()
        pair = scenario.pair
        return [pair.now, pair.steps, pair.forth.bytes, pair.back.bytes]

    assert trace(3) == trace(3)
    assert trace(3) != trace(4)


@pytest.mark.soak
@pytest.mark.parametrize("first", SOAK[::AT_ONCE])
def test_many_more_seeds(first: int) -> None:
    failed = []
    for seed in range(first, first + AT_ONCE):
        try:
            Scenario(seed).go()
        except Exception as exc:
            failed.append(f"{type(exc).__name__}: {exc}\n  {exc.__notes__[0]}")
    assert not failed, "\n".join(failed)
