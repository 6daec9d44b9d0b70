"""Head pose accuracy when only some angles are given.

    python -m benchmarks.motion.head_pose [--weights dit.safetensors] [--portraits landmarks.json] [--json]

While the voice goes on, pose records hold the given angles at zero, and from the middle of the call at 20 (yaw) or 10
degrees (pitch, roll). "yaw", "pitch", "roll": share of the step that was reached, from the means of the two halves,
without the first half second of each half. "least", "most": the same of the first given angle, over calls. "rms": error
of the given angles, in degrees. Each call has a seed of its own; means over calls with 95 % intervals. Held-out
portraits by their true landmarks. Needs libespeak-ng.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.motion.command import make_parser
from benchmarks.motion.held_out import held_out_faces, long_speech
from benchmarks.motion.motion_figures import FloatArray, estimate
from benchmarks.motion.report import Report, Row, measuring, print_report
from benchmarks.motion.rolls import SHIPPED, BenchModel, chunks_of, drive, roll, shown
from ground.motion import INDEX, NAMES
from models.codecs.motion import reference_features
from training.arguments import at_least
from training.data.synthetic.phonemes import Synthesiser

DEGREES = {"yaw": 20.0, "pitch": 10.0, "roll": 10.0}
TOLD: tuple[tuple[str, ...], ...] = (("yaw",), ("pitch",), ("roll",), ("yaw", "pitch"), ("yaw", "pitch", "roll"))
SETTLING = 13  # frames


def told(names: Sequence[str], frames: int) -> FloatArray:
    """Absolute controls [frames, 16]: the named angles at zero, then at their step; all others not given (NaN)."""
    controls = np.full((frames, len(NAMES)), np.nan)
    for name in names:
        controls[: frames // 2, INDEX[name]] = 0
        controls[frames // 2 :, INDEX[name]] = np.radians(DEGREES[name])
    return controls


def row(made: FloatArray, wanted: FloatArray) -> Row:
    """Figures of calls [S, T, 16] for which `wanted` [T, 16] was given."""
    half = len(wanted) // 2
    before, after = slice(SETTLING, half), slice(half + SETTLING, len(wanted))
    names = [name for name in DEGREES if not np.isnan(wanted[0, INDEX[name]])]
    angles = np.degrees(made[..., [INDEX[name] for name in names]])
    moved = angles[:, after].mean(1) - angles[:, before].mean(1)
    reached = moved / np.array([DEGREES[name] for name in names])
    aim = np.degrees(wanted[:, [INDEX[name] for name in names]])
    off = np.concatenate([(angles - aim)[:, part] for part in (before, after)], axis=1)
    return {
        **{name: estimate(lambda calls: float(calls.mean()), reached[:, i]) for i, name in enumerate(names)},
        "least": round(float(reached[:, 0].min()), 2),
        "most": round(float(reached[:, 0].max()), 2),
        "rms": estimate(lambda calls: float(np.sqrt((calls**2).mean())), off),
    }


def run(arguments: argparse.Namespace) -> Report:
    espeak, candidate = Synthesiser(), BenchModel(arguments.weights)
    faces = held_out_faces(arguments.portraits)
    chunks = chunks_of(arguments.seconds)
    frames, calls = 12 * chunks - 3, range(arguments.calls)
    cases = [long_speech(espeak, arguments.seconds + 1.5, seed) for seed in calls]
    features = [reference_features(faces[call % len(faces)]) for call in calls]
    wanted = {names: told(names, frames) for names in TOLD}
    drives = [drive(one, wanted[names], 3 * chunks + 1, candidate.estimator) for names in TOLD for one in cases]
    rolled = roll(candidate.model, drives, features * len(TOLD), [*calls] * len(TOLD), chunks)
    made = shown(rolled).astype(np.float64).reshape(len(TOLD), len(calls), frames, -1)
    rows = {", ".join(names): row(own, wanted[names]) for names, own in zip(TOLD, made, strict=True)}
    return {"given angles: share of the step that was reached, and error in degrees": rows}


def main(words: Sequence[str] | None = None) -> None:
    parser = make_parser("head_pose", __doc__)
    parser.add_argument("--weights", type=Path, default=SHIPPED, help="default: the shipped weights")
    parser.add_argument("--portraits", type=Path, help="landmarks.json; default: an average face")
    parser.add_argument("--calls", type=at_least(2), default=12, help="of each row")
    parser.add_argument("--seconds", type=at_least(3.0), default=9.0, help="of each call")
    arguments = parser.parse_args(words)
    about = {"weights": arguments.weights.name, "calls": arguments.calls, "seconds": arguments.seconds}
    with measuring("head_pose"):
        print_report(run(arguments), as_json=arguments.json, **about)


if __name__ == "__main__":
    main()
