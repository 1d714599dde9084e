"""A stream that rather goes on than waits: ffmpeg serves a film over TCP, and ffmpeg plays it meanwhile.

Once over TCP, and hooked once with each reliability function, over a path that loses packets:

    sudo ../.venv/bin/python player.py --loss 10 --rtt 200 --rate 1000 --rounds 3

A frame is right if the file has the same. How late one is counts from that which was least late.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hooker.lab import Host, Lab
from hooker.lab.engine import EngineProcess
from hooker.lab.link import Link

PORT = 5004
RATE = 25  # frames a second
QUIET = ("ffmpeg", "-nostdin", "-loglevel", "error")
SHOWN = ("-threads", "1", "-analyzeduration", "500000")
CHECKED = ("-copyts", "-fps_mode", "passthrough", "-f", "framemd5", "-flush_packets", "1", "-")
FILM = "testsrc=size=320x240:rate={}"
CODED = "-c:v mpeg2video -b:v 400k -maxrate 400k -bufsize 200k -g 12 -threads 1 -f mpegts"
BEGINNING = 2 * RATE  # frames, of which the player first makes out what they are
FUNCTIONS = ("", "selective-repeat", "partial:deadline=300ms")
WAIT = 120  # s, for a transfer that stands


@dataclass(frozen=True)
class Frame:
    """``at``: when the player had it, in seconds."""

    number: int
    md5: str
    at: float


@dataclass(frozen=True)
class Seen:
    """What one player saw of a film; ``status``: its engine's snapshot, and ``log`` what that wrote."""

    frames: list[Frame]
    right: int
    late: list[float]  # s, ascending
    exit: int
    status: dict[str, Any]
    log: str


def make_film(path: Path, seconds: int) -> None:
    source = ("-f", "lavfi", "-i", FILM.format(RATE), "-t", str(seconds))
    subprocess.run([*QUIET, "-y", *source, *CODED.split(), str(path)], check=True)


def frames(player: subprocess.Popen[str]) -> list[Frame]:
    """Those that it decodes, as they come: number, MD5 (framemd5's lines)."""
    found = []
    for line in player.stdout or ():
        if not line.startswith("#"):
            _, _, number, _, _, md5 = line.split(",")
            found.append(Frame(int(number), md5.strip(), time.monotonic()))
    return found


def reference(film: Path) -> dict[int, str]:
    command = [*QUIET, *SHOWN, "-i", str(film), *CHECKED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as player:
        return {frame.number: frame.md5 for frame in frames(player)}


@contextmanager
def engines(lab: Lab, function: str) -> Iterator[list[EngineProcess]]:
    """With a rule for the port of the stream; none without a function."""
    with ExitStack() as stack:
        rule = ("-v", "--rule", f"port={PORT} reliability={function}")
        with ThreadPoolExecutor() as pool:
            hosts = [lab.a, lab.b] if function else []
            started = list(pool.map(lambda host: host.hooker(*rule), hosts))
        for engine in started:
            stack.callback(engine.stop)
        yield started


def serve(host: Host, film: Path) -> subprocess.Popen[Any]:
    """At the film's own pace, to who comes first."""
    to = f"tcp://0.0.0.0:{PORT}?listen=1"
    server = host.popen(
        [*QUIET, "-re", "-i", str(film), "-c", "copy", "-f", "mpegts", "-flush_packets", "1", to]
    )
    host.wait_listening(PORT)
    return server


def play(film: Path, right: dict[int, str], function: str, link: Link) -> Seen:
    """Host b serves, host a plays. Without a function: TCP, and no engine."""
    with Lab(link=Link()) as lab:
        for host in lab.hosts:  # as hooked flows have; at such windows CUBIC is no faster (RFC 9438, 4.3)
            host.sysctl("net.ipv4.tcp_congestion_control", "reno")
        with engines(lab, function) as started:
            lab.link.set(link)  # it loses nothing while engines start
            server = serve(lab.b, film)
            errors = (lab.tmp / "player").open("wb")  # what it says of broken pictures
            player = lab.a.popen(
                [*QUIET, *SHOWN, "-i", f"tcp://{lab.b.v4}:{PORT}", *CHECKED],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            found = frames(player)
            exits = player.wait(WAIT) or server.wait(WAIT)
            errors.close()
            status = started[0].status() if started else {}
            time.sleep(0.2)  # the last events are written
            log = started[0].tail(1 << 20) if started else ""
    late = [frame.at - frame.number / RATE for frame in found]
    good = sum(right.get(frame.number) == frame.md5 for frame in found)
    return Seen(found, good, sorted(at - min(late, default=0) for at in late[BEGINNING:]), exits, status, log)


def show(function: str, seen: Sequence[Seen], whole: int) -> None:
    """Medians of the rounds."""
    counters = [one.status.get("counters", {}) for one in seen]
    middle = statistics.median
    print(
        f"{function or 'TCP':24} {middle(len(one.frames) for one in seen):4g} of {whole} frames, "
        f"{middle(one.right for one in seen):4g} right, late by "
        f"{middle(middle(one.late) for one in seen):.2f} s (median), "
        f"{middle(one.late[len(one.late) * 95 // 100] for one in seen):.2f} s (95 %), "
        f"{middle(one.late[-1] for one in seen):.2f} s (most); "
        f"{middle(count.get('holes_filled', 0) for count in counters):g} holes, "
        f"{middle(count.get('bytes_zeroed', 0) for count in counters):g} B of zeros",
        flush=True,
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loss", type=float, default=10, help="in per cent, each way")
    parser.add_argument("--rtt", type=float, default=200, help="in ms")
    parser.add_argument("--rate", type=float, default=1000, help="of the link, in kbit/s")
    parser.add_argument("--seconds", type=int, default=12, help="of film")
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args(argv)
    if shutil.which("ffmpeg") is None:
        print("player: there is no ffmpeg; apt-get install ffmpeg", file=sys.stderr)
        return 2
    link = Link(rate=args.rate * 1e3, delay=args.rtt / 2e3, loss=args.loss / 100)
    with tempfile.TemporaryDirectory() as directory:
        film = Path(directory) / "film.ts"
        make_film(film, args.seconds)
        right = reference(film)
        seen: dict[str, list[Seen]] = {function: [] for function in FUNCTIONS}
        for _ in range(args.rounds):
            for function in FUNCTIONS:
                seen[function].append(play(film, right, function, link))
    for function in FUNCTIONS:
        show(function, seen[function], len(right))
    return max(one.exit for some in seen.values() for one in some)


if __name__ == "__main__":
    sys.exit(main())
