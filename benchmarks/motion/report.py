"""Benchmark report: sections of rows of figures, as tables or as one JSON object."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import torch

from benchmarks.motion.motion_figures import Estimate
from ground.errors import one_line_errors

Row = dict[str, object]
Section = dict[str, Row]
Report = dict[str, Section]


@contextmanager
def measuring(name: str) -> Iterator[None]:
    """Context of the work of `benchmarks.motion.{name}`: prints an AvatarError as one line and exits with code 2. Sets
    torch to one thread, because small batches gain nothing from more and the machine may be busy."""
    torch.set_num_threads(1)
    with one_line_errors(f"benchmarks.motion.{name}"):
        yield


def print_report(report: Report, *, as_json: bool, note: str = "", **about: object) -> None:
    if as_json:
        print(to_json(report, **about))
    else:
        print("\n".join(table(title, section) for title, section in report.items()) + (note and f"\n\n{note}"))


def to_json(report: Report, **about: object) -> str:
    rows = {title: {n: {k: _plain(v) for k, v in row.items()} for n, row in s.items()} for title, s in report.items()}
    return json.dumps({**about, "sections": rows})


def _plain(value: object) -> object:
    """A value for JSON: an estimate as its two numbers, a number that is not finite as null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if not isinstance(value, Estimate):
        return value
    return {name: None if math.isnan(number) else round(number, 4) for name, number in asdict(value).items()}


def table(title: str, rows: dict[str, dict[str, object]]) -> str:
    """Table of rows as text, with every column that any row has."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells = [["", *columns]] + [[name, *(str(row.get(column, "")) for column in columns)] for name, row in rows.items()]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns) + 1)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join([f"\n{title}", *lines])
