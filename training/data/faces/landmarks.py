"""Training of the landmark cascade (engine.portrait.landmarks) on annotated portraits in the canonical framing.

    python -m training.data.faces.landmarks --portraits DIR --out models/weights/embedded/landmarks.safetensors

Without --portraits it learns from painted faces alone. Ridge regressions in closed form (training.ridge), each trained
on what the ones before it leave over; a few minutes of one core. The textures serve training only. Forty portraits,
drawn by a fixed seed, are held out and reported on. Needs numpy, OpenCV and safetensors.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from engine.portrait.landmarks import (
    ALIGN,
    CLOSE_FIELDS,
    CONTOUR,
    CROP,
    FINE,
    JUDGES,
    LIDS,
    ROUGH,
    LandmarkEstimator,
    canonical_crop,
    carried,
    look_close,
    to_picture,
)
from engine.portrait.patches import Floats, Image, describe
from ground.errors import one_line_errors
from ground.files import replacing
from training.arguments import at_least, new_file
from training.data.faces.folder import pictures
from training.data.faces.landmark_samples import (
    MOUTH_HEIGHT,
    Sample,
    covered,
    eye_pixels,
    jitter,
    make_samples,
    wrong_crops,
)
from training.data.faces.ridge import cross_fitted, ridge

CROSS_PENALTY = 2.0  # of the stages after the eyes'; on portraits left out 1 is best for places, 3 to 10 for thickness


class LandmarkTrainer:
    """Grows the dictionary of tensors stage by stage; keeps every sample's present eye estimate."""

    def __init__(self, samples: list[Sample], rng: np.random.Generator) -> None:
        self.samples, self.rng = samples, rng
        self.tensors: dict[str, npt.NDArray[np.generic]] = {}
        self.eyes = [jitter(sample.eyes, rng) for sample in samples]

    def crops(self) -> list[tuple[Image, Floats]]:
        """Every sample cropped around its present eye estimate."""
        return [canonical_crop(sample.image, eyes) for sample, eyes in zip(self.samples, self.eyes, strict=True)]

    def fit(self, name: str, features: list[Floats], targets: npt.NDArray[np.floating]) -> Floats:
        """Train one regression, store it as it will be shipped and return what it says on the training set."""
        stacked = np.stack(features)
        weight, bias = ridge(stacked, targets.astype(np.float32))
        self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"] = weight.astype(np.float16), bias
        return stacked @ weight + bias

    def fit_unseen(self, name: str, features: list[Floats], targets: npt.NDArray[np.floating]) -> Floats:
        """The same, but what is returned was said by fits to other faces."""
        faces = [sample.face for sample in self.samples]
        weight, bias, unseen = cross_fitted(np.stack(features), targets.astype(np.float32), faces, CROSS_PENALTY)
        self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"] = weight.astype(np.float16), bias
        return unseen

    def align(self) -> None:
        """The eye stages. What is left is made a little worse than it is: on unseen faces it will be."""
        for number, stage in enumerate(ALIGN):
            crops = self.crops()
            targets = np.stack([_inside(s.eyes, affine) for s, (_, affine) in zip(self.samples, crops, strict=True)])
            told = self.fit(
                f"align{number}", [describe(crop, stage.patch) for crop, _ in crops], targets.reshape(-1, 4)
            )
            for i, (_, affine) in enumerate(crops):
                worse = targets[i] + 1.3 * (told[i].reshape(2, 2) - targets[i]) + self.rng.normal(0, 0.004, (2, 2))
                self.eyes[i] = to_picture(worse.astype(np.float64), affine)

    def landmarks(self) -> None:
        """Contour, mouth and lids on the aligned crops. Truth is moved along with the crop's small remaining error."""
        crops = self.crops()
        truths = [_carried(s, affine) for s, (_, affine) in zip(self.samples, crops, strict=True)]
        images = [crop for crop, _ in crops]
        told = self.fit_unseen("rough", [describe(c, ROUGH.patch) for c in images], _stack(truths, ROUGH.targets))
        marks = [{"shut": 0.0} | dict(zip(ROUGH.targets, row, strict=True)) for row in told.tolist()]

        def correct(name: str, fields: tuple[str, ...], look: Callable[[Image, dict[str, float]], Floats]) -> None:
            features = [look(crop, one) for crop, one in zip(images, marks, strict=True)]
            change = self.fit_unseen(name, features, _stack(truths, fields) - _stack(marks, fields))
            for one, row in zip(marks, change.tolist(), strict=True):
                one |= {field: one[field] + d for field, d in zip(fields, row, strict=True)}

        correct("fine", FINE.targets, lambda crop, one: describe(crop, FINE.patch, (one["mx"], one["my"])))
        correct("close", CLOSE_FIELDS, look_close)
        correct("contour", CONTOUR.targets, lambda crop, one: describe(crop, CONTOUR.patch, (one["mx"], one["my"])))
        self.fit("lids", [describe(c, LIDS.patch) for c in images], _stack(truths, LIDS.targets))

    def judges(self) -> None:
        """Is this a face, are eyes and mouth uncovered: against wrong places, noise and covered features."""
        estimator = LandmarkEstimator(self.tensors)
        aligned = [crop for crop, _ in self.crops()][::2]
        wrong = wrong_crops(self.samples, estimator, self.rng, len(aligned))
        self._judge("face", aligned, wrong)
        for name in ("eyes", "mouth"):
            self._judge(name, aligned, [covered(crop, JUDGES[name], self.rng) for crop in aligned] + wrong[::3])

    def _judge(self, name: str, good: list[Image], bad: list[Image]) -> None:
        """A ridge on -1/+1, put on a logistic scale by the part of the samples it was not trained on."""
        centre = (0.0, MOUTH_HEIGHT) if name == "mouth" else (0.0, 0.0)
        features = np.stack([describe(crop, JUDGES[name], centre) for crop in good + bad])
        labels = np.array([1.0] * len(good) + [-1.0] * len(bad), np.float32)[:, None]
        apart = np.zeros(len(labels), bool)
        apart[int(0.85 * len(good)) : len(good)] = apart[len(good) + int(0.85 * len(bad)) :] = True
        weight, bias = ridge(features[~apart], labels[~apart])
        value, positive = (features[apart] @ weight + bias)[:, 0], labels[apart][:, 0] > 0
        slope, shift = _logistic(value, positive)
        wrong = float(np.mean((slope * value + shift > 0) != positive))
        print(f"judge {name}: {len(good)} good, {len(bad)} bad, wrong on the rest {100 * wrong:.2f} %")
        weight, bias = ridge(features, labels)
        self.tensors[f"judge_{name}.weight"] = (slope * weight).astype(np.float16)
        self.tensors[f"judge_{name}.bias"] = (slope * bias + shift).astype(np.float32)


