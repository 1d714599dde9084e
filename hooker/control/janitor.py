"""A helper process that undoes what its owner did to the machine, however the owner ends.

The owner registers an undo action before it does the thing, and marks it done once it has undone it
itself. When the owner's end of the socket closes or the owner dies (a kill -9 included), the helper
performs what is still registered, the last first, and exits.

1. The helper is started as a script, so that it imports neither this package nor anything but the
   standard library; netlink is imported when there is something to undo.
2. Registering is one datagram into a socket pair, which the helper will read even if the owner is dead
   by then: nothing needs to be acknowledged.
3. A network namespace travels with the action as a file descriptor, so it may be nameless.
4. The helper has a session of its own and ignores the signals a terminal or an impatient person sends.
5. Every undo accepts that its object is gone already.
6. A helper that was killed is replaced as soon as the owner notices, at the latest when it closes the handle.
   The owner keeps what is registered, descriptors too, to tell it to the next one.
7. What is to be done while the owner is stopped, and cannot do it, the helper does, too (``watch``).
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import io
import json
import os
import select
import signal
import site
import socket
import subprocess
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

Action = dict[str, Any]
Registered = dict[int, tuple[Action, tuple[io.FileIO, ...]]]  # by number; open files that go with the action

MAX_MESSAGE = 65536  # bytes of one JSON message
MAX_DESCRIPTORS = 4  # with it
RESERVED_TABLES = (0, 253, 254, 255)  # unspec, default, main, local: never flushed
CLOSE_TIMEOUT = 10.0  # s
DEATH_TIMEOUT = 1.0  # s, from the end of a helper's socket to its own
ATTEMPTS = 2  # helpers that are told to undo; who kills the second means it
UNDO_TIMEOUT = 30.0  # s, until a control group is empty: nobody waits for it
LOOK = 1.0  # s from one look at whether the owner is stopped to the next
STOPPED = 2  # looks, one after the other, that have found it so
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)
WITH_NAMESPACE = ("rule", "routes", "abort", "read", "watch", "xdp")
HERE = Path(__file__).resolve()


# ---- what can be undone ---------------------------------------------------------------------


def rule(family: int, *, priority: int, table: int, fwmark: int, fwmask: int = 0xFFFFFFFF) -> Action:
    """A policy-routing rule; ``family`` is 4 or 6."""
    mark = {"fwmark": fwmark, "fwmask": fwmask}
    return {"kind": "rule", "family": family, "priority": priority, "table": table, **mark}


def route_table(family: int, table: int) -> Action:
    """All routes of a table that is ours. Raises ValueError for the system's own tables."""
    if table in RESERVED_TABLES:
        raise ValueError(f"routing table {table} is the system's own")
    return {"kind": "routes", "family": family, "table": table}


def abort(mark: int, bits: int) -> Action:
    """TCP sockets with these bits of their mark, until there is none; what guards them stays as long."""
    return {"kind": "abort", "mark": mark, "bits": bits}


def read() -> Action:
    """A descriptor (the only one of ``keep``), to its end: a BPF iterator, whose program runs then."""
    return {"kind": "read"}


def watch() -> Action:
    """No undoing: a link of an iterator, which is read each second while the owner is stopped (SIGSTOP)."""
    return {"kind": "watch"}


def cgroup(relative: str, *, kill: bool = False) -> Action:
    """A control group, by its path below the root of the hierarchy (``Cgroup.relative``)."""
    return {"kind": "cgroup", "relative": relative, "kill": kill}


def file(path: str | Path) -> Action:
    """A file, socket or link."""
    return {"kind": "file", "path": str(path)}


def xdp(interface: int, name: str) -> Action:
    """A program of that name which libxdp's dispatcher calls, of an interface by its number."""
    return {"kind": "xdp", "interface": interface, "name": name}


def netns(name: str) -> Action:
    """A named network namespace, as ``ip netns del`` removes it."""
    if not name or "/" in name or name in (".", ".."):
        raise ValueError(f"bad name for a network namespace: {name!r}")
    return {"kind": "netns", "name": name}


