"""The threads of one engine, and their end.

worker   the data path, without the GIL. A tap and controllers in Python run here. It waits in epoll, at most
         until its next deadline.
route    installs the routing rule when the first candidate comes, and runs no user's code. Flows wait for it
         no longer than their hold; what it cannot install it tries again, in growing intervals. Then it
         puts back what other programs take away, when the worker finds that its lane leads nowhere.
events   calls ``on_event``. What it does not take in time is dropped and counted (``notices_lost``).

The end is bounded: what does not come back in STOP_TIMEOUT keeps what it uses. Of what happened last,
``on_event`` is told for LAST_WORDS: who is quick hears all, and who is slow keeps close() for the call that
it is in.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from hooker.errors import KernelError, UsageError

if TYPE_CHECKING:
    from hooker._fastpath import RawEvent, Worker

STOP_TIMEOUT = 10.0  # s, for each thread
LAST_WORDS = 1.0  # s
FIRST_RETRY, LAST_RETRY = 0.1, 30.0  # s between two attempts at the routing rule; doubles
IP_VERSIONS = (4, 6)

Deliver = Callable[["RawEvent"], object]


class Ending:
    """Says once, to all threads that poll it, that the engine ends."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC)
        self.said = False
        self._at = 0.0

    def say(self) -> None:
        """May be called twice."""
        if not self.said:
            self._at = time.monotonic()
            self.said = True
            os.eventfd_write(self._descriptor, 1)

    def watch(self, *also: int) -> select.epoll:
        """The epoll for ``wait``, made in time: poll() fails when the process may have fewer descriptors."""
        watch = select.epoll()
        for descriptor in (self._descriptor, *also):
            watch.register(descriptor, select.EPOLLIN)
        return watch

    def wait(self, watch: select.epoll, timeout: float | None = None) -> bool:
        """Whether the engine ends. Returns when it does, when something watched is readable, or in time."""
        if not self.said:
            watch.poll(timeout)
        return self.said

    def seconds(self) -> float:
        """Since it was said."""
        return time.monotonic() - self._at if self.said else 0.0

    def close(self) -> None:
        """When no thread looks at it any more."""
        os.close(self._descriptor)


class WorkerThread(threading.Thread):
    """The data path."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(name="hooker-worker", daemon=True)
        self._worker = worker

    def run(self) -> None:
        """SCHED_BATCH: woken up, it does not interrupt an application that is running, which goes on to write
        what makes the worker's batch larger."""
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            with contextlib.suppress(OSError):  # a sandbox may forbid it
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        self._worker.run()


class RouteThread(threading.Thread):
    """Installs the routing rule for the first candidate, and keeps it and the routes there.

    ``install`` adds the rule. ``restore`` puts back what is missing of one IP version, and says whether
    anything was. ``error`` is why something is not there, or empty.
    """

    def __init__(
        self,
        worker: Worker,
        ending: Ending,
        install: Callable[[], None],
        restore: Callable[[int], bool],
    ) -> None:
        super().__init__(name="hooker-route", daemon=True)
        self._worker = worker
        self._ending = ending
        self._install = install
        self._restore = restore
        self._wanted = ending.watch(worker.route_fileno())
        self._again = ending.watch()
        self._missed = ending.watch(worker.missed_fileno())
        self.error = ""

    def run(self) -> None:
        try:
            self._put_in()
            while not self._ending.wait(self._missed):
                os.eventfd_read(self._worker.missed_fileno())  # nobody else does
                self._put_back()
        finally:
            for watch in (self._wanted, self._again, self._missed):
                watch.close()

    def _put_in(self) -> None:
        pause = FIRST_RETRY
        ended = self._ending.wait(self._wanted)
        while not ended:
            try:
                self._install()
                self.error = ""
            except Exception as error:  # netlink's errors are no OSErrors
                self.error = _said(error)
            self._worker.route_installed(not self.error)
            if not self.error:
                return
            ended = self._ending.wait(self._again, pause)
            pause = min(2 * pause, LAST_RETRY)

    def _put_back(self) -> None:
        """Asked again by the next look that comes to nothing, so nothing is tried twice here."""
        errors = []
        for version in IP_VERSIONS:
            try:
                if self._restore(version):
                    self._worker.route_restored(version)
            except Exception as error:  # netlink's errors are no OSErrors
                errors.append(_said(error))
        self.error = "; ".join(dict.fromkeys(errors))


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


