"""What the experiments on motion share: voices kept from training, what lips and heads should do with them, and rolls
of the embedded model with voice only, many seeds as one batch.

Needs libespeak-ng (and soundfile for human recordings). Finished rolls are kept in a folder, so an interrupted run goes
on where it was; a kept roll is found by weights, rollout, seeds, faces and the voice's very samples.
"""

import hashlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.variants import Variant
from engine.errors import EngineError, MediaError, RequestError
from engine.framing import frame_portrait
from engine.landmarks import Image, carried
from models.codec import Portrait
from models.config import EMBEDDED
from models.motion import INDEX, JAW_SPAN
from models.motion_codec import FEATURE_STATISTICS, reference_features
from models.registry import WEIGHTS
from models.rig_mouth import TEETH_FROM
from training.faces import held_out_landmarks, pictures
from training.measure import Case, case, drive_of, load, roll, shown, truth_heads, unfiltered
from training.synthetic.corpus import CorpusConfig, CorpusMaker, held_out_sentences, join, pause
from training.synthetic.phonemes import SAMPLE_RATE, Speech, Voice
from training.synthetic.visemes import LIP_CHANNELS

FloatArray = NDArray[np.float64]
SAMPLES = Path(__file__).resolve().parent.parent / "client_web" / "samples"
SHIPPED = WEIGHTS / EMBEDDED.name / "dit.safetensors"
VOICES = (Voice("en-us", 170), Voice("gmw/en", 145), Voice("en-us", 135), Voice("gmw/en", 185))
LIPS = slice(0, len(LIP_CHANNELS))
AVERAGE_FACE = {name: mean for name, (mean, _) in FEATURE_STATISTICS.items() if name != "open"}


def make_voices(recordings: Path | None = None) -> CorpusMaker:
    """The synthesiser and the mel front end. Raises MediaError where libespeak-ng is missing."""
    try:
        return CorpusMaker(CorpusConfig(), recordings)
    except OSError as error:
        raise MediaError("no_espeak", "voices need espeak-ng: on Debian, apt-get install libespeak-ng1") from error


def held_out_faces(landmarks: Path | None) -> list[dict[str, float]]:
    """Portraits that were never trained on, as landmarks; one average face when no file is given."""
    return [AVERAGE_FACE] if landmarks is None else held_out_landmarks(landmarks)


@dataclass(frozen=True, slots=True)
class Face:
    """A portrait nobody trained on, framed. found: as a call sees it. known: the same with true landmarks."""

    name: str
    found: Portrait
    known: Portrait

    @property
    def toothy(self) -> bool:
        return self.known.landmarks["th"] > TEETH_FROM


def read_face(name: str, rgb: Image, landmarks: Mapping[str, float] | None) -> Face:
    """Frame a square picture; its true landmarks are carried into the crop. Raises RequestError (no face)."""
    framed = frame_portrait(rgb)
    side, crop = rgb.shape[0], framed.rgb.shape[0]
    true = framed.landmarks
    if landmarks is not None:
        true = carried(landmarks, framed.crop.astype(np.float64), (side, side), (crop, crop))
    return Face(name, Portrait(framed.rgb, framed.landmarks, framed.confidence), Portrait(framed.rgb, true))