# ---- the owner's side -----------------------------------------------------------------------


class Undo:
    """One registered action."""

    def __init__(self, janitor: Janitor, number: int) -> None:
        self._janitor = janitor
        self._number = number

    def done(self) -> None:
        """Forget the action: the owner has undone it, or wants it kept. May be called twice; never fails."""
        self._janitor._forget(self._number)


class Janitor:
    """Owner's handle on the helper. Closing it performs what is still registered.

    A handle belongs to the process that made it: in a forked child its methods do nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._count = 0
        self._registered: Registered = {}
        self._socket: socket.socket | None
        self._socket, self._process = _start({})
        _handles.add(self)

    @property
    def pid(self) -> int:
        """The helper's process id."""
        return self._process.pid

    def register(self, action: Action, *, netns: str | int | None = None, keep: tuple[int, ...] = ()) -> Undo:
        """Have ``action`` undone unless ``done()`` is called first. Call it before doing the thing.

        ``netns`` is where a rule, route or socket is: a path, a file descriptor, or None for the calling
        thread's namespace. ``keep``: descriptors that are held until then. Raises KernelError when the helper
        is gone and there can be no other, OSError for a bad path.
        """
        if os.getpid() != self._owner:
            return Undo(self, 0)
        files = _own(netns, keep) if action["kind"] in WITH_NAMESPACE else ()
        with self._lock:
            self._count += 1
            number = self._count
            if self._socket is not None:
                self._registered[number] = action, files
                try:
                    self._tell({"register": number, "action": action}, files)
                except OSError as error:
                    _close_files({number: self._registered.pop(number)})
                    raise _unreachable(error) from None
        return Undo(self, number)

    def close(self) -> None:
        """Perform what is registered; return when that is done, at most CLOSE_TIMEOUT s later.

        If the helper has been killed, another one does it.
        """
        if os.getpid() != self._owner:
            return
        with self._lock:
            ours, self._socket = self._socket, None
            registered, self._registered = self._registered, {}
        try:
            attempts = ATTEMPTS if registered else 1
            while ours is not None:
                with contextlib.suppress(OSError):
                    ours.shutdown(socket.SHUT_RDWR)  # a forked child may have a copy
                ours.close()
                attempts -= 1
                if self._process.wait(CLOSE_TIMEOUT) == 0 or not attempts:
                    return
                ours, self._process = _start(registered)
        except subprocess.TimeoutExpired:
            pass  # it goes on by itself
        except OSError as error:
            raise _unreachable(error) from None
        finally:
            _close_files(registered)

    def _forget(self, number: int) -> None:
        if os.getpid() != self._owner:
            return
        with self._lock:
            if number not in self._registered or self._socket is None:
                return
            action, files = self._registered.pop(number)
            with contextlib.suppress(OSError):  # the next one is not told of it
                self._tell({"done": number})
            _close_files({number: (action, files)})

    def _tell(self, message: dict[str, Any], files: tuple[io.FileIO, ...] = ()) -> None:
        """To the helper, or another one that is told everything."""
        assert self._socket is not None
        try:
            _send(self._socket, message, files)
        except (BrokenPipeError, ConnectionResetError):
            self._replace()

    def _replace(self) -> None:
        assert self._socket is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(DEATH_TIMEOUT)  # nothing but its death closes its end of the socket
        ours, self._process = _start(self._registered)
        self._socket.close()
        self._socket = ours

    def _forget_files(self) -> None:
        """In a forked child: what its copies keep alive must end with its parent."""
        _close_files(self._registered)

    def __enter__(self) -> Janitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_handles: weakref.WeakSet[Janitor] = weakref.WeakSet()


def _forget_all() -> None:
    for handle in list(_handles):
        handle._forget_files()


os.register_at_fork(after_in_child=_forget_all)


def _own(netns: str | int | None, keep: tuple[int, ...]) -> tuple[io.FileIO, ...]:
    """Open files of the owner's, the namespace first: the caller may close its own."""
    path = netns if isinstance(netns, str) else "/proc/thread-self/ns/net"
    first = io.FileIO(os.dup(netns)) if isinstance(netns, int) else io.FileIO(path)
    return first, *(io.FileIO(os.dup(descriptor)) for descriptor in keep)


