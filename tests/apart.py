"""A network namespace for one test, with a veth, and what Interfaces asks of a worker."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Any

from hooker.control import netns


class FakeWorker:
    """What Interfaces asks of a worker."""

    port = 6253

    def __init__(self, *carriers: str) -> None:
        self._carriers = carriers

    def attach(self, wire_id: int, ifindex: int, queue: int) -> int:
        raise OSError(errno.EPROTONOSUPPORT, "none here")

    def detach(self, wire_id: int, ifindex: int) -> None:
        """Nothing was attached."""

    def counters(self) -> dict[str, int]:
        return {}

    def ingress(self, known_fd: int, states_fd: int) -> list[dict[str, Any]]:
        return [
            {"carrier": one, "wire_id": n, "secret": bytes(16), "versions": (1,), "keyed": False}
            for n, one in enumerate(self._carriers)
        ]


def apart(test: Callable[[], None]) -> None:
    """Run in a network namespace that ends with it."""
    errors: list[BaseException] = []

    def body() -> None:
        try:
            netns.unshare()
            test()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def add_veth(name: str = "one", other: str = "two") -> None:
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        netlink.link("add", ifname=name, kind="veth", peer=other)
        for each in (name, other):
            netlink.link("set", ifname=each, state="up")


def attached(name: str) -> int:
    """The number of the XDP program there; 0: none."""
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        (link,) = netlink.get_links(ifname=name)
        xdp = link.get_attr("IFLA_XDP")
        return int(xdp.get_attr("IFLA_XDP_PROG_ID") or 0) if xdp is not None else 0