def held_out_portraits(landmarks: Path | None, count: int) -> list[Face]:
    """Portraits that were never trained on, as many with closed lips as with teeth as far as there are."""
    if landmarks is None:
        return [read_face(path.stem, read_picture(path), None) for path in sorted(SAMPLES.glob("*.jpg"))[:count]]
    if not landmarks.exists():
        raise MediaError("no_portraits", f"no {landmarks}: give a landmarks.json beside its pictures")
    held_out = pictures(landmarks, 0)[1]
    closed = [name for name, (_, known) in held_out.items() if known["th"] <= TEETH_FROM]
    toothy = [name for name in held_out if name not in closed]
    few = min(len(closed), count // 2)
    faces = []
    for name in sorted(closed[:few] + toothy[: count - few]):
        try:
            faces.append(read_face(name, *held_out[name]))
        except RequestError as error:
            print(f"  {name} left out: {error.message}", file=sys.stderr)
    return faces


def read_picture(path: Path) -> Image:
    """RGB. Raises MediaError."""
    picture = cv2.imread(str(path))
    if picture is None:
        raise MediaError("no_picture", f"cannot read {path}")
    return np.ascontiguousarray(picture[..., ::-1], np.uint8)


def long_speech(maker: CorpusMaker, seconds: float, seed: int = 11) -> Case:
    """Held-out English sentences in plain voices, in random order with random pauses: nothing in it is periodic."""
    rng = np.random.default_rng(seed)
    sentences, parts, samples = held_out_sentences("en"), [pause(0.5)], 0
    while samples < seconds * SAMPLE_RATE:
        for i in rng.permutation(len(sentences)):
            voice = VOICES[rng.integers(len(VOICES))]
            parts += [maker.espeak.speak(sentences[i], voice), pause(rng.uniform(0.3, 2.5))]
        samples = sum(len(part.sound) for part in parts)
    return case("held-out sentences", join(parts))


def lengthened(one: Case, seconds: float) -> Case:
    """The same voice again and again until it is long enough."""
    times = int(np.ceil(seconds * SAMPLE_RATE / len(one.speech.sound)))
    parts: list[Speech] = [one.speech, pause(0.8)] * times
    return case(one.name, join(parts))


def chunks_of(seconds: float) -> int:
    """Chunks whose frames (12 each, the first 9) last about so long."""
    return max(2, round((seconds * EMBEDDED.fps + 3) / 12))


class Stage:
    """A model on the bench. kept: where finished rolls are kept, None = in memory only. Raises EngineError where the
    weights are missing or do not fit."""

    def __init__(self, weights: Path, maker: CorpusMaker, kept: Path | None = None) -> None:
        if not weights.is_file():
            raise EngineError("checkpoint_missing", f"no weights at {weights}: give another --weights")
        self.maker, self.kept = maker, kept
        self.model = load(weights)
        self.digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:12]
        self._rolled: dict[str, NDArray[np.float32]] = {}

    def roll(
        self, variant: Variant, cases: Sequence[Case], faces: Sequence[dict[str, float]], seeds: Sequence[int],
        seconds: float, *, raw: bool = False,
    ) -> FloatArray:  # fmt: skip
        """Absolute controls of calls that run together [calls, frames, 16]; one case, face and seed for each. As the
        codec shows them, or raw: as the network made them, before the steps between latents are smoothed."""
        rolled = self._rolled_or_kept(variant, cases, faces, seeds, chunks_of(seconds))
        motion = unfiltered(rolled) if raw else shown(rolled)
        opening = [[face["th"] / (JAW_SPAN * face["mw"])] for face in faces]
        motion[..., INDEX["jaw"]] += np.array(opening, np.float32)
        return motion.astype(np.float64)

    def _rolled_or_kept(
        self, variant: Variant, cases: Sequence[Case], faces: Sequence[dict[str, float]], seeds: Sequence[int],
        chunks: int,
    ) -> NDArray[np.float32]:  # fmt: skip
        rollout = variant.rollout(EMBEDDED)
        sounds = {id(one): hashlib.sha256(one.speech.sound.tobytes()).hexdigest() for one in cases}
        told = [self.digest, type(rollout).__name__, rollout.spec, chunks, list(seeds), list(faces)]
        key = hashlib.sha256(repr([*told, [sounds[id(one)] for one in cases]]).encode()).hexdigest()[:16]
        place = None if self.kept is None else self.kept / f"{key}.npy"
        if key not in self._rolled and place is not None and place.exists():
            self._rolled[key] = np.load(place)
        if key not in self._rolled:
            began = time.monotonic()
            seconds = (12 * chunks - 3) / EMBEDDED.fps
            print(f"  {variant.name}: {len(seeds)} calls of {seconds:.0f} s ...", end="", file=sys.stderr, flush=True)
            drives = {id(one): drive_of(self.maker, one.speech, 3 * chunks + 3) for one in cases}
            features = [reference_features(face) for face in faces]
            self._rolled[key] = roll(self.model, [drives[id(one)] for one in cases], features, seeds, chunks, rollout)
            print(f" {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
            if place is not None:
                keep(place, self._rolled[key])
        return self._rolled[key]

    def seeds_of(
        self, variant: Variant, one: Case, face: dict[str, float], seeds: int, seconds: float, *, raw: bool = False
    ) -> FloatArray:
        """One voice and face, several seeds: [seeds, frames, 16]."""
        return self.roll(variant, [one] * seeds, [face] * seeds, range(100, 100 + seeds), seconds, raw=raw)


def keep(place: Path, motion: NDArray[np.float32]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_suffix(".part")
    with draft.open("wb") as file:
        np.save(file, motion)
    os.replace(draft, place)


def truth(one: Case, seeds: int, frames: int) -> FloatArray:
    """What the data's own process does with a voice [seeds, frames, 16]: heads at random, lips by its phonemes."""
    heads = truth_heads(one, seeds)[:, :frames]
    assert heads.shape[1] == frames, f"{one.name} is shorter than the roll"
    heads[..., LIPS] = one.lips[:frames]
    return heads


def table(title: str, rows: dict[str, dict[str, object]]) -> str:
    """Rows of figures as text, with every column that any row has."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells = [["", *columns]] + [[name, *(str(row.get(column, "")) for column in columns)] for name, row in rows.items()]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns) + 1)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join([f"\n{title}", *lines])


def one_thread() -> None:
    """Small batches gain nothing from more, and the machine may be busy."""
    torch.set_num_threads(1)
