"""Every interleaving of a small world, breadth first, as far as the budget goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from sim.flow.world import A, B, Setup, World

from hooker.flow.states import Event, State

Move = tuple[Any, ...]
CHANNEL = 2  # messages and segments under way in each direction; one more is lost, as any may be


class Budget(NamedTuple):
    """How often the rarer moves may happen in one run."""

    kills: int = 1
    timers: int = 3
    timeouts: int = 2
    twice: int = 1
    starts: int = 1
    leaves: int = 0
    resets: int = 0
    breaks: int = 0


class Result(NamedTuple):
    states: int
    healed: int
    complete: bool
    depth: int


class Broken(AssertionError):
    """A property that does not hold, with the moves that show it."""


def moves(world: World, b: Budget) -> Iterator[tuple[Move, Budget]]:
    yield from network_moves(world, b)
    for way in (A, B):
        host = world.hosts[way]
        if world.can_mark(host):
            yield ("mark", way), b
        if world.can_close(host):
            yield ("close", way), b
        if host.kernel.can_send():
            yield ("send", way), b
        if b.timeouts and host.kernel.waits():
            yield ("timeout", way), b._replace(timeouts=b.timeouts - 1)
        if host.kernel.unread and not host.kernel.reading:
            yield ("read", way), b
        yield from engine_moves(world, way, b)
    if b.breaks and not world.down:
        yield ("break",), b._replace(breaks=b.breaks - 1)


def network_moves(world: World, b: Budget) -> Iterator[tuple[Move, Budget]]:
    for to in (A, B):
        for i in range(len(set(world.air[to]))):
            yield ("message", to, i), b
            if b.twice:
                yield ("message", to, i, True), b._replace(twice=b.twice - 1)
        for i in range(len(world.wire[to])):
            yield ("wire", to, i), b


def engine_moves(world: World, way: int, b: Budget) -> Iterator[tuple[Move, Budget]]:
    host = world.hosts[way]
    if host.machine is None:
        if not host.engine and b.kills >= 0:
            yield ("engine", way), b._replace(kills=-1)
        return
    if b.timers and host.machine.deadline is not None:
        yield ("timer", way), b._replace(timers=b.timers - 1)
    if b.kills > 0:
        yield ("kill", way), b._replace(kills=b.kills - 1)
    if b.starts and way == A and host.machine.state is State.TCP:
        yield ("start", A), b._replace(starts=b.starts - 1)
    if b.leaves and host.machine.state is State.ENGAGED:
        yield ("local", way, Event.STOP), b._replace(leaves=b.leaves - 1)
    if b.resets and not host.kernel.dead:
        yield ("reset", way), b._replace(resets=b.resets - 1)


def trim(world: World) -> None:
    """The oldest goes when a channel is full: it counts as lost."""
    for channel in (*world.wire, *world.air):
        del channel[:-CHANNEL]


def search(
    setup: Setup,
    budget: Budget,
    *,
    limit: int,
    every: int = 1,
    alter: Callable[..., int] | None = None,
    ready: Callable[[World], None] | None = None,
) -> Result:
    """Breadth first, `limit` states at most; after each `every`-th the network behaves, and all must end."""
    start = World(setup, alter=alter)
    if ready is not None:
        ready(start)
    seen = {(start.key(), budget)}
    layer: list[tuple[World, Budget, tuple[Move, ...]]] = [(start, budget, ())]
    depth = healed = 0
    while layer:
        following: list[tuple[World, Budget, tuple[Move, ...]]] = []
        for world, left, path in layer:
            for move, rest in moves(world, left):
                new = world.copy()
                attempt(new, (*path, move), lambda new=new, move=move: new.do(move))
                trim(new)
                key = (new.key(), rest)
                if key in seen:
                    continue
                seen.add(key)
                if len(seen) % every == 0:
                    healed += 1
                    end = new.copy()
                    if healed % 2:
                        end.lose_all()
                    attempt(end, (*path, move, ("heal",)), end.heal)
                if len(seen) >= limit:
                    return Result(len(seen), healed, False, depth)
                following.append((new, rest, (*path, move)))
        layer = following
        depth += 1
    return Result(len(seen), healed, True, depth)


def attempt(world: World, path: tuple[Move, ...], step: Callable[[], None]) -> None:
    try:
        step()
    except AssertionError as exc:
        lines = "\n".join(f"  {move}" for move in path)
        states = [h.machine.state.name if h.machine else "no engine" for h in world.hosts]
        raise Broken(f"{exc}\n{lines}\n  {states}") from None
