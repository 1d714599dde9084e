"""curl, nginx and wrk through Hooker: every body is compared by SHA-256 at both ends."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import EACH_FAMILY, Pair, url

from hooker.lab import Lab
from hooker.lab.apps import sha256, start_nginx, write_random

pytestmark = pytest.mark.timeout(120)

SIZES = {"0": 0, "1": 1, "16M": 16_000_000, "100M": 100_000_000, "1G": 1_000_000_000}
PORTS = {"sendfile": 8080, "copy": 8081, "mapped": 8082}
POST_PORT = 8083
MUCH = ["16M", pytest.param("100M", marks=pytest.mark.soak)]


@dataclass
class Web:
    """nginx three times over (with and without sendfile, on IPv6 sockets only) and a POST server."""

    pair: Pair
    files: Path
    digests: dict[str, str]

    def digest(self, size: str) -> str:
        """SHA-256 of the file of that name, which all servers have from now on."""
        if size not in self.digests:
            self.digests[size] = write_random(self.files / size, SIZES[size])
            for port in PORTS.values():
                (self.files / str(port) / "www" / size).hardlink_to(self.files / size)
        return self.digests[size]

    def up(self, port: int, name: str) -> Path:
        """Return where the nginx at *port* keeps an uploaded file."""
        return self.files / str(port) / "www" / "up" / name


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with Lab() as lab, Pair.open(lab) as pair:
        files = lab.tmp / "web"
        files.mkdir()
        for name, port in PORTS.items():
            _nginx(lab, files, name, port)
        server = Path(__file__).parent / "post_server.py"
        lab.b.popen([sys.executable, server, "::", str(POST_PORT)])
        lab.b.wait_listening(POST_PORT)
        yield Web(pair, files, {})


def _nginx(lab: Lab, files: Path, name: str, port: int) -> None:
    directory = files / str(port)
    directory.mkdir()
    start_nginx(lab.b, directory, port, sendfile=name == "sendfile", mapped=name == "mapped")


def curl(web: Web, *options: str | Path, timeout: float = 60) -> str:
    done = web.pair.a.run(["curl", "-sS", "-f", *options], timeout=timeout, text=True)
    return str(done.stdout)


def fetch(web: Web, family: str, size: str, port: int) -> None:
    got = web.files / "got"
    got.unlink(missing_ok=True)
    right = web.digest(size)
    with web.pair.engaged(payload=SIZES[size]):
        curl(web, "-o", got, "--create-dirs", url(web.pair.b, family, size, port))
    assert (sha256(got) if got.exists() else sha256(Path("/dev/null"))) == right
    got.unlink(missing_ok=True)


@pytest.mark.parametrize("size", ["0", "1", *MUCH])
@pytest.mark.parametrize("server", PORTS)
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_get(web: Web, family: str, server: str, size: str) -> None:
    fetch(web, family, size, PORTS[server])


@pytest.mark.soak
@pytest.mark.parametrize("family", ["v4", "v6"])
def test_get_of_a_gigabyte(web: Web, family: str) -> None:
    fetch(web, family, "1G", PORTS["sendfile"])


@pytest.mark.parametrize("size", ["0", "1", *MUCH])
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_post(web: Web, family: str, size: str) -> None:
    right = web.digest(size)
    with web.pair.engaged(payload=SIZES[size]):
        answer = curl(web, "-X", "POST", "-T", web.files / size, url(web.pair.b, family, "", POST_PORT))
    assert answer == right


@pytest.mark.parametrize("size", ["1", *MUCH])
@pytest.mark.parametrize("server", ["sendfile", "mapped"])
def test_put_into_nginx(web: Web, server: str, size: str) -> None:
    port, right = PORTS[server], web.digest(size)
    target = web.up(port, size)
    with web.pair.engaged(payload=SIZES[size]):
        curl(web, "-T", web.files / size, url(web.pair.b, "v4", f"up/{size}", port))
    assert sha256(target) == right
    target.unlink()


def test_two_hundred_parallel(web: Web) -> None:
    name, number = "small", 200
    digest = write_random(web.files / name, 300_000)
    (web.up(PORTS["sendfile"], "").parent / name).hardlink_to(web.files / name)
    target = web.files / "parallel"
    target.mkdir()
    config = web.files / "curlrc"
    address = url(web.pair.b, "v4", name, PORTS["sendfile"])
    config.write_text("".join(f'url = "{address}"\noutput = "{target}/{n}"\n' for n in range(number)))
    limits = ["--parallel", "--parallel-immediate", "--parallel-max", str(number)]
    with web.pair.engaged(payload=number * 300_000, flows=number):
        curl(web, *limits, "-H", "Connection: close", "-K", config)
    assert [sha256(target / str(n)) for n in range(number)] == [digest] * number


@pytest.mark.parametrize(("header", "connections"), [("keep-alive", 1), ("close", 20)])
def test_keep_alive_and_close(web: Web, header: str, connections: int) -> None:
    requests = 20
    with web.pair.engaged(payload=requests, flows=connections):
        address = url(web.pair.b, "v4", "1", PORTS["sendfile"])
        out = curl(
            web, "-H", f"Connection: {header}", "-w", "%{num_connects} ", *["-o/dev/null", address] * requests
        )
    assert sum(map(int, out.split())) == connections


@pytest.mark.parametrize("header", ["keep-alive", "close"])
@pytest.mark.parametrize("family", ["v4", "v6"])
def test_wrk(web: Web, family: str, header: str) -> None:
    options = ["-t1", "-c16", "-d2s", "-H", f"Connection: {header}"]
    with web.pair.engaged(flows=16):
        address = url(web.pair.b, family, "1", PORTS["sendfile"])
        out = web.pair.a.run(["wrk", *options, address], timeout=30, text=True).stdout
    done = re.search(r"(\d+) requests in", out)
    assert done
    assert int(done[1]) > 100, out
    assert "Socket errors" not in out, out
    assert "Non-2xx" not in out, out


def test_a_download_cut_off_by_the_client_harms_nobody(web: Web) -> None:
    web.digest("16M")
    address = url(web.pair.b, "v4", "16M", PORTS["sendfile"])
    for _ in range(3):
        client = web.pair.a.popen(["curl", "-sS", "--limit-rate", "16M", "-o", "/dev/null", address])
        with pytest.raises(subprocess.TimeoutExpired):
            client.wait(0.1)
        client.kill()
        client.wait()
    fetch(web, "v4", "1", PORTS["sendfile"])
