"""An emulated link for the lab: rate, queue, delay, jitter, loss and reordering, the same for every protocol.

Not every kernel has netem. So with ``Lab(link=Link(…))`` the hosts' interfaces are TAP devices instead of
a veth, and a process of its own (``hooker/lab/_link.pyx``) carries the frames between them. The devices
offload nothing: the kernel cuts super-packets before they reach the link, so that loss hits what loss would
hit on a wire.
"""

from __future__ import annotations

import array
import fcntl
import os
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from hooker import checks, start
from hooker.control import netns
from hooker.errors import ConfigurationError
from hooker.lab._link import Wire

TUN = "/dev/net/tun"
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
FULL_PACKET = 1500  # bytes
SMALLEST_QUEUE = 16 * FULL_PACKET
MOST_QUEUE = 1 << 40  # bytes
TO_B, TO_A = 0, 1
RANGES = {  # of a link's settings
    "rate": (0, 1e12, "is in bit/s, 0 for no limit"),
    "delay": (0, 3600, "is in seconds"),
    "jitter": (0, 3600, "is in seconds"),
    "reorder_by": (0, 3600, "is in seconds"),
    "loss": (0, 1, "is a part of 1"),
    "reorder": (0, 1, "is a part of 1"),
    "burst": (1, 1e9, "is the mean number of losses in a row"),
}


@dataclass(frozen=True)
class Link:
    """What a link does to what crosses it, each direction on its own.

    Args:
        rate: bit/s of IP packets; 0 is no limit.
        delay: one way, s.
        jitter: the delay varies by up to this, s, equally distributed; the order stays.
        loss: part of 1, on the wire behind the queue.
        burst: losses in a row, on average; at 1 each packet is lost or not on its own.
        reorder: part of 1 that arrives *reorder_by* later than its place.
        reorder_by: s.
        queue: bytes that may wait for the rate limiter; the rest is dropped at the tail. None: one
            bandwidth-delay product (rate × twice the delay), at least 16 full packets.
        seed: of the losses; the same seed loses the same packets of the same sequence.

    Raises:
        ConfigurationError: a value makes no sense.
    """

    rate: float = 0
    delay: float = 0
    jitter: float = 0
    loss: float = 0
    burst: float = 1
    reorder: float = 0
    reorder_by: float = 0.005
    queue: int | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        for name, (low, high, rule) in RANGES.items():
            self._set(name, checks.real(f"a link's {name} {rule}:", getattr(self, name), low, high))
        self._set("seed", checks.integer("a link's seed", self.seed, 0, 2**63 - 1))
        self._check("jitter", self.jitter <= self.delay, "cannot be larger than its delay")
        if self.queue is not None:
            what = "a link's queue has room for a packet:"
            self._set("queue", checks.integer(what, self.queue, FULL_PACKET, MOST_QUEUE))

    def _set(self, name: str, value: float) -> None:
        object.__setattr__(self, name, value)  # of a frozen dataclass: as a number, if it was given as text

    def _check(self, name: str, good: bool, rule: str) -> None:
        if not good:
            raise ConfigurationError(f"a link's {name} {rule}: {getattr(self, name)!r}")

    @property
    def rtt(self) -> float:
        """Round-trip time without queueing, s."""
        return 2 * self.delay

    @property
    def bdp(self) -> int:
        """Bandwidth-delay product in bytes."""
        return int(self.rate * self.rtt / 8)

    @property
    def queue_bytes(self) -> int:
        """The queue's size, also where it follows from the rest."""
        return max(self.bdp, SMALLEST_QUEUE) if self.queue is None else self.queue


@dataclass(frozen=True)
class Crossing:
    """What the relay has counted in one direction; ``lateness`` is its own mean delay, s."""

    frames: int
    delivered: int
    delivered_bytes: int
    lost: int
    queue_dropped: int
    reordered: int
    overflowed: int
    lateness: float


class LinkEmulator:
    """The link of a lab that has one: two TAP devices and the process between them.

    Args:
        link: what it does to packets, until it is changed.
        interface: the devices' name.
        namespaces: of host a and b, where they are made.
        mtu: theirs, in bytes.
        popen: starts the process, as ``Host.popen()`` does.
    """

    def __init__(
        self,
        link: Link,
        interface: str,
        *,
        namespaces: tuple[str, str],
        mtu: int,
        popen: Callable[..., subprocess.Popen[Any]],
    ) -> None:
        self.link = link
        memory = os.memfd_create("hooker-link", os.MFD_CLOEXEC)
        taps: list[int] = []
        try:
            os.ftruncate(memory, Wire.SIZE)
            self._wire = Wire(memory)
            self.set(link)
            for name in namespaces:
                taps.append(netns.call(name, lambda: _open_tap(interface)))
            fds = (memory, *taps)
            command = start.module("hooker.lab.relay", *map(str, fds), str(mtu), str(link.seed))
            self.proc = popen(command, hooked=False, pass_fds=fds, cwd="/", env=start.environment())
        finally:
            for fd in (memory, *taps):
                os.close(fd)

    def set(self, to_b: Link, to_a: Link | None = None) -> None:
        """Change what the link does from the next packet on; the same both ways unless *to_a* is given."""
        self.link = to_b
        for way, link in ((TO_B, to_b), (TO_A, to_a or to_b)):
            self._wire.configure(
                way,
                rate=link.rate,
                delay=link.delay,
                jitter=link.jitter,
                loss=link.loss,
                burst=link.burst,
                reorder=link.reorder,
                reorder_by=link.reorder_by,
                queue=link.queue_bytes,
            )

    def change(self, **settings: Any) -> None:
        """Change some settings of both directions, as in ``change(loss=1)`` for a blackhole."""
        self.set(replace(self.link, **settings))

    def crossed(self) -> tuple[Crossing, Crossing]:
        """Return what has crossed so far: towards host b, and towards host a.

        Raises:
            RuntimeError: the relay has ended; nothing crosses any more.
        """
        if self.proc.poll() is not None:
            raise RuntimeError(f"the link's relay has ended with status {self.proc.returncode}")
        return _crossing(self._wire.counters(TO_B)), _crossing(self._wire.counters(TO_A))


def _crossing(counted: dict[str, float]) -> Crossing:
    lateness = counted.pop("lateness")
    whole = {name: int(value) for name, value in counted.items()}
    return Crossing(**whole, lateness=lateness / max(1, whole["delivered"]))


def _open_tap(interface: str) -> int:
    """Make the TAP device *interface* in the calling thread's namespace; the descriptor is its life."""
    try:
        fd = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        text = f"no TAP devices here: {TUN}: {error.strerror}"
        raise ConfigurationError(text, remedy="modprobe tun") from None
    request = array.array("B", struct.pack("16sH22x", interface.encode(), IFF_TAP | IFF_NO_PI))
    fcntl.ioctl(fd, TUNSETIFF, request)
    return fd