def _close_files(registered: Registered) -> None:
    for _, files in registered.values():
        for file in files:
            file.close()


def _start(registered: Registered) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """A helper that has been told all of it, and the owner's end of the socket. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with theirs:
            process = _spawn(theirs)
        for number, (action, files) in registered.items():
            _send(ours, {"register": number, "action": action}, files)
    except BaseException:
        ours.close()
        raise
    return ours, process


def _send(channel: socket.socket, message: dict[str, Any], files: tuple[io.FileIO, ...]) -> None:
    socket.send_fds(channel, [json.dumps(message).encode()], [file.fileno() for file in files])


def _unreachable(error: OSError) -> Exception:
    from hooker.errors import KernelError  # here: the helper begins without this package

    return KernelError.from_os_error("reach the clean-up process", error, remedy="was it killed? start again")


def _spawn(theirs: socket.socket) -> subprocess.Popen[bytes]:
    from hooker import start

    # above the standard streams: their numbers are the helper's own, even where the owner has closed them
    channel = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, 3)
    settings = json.dumps({"owner": os.getpid(), "socket": channel, "netlink": _netlink_directory()})
    # until the helper ignores them: what is registered must not die with an impatient owner
    before = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
    try:
        return subprocess.Popen(
            [start.interpreter(), "-I", "-S", str(HERE), settings],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=None if os.environ.get("HOOKER_JANITOR_DEBUG") else subprocess.DEVNULL,
            pass_fds=(channel,),
            start_new_session=True,
            env=start.environment(),
            cwd="/",
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(channel)


def _netlink_directory() -> str | None:
    """Where this process has pyroute2 from: the one directory that the helper needs beside its own."""
    found = importlib.util.find_spec("pyroute2")
    return str(Path(found.origin).parent.parent) if found is not None and found.origin else None


# ---- the helper's side ----------------------------------------------------------------------


def _main(settings: dict[str, Any]) -> None:
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    owner = _Owner(settings["owner"], settings["netlink"])
    registered = _listen(socket.socket(fileno=settings["socket"]), owner)
    _make_importable(settings["netlink"])
    _perform(registered)


def _perform(registered: dict[int, Action]) -> None:
    for action in reversed(registered.values()):
        try:
            _UNDO[action["kind"]](action)
        except Exception as error:
            print(f"hooker: cannot undo {action}: {error!r}", file=sys.stderr)


def _make_importable(netlink: str | None) -> None:
    """Let ``hooker.control.cgroup`` be imported without the package's own ``__init__`` and all it loads."""
    if "hooker" in sys.modules:
        return
    site.main()  # the interpreter's own packages; left out at the start, for speed
    sys.path += [netlink] if netlink else []
    package = types.ModuleType("hooker")
    package.__path__ = [str(HERE.parents[1])]
    sys.modules["hooker"] = package


class _Owner:
    """``descriptor`` becomes readable when it dies; None: it is dead already."""

    def __init__(self, pid: int, netlink: str | None) -> None:
        self._netlink = netlink
        self._stat = Path(f"/proc/{pid}/stat")
        self._looked, self._stopped = time.monotonic(), 0
        self.descriptor: int | None = None
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            self.descriptor = descriptor if os.getppid() == pid else None

    def look(self, registered: dict[int, Action]) -> None:
        """Each second, while it lives: what is to be done while it is stopped."""
        watches = [action for action in registered.values() if action["kind"] == "watch"]
        if not watches or time.monotonic() < self._looked + LOOK:
            return
        self._looked = time.monotonic()
        self._stopped = self._stopped + 1 if self._is_stopped() else 0
        if self._stopped < STOPPED:
            return
        _make_importable(self._netlink)
        for action in watches:
            with contextlib.suppress(Exception):  # it is tried again
                _walk(action)

    def _is_stopped(self) -> bool:
        """By proc(5): the state stands behind the name, which may have any character."""
        with contextlib.suppress(OSError):
            return self._stat.read_bytes().rpartition(b")")[2].split()[0] in (b"T", b"t")
        return False


