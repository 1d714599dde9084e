"""``./dev bench``: the suite's command. Bad input is one line on standard error and exit status 2."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from benchmarks import plots as drawing
from benchmarks import summary as suite
from benchmarks.measure import Effort, say
from hooker import checks
from hooker.errors import ConfigurationError

HERE = Path(__file__).resolve().parent
QUICK = Effort(rounds=1, seconds=1, patience=0, quick=True)

rounds_option = click.option(
    "--rounds", type=click.IntRange(1, 1000), default=5, show_default=True, help="Medians of so many."
)
quick_option = click.option(
    "--quick", is_flag=True, help="One short round of everything: figures mean little."
)
cells_option = click.option(
    "--cells",
    "names",
    metavar="NAMES",
    default=",".join(suite.GROUPS),
    help=f"Only these, as in bulk,loss. There are {','.join((*suite.GROUPS, *suite.ON_REQUEST))}.",
)


intercept_option = click.option(
    "--intercept",
    type=click.Choice(["segments", "messages", "both"]),
    default="segments",
    show_default=True,
    help="What the engines take, in bulk, redis and http; both: a column each, measured in turn.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.pass_context
def cli(context: click.Context) -> int:
    """Hooked and direct TCP, MPTCP and kcptun, side by side in one run.

    Without a command: micro, then summary.
    """
    if context.invoked_subcommand is not None:
        return 0
    return int(context.invoke(micro) or context.invoke(summary))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object, on the last line.")
@quick_option
@rounds_option
@cells_option
@intercept_option
def summary(as_json: bool, quick: bool, rounds: int, names: str, intercept: str) -> int:
    """Measure the cells; show tables, or end in one line of JSON with the ratios."""
    found = _measure(_known(names), quick, rounds, intercept)
    if as_json:
        print(json.dumps({"ratios": suite.ratios(found), **found}))
    else:
        suite.show(found)
    return 0


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object, on the last line.")
@quick_option
@rounds_option
@click.option("--transports", "names", metavar="NAMES", default="", help="Only these; all that are here.")
@click.option(
    "--paths", metavar="PATHS", default="", help="Only these: RTT in ms and loss in %, as in 20:1,100:0."
)
@click.option("--functions", metavar="NAMES", default="", help="Of VTL's reliability functions only these.")
@click.option(
    "--rate", metavar="MBITS", default=100.0, type=click.FloatRange(0.1, 1e5), help="The link's; else 100."
)
def transports(
    as_json: bool, quick: bool, rounds: int, names: str, paths: str, functions: str, rate: float
) -> int:
    """Compare all transports and reliability functions over paths that lose packets."""
    from benchmarks import transports as comparison

    effort = QUICK if quick else Effort(rounds=rounds)
    chosen = comparison.wanted([name.strip() for name in names.split(",")] if names else [])
    found = comparison.compare(chosen, _paths(paths), effort, _functions(functions), rate * 1e6)
    if as_json:
        print(json.dumps(found))
        return 0
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else suite.WIDTH)
    for table in comparison.tables(found):
        console.print(table)
    return 0


def _functions(text: str) -> tuple[str, ...]:
    """All of them if there is no text."""
    from benchmarks.transports import FUNCTIONS

    names = [name.strip() for name in text.split(",")] if text else []
    for name in names:
        if name not in FUNCTIONS:
            raise ConfigurationError(f"no function {name!r}", remedy=f"there are {', '.join(FUNCTIONS)}")
    return tuple(names) or FUNCTIONS


def _paths(text: str) -> list[tuple[int, float]]:
    """All of them if there is no text."""
    from benchmarks.transports import LOSSES, RTTS

    found: list[tuple[int, float]] = []
    for item in text.split(",") if text else []:
        rtt, _, loss = item.strip().partition(":")
        if not (rtt.isascii() and rtt.isdigit() and loss.isascii() and loss.isdigit()):
            raise ConfigurationError(
                f"path {item!r} is none", remedy="write RTT in ms and loss in %, as in 20:1"
            )
        found.append((checks.integer("RTT", int(rtt), 0, 2000), checks.integer("loss", int(loss), 0, 50)))
    return found or [(rtt, loss) for rtt in RTTS for loss in LOSSES]


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object, on the last line.")
@quick_option
@rounds_option
@click.option(
    "--seconds", type=click.FloatRange(0.5, 300), default=10, show_default=True, help="Of each transfer."
)
@click.option(
    "--mbits", type=click.FloatRange(0, 100_000), default=0, help="What the honest flow wants; 0: all it can."
)
@click.option("--baselines", is_flag=True, help="What the flood costs where hk_ingress has no part in it.")
@click.option("--top", is_flag=True, help="Only the flood that is all the sender can.")
def flood(
    as_json: bool, quick: bool, rounds: int, seconds: float, mbits: float, baselines: bool, top: bool
) -> int:
    """An honest flow under a flood of handshakes and garbage, with hk_ingress, in both modes, and without."""
    from benchmarks import flood as flooded

    found = flooded.measure(
        1 if quick else seconds,
        1 if quick else rounds,
        (0.0,) if top else flooded.RATES,
        baselines=baselines,
        mbits=mbits,
    )
    if as_json:
        print(json.dumps(found))
    else:
        flooded.show(found)
    return 0


@cli.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path), default=suite.RESULTS)
@click.option(
    "--again", is_flag=True, help="Measure first; otherwise the last run is drawn, if there is one."
)
@quick_option
@rounds_option
@cells_option
def plots(directory: Path, again: bool, quick: bool, rounds: int, names: str) -> int:
    """Write plots of the last runs, transports included, to DIRECTORY (benchmarks/results)."""
    from benchmarks.transports import RESULTS as COMPARISON

    wanted = _known(names)
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigurationError("plots need matplotlib", remedy="./dev bench plots installs it")
    if again or not (suite.LATEST.exists() or COMPARISON.exists()):
        _measure(wanted, quick, rounds)
    drawn = []
    for draw, found in ((drawing.draw, suite.LATEST), (drawing.draw_transports, COMPARISON)):
        drawn += draw(json.loads(found.read_text()), directory) if found.exists() else []
    for path in drawn:
        print(path)
    return 0


@cli.command()
@click.option("-k", "expression", metavar="EXPRESSION", help="Only the benchmarks whose names match.")
@click.option("--json", "file", type=click.Path(dir_okay=False), help="Write pytest-benchmark's JSON there.")
def micro(expression: str | None, file: str | None) -> int:
    """Micro benchmarks: frame parsing, the redirect path, VTL's core."""
    import pytest

    arguments = [str(HERE), "-m", "not soak", "-q"]
    arguments += ["-k", expression] if expression else []
    arguments += ["--benchmark-json", file] if file else []
    return int(pytest.main(arguments))


def _known(names: str) -> list[str]:
    wanted = [name.strip() for name in names.split(",")]
    unknown = [name for name in wanted if name not in (*suite.GROUPS, *suite.ON_REQUEST)]
    if unknown:
        text = f"no cells named {', '.join(map(repr, unknown))}; there are {', '.join(suite.GROUPS)}"
        raise ConfigurationError(text)
    return wanted


def _measure(wanted: list[str], quick: bool, rounds: int, intercept: str = "segments") -> dict[str, Any]:
    effort = QUICK if quick else Effort(rounds=rounds)
    found = suite.measure(wanted, replace(effort, intercept=intercept))
    suite.save(found)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    try:
        return int(cli.main(arguments, prog_name="./dev bench", standalone_mode=False) or 0)
    except click.ClickException as error:
        say(" ".join(error.format_message().split()))
        return 2
    except ConfigurationError as error:
        say(str(error))
        return 2
    except (click.Abort, KeyboardInterrupt):
        return 130
    except (RuntimeError, OSError) as error:
        say(" ".join(str(error).split()))
        return 1


if __name__ == "__main__":
    sys.exit(main())
