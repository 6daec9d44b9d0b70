"""Charts as SVG text: bars with intervals, lying bars and heat maps, enough for the documentation. No dependency.

A chart is a list of elements and its size; ``page`` stacks charts. Colours read on white, in grey, and to most eyes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

BLUE, GREY, PALE, FAINT = "#2b6cb0", "#444", "#9fb0c3", "#dde3ea"
FONT = "font-family='Helvetica, Arial, sans-serif'"
LEFT, TOP, BOTTOM = 52, 30, 40


@dataclass(frozen=True, slots=True)
class Chart:
    """Elements drawn from (0, 0) to (width, height)."""

    elements: tuple[str, ...]
    width: float
    height: float


def text(x: float, y: float, words: str, *, size: int = 12, anchor: str = "middle", turn: int = 0) -> str:
    turned = f" transform='rotate({turn} {x:.1f} {y:.1f})'" if turn else ""
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}' text-anchor='{anchor}' fill='{GREY}'{turned}>"
        f"{escape(words)}</text>"
    )


def box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f"<rect x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' height='{height:.1f}' fill='{colour}'/>"


def line(x1: float, y1: float, x2: float, y2: float, colour: str = GREY) -> str:
    return f"<path d='M{x1:.1f} {y1:.1f} L{x2:.1f} {y2:.1f}' stroke='{colour}' fill='none'/>"


def bars(
    title: str, labels: Sequence[str], values: Sequence[float], top: float, *, halves: Sequence[float] = (),
    across: str = "", width: float = 560, height: float = 150,
) -> Chart:  # fmt: skip
    """Bars from 0 to ``top`` with their values; halves: half widths of intervals. across: what the x axis is."""
    step, floor = (width - LEFT) / len(values), TOP + height
    parts = [text(LEFT, 16, title, size=13, anchor="start")]
    for tick in (0.0, top / 2, top):
        y = floor - height * tick / top
        parts += [line(LEFT, y, width, y, FAINT), text(LEFT - 6, y + 4, f"{tick:.3g}", size=11, anchor="end")]
    for i, (label, value) in enumerate(zip(labels, values, strict=True)):
        middle, rise = LEFT + (i + 0.5) * step, height * value / top
        parts.append(box(middle - 0.36 * step, floor - rise, 0.72 * step, rise, BLUE))
        parts.append(text(middle, floor + 14, label, size=10))
        half = height * halves[i] / top if halves else 0.0
        if half > 0:
            parts.append(line(middle, floor - rise - half, middle, floor - rise + half))
        if step > 24:
            parts.append(text(middle, floor - rise - half - 4, f"{value:.2f}", size=10))
    parts.append(text((LEFT + width) / 2, floor + 32, across))
    return Chart(tuple(parts), width, floor + BOTTOM)


@dataclass(frozen=True, slots=True)
class Bar:
    """beside: what it is compared with, drawn under it."""

    label: str
    value: float
    colour: str = BLUE
    beside: float | None = None


def lying(
    title: str, rows: Sequence[Bar], *, mark: float, across: str = "", left: float = 225, width: float = 600
) -> Chart:
    """Bars from 0 on, their labels before and values behind them; mark: a line at this value."""
    step, floor = 26, TOP + 26.0 * len(rows)
    scale = (width - left - 80) / max(mark, *(max(row.value, row.beside or 0.0) for row in rows))
    parts = [text(0, 16, title, size=13, anchor="start")]
    for tick in (0.0, mark):
        x = left + scale * tick
        parts += [line(x, TOP, x, floor, GREY), text(x, floor + 14, f"{tick:.3g}", size=11)]
    for i, row in enumerate(rows):
        y, values = TOP + step * i + 3, [row.value] if row.beside is None else [row.value, row.beside]
        parts.append(text(left - 8, y + 12, row.label, anchor="end"))
        for value, at, height, colour in zip(values, (y, y + 14), (13, 6), (row.colour, PALE), strict=False):
            parts.append(box(left, at, scale * value, height, colour))
        words, x = " / ".join(f"{value:.1f}" for value in values), left + scale * max(values) + 4
        parts.append(box(x - 3, y, 7.0 * len(words), 16, "white"))  # the line at the mark must not cross the words
        parts.append(text(x, y + 12, words, size=11, anchor="start"))
    parts.append(text(width / 2, floor + 32, across))
    return Chart(tuple(parts), width, floor + BOTTOM)


def heat(
    title: str, rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], *, cell: float = 15,
    across: str = "", down: str = "",
) -> Chart:  # fmt: skip
    """Cells from nearly white to blue (1), 0 is the background; rows from the top."""
    parts = [text(LEFT, 16, title, size=13, anchor="start")]
    width, floor = LEFT + cell * len(columns), TOP + cell * len(rows)
    parts.append(box(LEFT, TOP, width - LEFT, floor - TOP, FAINT))
    for i, row in enumerate(values):
        y = TOP + i * cell
        parts.append(text(LEFT - 5, y + 0.7 * cell, rows[i], size=9, anchor="end"))
        parts += [box(LEFT + j * cell, y, cell - 1, cell - 1, shade(value)) for j, value in enumerate(row) if value]
    parts += [text(LEFT + (j + 0.5) * cell, floor + 11, label, size=9) for j, label in enumerate(columns)]
    parts += [text((LEFT + width) / 2, floor + 28, across), text(12, (TOP + floor) / 2, down, turn=-90)]
    return Chart(tuple(parts), max(width, LEFT + 7.0 * len(title)), floor + BOTTOM)


def shade(value: float) -> str:
    """From nearly white (0) to blue (1)."""
    ends = ((0xE6, 0x2B), (0xF0, 0x6C), (0xFA, 0xB0))
    share = min(1.0, max(0.0, value))
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in ends)


def page(rows: Sequence[Sequence[Chart]], gap: float = 24) -> str:
    """Charts side by side in rows, as one document."""
    body, y, widest = [], gap, 0.0
    for row in rows:
        x = gap
        for chart in row:
            body.append(f"<g transform='translate({x:.0f} {y:.0f})'>{''.join(chart.elements)}</g>")
            x += chart.width + gap
        widest, y = max(widest, x), y + max(chart.height for chart in row) + gap
    size = f"width='{widest:.0f}' height='{y:.0f}' viewBox='0 0 {widest:.0f} {y:.0f}'"
    inside = box(0, 0, widest, y, "white") + "".join(body)
    return f"<svg xmlns='http://www.w3.org/2000/svg' {size} {FONT}>{inside}</svg>\n"
