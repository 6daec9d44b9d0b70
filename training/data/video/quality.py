"""Quality rules for training clips: each with a name, a measured value and a limit.

Rules for frames cut bad stretches out; rules for spans judge what is left as a whole. Pure functions of what was
measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.portrait.landmarks import EYE_X
from training.data.video.decode import SOUND_RATE
from training.data.video.sync import Sync

Doubles = NDArray[np.float64]
Sound = NDArray[np.float32]

HOLD = 5  # frames over which a reading's median is taken, so that one misread frame breaks nothing
REPEATED = 0.25  # change relative to the neighbours' below which a picture repeats the one before


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """shortest_s, longest_s: of a clip; a longer span is cut there. enlarged: how much a face may be
    enlarged at most. turned, nodded: of the head, rad. light, glare, sharpness: of track.Reading.
    still_s: how long a face may stand still to the grey level `still`. new: least share of pictures that repeat none.
    outside: share of the face's box beyond the picture's edge; made_up: the same of the crop. wander: how far the eyes
    may go from their middle place, and lean: by how much their distance may change, before a span is cut in two.
    loud_db: level of the loud parts of the sound, full scale 0. flat: share of samples near the top. lag_s: lips
    against voice.
    """

    shortest_s: float = 3.4
    longest_s: float = 60.0
    face: float = 0.5
    second: float = 0.55
    enlarged: float = 1.5
    turned: float = 0.35
    nodded: float = 0.35
    light: float = 0.22
    glare: float = 0.2
    sharpness: float = 0.09
    still: float = 0.12
    still_s: float = 1.0
    new: float = 0.8
    outside: float = 0.04
    made_up: float = 0.12
    wander: float = 0.3
    lean: float = 1.3
    loud_db: float = -45.0
    flat: float = 0.015
    lag_s: float = 0.2


@dataclass(frozen=True, slots=True)
class Finding:
    """Why something was refused: the rule's name, what was measured, and the limit it broke."""

    reason: str
    value: float
    limit: float


@dataclass(frozen=True, slots=True)
class Stretch:
    """Frames first .. end - 1 and what is wrong with them; None = nothing."""

    first: int
    end: int
    finding: Finding | None


def stretches(table: Mapping[str, Doubles], limits: QualityLimits, fps: int, size: int) -> list[Stretch]:
    """The readings of one shot (see track.table) in stretches that break the same rule, or none."""
    rules = _frame_rules(table, limits, fps, size)
    broken = np.full(len(table["face"]), -1)
    for index in reversed(range(len(rules))):
        broken[rules[index].broken] = index
    edges = np.flatnonzero(np.diff(broken)) + 1
    out = []
    for first, end in zip([0, *edges.tolist()], [*edges.tolist(), len(broken)], strict=True):
        rule = rules[broken[first]] if broken[first] >= 0 else None
        out.append(Stretch(first, end, rule.finding(first, end) if rule else None))
    return out


@dataclass(frozen=True, slots=True)
class FrameRule:
    """values [n]; a frame breaks the rule above the limit, or below it where `least`."""

    reason: str
    values: Doubles
    limit: float
    least: bool = False

    @property
    def broken(self) -> NDArray[np.bool_]:
        return self.values < self.limit if self.least else self.values > self.limit

    def finding(self, first: int, end: int) -> Finding:
        """The worst of the stretch."""
        part = self.values[first:end]
        return Finding(self.reason, round(float(part.min() if self.least else part.max()), 4), round(self.limit, 4))


def _frame_rules(table: Mapping[str, Doubles], limits: QualityLimits, fps: int, size: int) -> list[FrameRule]:
    """In the order in which they are asked; a frame is refused for the first that it breaks."""
    eyes = table["eyes"]
    distance = np.hypot(*(eyes[:, 1] - eyes[:, 0]).T)
    steady = {name: _median(values) for name, values in table.items() if values.ndim == 1}
    return [
        FrameRule("no_face", steady["face"], limits.face, least=True),
        FrameRule("several_faces", table["second"], limits.second),
        FrameRule("face_too_small", _median(distance), EYE_X * size / limits.enlarged, least=True),
        FrameRule("face_leaves_the_picture", steady["outside"], limits.outside),
        FrameRule("head_turned_away", abs(steady["yaw"]), limits.turned),
        FrameRule("head_bent_away", abs(steady["pitch"]), limits.nodded),
        FrameRule("too_dark", steady["light"], limits.light, least=True),
        FrameRule("overexposed", steady["glare"], limits.glare),
        FrameRule("blurred", steady["sharpness"], limits.sharpness, least=True),
        FrameRule("frozen", _still_seconds(table["change"] < limits.still, fps), limits.still_s),
    ]


def _median(values: Doubles) -> Doubles:
    """Running median over HOLD frames; a missing reading is taken from its neighbours while they have any."""
    padded = np.pad(values, HOLD // 2, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, HOLD)
    held = np.sort(windows, axis=1)  # NaN comes last
    known = np.maximum((~np.isnan(windows)).sum(1), 1)
    return np.asarray(held[np.arange(len(held)), (known - 1) // 2])


def _still_seconds(still: NDArray[np.bool_], fps: int) -> Doubles:
    """For each frame, how long the standstill lasts that it is part of."""
    out = np.zeros(len(still))
    edges = np.flatnonzero(np.diff(np.r_[False, still, False].astype(int)))
    for first, end in edges.reshape(-1, 2):
        out[first:end] = (end - first) / fps
    return out


def span_findings(
    table: Mapping[str, Doubles], sound: Sound, sync: Sync, made_up: float, limits: QualityLimits
) -> list[Finding]:
    """What is wrong with a span as a whole. made_up: share of its crop beyond the picture's edge."""
    values = [
        ("framed_too_tightly", made_up, limits.made_up, False),
        ("low_frame_rate", new_pictures(table["change"], limits), limits.new, True),
        ("silent", loudness(sound), limits.loud_db, True),
        ("clipped_sound", flatness(sound), limits.flat, False),
        ("out_of_sync", abs(sync.lag_s), limits.lag_s, False),
    ]
    return [
        Finding(reason, round(value, 4), limit)
        for reason, value, limit, least in values
        if (value < limit if least else value > limit)
    ]


def new_pictures(change: Doubles, limits: QualityLimits) -> float:
    """Share of pictures that are new: not still, and no mere recoding of the one before, which shows as a change far
    below that of its neighbours."""
    around = np.fmax(change[:-2], change[2:])
    fresh = change[1:-1] >= np.fmax(limits.still, REPEATED * around)
    return float(fresh.mean())


def loudness(sound: Sound) -> float:
    """Level in dB below full scale that a tenth of all 40 ms blocks exceed; -120 at the least."""
    block = SOUND_RATE // 25
    blocks = sound[: len(sound) // block * block].reshape(-1, block)
    if not len(blocks):
        return -120.0
    return float(np.percentile(10 * np.log10((blocks.astype(np.float64) ** 2).mean(1) + 1e-12), 90))


def flatness(sound: Sound) -> float:
    """Share of samples near the top, within 15 % of what one in a thousand exceeds: clipped sound has many, whatever
    its level and through any codec."""
    size = np.abs(sound)
    top = float(np.quantile(size, 0.999)) if len(size) else 0.0
    return float((size > 0.85 * top).mean()) if top > 0.01 else 0.0
