"""An engine that takes segments without the rest of Hooker: the kernel programs, the device, the worker.

    python segments_engine.py NETNS CGROUP VTL_PORT

It answers each line on standard input (JSON: a name and arguments) with one on standard output, stops in
order at its end, and may be killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hooker.transports import DEFAULT_PORT

ROOT = Path(__file__).resolve().parents[1]
SLOTS = 4096


class Engine:
    """Its side in the process."""

    def __init__(self, kernel: Any, worker: Any) -> None:
        self.kernel, self.worker = kernel, worker

    def snapshot(self) -> dict[str, Any]:
        kernel = {f"kernel.{name}": count for name, count in self.kernel.counters().items()}
        return {
            "counters": self.worker.counters() | kernel,
            "reasons": self.worker.reasons(),
            "ended": self.worker.ended(),
            "flows": [[*row[:4], *row[8:]] for row in self.worker.flows()],
            "peers": [row[2] for row in self.worker.peers()],
            "cpu": time.process_time(),
        }


def main(name: str, cgroup: str, port: int) -> None:
    """Until the end of standard input."""
    from hooker import transports
    from hooker.control import netns
    from hooker.control.janitor import Janitor
    from hooker.control.kernel import KernelPrograms
    from hooker.control.policy import Policy
    from hooker.engine.slots import fill_free
    from hooker.tun import Lane

    with Janitor() as keeper, KernelPrograms(SLOTS, "segments") as kernel:
        lane = netns.call(name, Lane(keeper, entrance=kernel.entrance).__enter__)
        try:
            lane.install()
            fill_free(kernel.free, SLOTS)
            vtl = transports.get("vtl")
            worker = netns.call(name, lambda: make_worker(kernel, lane, port, vtl.wire_id))
            policy = Policy()
            netns.call(name, lambda: kernel.configure(policy, mark=lane.mark, port=port, offers=[[vtl]]))
            thread = threading.Thread(target=worker.run, daemon=True)
            thread.start()
            kernel.attach(cgroup)
            print(json.dumps("ready"), flush=True)
            serve(Engine(kernel, worker))
            kernel.refuse_flows()
            worker.stop()
            thread.join(5)
            worker.close()
        finally:
            lane.__exit__(None, None, None)


def make_worker(kernel: Any, lane: Any, port: int, wire_id: int) -> Any:
    from hooker._fastpath import Worker
    from hooker.control.kernel import RING_SIZE

    return Worker(
        ring_fd=kernel.ring,
        ring_size=RING_SIZE,
        free_fd=kernel.free,
        avoid_fd=kernel.avoid,
        warm_fd=kernel.warm,
        records=kernel.records,
        attention=kernel.attention,
        max_flows=SLOTS,
        port=port,
        peer_port=port,
        transports=(wire_id,),
        tun_fd=lane.descriptor,
        tun_queue=lane.queue_length,
        mark=lane.mark,
        busy_poll=100e-6,
        slabs=int(os.environ.get("HOOKER_TEST_SLABS", "256")),
    )


def serve(engine: Engine) -> None:
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        print(json.dumps(getattr(engine, command)(*arguments)), flush=True)


class EngineProcess:
    """Its side in a test: one for a host of the lab."""

    def __init__(self, host: Any) -> None:
        self.host = host
        command = [sys.executable, str(Path(__file__)), host.netns, str(host.cgroup), str(DEFAULT_PORT)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.proc = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, **pipes)

    def wait_ready(self) -> None:
        assert self.answer() == "ready"

    def ask(self, *command: Any) -> Any:
        assert self.proc.stdin
        print(json.dumps(command), file=self.proc.stdin, flush=True)
        return self.answer()

    def answer(self) -> Any:
        assert self.proc.stdout
        return json.loads(self.proc.stdout.readline())

    def counters(self) -> dict[str, int]:
        found: dict[str, int] = self.ask("snapshot")["counters"]
        return found

    def kill9(self) -> None:
        self.proc.kill()
        self.proc.wait()

    def stop(self) -> None:
        """In order."""
        assert self.proc.stdin
        assert self.proc.stdout
        with contextlib.suppress(BrokenPipeError):
            self.proc.stdin.close()
        try:
            self.proc.wait(20)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise
        finally:
            self.proc.stdout.close()


@contextlib.contextmanager
def engines(*hosts: Any) -> Iterator[list[EngineProcess]]:
    """One for each host, ready; stopped at the end."""
    made: list[EngineProcess] = []
    try:
        made += [EngineProcess(host) for host in hosts]
        for engine in made:
            engine.wait_ready()
        yield made
    finally:
        for engine in made:
            engine.stop()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
