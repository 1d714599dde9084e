"""Two hosts on one machine: the lab of the demo, the tests and the benchmarks.

``Lab()`` makes two network namespaces joined by a veth, with IPv4 and IPv6 addresses, and a cgroup
per host for the hooked applications. Engines and helpers run in a third cgroup. Nothing of it
survives the ``with`` block; ``python -m hooker.lab clean`` removes what a killed owner left.

Usage:
    with Lab() as lab:
        server = lab.b.popen(["iperf3", "-s", "-1"])
        lab.a.run(["iperf3", "-c", lab.b.v4])
        print(lab.meter.read().tcp.payload)
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal

from hooker import start
from hooker.control import cgroup, netns
from hooker.control import janitor as undo
from hooker.control.janitor import Janitor, Undo
from hooker.lab.engine import EngineProcess
from hooker.lab.interrupts import Interrupts
from hooker.lab.link import Link, LinkEmulator
from hooker.lab.meter import WireMeter
from hooker.transports import DEFAULT_PORT

INTERFACE = "eth0"
NETNS_PREFIX = "hklab-"
CGROUP_PREFIX = "hooker-lab-"
STOP_GRACE = 3.0  # s between SIGTERM and SIGKILL

# Joins a cgroup and a namespace, then becomes the command: the pid is the command's own.
_ENTER = 'echo $$ >"$1/cgroup.procs" && ns=$2 enter=$3 && shift 3 && exec "$enter" --net="$ns" -- "$@"'

_numbers = itertools.count()


class Host:
    """One of the lab's two hosts. The peer's addresses are its ``peer_v4`` and ``peer_v6``."""

    def __init__(self, lab: Lab, letter: str, number: int) -> None:
        other = 3 - number
        self.lab = lab
        self.letter = letter
        self.netns = f"{NETNS_PREFIX}{lab.tag}-{letter}"
        self.cgroup = lab.cgroup / letter
        self.v4, self.peer_v4 = f"10.77.{lab.subnet}.{number}", f"10.77.{lab.subnet}.{other}"
        self.v6 = f"fd77:{lab.subnet:x}::{number}"
        self.peer_v6 = f"fd77:{lab.subnet:x}::{other}"

    def command(self, cmd: Sequence[str | Path], hooked: bool = True) -> list[str]:
        """Return the command line that runs *cmd* on this host."""
        cgroup = self.cgroup if hooked else self.lab.cgroup / "aux"
        enter = ["/bin/sh", "-c", _ENTER, "hooker-lab", str(cgroup), netns.path(self.netns)]
        enter.append(start.tool("nsenter"))
        return [*enter, *map(str, cmd)]

    def popen(self, cmd: Sequence[str | Path], hooked: bool = True, **kwargs: Any) -> subprocess.Popen[Any]:
        """Start *cmd* on this host; ``hooked=False`` keeps it out of the hooked cgroup.

        The lab ends it at the latest when it closes.
        """
        kwargs.setdefault("stdin", subprocess.DEVNULL)
        kwargs.setdefault("process_group", 0)
        proc = subprocess.Popen(self.command(cmd, hooked), **kwargs)
        self.lab.adopt(proc)
        return proc

    def run(
        self,
        cmd: Sequence[str | Path],
        hooked: bool = True,
        timeout: float = 60,
        check: bool = True,
        **kwargs: Any,
    ) -> subprocess.CompletedProcess[Any]:
        """Run *cmd* on this host to its end and return its result, output captured.

        Raises:
            subprocess.TimeoutExpired: it did not end in *timeout* seconds; it has been killed.
            subprocess.CalledProcessError: it failed, and *check* is true.
        """
        if "stdout" not in kwargs and "stderr" not in kwargs:
            kwargs.setdefault("capture_output", True)
        if "input" not in kwargs:
            kwargs.setdefault("stdin", subprocess.DEVNULL)
        command = self.command(cmd, hooked)
        return subprocess.run(command, timeout=timeout, check=check, process_group=0, **kwargs)

    def hooker(self, *args: str, cgroup: Path | None = None, port: int | None = None) -> EngineProcess:
        """Start an engine for this host's cgroup, or another, and return it once it is ready."""
        log = self.lab.tmp / f"engine-{self.letter}-{time.monotonic_ns()}.log"
        served, port = cgroup or self.cgroup, port or self.lab.vtl_port
        return EngineProcess(self.letter, self.popen, served, log=log, port=port, args=args)

    def socket(
        self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, protocol: int = 0
    ) -> socket.socket:
        """Return a new socket in this host's namespace, outside the hooked cgroup."""
        return netns.call(self.netns, lambda: socket.socket(family, kind, protocol))

    def wait_listening(self, port: int, timeout: float = 30) -> None:
        """Wait until some process of this host listens on TCP *port*.

        Raises:
            TimeoutError: nobody does after *timeout* seconds.
        """
        deadline = time.monotonic() + timeout
        while not netns.call(self.netns, lambda: _listening(port)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody listens on port {port} of host {self.letter}")
            time.sleep(0.01)

    def sysctl(self, name: str, value: str) -> None:
        """Set ``net.…`` *name* inside this host's namespace."""
        file = Path("/proc/sys") / name.replace(".", "/")
        netns.call(self.netns, lambda: file.write_text(value))


@dataclass
class _Thing:
    """Of the machine's, and the janitor's word on it."""

    path: Path
    undo: Undo

    def is_done(self) -> bool:
        """Whether it is gone; then the janitor forgets it."""
        gone = not self.path.exists()
        if gone:
            self.undo.done()
        return gone


class Lab:
    """Two hosts ``a`` and ``b``, their wire, and a meter on it.

    Args:
        vtl_port: the UDP port that the meter counts as VTL.
        mtu: of the veth.
        congestion: TCP congestion control inside the namespaces; None: the machine's default.
        link: what the wire does to packets; None: a plain veth, as fast as the machine. The lab's own
            ``link`` then changes it while it runs, and counts.
    """

    a: Host
    b: Host
    meter: WireMeter
    link: LinkEmulator
    letters: ClassVar[str] = "ab"  # one for each namespace that is its own, by its name's end

    def __init__(
        self,
        vtl_port: int = DEFAULT_PORT,
        mtu: int = 1500,
        congestion: str | None = None,
        link: Link | None = None,
    ) -> None:
        number = next(_numbers)
        self.tag = f"{os.getpid()}-{number}"
        self.subnet = number & 0xFF
        self.vtl_port = vtl_port
        self.mtu = mtu
        self.congestion = congestion
        self._emulate = link
        self.cgroup = cgroup_root() / f"{CGROUP_PREFIX}{self.tag}"
        self.tmp = Path(tempfile.gettempdir()) / f"{CGROUP_PREFIX}{self.tag}"  # for logs and data; goes too
        self.processes: list[subprocess.Popen[Any]] = []
        self._interrupts = Interrupts()
        self._undo: list[_Thing] = []

    def __enter__(self) -> Lab:
        self._interrupts.install()
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[False]:
        self.close()
        return False

    @property
    def hosts(self) -> tuple[Host, Host]:
        """Both hosts."""
        return self.a, self.b

    def adopt(self, proc: subprocess.Popen[Any]) -> None:
        """End *proc* at the latest when the lab closes."""
        self.processes.append(proc)

    def close(self) -> None:
        """End all processes and remove namespaces and cgroups. May be called twice."""
        with _uninterrupted():
            end_processes(self.processes)
            self.processes.clear()
            remove_cgroup(self.cgroup)
            for letter in self.letters:
                remove_netns(f"{NETNS_PREFIX}{self.tag}-{letter}")
            shutil.rmtree(self.tmp, ignore_errors=True)
            if "meter" in self.__dict__:
                self.meter.close()
        self._undo = [one for one in self._undo if not one.is_done()]  # what is not gone is the janitor's
        self._interrupts.restore()

    def _build(self) -> None:
        from pyroute2 import netns as names

        self._undo = [_Thing(path, janitor().register(action)) for path, action in self._undo_actions()]
        self.tmp.mkdir()
        for part in ("", "a", "b", "aux"):
            (self.cgroup / part).mkdir()
        self.a, self.b = Host(self, "a", 1), Host(self, "b", 2)
        with _uninterrupted():  # a child of ours makes them, and would go on without us
            for host in self.hosts:
                names.create(host.netns)
        if self._emulate:
            self.link = LinkEmulator(
                self._emulate,
                INTERFACE,
                namespaces=(self.a.netns, self.b.netns),
                mtu=self.mtu,
                popen=self.a.popen,
            )
        else:
            netns.call(self.a.netns, self._add_veth)
        for host in self.hosts:
            netns.call(host.netns, lambda host=host: self._configure(host))  # type: ignore[misc]
        if self._emulate:
            self._introduce()
        self.meter = WireMeter(self.b.netns, INTERFACE, self.vtl_port)

    def _undo_actions(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        for letter in self.letters:
            name = f"{NETNS_PREFIX}{self.tag}-{letter}"
            yield Path(netns.path(name)), undo.netns(name)
        for part in ("", "a", "b", "aux"):
            path = self.cgroup / part
            yield path, undo.cgroup(f"{self.cgroup.name}/{part}".rstrip("/"), kill=True)

    def _add_veth(self) -> None:
        from pyroute2 import IPRoute

        with IPRoute() as ipr:
            peer = {"ifname": INTERFACE, "net_ns_fd": self.b.netns}
            ipr.link("add", ifname=INTERFACE, kind="veth", peer=peer)

    def _configure(self, host: Host) -> None:
        from pyroute2 import IPRoute

        conf = Path("/proc/sys/net/ipv6/conf")
        for name in ("all", "default", INTERFACE):
            (conf / name / "accept_dad").write_text("0")  # addresses are usable at once
        if self.congestion:
            Path("/proc/sys/net/ipv4/tcp_congestion_control").write_text(self.congestion)
        with IPRoute() as ipr:
            index = ipr.link_lookup(ifname=INTERFACE)[0]
            ipr.addr("add", index=index, address=host.v4, prefixlen=24)
            ipr.addr("add", index=index, address=host.v6, prefixlen=64, flags=0x02)  # IFA_F_NODAD
            ipr.link("set", index=index, mtu=self.mtu, state="up")
            ipr.link("set", index=ipr.link_lookup(ifname="lo")[0], state="up")

    def _introduce(self) -> None:
        """Tell the hosts each other's link address, for good: a lossy link should not lose ARP."""
        addresses = {h.letter: netns.call(h.netns, _link_address) for h in self.hosts}
        for host, other in ((self.a, self.b), (self.b, self.a)):
            lladdr = addresses[other.letter]
            netns.call(host.netns, lambda other=other, lladdr=lladdr: _add_neighbours(other, lladdr))  # type: ignore[misc]


def cgroup_root() -> Path:
    """Return where cgroup v2 is, as a path that other processes can use too."""
    return Path(str(cgroup.root()).replace("/proc/self/", f"/proc/{os.getpid()}/", 1))


@functools.cache
def janitor() -> Janitor:
    """Return this process's janitor: it cleans up when the process is killed."""
    return Janitor()


def end_processes(procs: Sequence[subprocess.Popen[Any]], grace: float = STOP_GRACE) -> None:
    """Terminate *procs* together, kill those that do not end within *grace* seconds, and reap."""
    running = [p for p in procs if p.poll() is None]
    for proc in running:
        proc.terminate()
    deadline = time.monotonic() + grace
    for proc in running:
        try:
            proc.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            proc.kill()
            proc.wait()
    for proc in procs:
        for stream in (proc.stdin, proc.stdout, proc.stderr):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()


def remove_cgroup(path: Path, timeout: float = 5) -> None:
    """Kill what is left in the cgroup *path* and below, and remove it."""
    if not path.is_dir():
        return
    for kill in sorted(path.rglob("cgroup.kill"), reverse=True):
        with contextlib.suppress(OSError):
            kill.write_text("1")
    deadline = time.monotonic() + timeout
    while path.is_dir() and time.monotonic() < deadline:
        for one in sorted((p for p in (path, *path.rglob("*/")) if p.is_dir()), reverse=True):
            with contextlib.suppress(OSError):  # a process there has not ended yet, or it is gone
                one.rmdir()
        time.sleep(0.005)


def remove_netns(name: str) -> None:
    """Remove the namespace *name*, if there is one."""
    from pyroute2 import netns as names

    if Path(netns.path(name)).exists():
        with contextlib.suppress(OSError):
            names.remove(name)


def stale() -> Iterator[tuple[str, Path | str]]:
    """Yield ``("cgroup", path)``, ``("netns", name)``, ``("tmp", path)`` of labs whose owner is dead."""
    for path in cgroup_root().glob(f"{CGROUP_PREFIX}*"):
        if _owner_dead(path.name.removeprefix(CGROUP_PREFIX)):
            yield "cgroup", path
    for name in Path("/run/netns").glob(f"{NETNS_PREFIX}*"):
        if _owner_dead(name.name.removeprefix(NETNS_PREFIX)):
            yield "netns", name.name
    for path in Path(tempfile.gettempdir()).glob(f"{CGROUP_PREFIX}*"):
        if _owner_dead(path.name.removeprefix(CGROUP_PREFIX)):
            yield "tmp", path


def clean() -> int:
    """Remove what dead owners left behind; return how many things that were."""
    found = list(stale())
    for kind, what in found:
        if kind == "cgroup":
            remove_cgroup(Path(what))
        elif kind == "tmp":
            shutil.rmtree(what, ignore_errors=True)
        else:
            remove_netns(str(what))
    return len(found)


def _owner_dead(tag: str) -> bool:
    pid = tag.split("-", 1)[0]
    return pid.isdigit() and not Path(f"/proc/{pid}").exists()


def _listening(port: int) -> bool:
    want, listen = f":{port:04X}", "0A"
    for table in ("/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(want) and fields[3] == listen:
                return True
    return False


def _link_address() -> str:
    from pyroute2 import IPRoute

    with IPRoute() as ipr:
        address: str = ipr.get_links(ifname=INTERFACE)[0].get_attr("IFLA_ADDRESS")
        return address


def _add_neighbours(other: Host, lladdr: str) -> None:
    from pyroute2 import IPRoute

    with IPRoute() as ipr:
        index = ipr.link_lookup(ifname=INTERFACE)[0]
        for address in (other.v4, other.v6):
            ipr.neigh("replace", dst=address, lladdr=lladdr, ifindex=index, state=0x80)  # NUD_PERMANENT


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let signals wait, as a second Ctrl-C until the cleaning is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    blocked = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
