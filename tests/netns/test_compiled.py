"""The kernel programs are compiled once: what is kept is loaded, and believed only where it is right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hooker.control import bpf_calls, compiled, kept
from hooker.control.compiled import Module, module
from hooker.control.loaded import Loaded, ctype
from hooker.errors import ConfigurationError, KernelError

NAME = "meter.c"  # the smallest
LOADS = f"""
import os, sys
from concurrent.futures import ThreadPoolExecutor
from hooker.control import bpf_calls, compiled, loaded
before = os.getcwd(), dict(os.environ)
with ThreadPoolExecutor(4) as pool:
    made = list(pool.map(lambda number: compiled.module({NAME!r}, {{"HK_NUMBER": number}}), range(4)))
for one in made:
    with loaded.Loaded(one) as with_maps:
        with_maps.program("hk_meter_in", bpf_calls.SCHED_CLS)
print("bcc" in sys.modules, (os.getcwd(), dict(os.environ)) == before)
"""
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def run_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HOOKER_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.delenv("BCC_KERNEL_SOURCE", raising=False)  # of the tests before
    return tmp_path / "run"


@pytest.fixture(scope="module")
def first() -> Module:
    return compiled.compiled(compiled.source(NAME), [compiled.QUIET])


@pytest.fixture
def made(first: Module, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Module:
    """Kept in this test's directory."""
    with monkeypatch.context() as patched:
        patched.setattr(compiled, "compiled", lambda text, flags: first)
        return module(NAME)


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch, made: Module) -> list[str]:
    """What has been compiled since; nothing really is."""
    texts: list[str] = []

    def note(text: str, flags: list[str]) -> Module:
        texts.append(text)
        return made

    monkeypatch.setattr(compiled, "compiled", note)
    return texts


def descriptors() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def _file(run_dir: Path) -> Path:
    (file,) = run_dir.glob("programs-*.json")
    return file


def test_threads_compile_at_once_and_the_process_stays_as_it_was(run_dir: Path, tmp_path: Path) -> None:
    """It loads no compiler, and its directory and environment are its own."""
    command = [sys.executable, "-P", "-c", LOADS]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "False True\n"), done.stderr


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("kill -9 $$", "has ended with -9: no word"),
        ("echo Killed >&2; exit 1", "has ended with 1: Killed"),
        ("echo '{}'", "has ended with 0: no word"),
        ("exec sleep 60", r"has not ended within 1 s"),
    ],
)
def test_a_compiler_that_fails_is_a_clear_error(
    script: str, says: str, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "PATIENCE", 1.0 if "sleep" in script else 30)
    monkeypatch.setattr(compiled.start, "module", lambda name: ["/bin/sh", "-c", script])
    with pytest.raises(KernelError, match=f"BCC's compiler {says}"):
        module(NAME)
    assert not list(run_dir.glob("programs-*"))


def test_no_process_for_the_compiler_is_a_clear_error(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.start, "module", lambda name: ["/nonexistent/python"])
    with pytest.raises(KernelError, match="cannot start BCC's compiler: No such file"):
        module(NAME)


def test_it_is_kept_as_it_was_made(made: Module, compiles: list[str]) -> None:
    assert module(NAME) == made
    assert not compiles


