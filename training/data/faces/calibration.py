"""Fit of the correction from the face mesh's measures to those of annotated portraits (`engine.portrait.landmarks`).

    python -m training.data.faces.calibration --portraits DIR --out landmarks.safetensors

One ridge regression in closed form on each portrait and its mirror image; the opening of the mouth is learnt from open
ones alone. Prints the errors on the portraits held out, in % of the picture's width, and the share of mouths taken for
open or closed wrongly. A minute on two cores.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from engine.portrait.face_reading import read_face
from engine.portrait.framing import eye_centres, find_faces
from engine.portrait.landmarks import (
    CORRECTED,
    Correction,
    Image,
    canonical_crop,
    carried,
    measures,
    mirrored,
    read_mesh,
    to_crop,
)
from engine.portrait.mesh_points import MEASURED, MIRROR
from ground.errors import one_line_errors
from training.arguments import new_file
from training.data.faces.folder import load, set_apart

Floats = npt.NDArray[np.float64]

STRENGTH = 0.01  # ridge, as a share of the features' mean variance


@dataclass(frozen=True, slots=True)
class Measured:
    """A portrait as a call would frame it. points [468, 2] and truth in the framing's units."""

    points: Floats
    crop: Image
    truth: dict[str, float]


def measured(rgb: Image, truth: dict[str, float]) -> Measured | None:
    """Frame a portrait by its mesh, and carry the known landmarks there; None if no face is found."""
    faces = find_faces(rgb)
    if not faces:
        return None
    face = read_face(rgb, faces[0])
    crop, affine = canonical_crop(rgb, eye_centres(face))
    size, side = rgb.shape[1::-1], crop.shape[0]
    known = carried({"mtilt": 0.0} | truth, affine.astype(np.float64), (size[0], size[1]), (side, side))
    return Measured(to_crop(face.points[:, :2], affine), crop, known)


def features(points: Floats) -> Floats:
    return points[list(MEASURED)].ravel()


def wanted(points: Floats, truth: dict[str, float]) -> Floats:
    """What is to be added to the mesh's own measures, by CORRECTED."""
    own = read_mesh(points)
    return np.array([truth[name] - own[name] for name in CORRECTED])


def fit(portraits: list[Measured]) -> dict[str, npt.NDArray[np.float32]]:
    """weight [18, d] and bias [18]."""
    pairs = [(one.points, one.truth) for one in portraits]
    pairs += [(one.points[MIRROR] * (-1, 1), mirrored(one.truth)) for one in portraits]
    seen, gaps = np.stack([features(p) for p, _ in pairs]), np.stack([wanted(p, t) for p, t in pairs])
    weight, bias = _ridge(seen, gaps)
    opening, mouths = CORRECTED.index("th"), np.array([truth["th"] > 0 for _, truth in pairs])
    row, level = _ridge(seen[mouths], gaps[mouths][:, [opening]])
    weight[opening], bias[opening] = row[0], level[0]
    return {"weight": np.ascontiguousarray(weight, np.float32), "bias": bias.astype(np.float32)}


def _ridge(seen: Floats, gaps: Floats) -> tuple[Floats, Floats]:
    middle, level = seen.mean(0), gaps.mean(0)
    centred = seen - middle
    products = centred.T @ centred
    products += STRENGTH * np.trace(products) / len(products) * np.eye(len(products))
    weight = np.linalg.solve(products, centred.T @ (gaps - level)).T
    return weight, level - weight @ middle


def report(portraits: list[Measured], weights: Correction | None = None) -> list[str]:
    """Errors of the landmarks, a line each. weights: None = the shipped ones."""
    found = [(measures(one.points, one.crop, weights), one.truth) for one in portraits]
    lines = []
    for name in CORRECTED:
        errors = [50 * abs(said[name] - truth[name]) for said, truth in found]
        lines.append(f"{name:6} median {np.median(errors):.2f}  worst twentieth {np.percentile(errors, 95):.2f}")
    wrong = [(truth["th"] > 0, said["th"] > 0) for said, truth in found]
    shut, opened = wrong.count((True, False)), wrong.count((False, True))
    return [*lines, f"open taken for closed {shut}, closed for open {opened}, of {len(wrong)}"]


def train(portraits: Path, out: Path | None) -> None:
    known = load(portraits)
    apart = set_apart(known)
    framed = {name: measured(*one) for name, one in known.items()}
    weights = None
    if out is not None:
        weights = fit([one for name, one in framed.items() if one is not None and name not in apart])
        save_file(weights, out)
        out.chmod(0o644)  # safetensors makes files that only their owner can read
    print("\n".join(report([one for name, one in framed.items() if one is not None and name in apart], weights)))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.data.faces.calibration", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--portraits", type=Path, required=True, help="folder of annotated portraits")
    parser.add_argument(
        "--out", type=new_file, help="where the correction is written; none: the shipped one is measured"
    )
    arguments = parser.parse_args()
    with one_line_errors("training.data.faces.calibration"):
        train(arguments.portraits, arguments.out)


if __name__ == "__main__":
    main()
