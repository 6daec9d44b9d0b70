"""Parser of pose records, from the data channel and from lines of ``poses.jsonl``, to controls of the face.

A record is ``{"t_ms": 0, "yaw": 0, "pitch": 0, "roll": 0, "blendshapes": {ARKit name: 0..1}}``; every field may be
absent, angles are radians, left and right are the avatar's own. Yaw + turns to its left, pitch + looks up, roll + tilts
to its left shoulder. Names and ranges are those of the motion latent (ground/motion.py).
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ground.errors import RequestError
from ground.motion import CHANNELS, INDEX

ANGLES = ("yaw", "pitch", "roll")

# (control, ARKit names, weight): the control is the sum over its rows of weight x the strongest of the names given;
# our mouth, brow and gaze have no sides, so a one-sided move counts whole.
_BLENDSHAPES: tuple[tuple[str, tuple[str, ...], float], ...] = (
    ("jaw", ("jawOpen",), 1.0),
    ("pucker", ("mouthPucker", "mouthFunnel"), 1.0),
    ("smile", ("mouthSmileLeft", "mouthSmileRight"), 1.0),
    ("smile", ("mouthStretchLeft", "mouthStretchRight"), 0.5),
    ("smile", ("mouthFrownLeft", "mouthFrownRight"), -0.5),
    ("press", ("mouthPressLeft", "mouthPressRight"), 1.0),
    ("press", ("mouthRollLower", "mouthRollUpper"), 1.0),
    ("upper", ("mouthUpperUpLeft", "mouthUpperUpRight"), 1.0),
    ("blinkL", ("eyeBlinkLeft",), 1.0),
    ("blinkR", ("eyeBlinkRight",), 1.0),
    ("brow", ("browInnerUp", "browOuterUpLeft", "browOuterUpRight"), 1.0),
    ("brow", ("browDownLeft", "browDownRight"), -1.0),
    # The left eye looks to the avatar's own left when it looks outwards, the right eye when it looks inwards.
    ("gazeX", ("eyeLookOutLeft", "eyeLookInRight"), 1.0),
    ("gazeX", ("eyeLookInLeft", "eyeLookOutRight"), -1.0),
    ("gazeY", ("eyeLookUpLeft", "eyeLookUpRight"), 1.0),
    ("gazeY", ("eyeLookDownLeft", "eyeLookDownRight"), -1.0),
)
_KNOWN = frozenset(name for _, names, _ in _BLENDSHAPES for name in names)
_MAX_BLENDSHAPES = 100
_MAX_LINE = 16_384
_MAX_NUMBER = 1e15  # also refuses NaN, infinity and integers no float can hold


@dataclass(frozen=True, slots=True)
class Pose:
    """t_ms: the sender's time from any origin, None where absent. controls: absolute values by channel name, inside
    their ranges."""

    t_ms: float | None
    controls: dict[str, float]


def parse_pose(record: object) -> Pose:
    """One record to controls; values are clamped, ARKit names we have no channel for are ignored.

    Raises RequestError ``invalid_pose`` for what is not a record or not a finite number.
    """
    if not isinstance(record, Mapping):
        raise RequestError("invalid_pose", "a pose is an object with yaw, pitch, roll and blendshapes")
    controls = {name: _number(record[name], name) for name in ANGLES if record.get(name) is not None}
    shapes = record.get("blendshapes")
    if shapes is not None:
        controls.update(_blend(shapes))
    for name, value in controls.items():
        channel = CHANNELS[INDEX[name]]
        controls[name] = min(max(value, channel.low), channel.high)
    t_ms = record.get("t_ms")
    return Pose(None if t_ms is None else _number(t_ms, "t_ms"), controls)


def read_poses(lines: Iterable[str], fps: int) -> Iterator[tuple[float, dict[str, float]]]:
    """The lines of a ``poses.jsonl`` as (media frame, controls); times must not fall. Raises RequestError
    ``invalid_pose``.
    """
    last = -math.inf
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            if len(line) > _MAX_LINE:
                raise RequestError("invalid_pose", "the line is too long")
            pose = parse_pose(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise RequestError("invalid_pose", f"pose line {number} is not JSON") from error
        except RequestError as error:
            raise RequestError("invalid_pose", f"pose line {number}: {error.message}") from error
        t_ms = pose.t_ms or 0.0
        if t_ms < last:
            raise RequestError("invalid_pose", f"pose line {number}: t_ms goes back")
        last = t_ms
        yield t_ms * fps / 1000.0, pose.controls


def _blend(shapes: object) -> dict[str, float]:
    """Sum what is given; a control with none of its shapes given stays free, so that the voice leads it."""
    if not isinstance(shapes, Mapping) or len(shapes) > _MAX_BLENDSHAPES:
        raise RequestError(
            "invalid_pose", "blendshapes must be an object of ARKit names and values", param="blendshapes"
        )
    values = {
        name: min(max(_number(value, str(name)[:40]), 0.0), 1.0) for name, value in shapes.items() if name in _KNOWN
    }
    controls: dict[str, float] = {}
    for control, names, weight in _BLENDSHAPES:
        given = [values[name] for name in names if name in values]
        if given:
            controls[control] = controls.get(control, 0.0) + weight * max(given)
    return controls


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MAX_NUMBER:
        raise RequestError("invalid_pose", f"{name} must be a finite number", param=name)
    return float(value)