def test_another_source_or_macro_is_another_module(
    made: Module, compiles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module(NAME, {"HK_MORE": 1})
    module(NAME, {"HK_MORE": 2})
    text = compiled.source(NAME)
    monkeypatch.setattr(compiled, "source", lambda name: f"{text}\n")
    module(NAME)
    assert len(compiles) == 3


def test_headers_that_the_user_names_are_compiled_each_time(
    made: Module, compiles: list[str], run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = run_dir / "named"
    (tree / "include/linux").mkdir(parents=True)
    (tree / "include/linux/kconfig.h").touch()
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(tree))
    module(NAME)
    module(NAME)
    assert len(compiles) == 2
    assert len(list(run_dir.glob("programs-*"))) == 1


def _other_map(row: dict[str, Any]) -> None:
    row["programs"]["hk_meter_in"]["maps"][0][1] = "hk_none"


def _beyond_the_end(row: dict[str, Any]) -> None:
    row["programs"]["hk_meter_in"]["maps"][0][0] = 1 << 30


@pytest.mark.parametrize(
    "change",
    [
        _other_map,
        _beyond_the_end,
        lambda row: row.pop("btf"),
        lambda row: row["maps"]["hk_conf"].pop("flags"),
        lambda row: row["programs"]["hk_meter_in"].update(code="%"),
        lambda row: row.update(programs=[]),
    ],
)
def test_what_is_damaged_is_compiled_anew(
    made: Module, compiles: list[str], run_dir: Path, change: Change
) -> None:
    row = json.loads(kept.read(_file(run_dir), "programs"))
    change(row)
    kept.write(_file(run_dir), json.dumps(row).encode())
    assert module(NAME) == made
    assert module(NAME) == made
    assert len(compiles) == 1


@pytest.mark.parametrize("at", [0, kept.DIGEST, 5000, -1])
def test_a_bit_that_has_changed_is_compiled_anew(
    made: Module, compiles: list[str], run_dir: Path, at: int
) -> None:
    """It may be one of an instruction, and the kernel would refuse the program at each start."""
    content = bytearray(_file(run_dir).read_bytes())
    content[at] ^= 1
    _file(run_dir).write_bytes(content)
    assert module(NAME) == module(NAME) == made
    assert len(compiles) == 1


@pytest.mark.parametrize("size", [0, 1, 1000, kept.MOST + 1])
def test_what_is_cut_or_too_long_is_compiled_anew(
    made: Module, compiles: list[str], run_dir: Path, size: int
) -> None:
    content = _file(run_dir).read_bytes()
    _file(run_dir).write_bytes(content[:size] + b" " * max(0, size - len(content)))
    module(NAME)
    module(NAME)
    assert len(compiles) == 1


@pytest.mark.parametrize("harm", [lambda file: os.chown(file, 1000, 1000), lambda file: file.chmod(0o666)])
def test_another_users_is_not_believed(
    made: Module, compiles: list[str], run_dir: Path, harm: Callable[[Path], None]
) -> None:
    harm(_file(run_dir))
    module(NAME)
    assert len(compiles) == 1


def test_without_room_it_is_compiled_each_time(
    made: Module, compiles: list[str], run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _file(run_dir).unlink()

    def write(path: Path, content: bytes) -> None:
        raise OSError("no space")

    monkeypatch.setattr(kept, "write", write)
    assert module(NAME) == module(NAME) == made
    assert len(compiles) == 2


def test_no_compiler_is_a_clear_error(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"BCC.*install python3-bpfcc"):
        module(NAME)


def test_a_text_that_is_no_program_is_a_clear_error(run_dir: Path) -> None:
    with pytest.raises(KernelError, match=r"do not compile: .*error: .*'none'") as raised:
        compiled.compiled("int hk_nothing(void *c) { return none; }", [])
    assert "return none;" in raised.value.__notes__[0]


def test_a_refused_program_says_why_and_nothing_stays(run_dir: Path) -> None:
    before = descriptors()
    loop = compiled.compiled("int hk_wild(int *c) { return c[1 << 20]; }", [])
    with Loaded(loop) as loaded, pytest.raises(KernelError, match=r"hk_wild: Permission denied: .*R1"):
        loaded.program("hk_wild", bpf_calls.SOCKET_FILTER)
    assert descriptors() == before


def test_values_are_read_as_they_were_written(made: Module) -> None:
    with Loaded(made) as loaded:
        value = loaded.value_type("hk_conf")()
        value.vtl_port, value.lose[2] = 4433, 7
        loaded.write("hk_conf", 1, value)
        assert bytes(loaded.read("hk_conf", 1)) == bytes(value)
        assert loaded.read("hk_conf", 1).lose[2] == 7
        assert not any(bytes(loaded.read("hk_conf", 0)))
        assert [one.packets for one in loaded.read("hk_counts", 0)] == [0] * len(loaded.read("hk_counts", 0))
        with pytest.raises(KernelError):
            loaded.read("hk_conf", 2)


@pytest.mark.parametrize(
    "described", ["__int128", ["u", [["a", "int"]], "union"], ["s", [["bits", "int", 3]], "struct"]]
)
def test_a_type_that_is_not_known_is_not_guessed(described: Any) -> None:
    with pytest.raises(KernelError, match="no type known"):
        ctype(described)
