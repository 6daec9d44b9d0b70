"""Train the landmark cascade of engine.landmarks on annotated portraits in the canonical framing.

    python -m training.landmarks --portraits DIR --out models/weights/embedded/landmarks.safetensors

Ridge regressions in closed form, each trained on what the ones before it leave over; a few minutes of one core. The
textures serve training only. Forty portraits, drawn by a fixed seed, are held out and reported on. Needs numpy,
OpenCV and safetensors.
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from engine.landmarks import (
    ALIGN,
    CONTOUR,
    FINE,
    JUDGES,
    LIDS,
    MOUTH_FIELDS,
    ROUGH,
    Floats,
    Image,
    LandmarkEstimator,
    canonical_crop,
    describe,
    to_picture,
)
from training.landmark_samples import (
    MOUTH_HEIGHT,
    Sample,
    carried,
    covered,
    eye_pixels,
    held_out,
    inside,
    jitter,
    load,
    make_samples,
    wrong_crops,
)

PENALTY = 1.0  # ridge, as a share of the features' mean variance


def ridge(features: Floats, targets: Floats, penalty: float = PENALTY) -> tuple[Floats, Floats]:
    """Weights [d, k] and bias [k] of the penalised least squares fit of targets [n, k] by features [n, d]."""
    mean, centre = features.mean(0), targets.mean(0)
    features = features - mean
    gram = features.T @ features
    gram[np.diag_indices_from(gram)] += penalty * float(np.trace(gram)) / len(gram)
    weight = np.linalg.solve(gram, features.T @ (targets - centre)).astype(np.float32)
    return weight, (centre - mean @ weight).astype(np.float32)


class Trainer:
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

    def align(self) -> None:
        """The eye stages. What is left is made a little worse than it is: on unseen faces it will be."""
        for number, stage in enumerate(ALIGN):
            crops = self.crops()
            targets = np.stack([inside(s.eyes, affine) for s, (_, affine) in zip(self.samples, crops, strict=True)])
            told = self.fit(
                f"align{number}", [describe(crop, stage.patch) for crop, _ in crops], targets.reshape(-1, 4)
            )
            for i, (_, affine) in enumerate(crops):
                worse = targets[i] + 1.3 * (told[i].reshape(2, 2) - targets[i]) + self.rng.normal(0, 0.004, (2, 2))
                self.eyes[i] = to_picture(worse.astype(np.float64), affine)

    def landmarks(self) -> None:
        """Contour, mouth and lids on the aligned crops. Truth is moved along with the crop's small remaining error."""
        crops = self.crops()
        truths = [
            carried(s.truth, s.image.shape[0], affine) for s, (_, affine) in zip(self.samples, crops, strict=True)
        ]
        images = [crop for crop, _ in crops]

        def column(names: tuple[str, ...]) -> npt.NDArray[np.float64]:
            return np.array([[truth[name] for name in names] for truth in truths])

        told = self.fit("rough", [describe(c, ROUGH.patch) for c in images], column(ROUGH.targets))
        now = {name: told[:, i].astype(np.float64) for i, name in enumerate(ROUGH.targets)}
        for name in now:
            want = column((name,))[:, 0]
            now[name] = want + 1.25 * (now[name] - want) + self.rng.normal(0, 0.006, len(want))
        for number, stage in enumerate(FINE):
            features = [describe(c, stage.patch, (x, y)) for c, x, y in zip(images, now["mx"], now["my"], strict=True)]
            change = self.fit(f"fine{number}", features, column(MOUTH_FIELDS) - _stack(now, MOUTH_FIELDS))
            for i, name in enumerate(MOUTH_FIELDS):
                want = column((name,))[:, 0]
                now[name] = want + 1.25 * (now[name] + change[:, i] - want)
        features = [describe(c, CONTOUR.patch, (x, y)) for c, x, y in zip(images, now["mx"], now["my"], strict=True)]
        self.fit("contour", features, column(CONTOUR.targets) - _stack(now, CONTOUR.targets))
        self.fit("lids", [describe(c, LIDS.patch) for c in images], column(LIDS.targets))

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


def _stack(now: dict[str, npt.NDArray[np.float64]], names: tuple[str, ...]) -> npt.NDArray[np.float64]:
    return np.stack([now[name] for name in names], 1)


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
    parser.add_argument("--portraits", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--copies", type=int, default=10, help="altered copies of each portrait")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    portraits = load(arguments.portraits)
    apart = held_out(list(portraits))
    rng = np.random.default_rng(arguments.seed)
    samples = make_samples({k: v for k, v in portraits.items() if k not in apart}, arguments.copies, rng)
    trainer = Trainer(samples, rng)
    for step in (trainer.align, trainer.landmarks, trainer.judges):
        step()
        print(f"{step.__name__}: done, {len(trainer.tensors)} tensors", flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(trainer.tensors, arguments.out)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1024:.0f} KiB")
    evaluate({k: v for k, v in portraits.items() if k in apart}, trainer.tensors)


if __name__ == "__main__":
    main()
