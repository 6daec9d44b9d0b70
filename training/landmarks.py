"""Train the landmark cascade of engine.landmarks on annotated portraits in the canonical framing.

    python -m training.landmarks --portraits DIR --out models/weights/embedded/landmarks.safetensors

Ridge regressions in closed form, each trained on what the ones before it leave over; a few minutes of one core. The
textures serve training only. Forty portraits, drawn by a fixed seed, are held out and reported on. Needs numpy,
OpenCV and safetensors.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from engine.landmarks import (
    ALIGN,
    CONTOUR,
    CROP,
    EYE_X,
    EYE_Y,
    FINE,
    JUDGES,
    LIDS,
    MOUTH_FIELDS,
    ROUGH,
    Floats,
    Image,
    LandmarkEstimator,
    Patch,
    canonical_crop,
    describe,
    mirrored,
    to_picture,
)

HELD_OUT, HELD_OUT_SEED = 40, 20260
EYES = np.array([[-EYE_X, EYE_Y], [EYE_X, EYE_Y]])
PENALTY = 1.0  # ridge, as a share of the features' mean variance


@dataclass(frozen=True, slots=True)
class Sample:
    """image: uint8 [320, 320, 3], altered. truth: landmarks plus chin_y. eyes: true eye centres [2, 2] in pixels."""

    image: Image
    truth: dict[str, float]
    eyes: npt.NDArray[np.float64]


def held_out(names: list[str]) -> set[str]:
    """The portraits nothing is trained on."""
    rng = np.random.default_rng(HELD_OUT_SEED)
    return {sorted(names)[i] for i in rng.choice(len(names), HELD_OUT, replace=False)}


def eye_pixels(size: int) -> npt.NDArray[np.float64]:
    """Canonical eye centres [2, 2] in pixels of a picture of this size."""
    return (EYES + 1) * (size / 2) - 0.5


def alter(image: Image, rng: np.random.Generator) -> Image:
    """Tone, colour, sharpness and noise as other cameras have them."""
    out = image.astype(np.float32) / 255
    out = out ** np.exp(rng.normal(0, 0.25)) * np.exp(rng.normal(0, 0.12)) + rng.normal(0, 0.03)
    out = out * np.exp(rng.normal(0, 0.08, 3)).astype(np.float32)
    slope = np.linspace(-1, 1, out.shape[1], dtype=np.float32)
    out = out * (1 + rng.normal(0, 0.12) * slope[None, :, None]) * (1 + rng.normal(0, 0.08) * slope[:, None, None])
    if rng.random() < 0.15:
        out = out.mean(2, keepdims=True).repeat(3, 2)
    if rng.random() < 0.5:
        out = cv2.GaussianBlur(out, (0, 0), float(rng.uniform(0.4, 2.2)))
    if rng.random() < 0.3:
        small = int(rng.integers(96, 220))
        out = cv2.resize(cv2.resize(out, (small, small), interpolation=cv2.INTER_AREA), image.shape[1::-1])
    out = out + rng.normal(0, rng.uniform(0, 0.03), out.shape).astype(np.float32)
    picture = (np.clip(out, 0, 1) * 255).astype(np.uint8)
    if rng.random() < 0.5:
        coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 95))])[1]
        picture = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return picture


def jitter(eyes: npt.NDArray[np.float64], rng: np.random.Generator, strength: float = 1.0) -> npt.NDArray[np.float64]:
    """Eye centres as a face box guesses them: turned, scaled and shifted (box statistics with a margin)."""
    middle, half = eyes.mean(0), (eyes[1] - eyes[0]) / 2
    angle = strength * rng.uniform(-0.38, 0.38)
    turn = np.exp(strength * rng.normal(0, 0.11)) * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    distance = float(np.hypot(*(2 * half)))
    middle = middle + strength * rng.normal(0, 0.075, 2) * distance
    return np.stack([middle - turn @ half, middle + turn @ half]) + strength * rng.normal(0, 0.02, (2, 2)) * distance


def make_samples(
    portraits: dict[str, tuple[Image, dict[str, float]]], count: int, rng: np.random.Generator, altered: bool = True
) -> list[Sample]:
    """count altered copies of every portrait, half of them mirrored."""
    samples = []
    for image, truth in portraits.values():
        for copy in range(count):
            picture = alter(image, rng) if altered and copy else image
            known = dict(truth)
            if copy % 2:
                picture, known = np.ascontiguousarray(picture[:, ::-1]), mirrored(truth)
            known["chin_y"] = known["my"] + known["chin"]
            samples.append(Sample(picture, known, eye_pixels(picture.shape[0])))
    return samples


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
        wrong = _wrong_crops(self.samples, estimator, self.rng, len(aligned))
        self._judge("face", aligned, wrong)
        for name in ("eyes", "mouth"):
            self._judge(name, aligned, [_covered(crop, JUDGES[name], self.rng) for crop in aligned] + wrong[::3])

    def _judge(self, name: str, good: list[Image], bad: list[Image]) -> None:
        """A ridge on -1/+1, put on a logistic scale by the part of the samples it was not trained on."""
        centre = (0.0, 0.36) if name == "mouth" else (0.0, 0.0)
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
    side, truth = sample.image.shape[0] / 2, dict(sample.truth)
    scale = float(np.hypot(affine[0, 0], affine[1, 0])) * side / (CROP / 2)
    turn = float(np.arctan2(affine[1, 0], affine[0, 0]))
    for x, y in (("mx", "my"), ("exl", "eyl"), ("exr", "eyr"), ("cx", "cy")):
        point = (np.array([[truth[x], truth[y]]]) + 1) * side - 0.5
        truth[x], truth[y] = _inside(point, affine)[0].tolist()
    chin = (np.array([[sample.truth["mx"], sample.truth["chin_y"]]]) + 1) * side - 0.5
    truth["chin_y"] = float(_inside(chin, affine)[0, 1])
    for name in ("rx", "mw", "curve", "mtilt", "lt", "ut", "th", "ea", "eb", "bh"):
        truth[name] *= scale
    truth["mtilt"] += truth["mw"] * turn
    return truth


def _stack(now: dict[str, npt.NDArray[np.float64]], names: tuple[str, ...]) -> npt.NDArray[np.float64]:
    return np.stack([now[name] for name in names], 1)


def _wrong_crops(
    samples: list[Sample], estimator: LandmarkEstimator, rng: np.random.Generator, count: int
) -> list[Image]:
    """Crops that are not an aligned face, after the eye stages did their best on them."""
    crops: list[Image] = []
    while len(crops) < count:
        sample = samples[int(rng.integers(len(samples)))]
        image, true = sample.image, sample.eyes
        kind = rng.random()
        if kind < 0.12:
            image = _texture(rng)
        elif kind < 0.2:
            image = np.ascontiguousarray(image[::-1])
        middle = rng.uniform(20, 300, 2)
        half = np.exp(rng.uniform(np.log(10), np.log(110))) / 2 * np.array([1.0, rng.normal(0, 0.2)])
        guess = np.stack([middle - half, middle + half])
        if rng.random() < 0.85:
            guess = estimator.align(image, guess)
        distance = float(np.hypot(*(guess[1] - guess[0])))
        if not 6 < distance < 400 or not np.isfinite(guess).all():
            continue
        if image is sample.image and np.abs(guess - true).max() < 0.25 * 67.5:
            continue  # it found the face
        crops.append(canonical_crop(image, guess)[0])
    return crops


def _texture(rng: np.random.Generator) -> Image:
    """Noise of a random grain, stripes, blobs: what is no face."""
    image = np.zeros((320, 320, 3), np.float32)
    for grain in (3, 8, 20, 60, 160, 320):
        noise = rng.normal(0, rng.random() ** 2, (grain, grain, 3)).astype(np.float32)
        image += cv2.resize(noise, (320, 320), interpolation=cv2.INTER_CUBIC)
    for _ in range(int(rng.integers(0, 12))):
        centre = tuple(int(v) for v in rng.integers(0, 320, 2))
        axes = tuple(int(v) for v in rng.integers(4, 90, 2))
        cv2.ellipse(image, centre, axes, float(rng.uniform(0, 180)), 0, 360, rng.normal(0, 1, 3).tolist(), -1)
    return (255 / (1 + np.exp(-1.5 * image))).astype(np.uint8)


def _covered(crop: Image, patch: Patch, rng: np.random.Generator) -> Image:
    """Something in front of the patch: a bar, a hand's blob, dark glasses, a mask."""
    out = crop.copy()
    side = CROP / 2
    x, y = (patch.x + 1) * side, (patch.y + (0.36 if patch is JUDGES["mouth"] else 0.0) + 1) * side
    colour = crop[int(rng.integers(CROP)), int(rng.integers(CROP))].astype(float) * rng.uniform(0.2, 1.2)
    if rng.random() < 0.4:
        colour = rng.uniform(0, 255, 3)
    size = (patch.half_width * side * rng.uniform(0.55, 1.1), patch.half_height * side * rng.uniform(0.5, 1.2))
    centre = (int(x + rng.normal(0, 6)), int(y + rng.normal(0, 4)))
    layer = out.copy()
    if patch is JUDGES["eyes"] and rng.random() < 0.5:
        for eye in (-EYE_X, EYE_X):
            spot = (int((eye + 1) * side), int((EYE_Y + 1) * side + rng.normal(2, 2)))
            axes = (int(rng.uniform(17, 26)), int(rng.uniform(12, 20)))
            cv2.ellipse(layer, spot, axes, 0, 0, 360, (colour * 0.3).tolist(), -1)
    else:
        axes = (int(size[0]), int(size[1]))
        cv2.ellipse(layer, centre, axes, float(rng.uniform(-25, 25)), 0, 360, colour.tolist(), -1)
    layer = cv2.GaussianBlur(layer, (0, 0), 0.8)
    strength = rng.uniform(0.85, 1.0)
    mixed = strength * layer + (1 - strength) * out + rng.normal(0, 4, out.shape)
    return np.clip(mixed, 0, 255).astype(np.uint8)


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


def load(folder: Path) -> dict[str, tuple[Image, dict[str, float]]]:
    """Every annotated portrait of a folder: RGB [320, 320, 3] and its landmarks."""
    notes = json.loads((folder / "landmarks.json").read_text())
    found = {}
    for name, truth in sorted(notes.items()):
        picture = cv2.imread(str(folder / name), cv2.IMREAD_COLOR)
        if picture is None:
            raise SystemExit(f"cannot read {name}")
        found[name] = (np.ascontiguousarray(picture[..., ::-1]), {k: float(v) for k, v in truth.items()})
    return found


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
