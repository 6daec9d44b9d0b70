"""SVG charts for the documents, by matplotlib: bars with intervals, bars beside a baseline, heat maps."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, GREY, PALE, FAINT = "#2b6cb0", "#444444", "#9fb0c3", "#dde3ea"
# Text is written as text, not as outlines; equal figures give equal files.
STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "knotcast", "font.family": "sans-serif", "font.size": 9,
    "axes.titlesize": 10, "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": GREY, "text.color": GREY, "axes.labelcolor": GREY, "xtick.color": GREY, "ytick.color": GREY,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bar:
    """Horizontal bar. beside: its baseline, drawn below it as a pale bar; None: no baseline."""

    label: str
    value: float
    colour: str = BLUE
    beside: float | None = None


def draw_bars(
    axes: Axes, title: str, labels: Sequence[str], values: Sequence[float], *, top: float, halves: Sequence[float] = (),
    across: str = "",
) -> None:  # fmt: skip
    """Vertical bars on an axis from 0 to ``top``. halves: half widths of their intervals; empty: none."""
    drawn = axes.bar(range(len(values)), values, width=0.72, color=BLUE, yerr=halves or None, ecolor=GREY)
    if len(values) <= 16:
        axes.bar_label(drawn, fmt="%.2f", fontsize=8, padding=1)
    axes.set_xticks(range(len(values)), labels)
    axes.set(title=title, xlabel=across, ylim=(0, top))
    axes.grid(axis="y", color=FAINT)
    axes.set_axisbelow(True)


def draw_beside(axes: Axes, title: str, rows: Sequence[Bar], *, mark: float, across: str = "") -> None:
    """Horizontal bars with their values, each above its baseline. mark: value at which a line is drawn."""
    for at, row in enumerate(rows):
        values = [row.value] if row.beside is None else [row.value, row.beside]
        for value, lower, height, colour in zip(values, (0.0, 0.36), (0.5, 0.22), (row.colour, PALE), strict=False):
            axes.barh(at + lower, value, height, color=colour)
        words = " / ".join(f"{value:.1f}" for value in values)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}  # the line at the mark must not cross the words
        axes.text(max(values), at + 0.05, f" {words}", va="center", fontsize=8, bbox=box)
    axes.axvline(mark, color=GREY, linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.invert_yaxis()
    axes.set(title=title, xlabel=across, xlim=(0, 1.18 * max(mark, *(max(row.value, row.beside or 0) for row in rows))))


def draw_heat(
    axes: Axes, title: str, rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], *,
    across: str = "", down: str = "",
) -> None:  # fmt: skip
    """Heat map from white (0) to blue (1), the first row at the top."""
    axes.imshow(values, cmap="Blues", vmin=0.0, vmax=1.4, interpolation="nearest")
    axes.set_yticks(range(len(rows)), rows, fontsize=7)
    axes.set_xticks(range(len(columns)), columns, fontsize=7)
    axes.tick_params(length=0)
    axes.set(title=title, xlabel=across, ylabel=down)


def panels(sizes: Sequence[tuple[float, float]], across: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of ``across`` columns of panels. sizes: width of the figure and height of the row, in inches, a row."""
    with matplotlib.rc_context(STYLE):
        heights = [height for _, height in sizes]
        figure = Figure(figsize=(max(width for width, _ in sizes), sum(heights)), layout="constrained")
        grid = figure.subplots(len(sizes), across, squeeze=False, gridspec_kw={"height_ratios": heights})
    return figure, list(grid.flat)


def svg(figure: Figure) -> str:
    """The figure as SVG text, without a date."""
    written = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(written, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines()) + "\n"