def _logistic(value: Floats, positive: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and shift of a logistic through scores, by Newton's method with a weak prior."""
    a, b = 4.0, 0.0
    for _ in range(30):
        p = 1 / (1 + np.exp(-np.clip(a * value + b, -30, 30)))
        gradient = np.array([np.sum((p - positive) * value) + 0.1 * (a - 4), np.sum(p - positive) + 0.1 * b])
        w = p * (1 - p)
        hessian = np.array([[np.sum(w * value**2) + 0.1, np.sum(w * value)], [np.sum(w * value), np.sum(w) + 0.1]])
        a, b = np.array([a, b]) - np.linalg.solve(hessian, gradient)
    return float(a), float(b)


def _inside(points: npt.NDArray[np.float64], affine: Floats) -> npt.NDArray[np.float64]:
    """Picture pixels [n, 2] to a crop's -1..1 units."""
    return np.asarray((points @ affine[:, :2].T + affine[:, 2] + 0.5) / (CROP / 2) - 1)


def _carried(sample: Sample, affine: Floats) -> dict[str, float]:
    """The landmarks as they lie in a crop that is not quite canonical."""
    side = sample.image.shape[0]
    truth = carried(sample.truth, affine.astype(np.float64), (side, side), (CROP, CROP))
    return truth | {"chin_y": truth["my"] + truth["chin"], "shut": float(truth["th"] == 0)}


def _stack(marks: Sequence[Mapping[str, float]], names: tuple[str, ...]) -> npt.NDArray[np.float64]:
    return np.array([[one[name] for name in names] for one in marks])


def evaluate(portraits: dict[str, tuple[Image, dict[str, float]]], tensors: dict[str, npt.NDArray[np.generic]]) -> None:
    """Errors on held-out portraits, from eyes as badly guessed as a face box does, % of the picture width."""
    estimator, rng = LandmarkEstimator(tensors), np.random.default_rng(1)
    rows: dict[str, list[float]] = {}
    for image, truth in portraits.values():
        true = eye_pixels(image.shape[0])
        eyes = estimator.align(image, jitter(true, rng))
        crop, _ = canonical_crop(image, eyes)
        got = estimator.measure(crop).landmarks
        corners = [
            np.hypot(got["mx"] + s * got["mw"] - truth["mx"] - s * truth["mw"],
                     got["my"] + got["curve"] + s * got["mtilt"] - truth["my"] - truth["curve"] - s * truth["mtilt"])
            for s in (-1, 1)
        ]  # fmt: skip
        found = {"eye centres": np.hypot(*(eyes - true).T).mean() / 160, "mouth corners": np.mean(corners)}
        found["mouth centre"] = np.hypot(got["mx"] - truth["mx"], got["my"] - truth["my"])
        found |= {
            name: abs(got[name] - truth[name]) for name in ("th", "lt", "ut", "chin", "cx", "rx", "ea", "eb", "bh")
        }
        for name, value in found.items():
            rows.setdefault(name, []).append(50 * float(value))
    print("held out: % of the picture width, median / 95 %")
    for name, values in rows.items():
        print(f"  {name:14} {np.median(values):.2f} / {np.percentile(values, 95):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--portraits", type=Path, help="folder of annotated portraits; none: painted ones")
    parser.add_argument(
        "--painted", type=at_least(1), default=1200, help="how many are painted where no folder is named"
    )
    parser.add_argument("--out", type=new_file, required=True)
    parser.add_argument(
        "--copies", type=at_least(1), help="altered copies of each portrait; default 6, of a painted one 4"
    )
    parser.add_argument("--seed", type=at_least(0), default=0)
    arguments = parser.parse_args()
    with one_line_errors("training.data.faces.landmarks"):
        train(arguments)


def train(arguments: argparse.Namespace) -> None:
    known, apart = pictures(arguments.portraits, arguments.painted)
    rng = np.random.default_rng(arguments.seed)
    samples = make_samples(known, arguments.copies or (6 if arguments.portraits else 4), rng)
    trainer = LandmarkTrainer(samples, rng)
    for step in (trainer.align, trainer.landmarks, trainer.judges):
        step()
        print(f"{step.__name__}: done, {len(trainer.tensors)} tensors", flush=True)
    with replacing(arguments.out) as partial:
        save_file(trainer.tensors, partial)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1024:.0f} KiB")
    evaluate(apart, trainer.tensors)


if __name__ == "__main__":
    main()
