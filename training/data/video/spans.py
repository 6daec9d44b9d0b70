"""Selection of clip spans: one shot, no refused frame, and a head that stays in one fixed crop.

The crop is constant over a span, as it is in a call: there a photograph is framed once and the head moves inside it. A
crop that followed the face would put the head's motion into the background. Where a head wanders too far for one crop
the span ends, and the next is framed anew. Pure functions of what was measured.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.portrait.landmarks import EYE_X
from training.data.video.quality import Finding, QualityLimits, Stretch, stretches

Doubles = NDArray[np.float64]

STEP = 5  # frames by which a span grows while its crop is tried


@dataclass(frozen=True, slots=True)
class Span:
    """Frames first .. end - 1 of a source. eyes: where the crop puts the canonical eyes, pixels [2, 2]."""

    first: int
    end: int
    eyes: Doubles

    @property
    def frames(self) -> slice:
        return slice(self.first, self.end)


def find_spans(
    table: Mapping[str, Doubles], shots: list[tuple[int, int]], limits: QualityLimits, fps: int, size: int
) -> tuple[list[Span], list[Stretch]]:
    """Spans worth a look as a whole, and stretches that are not, with the reason."""
    spans, refused = list[Span](), list[Stretch]()
    shortest = round(limits.shortest_s * fps)
    for first, end in shots:
        if end - first < shortest:
            reason = "cut" if len(shots) > 1 else "too_short"
            refused.append(Stretch(first, end, Finding(reason, round((end - first) / fps, 3), limits.shortest_s)))
            continue
        for part in stretches({name: values[first:end] for name, values in table.items()}, limits, fps, size):
            whole = Stretch(first + part.first, first + part.end, part.finding)
            if whole.finding is None and whole.end - whole.first < shortest:
                seconds = round((whole.end - whole.first) / fps, 3)
                whole = Stretch(whole.first, whole.end, Finding("too_short", seconds, limits.shortest_s))
            if whole.finding is not None:
                refused.append(whole)
                continue
            for piece in _steady(table["eyes"], whole, limits, fps):
                if isinstance(piece, Span):
                    spans.append(piece)
                else:
                    refused.append(piece)
    return spans, refused


def _steady(eyes: Doubles, stretch: Stretch, limits: QualityLimits, fps: int) -> Iterator[Span | Stretch]:
    """The longest beginning that one crop holds, then the longest of the rest, and so on. What one crop holds for too
    short a time is refused together with its like."""
    shortest, longest = round(limits.shortest_s * fps), round(limits.longest_s * fps)
    first, refused = stretch.first, None
    while first < stretch.end:
        end, finding = _held(eyes, first, min(stretch.end, first + longest), limits)
        if end - first >= shortest:
            if refused is not None:
                yield refused
            yield Span(first, end, np.nanmedian(eyes[first:end], axis=0))
            refused = None
        elif refused is not None:
            refused = Stretch(refused.first, end, refused.finding)
        else:
            seconds = round((end - first) / fps, 3)
            refused = Stretch(first, end, finding or Finding("too_short", seconds, limits.shortest_s))
        first = end
    if refused is not None:
        yield refused


def _held(eyes: Doubles, first: int, last: int, limits: QualityLimits) -> tuple[int, Finding | None]:
    """How far one crop can go from `first` on, `last` at the most, and what ends it."""
    end, finding = first + 1, None
    while end < last and finding is None:
        further = min(end + STEP, last)
        wander, lean = movement(eyes[first:further], np.nanmedian(eyes[first:further], axis=0))
        if wander > limits.wander:
            finding = Finding("moves_about", round(wander, 4), limits.wander)
        elif lean > limits.lean:
            finding = Finding("leans", round(lean, 4), limits.lean)
        else:
            end = further
    return end, finding


def movement(eyes: Doubles, middle: Doubles) -> tuple[float, float]:
    """How far the middle of the eyes [n, 2, 2] goes from its place in a crop about `middle` [2, 2], in -1..1 units of
    that crop, and by which factor their distance changes at most."""
    distance = float(np.hypot(*(middle[1] - middle[0])))
    away = np.hypot(*(eyes.mean(1) - middle.mean(0)).T) * 2 * EYE_X / distance
    ratio = np.hypot(*(eyes[:, 1] - eyes[:, 0]).T) / distance
    return float(np.nanmax(away)), float(np.nanmax(np.maximum(ratio, 1 / ratio)))
