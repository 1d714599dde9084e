"""The bytes of a pinned flow, through whatever a transport may do, to whoever reads at the far end."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim.flow.far_end import WRAP, Run, Setup

SHARES = st.sampled_from([0.0, 0.0, 0.03, 0.15])
SETUPS = st.builds(
    Setup,
    writes=st.lists(st.integers(1, 400), min_size=1, max_size=8).map(tuple),
    fin=st.booleans(),
    base=st.sampled_from([1, 77777, WRAP - 5000, WRAP - 1, WRAP // 2 - 100]),
    before=st.sampled_from([0, 0, 1500]),
    capacity=st.sampled_from([9, 50, 300, 4000]),
    reads=st.sampled_from([50, 700]),
    spread=st.sampled_from([0.0, 0.05, 5.0]),
    pause=st.just(0.01),
    delay=st.just(0.02),
    stopped=st.sampled_from([0.0, 0.0, 3.0, 100.0]),
    shrinks=st.booleans(),
    loss=SHARES,
    doubled=SHARES,
    jitter=st.sampled_from([0.0, 0.5, 4.0]),
    full=SHARES,
    repairs=st.booleans(),
    promise=st.sampled_from([0, 0, 1]),
    forgets=st.sampled_from([0.2, 1.0]),
    segment=st.sampled_from([7, 100, 700, 65536]),
    delayed_ack=st.sampled_from([0.0, 0.04]),
    seed=st.integers(0, 1 << 30),
)


def any_setup(rng: random.Random) -> Setup:
    return Setup(
        writes=tuple(rng.randint(1, 5000) for _ in range(rng.randint(1, 30))),
        spread=rng.choice([0.0, 0.05, 3.0]),
        fin=rng.random() < 0.7,
        base=rng.choice([1, WRAP - rng.randint(1, 20000), rng.getrandbits(32)]),
        before=rng.choice([0, 0, 1000]),
        capacity=rng.choice([600, 2000, 8000, 60000]),
        reads=rng.choice([300, 3000, 60000]),
        stopped=rng.choice([0.0, 0.0, 5.0, 400.0]),
        shrinks=rng.random() < 0.3,
        loss=rng.choice([0.0, 0.02, 0.2]),
        doubled=rng.choice([0.0, 0.1]),
        jitter=rng.choice([0.0, 0.3, 5.0]),
        full=rng.choice([0.0, 0.2]),
        repairs=rng.random() < 0.5,
        promise=rng.choice([0, 2]),
        forgets=rng.choice([0.1, 1.0]),
        segment=rng.choice([300, 1400, 65536]),
        delayed_ack=rng.choice([0.0, 0.04]),
        seed=rng.getrandbits(30),
    )


@given(SETUPS)
def test_everything_arrives_once_and_in_order(setup: Setup) -> None:
    Run(setup).finish()


@pytest.mark.parametrize("part", range(4))
def test_a_hundred_runs_from_seeds(part: int) -> None:
    for seed in range(part * 25, part * 25 + 25):
        Run(any_setup(random.Random(seed))).finish()


def test_nothing_is_sent_twice_where_nothing_is_lost() -> None:
    for repairs in (False, True):
        run = Run(Setup(writes=(9000,) * 8, capacity=20000, reads=20000, repairs=repairs)).finish()
        assert (run.sent, run.sent_again, run.probes) == (72000, 0, 0)


def test_reordering_alone_sends_nothing_again_where_the_transport_repairs() -> None:
    run = Run(
        Setup(writes=(9000,) * 8, capacity=72000, reads=72000, jitter=5.0, loss=0.2, repairs=True)
    ).finish()
    assert run.sent_again == 0


def test_a_loss_costs_about_what_was_lost() -> None:
    """By SACK, or by one segment in each round trip without."""
    for seed in range(10):
        setup = Setup(writes=(9000,) * 20, capacity=200000, reads=200000, loss=0.02, segment=1000, seed=seed)
        run = Run(setup).finish()
        assert run.sent_again < 0.12 * len(run.written)


def test_a_stopped_reader_is_probed_for_as_long_as_it_likes() -> None:
    run = Run(Setup(writes=(20000,), capacity=4000, stopped=3000.0)).finish()
    assert run.now > 3000
    assert 30 < run.probes < 100  # 1 s, doubling to 60 s
    assert run.sent_again == 0


def test_after_a_stop_it_goes_on_at_once() -> None:
    run = Run(Setup(writes=(20000,), capacity=4000, stopped=500.0, reads=4000, pause=0.05)).finish()
    assert run.now < 502


def test_what_was_refused_waits_for_the_window_and_not_for_the_timer() -> None:
    """A promise that was not kept: the first window update brings it."""
    setup = Setup(
        writes=(20000,), capacity=4000, promise=4, stopped=0.4, reads=4000, pause=0.05, repairs=True
    )
    run = Run(setup).finish()
    assert run.far.refusals > 0
    assert run.now < 1.5
