"""Random conditioning: groups of controls given over random spans, with tracks that need not fit the voice.

The given values replace those of the clip, so whoever learns from it learns that what is given wins. Values are
absolute controls (the photograph's pose counts as zero).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ground.motion import CHANNELS, INDEX

FloatArray = NDArray[np.float32]


def _indices(*names: str) -> tuple[int, ...]:
    return tuple(INDEX[name] for name in names)


HEAD_POSE = _indices("yaw", "pitch", "roll")
SHIFT = _indices("tx", "ty")
GROUPS: tuple[tuple[int, ...], ...] = (
    HEAD_POSE, _indices("blinkL", "blinkR"), _indices("gazeX", "gazeY"), _indices("brow"),
    _indices("jaw", "pucker", "smile", "press", "upper"), _indices("breath"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class GivenConfig:
    """Probabilities per clip. Of clips with something given, `every` have all sixteen controls given throughout, those
    of another clip; of the rest each group is given with its own of `group`."""

    some: float = 0.45
    every: float = 0.3
    group: tuple[float, ...] = (0.75, 0.25, 0.25, 0.20, 0.30, 0.15)
    shift: float = 0.5  # that a given head pose comes with its shift
    axes: float = 0.65  # that only one or two of a given head pose's angles are given
    part: float = 0.35  # that it is given for a part of the clip only
    drawn: float = 0.6  # that a given pose is a drawn step or ramp, not another clip's
    donor: float = 0.6  # that other given groups come from another clip


def give(
    controls: FloatArray, config: GivenConfig, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """controls [B, T, 16] -> changed controls, given values (0 where not given), mask (1 = given)."""
    out = controls.copy()
    mask = np.zeros_like(controls)
    donors = np.roll(controls, 1, axis=0)
    for clip, donor, given, natural in zip(out, donors, mask, controls, strict=True):
        if rng.random() >= config.some:
            continue
        if rng.random() < config.every:
            clip[:], given[:] = donor, 1
            continue
        span = _span(len(clip), config.part, rng)
        for group, probability in zip(GROUPS, config.group, strict=True):
            if rng.random() >= probability:
                continue
            channels = list(group)
            if group is HEAD_POSE:
                track = drawn_pose(len(clip), rng) if rng.random() < config.drawn else donor[:, channels]
                if rng.random() < config.axes:
                    kept = rng.permutation(3)[: rng.integers(1, 3)]
                    track, channels = track[:, kept], [channels[axis] for axis in kept]
                if rng.random() < config.shift:
                    track = np.concatenate([track, donor[:, list(SHIFT)]], axis=1)
                    channels += SHIFT
            else:
                channels = [c for c in channels if rng.random() < 0.75] if len(channels) > 2 else channels
                track = (donor if rng.random() < config.donor else natural)[:, channels]
            _put(clip, given, channels, track, span)
    low, high = (np.array([getattr(c, side) for c in CHANNELS], np.float32) for side in ("low", "high"))
    out = np.where(mask > 0, np.clip(out, low, high), out)
    return out, out * mask, mask


def _span(frames: int, part: float, rng: np.random.Generator) -> slice:
    if rng.random() >= part:
        return slice(0, frames)
    begin = int(rng.integers(0, frames - 8)) if rng.random() < 0.6 else 0
    return slice(begin, int(rng.integers(begin + 6, frames + 1)))


def _put(clip: FloatArray, given: FloatArray, channels: list[int], track: FloatArray, span: slice) -> None:
    """Set a given track in place. After it ends the controls ease back to their own, without a jump."""
    own = clip[:, channels].copy()
    clip[span, channels] = track[span]
    given[span, channels] = 1
    after = len(clip) - span.stop
    if after > 0:
        ease = np.exp(-np.arange(1, after + 1, dtype=np.float32) / 10)[:, None]
        clip[span.stop :, channels] += ease * (track[span.stop - 1] - own[span.stop - 1])


def drawn_pose(frames: int, rng: np.random.Generator) -> FloatArray:
    """Yaw, pitch, roll [T, 3] as a caller's head pad makes them: holds, abrupt steps and ramps, out to the limits."""
    t = np.arange(frames)
    track = np.zeros((frames, 3), np.float32)
    for axis, limit in enumerate((0.44, 0.32, 0.30)):
        if axis and rng.random() < 0.4:
            continue
        knots = np.sort(rng.integers(0, frames, rng.integers(1, 5)))
        values = rng.uniform(-limit, limit, len(knots) + 1) * (rng.random(len(knots) + 1) < 0.8)
        if rng.random() < 0.5:
            track[:, axis] = values[np.searchsorted(knots, t, side="right")]
        else:
            track[:, axis] = np.interp(t, np.r_[knots, frames], values)
    return track
