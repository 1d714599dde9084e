"""A carrier of another package (examples/unchecked), built, installed, and under an unmodified program."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import PLAIN, Pair, counts, eventually, peer, result, same

from hooker.lab import Lab

pytestmark = [pytest.mark.timeout(180), pytest.mark.skipif(PLAIN, reason="needs engines")]
ROOT = Path(__file__).parents[2]
MB = 1 << 20
SYSTEM = "/usr/lib/python3/dist-packages"


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An interpreter in whose site-packages it is, by two names; this one's packages are there, too."""
    here = tmp_path_factory.mktemp("carrier")
    source, wheels, made = here / "source", here / "wheels", here / "venv"
    shutil.copytree(ROOT / "examples" / "unchecked", source)
    built = subprocess.run(
        [sys.executable, "setup.py", "-q", "bdist_wheel", "-d", str(wheels)],
        cwd=source,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "CFLAGS": "-O1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr[-2000:]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(made)], check=True)
    packages = next(made.glob("lib/python3*/site-packages"))
    more = sysconfig.get_paths()["purelib"]  # with its own .pth files, by which this tree is found
    (packages / "more.pth").write_text(f"import site; site.addsitedir({more!r})\n{SYSTEM}\n")
    with zipfile.ZipFile(next(wheels.iterdir())) as wheel:
        wheel.extractall(packages)
    names = next(packages.glob("*.dist-info")) / "entry_points.txt"
    names.write_text(f"{names.read_text().rstrip()}\nanother = unchecked\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(made / "bin" / "python"))
        yield made


def transfer(pair: Pair, port: int, go: Path | None = None) -> None:
    """Two megabytes there, four back, and equal hashes. With ``go`` most of it after the flow was engaged."""
    assert pair.client
    waits = [f"wait-file:{go}"] if go else []
    server = peer(pair.b, "serve", "0.0.0.0", port, "recv-all", f"send:{4 * MB}", "close")
    client = peer(
        pair.a, "connect", pair.b.v4, port, f"send:{MB}", *waits, f"send:{MB}", "fin", "recv-all", "close"
    )
    if go:
        eventually(lambda: pair.client and counts(pair.client.status())["engaged"], 40)
        go.touch()
    one, other = result(client), result(server)
    assert (one["error"], other["error"]) == (None, None)
    same(one, other)
    same(other, one)


def test_programs_run_over_it(installation: Path, tmp_path: Path) -> None:
    with Lab() as lab, Pair.open(lab, options=("--transport", "vtl+unchecked"), kind="segments") as pair:
        transfer(pair, 7900, tmp_path / "go")
        assert pair.client
        status = pair.client.status()
        assert counts(status)["vtl+unchecked.datagrams_sent"] > MB // 1500
        assert "vtl+unchecked.gso" not in counts(status)
        assert [one["transport"] for one in status["peers"]] == ["vtl+unchecked"]


@pytest.mark.soak
def test_the_same_by_another_name_is_plain_tcp(installation: Path) -> None:
    with Lab() as lab:
        server = lab.b.hooker("--intercept", "segments", "--transport", "vtl+another")
        client = lab.a.hooker("--intercept", "segments", "--transport", "vtl+unchecked")
        try:
            pair = Pair(lab, client, server, "segments")
            transfer(pair, 7901)
            eventually(lambda: client.status()["reasons"].get("another-prototype"), 10)
            assert counts(client.status())["engaged"] == 0
            transfer(pair, 7902)
        finally:
            client.stop()
            server.stop()
            print(client.tail(), server.tail())


@pytest.mark.soak
def test_vtl_in_a_process_with_a_class_has_it_too(
    installation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOKER_PATH", str(ROOT / "examples"))
    options = ("--transport", "vtl+unchecked", "--congestion", "gentle:Gentle")
    with Lab() as lab, Pair.open(lab, options=options, kind="segments") as pair:
        transfer(pair, 7903, tmp_path / "go")