def _listen(channel: socket.socket, owner: _Owner) -> dict[int, Action]:
    """Read until the owner is gone; what is registered then.

    The owner's death is watched as well as the channel: a child it forked may hold the other end.
    """
    registered: dict[int, Action] = {}
    channel.setblocking(False)
    watched = [one for one in (channel.fileno(), owner.descriptor) if one is not None]
    while True:
        wait = LOOK if any(action["kind"] == "watch" for action in registered.values()) else None
        gone = owner.descriptor is None or owner.descriptor in select.select(watched, [], [], wait)[0]
        owner.look(registered)
        try:
            while True:
                data, descriptors, _, _ = socket.recv_fds(channel, MAX_MESSAGE, MAX_DESCRIPTORS)
                if not data:
                    return registered
                _note(registered, json.loads(data), descriptors)
        except BlockingIOError:
            if gone:
                return registered


def _note(registered: dict[int, Action], message: dict[str, Any], descriptors: list[int]) -> None:
    if "done" in message:
        action = registered.pop(message["done"], None)
        for descriptor in action.get("descriptors", ()) if action is not None else ():
            os.close(descriptor)
        return
    action = message["action"]
    if descriptors:
        action["netns_fd"], action["descriptors"] = descriptors[0], descriptors
    registered[message["register"]] = action


def _enter(descriptor: int) -> None:
    import ctypes

    clone_newnet = 0x40000000  # linux/sched.h
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, clone_newnet) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _netlink(action: Action) -> Any:
    from pyroute2 import IPRoute

    _enter(action["netns_fd"])
    return IPRoute()


def _family(action: Action) -> int:
    return int(socket.AF_INET6 if action["family"] == 6 else socket.AF_INET)


def _undo_rule(action: Action) -> None:
    names = ("priority", "table", "fwmark", "fwmask")
    with _netlink(action) as ipr:
        ipr.rule("del", family=_family(action), **{name: action[name] for name in names})


def _undo_routes(action: Action) -> None:
    with _netlink(action) as ipr:
        ipr.flush_routes(family=_family(action), table=action["table"])


def _undo_abort(action: Action) -> None:
    from hooker.control.abort import abort_marked

    _enter(action["netns_fd"])
    abort_marked(action["mark"], action["bits"])


def _undo_read(action: Action) -> None:
    _read(action["descriptors"][1])


def _read(iterator: int) -> None:
    until = time.monotonic() + UNDO_TIMEOUT
    while time.monotonic() < until:
        with contextlib.suppress(BlockingIOError):  # it has looked at a million objects, and goes on
            if not os.read(iterator, MAX_MESSAGE):
                return


def _walk(action: Action) -> None:
    from hooker.control import bpf_calls

    _enter(action["netns_fd"])
    iterator = bpf_calls.iterator(action["descriptors"][1])
    try:
        _read(iterator)
    finally:
        os.close(iterator)


def _undo_cgroup(action: Action) -> None:
    from hooker.control.cgroup import Cgroup

    Cgroup(action["relative"]).remove(kill=action["kill"], timeout=UNDO_TIMEOUT)


def _undo_file(action: Action) -> None:
    Path(action["path"]).unlink(missing_ok=True)


def _undo_xdp(action: Action) -> None:
    from hooker.control import libxdp

    _enter(action["netns_fd"])
    libxdp.detach(action["interface"], action["name"])


def _undo_netns(action: Action) -> None:
    import ctypes

    mnt_detach = 2  # sys/mount.h
    path = Path("/run/netns") / action["name"]
    ctypes.CDLL(None).umount2(os.fsencode(path), mnt_detach)
    path.unlink(missing_ok=True)


_UNDO: dict[str, Callable[[Action], None]] = {
    "rule": _undo_rule,
    "routes": _undo_routes,
    "abort": _undo_abort,
    "read": _undo_read,
    "watch": lambda action: None,
    "cgroup": _undo_cgroup,
    "file": _undo_file,
    "netns": _undo_netns,
    "xdp": _undo_xdp,
}

if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
