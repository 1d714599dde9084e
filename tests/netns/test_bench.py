"""The benchmark suite's command: the shape of what it says, and bad input. Nothing here is about speed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.measure import ALSO, Cell, Effort, Quantity, in_turn
from benchmarks.summary import RATIOS

ROOT = Path(__file__).resolve().parent.parent.parent
LOSS_CELLS = {"20ms_0", "20ms_1", "20ms_2", "20ms_5", "100ms_2"}


def bench(*arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_quick_summary_ends_in_a_ratio_for_every_cell() -> None:
    done = bench("summary", "--json", "--quick", timeout=580)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    ratios = found["ratios"]
    assert set(ratios) == {*RATIOS, "loss"}
    assert set(ratios["loss"]) == LOSS_CELLS
    for ratio in (*(ratios[name] for name in RATIOS), *ratios["loss"].values()):
        assert isinstance(ratio, float)
        assert ratio > 0
    assert found["idle"]["right"] == 2 * found["idle"]["flows"] == 2 * found["idle"]["hooked"]
    assert found["idle"]["wrong"] == 0
    assert {row["flow"] for row in found["fairness"]} >= {"tcp cubic", "VTL bbr"}
    assert {"cpu", "kernel", "load"} <= set(found["machine"])


@pytest.mark.timeout(200)
def test_both_kinds_of_engine_have_a_column_each() -> None:
    done = bench("summary", "--json", "--quick", "--cells", "redis", "--intercept", "both", timeout=180)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for ratios in (found["ratios"], found["ratios"][ALSO]):
        assert ratios["redis_c50"] > 0
    cell = found["cells"]["redis_c50"]
    assert {"hooked", ALSO, cell["best_direct"]} <= set(cell["medians"])
    assert not cell["failed"]


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_transport_is_compared_with_each_function_that_it_has() -> None:
    chosen = ["--transports", "vtl", "--paths", "20:1"]
    done = bench("transports", "--json", "--quick", *chosen, timeout=580)
    assert done.returncode == 0, done.stderr[-2000:]
    cells = json.loads(done.stdout.splitlines()[-1])["paths"]["20ms_1"]
    for variant in ("tcp cubic", "vtl selective-repeat", "vtl go-back-n", "vtl none", "vtl partial"):
        assert cells["10MB"]["medians"][variant] > 0
        assert cells["redis_p95"]["medians"][variant] > 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["sumary"], "sumary"),
        (["summary", "--jsn"], "--jsn"),
        (["summary", "--rounds", "0"], "--rounds"),
        (["summary", "--cells", "bulk,frobs"], "'frobs'"),
        (["transports", "--transports", "vtl,none"], "'none'"),
        (["transports", "--paths", "20"], "'20'"),
        (["transports", "--paths", "20:1,5:51"], "loss"),
        (["transports", "--paths", "2001:0"], "RTT"),
        (["summary", "--intercept", "bytes"], "'bytes'"),
        (["plots", "--cells", ""], "''"),
        (["plots", "pyproject.toml"], "pyproject.toml"),
        (["micro", "extra"], "extra"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments: list[str], word: str) -> None:
    done = bench(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("bench: ")
    assert word in line


def test_the_better_direct_variant_is_what_a_ratio_is_to() -> None:
    values = {"tcp cubic": [3.0, 1.0, 2.0], "tcp bbr": [4.0, 4.0, 4.0], "hooked": [1.0, 9.0, 1.0]}
    assert Cell(Quantity("rate", "1/s"), values).record()["ratio"] == 0.25
    also = Cell(Quantity("rate", "1/s"), {**values, ALSO: [9.0, 8.0, 8.0]}).record()
    assert (also["best_direct"], also["ratio"], also["ratio_also"]) == ("tcp bbr", 0.25, 2.0)
    cost = Cell(Quantity("cost", "s", more=False), values)
    assert (cost.best, cost.ratio) == ("tcp cubic", 0.5)


def test_every_variant_is_measured_in_every_round_and_none_is_always_first() -> None:
    order: list[str] = []

    def measure(name: str) -> dict[str, float]:
        order.append(name)
        return {"x": float(len(order))}

    variants = {name: lambda name=name: measure(name) for name in "abc"}
    (cell,) = in_turn("test", (Quantity("x", ""),), variants, Effort(rounds=3, patience=0), quiet=1e9)
    assert order == list("abcbcacab")
    assert cell.values == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}