class EventThread(threading.Thread):
    """Takes the worker's notices and calls the user, who hears of ``first`` before.

    ``errors``: what that raised; the first is reported. ``dropped``: what there was no time for at the end.
    """

    def __init__(
        self,
        worker: Worker,
        ending: Ending,
        take: Callable[[], Iterable[RawEvent]],
        deliver: Deliver | None,
        first: Iterable[RawEvent] = (),
    ) -> None:
        super().__init__(name="hooker-events", daemon=True)
        self._worker = worker
        self._ending = ending
        self._take = take
        self._deliver = deliver
        self._first = first
        self._watch = ending.watch(worker.fileno())
        self.errors = 0
        self.dropped = 0

    def run(self) -> None:
        for raw in self._first:
            self._tell(raw)
        ended = False
        while not ended:
            ended = self._ending.wait(self._watch)
            for raw in self._take():
                self._tell(raw)
        self._watch.close()

    def _tell(self, raw: RawEvent) -> None:
        if self._deliver is None:
            return
        if self._ending.seconds() < LAST_WORDS:
            self._call(self._deliver, raw)
        else:
            self.dropped += 1

    def _call(self, deliver: Deliver, raw: RawEvent) -> None:
        try:
            deliver(raw)
        except BaseException:  # SystemExit too: it would end this thread, not the process
            self.errors += 1
            if self.errors == 1:
                with contextlib.suppress(BaseException):  # standard error may be closed
                    self._report()

    def _report(self) -> None:
        kind, error, trace = sys.exc_info()
        if isinstance(error, SystemExit):  # which the hook passes over in silence
            kind, error = RuntimeError, RuntimeError(f"on_event raised {error!r}")
        threading.excepthook(threading.ExceptHookArgs((kind, error, trace, self)))


class EngineThreads:
    """All of them. ``install`` and ``restore`` are the route thread's; ``take`` empties the notices,
    ``deliver`` tells one; those in ``first`` come first."""

    def __init__(
        self,
        worker: Worker,
        *,
        install: Callable[[], None],
        restore: Callable[[int], bool],
        take: Callable[[], Iterable[RawEvent]],
        deliver: Deliver | None,
        first: Iterable[RawEvent] = (),
    ) -> None:
        self._ending = Ending()
        self._stopped = False
        self._worker = worker
        self.worker = WorkerThread(worker)
        self.route = RouteThread(worker, self._ending, install, restore)
        self.events = EventThread(worker, self._ending, take, deliver, first)
        try:
            for thread in (self.events, self.route, self.worker):
                thread.start()
        except RuntimeError as error:  # those that there are must not wait for ever
            self._ending.say()
            ended = [_join(thread) for thread in (self.events, self.route) if thread.ident is not None]
            if all(ended):
                self._ending.close()
            raise KernelError(
                f"cannot start the engine's threads: {error}", remedy="raise pids.max, or ulimit -u"
            ) from None

    def stop(self) -> None:
        """End them, the worker first; what it still tells is delivered. Twice is harmless; ``on_event`` may.

        Raises UsageError when the worker does not end in STOP_TIMEOUT: it still uses what it was made from.
        """
        if self._stopped:
            return
        self._worker.stop()
        if not _join(self.worker):
            raise UsageError(
                f"the worker has not stopped for {STOP_TIMEOUT:g} s: a tap or a controller does not return",
                remedy="let it return, then close() again; nothing that it uses has been freed",
            )
        self._stopped = True
        self._ending.say()
        if all([_join(self.route), _join(self.events)]):
            self._ending.close()

    @property
    def left_behind(self) -> bool:
        """Of one that has been stopped, whether ``on_event`` has not come back from its last call."""
        return self._stopped and self.events.is_alive() and self.here() is not self.events

    def here(self) -> threading.Thread | None:
        """The one that is calling, if it is one of them."""
        current = threading.current_thread()
        return current if current in (self.worker, self.route, self.events) else None


def _join(thread: threading.Thread) -> bool:
    """Whether the thread has ended. The caller's own has not: it ends when it comes back from here."""
    if thread is threading.current_thread():
        return False
    thread.join(STOP_TIMEOUT)
    return not thread.is_alive()
