"""Plots of a run: ratios, goodput over loss, fairness; of a comparison of transports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.measure import HOOKED

LABELS = {HOOKED: "VTL"}


def draw(found: dict[str, Any], directory: Path) -> list[Path]:
    """Write one PNG for each kind of cell that *found* has, and return their paths."""
    import matplotlib

    matplotlib.use("Agg")
    directory.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, draw_one in (("ratios", _ratios), ("loss", _loss), ("fairness", _fairness)):
        figure = draw_one(found)
        if figure is not None:
            drawn.append(directory / f"{name}.png")
            figure.savefig(drawn[-1], dpi=120, bbox_inches="tight")
    return drawn


def draw_transports(found: dict[str, Any], directory: Path) -> list[Path]:
    """Write one PNG for long transfers and one for short ones over loss, and return their paths."""
    import matplotlib

    matplotlib.use("Agg")
    directory.mkdir(parents=True, exist_ok=True)
    drawn = []
    for cell, what in (("10MB", "goodput, Mbit/s (link: 100)"), ("100KB", "100 KB, median, ms")):
        figure = _over_loss(found["paths"], cell, what)
        drawn.append(directory / f"transports-{cell}.png")
        figure.savefig(drawn[-1], dpi=100, bbox_inches="tight")
    return drawn


def _over_loss(paths: dict[str, Any], cell: str, what: str) -> Any:
    by_rtt: dict[str, dict[float, dict[str, float | None]]] = {}
    for path, cells in paths.items():
        rtt, _, loss = path.partition("ms_")
        by_rtt.setdefault(rtt, {})[float(loss)] = cells[cell]["medians"]
    figure, axes = _figure(11, 4.5, len(by_rtt))
    variants = list(dict.fromkeys(v for losses in by_rtt.values() for m in losses.values() for v in m))
    for one, (rtt, losses) in zip(axes, by_rtt.items(), strict=True):
        for number, variant in enumerate(variants):
            points = [(loss, m[variant]) for loss, m in losses.items() if m.get(variant) is not None]
            direct = variant.startswith("direct")
            if points:
                x, y = zip(*points, strict=True)
                one.plot(
                    x,
                    y,
                    label=variant,
                    marker="osv^Dx+*Pph<>"[number % 13],
                    markersize=4,
                    color="black" if direct else f"C{number % 10}",
                    linestyle="--" if direct else "-",
                )
        one.set_yscale("log")
        one.set_xlabel(f"loss in %, RTT {rtt} ms")
        one.set_ylabel(what)
        one.grid(visible=True, which="both", alpha=0.3)
    labelled = {
        text: line for one in axes for line, text in zip(*one.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        labelled.values(), labelled.keys(), fontsize=7, loc="center left", bbox_to_anchor=(0.91, 0.5)
    )
    return figure


def _ratios(found: dict[str, Any]) -> Any:
    cells = {name: cell for name, cell in found["cells"].items() if cell["ratio"] is not None}
    if not cells:
        return None
    figure, axes = _figure(6, 0.4 * len(cells) + 1)
    axes.barh(list(cells), [cell["ratio"] for cell in cells.values()])
    axes.axvline(1, color="black", linewidth=0.8)
    for row, cell in enumerate(cells.values()):
        better = "more is better" if cell["more_is_better"] else "less is better"
        axes.text(cell["ratio"], row, f" {cell['ratio']:.2f} ({better})", va="center", fontsize=8)
    axes.margins(x=0.35)
    axes.invert_yaxis()
    axes.set_xlabel("hooked / direct TCP, the better of its congestion controls")
    return figure


def _loss(found: dict[str, Any]) -> Any:
    cells = found.get("loss", {})
    if not cells:
        return None
    figure, axes = _figure(8, 4)
    variants = list(dict.fromkeys(v for cell in cells.values() for v in cell["medians"]))
    width = 0.8 / len(variants)
    for number, variant in enumerate(variants):
        values = [cell["medians"].get(variant) or 0 for cell in cells.values()]
        axes.bar(
            [i + number * width for i in range(len(cells))], values, width, label=LABELS.get(variant, variant)
        )
    names = [name.replace("ms_", " ms, ") + " %" for name in cells]
    axes.set_xticks([i + 0.4 - width / 2 for i in range(len(cells))], names)
    axes.set_ylabel("goodput, Mbit/s (link: 100)")
    axes.legend(fontsize=8, ncols=len(variants), loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


def _fairness(found: dict[str, Any]) -> Any:
    rows = found.get("fairness", [])
    if not rows:
        return None
    figure, axes = _figure(6, 3)
    names = [LABELS.get(row["flow"], row["flow"]) for row in rows]
    axes.bar(names, [row["mbit_s"] for row in rows], label="this flow")
    axes.bar(
        names,
        [row["cubic_mbit_s"] for row in rows],
        bottom=[row["mbit_s"] for row in rows],
        label="TCP CUBIC beside it",
    )
    axes.set_ylabel("Mbit/s")
    axes.legend(fontsize=8)
    return figure


def _figure(width: float, height: float, columns: int = 0) -> tuple[Any, Any]:
    """With its axes, or a list of so many beside each other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    if columns:
        return figure, list(figure.subplots(1, columns, squeeze=False)[0])
    return figure, figure.subplots()
