"""Fit of the head turn estimator (training.data.video.turn) on portraits that the rig turned.

    python -m training.data.video.turn_fit --portraits DIR

Every portrait is altered as cameras alter pictures, turned by the rig, and aligned by the landmark cascade as a tracked
frame is. The forty portraits that are held out for good are reported on. Two minutes of one core.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from engine.portrait.framing import tones
from engine.portrait.landmarks import FACE, canonical_crop, default_estimator
from engine.portrait.patches import Floats, Image, describe
from ground.errors import one_line_errors
from ground.files import replacing
from ground.motion import INDEX
from models.codecs.rig import own_state, prepare_rig
from training.arguments import at_least, new_file
from training.data.faces.folder import set_apart
from training.data.faces.landmark_samples import alter, eye_pixels, jitter, load
from training.data.faces.ridge import ridge
from training.data.video.turn import WEIGHTS, TurnEstimator

YAW, PITCH, JAW = 0.8, 0.35, 0.5  # ranges of the turned copies: rad to either side, jaw from 0


def turned_copies(
    image: Image, landmarks: dict[str, float], count: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Features [count, d] of a portrait's turned copies and their yaw and pitch [count, 2]; the first looks straight
    ahead."""
    estimator = default_estimator()
    straight, _ = canonical_crop(image, eye_pixels(image.shape[0]))
    landmarks = landmarks | tones(straight, landmarks)
    rig = prepare_rig(torch.from_numpy(straight.copy()).permute(2, 0, 1).float() / 255, landmarks)
    controls = own_state(landmarks).repeat(count, 1)
    angles = rng.uniform((-YAW, -PITCH), (YAW, PITCH), (count, 2)).astype(np.float32)
    angles[0] = 0
    controls[:, [INDEX["yaw"], INDEX["pitch"]]] = torch.from_numpy(angles)
    controls[1:, INDEX["jaw"]] += torch.from_numpy(rng.uniform(0, JAW, count - 1).astype(np.float32))
    pictures = (rig.render(controls) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    guess = eye_pixels(straight.shape[0])
    features = []
    for picture in pictures:
        picture = alter(np.ascontiguousarray(picture), rng)
        eyes = estimator.align(picture, jitter(guess, rng, 0.3))
        features.append(describe(canonical_crop(picture, eyes)[0], FACE))
    return np.stack(features), angles


def fit(features: Floats, angles: Floats) -> TurnEstimator:
    weight, bias = ridge(features, angles)
    return TurnEstimator(weight, bias)


def report(estimator: TurnEstimator, features: Floats, angles: Floats) -> list[str]:
    """One line for each angle: correlation, root mean square error (rad), spread on portraits left as they are."""
    read: NDArray[np.float32] = features @ estimator.weight + estimator.bias
    still = (angles == 0).all(1)
    return [
        f"{name}: correlation {np.corrcoef(read[:, i], angles[:, i])[0, 1]:.3f}, "
        f"error {np.sqrt(((read - angles)[:, i] ** 2).mean()):.3f} rad, straight ahead {read[still, i].std():.3f} rad"
        for i, name in enumerate(("yaw", "pitch"))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--portraits", type=Path, required=True, help="pictures and landmarks.json")
    parser.add_argument("--copies", type=at_least(1), default=5, help="of each portrait")
    parser.add_argument("--seed", type=at_least(0), default=0)
    parser.add_argument("--out", type=new_file, default=str(WEIGHTS))
    args = parser.parse_args()
    with one_line_errors("training.data.video.turn_fit"):
        train(args)


def train(args: argparse.Namespace) -> None:
    rng = np.random.default_rng(args.seed)
    portraits = load(args.portraits)
    kept = set_apart(portraits)
    made = {name: turned_copies(*portrait, args.copies, rng) for name, portrait in portraits.items()}
    trained, tested = ([made[n] for n in made if (n in kept) is test] for test in (False, True))
    estimator = fit(np.concatenate([m[0] for m in trained]), np.concatenate([m[1] for m in trained]))
    for line in report(estimator, np.concatenate([m[0] for m in tested]), np.concatenate([m[1] for m in tested])):
        print(line)
    with replacing(args.out) as partial:
        save_file({"weight": estimator.weight.astype(np.float16), "bias": estimator.bias}, partial)


if __name__ == "__main__":
    main()
