"""Plot of the runs in benchmarks/results: frames a second of each variant, beside the textbook's and published figures.

    python -m benchmarks.speed.plot_results --svg benchmarks/plots/speed.svg

Every file there is one machine's run as `benchmarks.speed.gpu` wrote it, and is never changed afterwards. Where several
files are of one card, each figure is taken from the newest file that has it, by name (h200, h200-2, ...). Two files
were composed by hand: the part `later` of h200 was measured by another script, and h200-3 holds results of
`benchmarks.speed.engine` and `benchmarks.speed.small_card`.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.charts import GREY, Bar, draw_beside, panels, svg
from benchmarks.speed.parts import VARIANTS
from ground.errors import RequestError, one_line_errors
from ground.files import replacing
from training.arguments import new_file

RESULTS = Path(__file__).resolve().parents[1] / "results"
SIZES = ("832x480", "512x512")
REAL_TIME = 25.0  # frames a second

# Beginning of a step's name after model and size, and its label in the plot.
DENOISE = {
    "graphs, fused": "denoise only, CUDA graphs",
    "all (compiled too)": "denoise only, graphs, compiled",
    "all, linear layers in float8": "denoise only, 8-bit layers as well",
}
DECODERS = {"wan": "end to end, Wan2.1's decoder", "wan-tiny": "end to end, TAEHV"}
LARGE = ("14B {}: all (compiled too)", "14B {} all")
PUBLISHED = {  # of Wan2.1-1.3B
    "832x480": (
        Bar("Knot Forcing, paper (no card told)", 17.5, GREY),  # arXiv:2512.21734, table 1
        Bar("LongLive, published (H100)", 20.7, GREY),  # arXiv:2509.22622
    )
}

Figures = dict[str, Any]


def runs(folder: Path) -> dict[str, list[Figures]]:
    """Steps by name of every file, newest file first, for each card. Raises RequestError ``bad_results``."""
    found: dict[str, list[Figures]] = defaultdict(list)
    for path in sorted(folder.glob("*.json"), key=_number, reverse=True):
        try:
            content = json.loads(path.read_text())
            found[content["gpu"]["machine"]["device"]].append({**content.get("later", {}), **content["gpu"]})
        except (ValueError, LookupError, TypeError) as error:
            raise RequestError("bad_results", f"{path} is not a run of benchmarks.speed.gpu: move it away") from error
    if not found:
        raise RequestError("bad_results", f"no results in {folder}: name a folder of runs of benchmarks.speed.gpu")
    return dict(found)


def _number(path: Path) -> tuple[str, int]:
    """Sort key for the order h200, h200-2, ..., h200-10."""
    card, _, number = path.stem.partition("-")
    return card, int(number) if number.isdecimal() else 1


def newest(files: Sequence[Figures], figure: str, *beginnings: str) -> Figures | None:
    """The first step that has this figure and a name with one of these beginnings."""
    steps = (step for steps in files for name, step in steps.items() if name.startswith(beginnings))
    return next((step for step in steps if isinstance(step, dict) and figure in step), None)


def bars_of(files: Sequence[Figures], size: str) -> list[Bar]:
    """Bars of one size, such as 832x480: measurements, then published figures. Empty without a measurement."""
    found = []
    for name, label in DENOISE.items():
        if (step := newest(files, "fps", f"1.3B {size}: {name}")) is not None:
            found.append(Bar(label, step["fps"], beside=step["baseline_fps"]))
    for name, label in DECODERS.items():
        plainly = [f"1.3B {size}: decoder {name}, {variant}" for variant in VARIANTS]
        if (step := newest(files, "end_to_end_fps", *plainly)) is not None:
            found.append(Bar(label, step["end_to_end_fps"]))
    steps = [step for name in LARGE if (step := newest(files, "fps", name.format(size))) is not None]
    found += [Bar("14B, denoise only", step["fps"], beside=step.get("baseline_fps")) for step in steps[:1]]
    return [*found, *PUBLISHED.get(size, ())] if found else []


def plot(found: dict[str, list[Figures]]) -> str:
    """SVG with a chart of each card and size, one below the other."""
    rows = {(card, size): bars_of(files, size) for card, files in found.items() for size in SIZES}
    shown = {about: bars for about, bars in rows.items() if bars}
    figure, axes = panels([(7.5, 0.9 + 0.33 * len(bars)) for bars in shown.values()])
    for ax, ((card, size), bars) in zip(axes, shown.items(), strict=True):
        title = f"Wan2.1's shape, 1.3B unless named, {size}, {card}"
        across = f"frames a second; {REAL_TIME:.0f}: real time; pale: the textbook rollout in bf16"
        draw_beside(ax, title, bars, mark=REAL_TIME, across=across)
    return svg(figure)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="benchmarks.speed.plot_results"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the runs; default: benchmarks/results")
    parser.add_argument("--svg", type=new_file, required=True, help="write the plot here")
    arguments = parser.parse_args(words)
    with one_line_errors("benchmarks.speed.plot_results"):
        drawn = plot(runs(arguments.results))
        with replacing(arguments.svg) as draft:
            draft.write_text(drawn)


if __name__ == "__main__":
    main()
