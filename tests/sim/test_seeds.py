"""Random paths and random flows, byte-exact. ``HOOKER_SIM_SEED=n`` replays one seed."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass

import pytest
from sim.network import MS, SECOND, A, B, Host, Link, Pair

from hooker.vtl import events as ev

SEEDS = range(100)
SOAK = range(100, 5000)


def random_link(rng: random.Random) -> Link:
    rate = rng.choice([0, 0, 2.5e5, 1.25e6, 1.25e7])
    return Link(
        delay=rng.choice([0, 100_000, 1 * MS, 20 * MS, 150 * MS]),
        jitter=rng.choice([0, 0, 1, 100_000, 5 * MS, 30 * MS]),
        loss=rng.choice([0, 0, 0.01, 0.05, 0.2]),
        duplicate=rng.choice([0, 0, 0.02, 0.3]),
        rate=rate,
        queue=rng.choice([20_000, 100_000, 1_000_000]),
        mtu=rng.choice([65535, 65535, 1472, 1300]),
    )


@dataclass
class Plan:
    """What happens to one flow; the nonce ties its two ends together."""

    host: Host
    nonce: int
    committed: bool
    there: bytes
    back: bytes
    flow: int = 0


class Run:
    """Both applications: they open, write in pieces, end, and check what comes."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        window = rng.choice([8192, 65536, 1 << 20])
        self.pair = Pair(
            seed,
            link=random_link(rng),
            back=random_link(rng),
            stream_window=window,
            assoc_window=window * rng.choice([1, 4]),
            congestion=rng.choice(["cubic", "newreno"]),
            handshake_timeout=30 * SECOND,
            dead_after=30 * SECOND,
        )
        self.plans = {n: self.plan(n) for n in range(1, rng.choice([2, 2, 4, 12]))}
        self.ends: list[tuple[Host, int, bytes]] = []
        for host in (self.pair.a, self.pair.b):
            host.on_opened = lambda event, host=host: self.opened(host, event)
            host.on_accepted = lambda event, host=host: self.accepted(host, event)

    def plan(self, nonce: int) -> Plan:
        rng = self.rng
        size = rng.choice([0, 1, 1000, 20_000, 60_000])
        host = self.pair.a if rng.random() < 0.7 else self.pair.b
        return Plan(host, nonce, rng.random() < 0.5, rng.randbytes(size), rng.randbytes(size // 2))

    def opened(self, host: Host, event: ev.FlowOpened) -> None:
        plan = self.plans[event.client_nonce]
        host.endpoint.accept(event.flow)
        self.write(host, event.flow, plan.back)
        self.ends.append((host, event.flow, plan.there))

    def accepted(self, host: Host, event: ev.FlowAccepted) -> None:
        (plan,) = (p for p in self.plans.values() if (p.host, p.flow) == (host, event.flow))
        if not plan.committed:
            host.endpoint.confirm(plan.flow)
            self.write(host, plan.flow, plan.there)

    def write(self, host: Host, flow: int, data: bytes) -> None:
        at = 0
        while at < len(data):
            n = self.rng.choice([1, 100, 1436, 5000, 100_000])
            host.endpoint.write(flow, data[at : at + n])
            at += n
        host.endpoint.fin(flow)

    def go(self) -> None:
        pair = self.pair
        for plan in self.plans.values():
            address = B if plan.host is pair.a else A
            assoc = plan.host.endpoint.connect(address, pair.now)
            plan.flow = plan.host.endpoint.open(
                assoc, pair.now, client_nonce=plan.nonce, committed=plan.committed
            )
            if plan.committed:
                self.write(plan.host, plan.flow, plan.there)
            self.ends.append((plan.host, plan.flow, plan.back))
            pair.run_for(self.rng.choice([0, 0, 0.01, 0.3]))
        pair.run(lambda: len(self.ends) == 2 * len(self.plans), limit=60)
        pair.run(lambda: all(h.flows[f].closed for h, f, _ in self.ends), limit=600)
        for host, flow, expected in self.ends:
            seen = host.flows[flow]
            assert bytes(seen.received) == expected, f"seed {pair.seed}, {host.name}, flow {flow}"
            assert seen.fin, f"seed {pair.seed}"
            assert not seen.resets, f"seed {pair.seed}"
        for host in (pair.a, pair.b):
            assert host.endpoint.borrowed == 0
            assert host.endpoint.flows == ()


def chosen(seeds: range) -> list[int]:
    only = os.environ.get("HOOKER_SIM_SEED")
    return [int(only)] if only else list(seeds)


@pytest.mark.parametrize("seed", chosen(SEEDS))
def test_random_flows_over_a_random_path(seed: int) -> None:
    Run(seed).go()


@pytest.mark.soak
@pytest.mark.parametrize("seed", SOAK)
def test_many_more_random_paths(seed: int) -> None:
    Run(seed).go()
