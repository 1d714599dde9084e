"""The transport ``quic`` beside two QUIC libraries for Python: 20 MB over loopback, both ends in one process.

    python -m benchmarks.quic_libraries [--venv DIR] [--rounds N] [--megabytes N]

aioquic and qh3 are installed by pip into a venv, which is thrown away unless ``--venv`` names one. Each
transfer has a process of its own, in turns. Time is from the first byte that is written to the last that has
come; CPU time is that of the process meanwhile, so of both ends. The handshake is not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

LIBRARIES = ("aioquic", "qh3")
OURS = "quic"
MB = 1_000_000
PIECE = 32 << 10  # bytes of one write
BACKLOG = 4 * MB  # bytes that wait at most
DATAGRAM = 1444  # bytes: what libngtcp2's search comes to
PATIENCE = 300  # s for one transfer
LOOPBACK = "127.0.0.1"
HOME = bytes(10) + b"\xff\xff\x7f\x00\x00\x01"  # the same, as the engine writes it


# ---- one transfer: seconds, and CPU seconds ----------------------------------------------------------


def ours(size: int) -> tuple[float, float]:
    """By hooker.transports.face: no engine, and what arrives becomes bytes of Python's."""
    from hooker import transports
    from hooker.flow.messages import decode, encode
    from hooker.transports.face import Lone
    from hooker.transports.makers import Settings, make

    number = transports.get(OURS).wire_id
    a, b = Lone(make(number, Settings())), Lone(make(number, Settings()))
    there = a.connect(HOME, b.port)
    while not a.is_up(there):
        a.turn(0.001)
        b.turn(0.001)
    a.say(there, encode("hello", epoch=1, position=65535, token=7, own_token=8))
    channel, sent, arrived = a.channel(there), 0, 0
    began, used = time.monotonic(), time.process_time()
    while arrived < size:
        while sent < size and a.waiting(channel)[0] < BACKLOG:
            piece = bytes(min(PIECE, size - sent))
            assert a.send(channel, encode("data", epoch=1, token=1, position=1 + sent, data=piece))
            sent += len(piece)
        a.turn()
        b.turn()
        released: set[Any] = {one[1] for one in a.heard if one[0] == "release"}
        for loan in released:
            if a.lent[loan][1] == 0:
                del a.lent[loan]
        messages: list[Any] = [one[2] for one in b.heard if one[0] == "message"]
        arrived += sum(len(m["data"]) for m in map(decode, messages) if m["kind"] == "data")
        a.heard.clear()
        b.heard.clear()
    return time.monotonic() - began, time.process_time() - used


async def library(name: str, size: int, certificate: Path, key: Path) -> tuple[float, float]:
    """By one of LIBRARIES, as its documentation says: asyncio, one stream."""
    lib: Any = importlib.import_module(f"{name}.asyncio")
    configuration: Any = importlib.import_module(f"{name}.quic.configuration").QuicConfiguration
    served = configuration(is_client=False, alpn_protocols=["bench"])
    served.load_cert_chain(str(certificate), str(key))
    asked = configuration(
        is_client=True, alpn_protocols=["bench"], verify_mode=ssl.CERT_NONE, max_datagram_size=DATAGRAM
    )
    ended: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    tasks = []

    async def take(reader: asyncio.StreamReader) -> None:
        arrived = 0
        while arrived < size:
            arrived += len(await reader.read(1 << 20))
        ended.set_result(time.monotonic())

    def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.ensure_future(take(reader)))

    server = await lib.serve(LOOPBACK, 0, configuration=served, stream_handler=stream)
    port = server._transport.get_extra_info("sockname")[1]
    async with lib.connect(LOOPBACK, port, configuration=asked) as client:
        _, writer = await client.create_stream()
        began, used = time.monotonic(), time.process_time()
        for at in range(0, size, PIECE):
            writer.write(bytes(min(PIECE, size - at)))
        seconds = await ended - began
        used = time.process_time() - used
    server.close()
    return seconds, used


# ---- in turns ----------------------------------------------------------------------------------------


def install(venv: Path) -> Path:
    """The interpreter of a venv that has LIBRARIES."""
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "-q", *LIBRARIES], check=True)
    return python


def make_certificate(directory: Path) -> tuple[Path, Path]:
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    names = ["-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(
        ["openssl", "req", "-x509", "-nodes", "-days", "1", *curve, *names], check=True, capture_output=True
    )
    return certificate, key


def one(python: Path, name: str, size: int, files: Sequence[Path]) -> tuple[float, float]:
    """Mbit/s, and CPU seconds a GB. Raises subprocess.CalledProcessError."""
    command = [str(python), __file__, "--one", name, str(size), *map(str, files)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=PATIENCE)
    seconds, used = json.loads(done.stdout)
    return 8 * size / seconds / 1e6, used / (size / 1e9)


def compare(python: Path, rounds: int, size: int) -> dict[str, list[tuple[float, float]]]:
    interpreters = {OURS: Path(sys.executable)} | dict.fromkeys(LIBRARIES, python)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in interpreters}
    with tempfile.TemporaryDirectory() as directory:
        files = make_certificate(Path(directory))
        for _ in range(rounds):
            for name, interpreter in interpreters.items():
                found[name].append(one(interpreter, name, size, files))
    return found


@contextmanager
def throw_away() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory) / "venv"


def main() -> None:
    """Print a row for each: medians, and from which to which."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--venv", type=Path, help="is made, or used, and stays")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=20)
    options = parser.parse_args()
    with nullcontext(options.venv) if options.venv else throw_away() as venv:
        found = compare(install(venv), options.rounds, options.megabytes * MB)
    for name, values in found.items():
        rates, costs = zip(*values, strict=True)
        print(
            f"{name:8} {statistics.median(rates):7,.0f} Mbit/s ({min(rates):,.0f} to {max(rates):,.0f})"
            f" {statistics.median(costs):6.1f} CPU s/GB ({min(costs):.1f} to {max(costs):.1f})"
        )


def main_of_one(name: str, size: int, files: Sequence[str]) -> None:
    """In a process of its own, without Hooker where it is another library."""
    if name == OURS:
        sys.path.insert(0, str(Path(__file__).parent.parent))
        print(json.dumps(ours(size)))
    else:
        print(json.dumps(asyncio.run(library(name, size, *map(Path, files)))))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        main_of_one(sys.argv[2], int(sys.argv[3]), sys.argv[4:])
    else:
        main()
