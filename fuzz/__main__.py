"""``python -m fuzz``: runs the fuzzers, one after the other, and names what they find."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from fuzz import kept as corpus
from fuzz.build import LIB, ROOT, BuildError, build

HERE = ROOT / "fuzz"
CRASHES = HERE / "crashes"
WORK = ROOT / "build" / "fuzz" / "corpus"  # what the runs found; `--keep` distils it into the kept corpus
KEPT = ROOT / "build" / "fuzz" / "kept"  # that one, unpacked
TARGETS = {
    "packets": "arbitrary datagrams into one endpoint",
    "machine": "two endpoints, their applications and a bad network",
    "frames": "the redirect socket's frames",
    "option": "the TCP option, by the kernel programs' own header",
    "flow": "messages and segments, all arbitrary, into one flow's state machine",
    "twin": "packets, a local TCP and a remote one, all arbitrary, into one twin",
}
MAX_LEN = {"packets": 4096, "machine": 2048, "frames": 1024, "option": 64, "flow": 1024, "twin": 2048}
SLOWEST = 20  # seconds one input may take


def environment(target: str) -> dict[str, str]:
    paths = [str(LIB), *(p for p in sys.path if p.endswith(("site-packages", "dist-packages")))]
    return {
        **os.environ,
        "HOOKER_FUZZ_TARGET": target,
        "PYTHONPATH": os.pathsep.join(paths),
        "ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1:handle_abort=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def run(program: Path, target: str, seconds: float) -> tuple[list[Path], str]:
    """Fuzzes for that long; what crashed, and libFuzzer's last words."""
    work, crashes = WORK / target, CRASHES / target
    for directory in (work, crashes):
        directory.mkdir(parents=True, exist_ok=True)
    corpus.unpack(target, KEPT / target)
    before = set(crashes.iterdir())
    command = [
        str(program),
        f"-max_total_time={max(1, int(seconds))}",
        f"-max_len={MAX_LEN[target]}",
        f"-timeout={SLOWEST}",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        f"-artifact_prefix={crashes}/",
        str(work),
        str(KEPT / target),
    ]
    returncode, output = libfuzzer(target, command)
    found = sorted(set(crashes.iterdir()) - before)
    if returncode and not found:
        raise click.ClickException(f"the fuzzer of {target} did not run:\n{output[-2000:]}")
    return found, output


def libfuzzer(target: str, command: list[str]) -> tuple[int, str]:
    """Exit status, and all that was said."""
    done = subprocess.run(
        command, env=environment(target), cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False
    )
    return done.returncode, done.stderr


def summary(output: str) -> str:
    units = re.search(r"stat::number_of_executed_units:\s+(\d+)", output)
    rate = re.search(r"stat::average_exec_per_sec:\s+(\d+)", output)
    cover = re.findall(r"cov: (\d+) ft: (\d+) corp: (\S+)", output)
    parts = [f"{units[1]} inputs" if units else "", f"{rate[1]}/s" if rate else ""]
    if cover:
        parts.append("coverage {}, features {}, corpus {}".format(*cover[-1]))
    return ", ".join(p for p in parts if p)


def why(output: str) -> str:
    """The line that says what broke."""
    lines = [x for x in output.splitlines() if re.match(r"fuzz: |SUMMARY: |.*runtime error", x)]
    return lines[0] if lines else "see the output"


def keep(program: Path, target: str) -> int:
    """Distils everything found into the kept corpus, inputs written by hand aside; its size."""
    kept = {name: data for name, data in corpus.read(target).items() if corpus.by_hand(name)}
    with tempfile.TemporaryDirectory() as new:
        sources = [new, str(KEPT / target), str(WORK / target)]
        merge = ["-set_cover_merge=1", f"-max_len={MAX_LEN[target]}", *sources]
        returncode, output = libfuzzer(target, [str(program), *merge])
        if returncode:
            raise click.ClickException(f"the corpus of {target} could not be merged:\n{output[-2000:]}")
        known = set(kept.values())
        found = {path.name: path.read_bytes() for path in Path(new).iterdir()}
    kept |= {name: data for name, data in found.items() if data not in known}
    corpus.write(target, kept)
    return len(kept)


def input_named(target: str, name: str) -> bytes:
    """Of a file, or of the kept corpus."""
    if Path(name).is_file():
        return Path(name).read_bytes()
    kept = corpus.read(target)
    if name not in kept:
        raise click.BadParameter(f"{name} is no file, and no input in {corpus.archive(target).name}")
    return kept[name]


def replay(target: str, name: str, *, trace: bool) -> None:
    """One input through the ordinary build, in this process."""
    data = input_named(target, name)
    if trace:
        importlib.import_module("fuzz.side").trace(True)
    try:
        importlib.import_module(f"fuzz.{target}").replay(data)
    except AssertionError as exc:
        raise click.ClickException(f"{name}: {exc}") from None
    click.echo(f"{name}: fine")


MINUTES = click.FloatRange(min=0, min_open=True)


@click.command(help="Fuzzes the targets named, or all. " + "; ".join(f"{n}: {t}" for n, t in TARGETS.items()))
@click.argument("targets", nargs=-1, type=click.Choice(list(TARGETS)))
@click.option("--minutes", type=MINUTES, default=4.0, help="In all, shared by the targets.")
@click.option("--keep", "keep_corpus", is_flag=True, help="Distil what was found into fuzz/corpus.")
@click.option(
    "--replay", "one", metavar="FILE", help="Run one input, also a kept one by name; no sanitizers."
)
@click.option("--trace", is_flag=True, help="With --replay: print what happens.")
def main(targets: tuple[str, ...], minutes: float, keep_corpus: bool, one: str | None, trace: bool) -> None:
    names = targets or tuple(TARGETS)
    if one is not None:
        if len(targets) != 1:
            raise click.UsageError("--replay needs the target: ./dev fuzz TARGET --replay FILE")
        replay(targets[0], one, trace=trace)
        return
    try:
        program = build()
        crashed = fuzz(program, names, minutes * 60, keep_corpus=keep_corpus)
    except BuildError as exc:
        raise click.ClickException(str(exc)) from None
    except PermissionError as exc:
        raise click.ClickException(
            f"{exc.filename}: {exc.strerror} (run it as the user who owns the tree)"
        ) from None
    for target, path, what in crashed:
        click.echo(f"{target}: {what}\n  reproduce: ./dev fuzz {target} --replay {path.relative_to(ROOT)}")
    if crashed:
        raise SystemExit(1)


def fuzz(
    program: Path, names: tuple[str, ...], seconds: float, *, keep_corpus: bool
) -> list[tuple[str, Path, str]]:
    """Each target for its share of that time; target, input and complaint of each crash."""
    crashed = []
    for target in names:
        found, output = run(program, target, seconds / len(names))
        click.echo(f"{target:8} {summary(output)}")
        crashed += [(target, path, why(output)) for path in found]
        if keep_corpus and not found:
            click.echo(f"{target:8} {keep(program, target)} inputs kept")
    return crashed


if __name__ == "__main__":
    main()
