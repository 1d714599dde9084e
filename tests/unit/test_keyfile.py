"""Key files: what is accepted, and that every refusal says why and never the key."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hooker.cli import commands as cli
from hooker.control import keyfile
from hooker.errors import ConfigurationError

KEY = bytes(range(100, 132))
HEX, BASE64 = "vtl-psk-1:" + KEY.hex(), "vtl-psk-1:" + base64.b64encode(KEY).decode()
OTHER = "vtl-psk-1:" + bytes(range(32)).hex()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.touch(0o600)
    return file


@pytest.mark.parametrize(
    "text", [HEX, HEX + "\n", "vtl-psk-1:" + KEY.hex().upper(), BASE64, f"\n# ours\n  {HEX} \n"]
)
def test_a_key_is_read(path: Path, text: str) -> None:
    path.write_text(text)
    assert keyfile.read(path) == (KEY,)


def test_two_keys_are_read_in_order(path: Path) -> None:
    path.write_text(f"{OTHER}\n{HEX}\n")
    assert keyfile.read(path) == (bytes(range(32)), KEY)


def test_what_is_made_is_read_and_never_the_same(path: Path) -> None:
    one, two = keyfile.make(), keyfile.make()
    assert one != two
    path.write_text(f"{one}\n{two}\n")
    assert len(set(keyfile.read(path))) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no key"),
        ("# nothing\n\n", "has no key"),
        (KEY.hex(), "line 1: no vtl-psk-1:"),
        ("vtl-psk-2:" + KEY.hex(), "line 1: no vtl-psk-1:"),
        (f"\n{HEX[:-2]}", "line 2: a key of 31 bytes"),
        (HEX + "00", "a key of 33 bytes"),
        ("vtl-psk-1:" + base64.b64encode(KEY[:16]).decode(), "a key of 16 bytes"),
        ("vtl-psk-1:secret words, more of them!", "neither hexadecimal nor base64"),
        ("vtl-psk-1:" + "ü" * 64, "neither hexadecimal nor base64"),
        ("vtl-psk-1:" + "00" * 32, "not a random key"),
        (f"{HEX}\n{HEX}", "twice"),
        (f"{HEX}\n{OTHER}\nvtl-psk-1:{KEY[::-1].hex()}", "has 3 keys"),
        ("#" * 5000, "too long"),
    ],
)
def test_what_is_wrong_is_said(path: Path, text: str, said: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=said) as caught:
        keyfile.read(path)
    assert caught.value.remedy
    assert KEY.hex()[:20] not in str(caught.value)


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o666, 0o620])
def test_a_file_that_others_may_open_is_refused(path: Path, mode: int) -> None:
    path.write_text(HEX)
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match=f"{mode:04o}") as caught:
        keyfile.read(path)
    assert caught.value.remedy == f"chmod 600 {path}"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name, said in (
        ("none", "no key file"),
        (".", "not a regular file|cannot be read"),
        ("pipe", "regular"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            keyfile.read(tmp_path / name)


@pytest.mark.parametrize("command", [["run", "--key-file", "{}", "--", "true"], ["up", "--key-file", "{}"]])
def test_the_commands_refuse_a_bad_file(
    command: list[str], path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path.write_text(HEX[:-1])
    with pytest.raises(SystemExit) as caught:
        cli.main([word.format(path) for word in command])
    output = capsys.readouterr()
    assert caught.value.code == 2
    assert output.err.startswith(f"hooker: key file {path}, line 1: ")
    assert output.err.count("\n") == 1


def test_hooker_key_makes_a_file_that_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with path.open("wb") as out:
        subprocess.run([sys.executable, "-m", "hooker", "key"], stdout=out, check=True, timeout=30)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(keyfile.read(path)) == 1
