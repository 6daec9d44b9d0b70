"""Channels of the motion latent (the face rig's controls): names, units, ranges and scales.

Shared by the rig, the training tracks and the drive. Independent of pictures and networks. Left and right are the
avatar's own: its left is the right side of the picture.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MotionChannel:
    """One control. low, high: range of the absolute value. scale: divisor that gives the channel about unit
    variance."""

    name: str
    low: float
    high: float
    scale: float


CHANNELS: tuple[MotionChannel, ...] = (
    MotionChannel("jaw", 0.0, 1.1, 0.22),  # 0 lips closed, 1 = open by 0.95 mouth half-widths
    MotionChannel("pucker", -0.2, 1.0, 0.30),
    MotionChannel("smile", -0.5, 1.0, 0.25),
    MotionChannel("press", 0.0, 1.0, 0.30),  # lips rolled in, as in p b m
    MotionChannel("upper", 0.0, 1.0, 0.20),  # upper lip raised
    MotionChannel("blinkL", 0.0, 1.0, 0.25),
    MotionChannel("blinkR", 0.0, 1.0, 0.25),
    MotionChannel("brow", -1.0, 1.0, 0.35),
    MotionChannel("gazeX", -1.0, 1.0, 0.40),  # + towards the avatar's own left
    MotionChannel("gazeY", -1.0, 1.0, 0.40),  # + up
    MotionChannel("yaw", -0.45, 0.45, 0.15),  # rad, + turns to the avatar's own left
    MotionChannel("pitch", -0.35, 0.35, 0.10),  # rad, + looks up
    MotionChannel("roll", -0.35, 0.35, 0.08),  # rad, + tilts to the avatar's own left shoulder
    MotionChannel("tx", -0.12, 0.12, 0.03),  # picture units (-1..1), + towards the avatar's own left
    MotionChannel("ty", -0.12, 0.12, 0.03),  # + up
    MotionChannel("breath", 0.0, 1.0, 0.50),
)
NAMES: tuple[str, ...] = tuple(channel.name for channel in CHANNELS)
INDEX: dict[str, int] = {name: i for i, name in enumerate(NAMES)}
SCALES: tuple[float, ...] = tuple(channel.scale for channel in CHANNELS)

FRAMES_PER_LATENT = 4
JAW_SPAN = 0.95  # opening of the mouth at jaw = 1, in mouth half-widths

REFERENCE_FEATURES: tuple[str, ...] = (
    *("cx", "cy", "rx", "ry", "mx", "my", "mw", "curve", "lt", "ut", "th", "chin"),
    *("exl", "eyl", "exr", "eyr", "ea", "eb", "bh", "open"),
)
