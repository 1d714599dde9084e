"""The timer heap: an endpoint's deadline is the earliest of its associations', whatever happened to them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from sim.network import MS, SECOND

from hooker.vtl.sansio import Endpoint

STEPS = st.lists(
    st.tuples(st.sampled_from(["connect", "close", "error", "wait", "wait", "wait"]), st.integers(0, 11)),
    min_size=1,
    max_size=60,
)


@given(STEPS)
def test_many_associations_have_the_deadline_of_the_first_of_them(steps: list[tuple[str, int]]) -> None:
    """One endpoint with all associations, against an endpoint for each."""
    many = Endpoint(seed=1, handshake_timeout=5 * SECOND)
    single = {n: Endpoint(seed=n, handshake_timeout=5 * SECOND) for n in range(12)}
    now = 0

    def both(n: int, action: str) -> None:
        address = (f"10.0.0.{n + 1}", 4000)
        for e in (many, single[n]):
            if action == "connect":
                e.connect(address, now)
            elif action == "error":
                e.path_error(address, now)
            elif single[n].associations:
                e.close(e.connect(address, now), 1, now)

    def settle() -> None:
        for e in (many, *single.values()):
            e.datagrams_to_send(now)

    for action, n in steps:
        if action == "wait":
            now += (n + 1) * 17 * MS
            for e in (many, *single.values()):
                if (at := e.get_timer()) is not None and at <= now:
                    e.handle_timer(now)
        else:
            both(n, action)
        settle()
        deadlines = [t for e in single.values() if (t := e.get_timer()) is not None]
        assert many.get_timer() == (min(deadlines) if deadlines else None)
        assert len(many.associations) == sum(len(e.associations) for e in single.values())
