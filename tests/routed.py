"""A lab with a router between its hosts: a third namespace, with a firewall and NAT if a test wants."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hooker.control import netns
from hooker.lab import INTERFACE, NETNS_PREFIX, Host, Lab
from hooker.lab.link import Link, LinkEmulator

# Each rule counts, so that a failing test shows where packets went.
STATEFUL = (
    "add table inet f; add chain inet f pass { type filter hook forward priority 0; policy drop; };"
    "add rule inet f pass ct state invalid counter drop;"
    "add rule inet f pass ct state established,related counter accept;"
    "add rule inet f pass iifname toa ct state new tcp flags & (fin|syn|rst|ack) == syn counter accept;"
    "add rule inet f pass iifname toa ct state new meta l4proto != tcp counter accept;"
)
MASQUERADE = (
    "add table ip n; add chain ip n p { type nat hook postrouting priority 100; };"
    "add rule ip n p oifname tob counter masquerade;"
)


class Router:
    """The namespace between: ``toa`` and ``tob`` are its interfaces."""

    def __init__(self, lab: RoutedLab) -> None:
        self.netns = f"{NETNS_PREFIX}{lab.tag}-r"

    def run(self, *command: str) -> str:
        """Run *command* there; return what it says. Raises CalledProcessError."""
        done = netns.call(
            self.netns,
            lambda: subprocess.run(command, capture_output=True, text=True, check=True, timeout=20),
        )
        return str(done.stdout)

    def rules(self, text: str) -> None:
        """Give nftables these commands; skips the test where there is none."""
        try:
            self.run("nft", text)
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no nftables here: {error}")

    def sysctl(self, name: str, value: str) -> None:
        """Set ``net.…`` *name* there; skips the test where there is no such setting."""
        try:
            netns.call(self.netns, lambda: (Path("/proc/sys") / name.replace(".", "/")).write_text(value))
        except FileNotFoundError:
            pytest.skip(f"no {name} here")

    def counts(self) -> dict[str, int]:
        """Return packets by the end of each rule of the filter: "drop", "accept" are sums."""
        found: dict[str, int] = {}
        for line in self.run("nft", "list", "chain", "inet", "f", "pass").splitlines():
            words = line.split()
            if "packets" in words:
                found[words[-1]] = found.get(words[-1], 0) + int(words[words.index("packets") + 1])
        return found

    def connections(self) -> list[str]:
        """Return what its connection tracking knows of TCP, one line each."""
        file = Path("/proc/thread-self/net/nf_conntrack")
        if not netns.call(self.netns, file.exists):
            pytest.skip("no nf_conntrack in /proc here")
        text = netns.call(self.netns, file.read_text)
        return [line for line in text.splitlines() if " tcp " in line]


class RoutedLab(Lab):
    """``a`` and ``b`` in networks of their own, 10.77 and 10.78, with the router as their gateway.

    Args:
        between: what the wire between the router and b does to packets; None: a plain veth.
    """

    router: Router

    letters = "abr"

    def __init__(self, between: Link | None = None) -> None:
        super().__init__()
        self._between = between

    def _build(self) -> None:
        from pyroute2 import netns as names

        self.router = Router(self)
        names.create(self.router.netns)
        super()._build()
        for name in ("ip_forward", "conf.all.forwarding"):
            family = "ipv4" if name == "ip_forward" else "ipv6"
            self.router.sysctl(f"net.{family}.{name}", "1")

    def _add_veth(self) -> None:
        """Twice: to the router from here, which is host a, and from it to b."""
        from pyroute2 import IPRoute

        self.b.v4 = self.a.peer_v4 = f"10.78.{self.subnet}.2"
        self.b.v6 = self.a.peer_v6 = f"fd78:{self.subnet:x}::2"
        with IPRoute() as ipr:
            ipr.link(
                "add", ifname=INTERFACE, kind="veth", peer={"ifname": "toa", "net_ns_fd": self.router.netns}
            )
        if self._between:
            ends = (self.router.netns, self.b.netns)
            self.link = LinkEmulator(
                self._between, INTERFACE, namespaces=ends, mtu=self.mtu, popen=self.a.popen
            )
        netns.call(self.router.netns, self._configure_router)

    def _configure_router(self) -> None:
        from pyroute2 import IPRoute

        for name in ("all", "default"):
            Path(f"/proc/sys/net/ipv6/conf/{name}/accept_dad").write_text("0")
        with IPRoute() as ipr:
            if self._between:
                ipr.link("set", index=ipr.link_lookup(ifname=INTERFACE)[0], ifname="tob")
            else:
                peer = {"ifname": INTERFACE, "net_ns_fd": self.b.netns}
                ipr.link("add", ifname="tob", kind="veth", peer=peer)
            for name, host in (("toa", self.a), ("tob", self.b)):
                index = ipr.link_lookup(ifname=name)[0]
                v4, v6 = gateways(host)
                ipr.addr("add", index=index, address=v4, prefixlen=24)
                ipr.addr("add", index=index, address=v6, prefixlen=64, flags=0x02)  # IFA_F_NODAD
                ipr.link("set", index=index, state="up")

    def _configure(self, host: Host) -> None:
        from pyroute2 import IPRoute

        super()._configure(host)
        with IPRoute() as ipr:
            for gateway in gateways(host):
                ipr.route("add", dst="default", gateway=gateway)


def gateways(host: Host) -> tuple[str, str]:
    """Return the router's addresses in *host*'s networks."""
    return host.v4.rsplit(".", 1)[0] + ".254", host.v6.rsplit("::", 1)[0] + "::fe"
