"""Training clips of the embedded model, cut from a corpus: latents relative to a photograph, drive tokens, reference
features.

A clip is 22 latents (seven chunks and the last knot) of one voice with one of its heads, seen through a random training
portrait. Its photograph is a frame that lies ahead in time, without a blink and looking about straight ahead; all pose
is relative to it. What the caller would give (pose, blinks, lips) is given at random, and then obeyed exactly.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from ground.errors import RequestError
from ground.motion import CHANNELS, FRAMES_PER_LATENT, INDEX, JAW_SPAN, SCALES
from models.codecs.motion import pack_controls, reference_features
from models.encoders.mel import LogMelConfig, mel_edges
from models.encoders.visemes import HISTORY, LEVELLED, VisemeEstimator
from training.clips import ClipBatch
from training.data.faces.folder import training_landmarks
from training.data.synthetic.corpus import HEAD, HEAD_TAIL, LIPS
from training.given import GivenConfig, give

FloatArray = NDArray[np.float32]
POSE = tuple(INDEX[name] for name in ("yaw", "pitch", "roll", "tx", "ty"))
LOWS, HIGHS = (np.array([getattr(channel, end) for channel in CHANNELS], np.float32) for end in ("low", "high"))


@dataclass(frozen=True, slots=True)
class ClipConfig:
    """latents: of a clip. reference_ahead: range of the reference's index, counted from the clip's first latent: for
    the last of seven chunks it lies 4..22 ahead. throat: range of the factor by which a voice's formants move.
    colour_db: spread of the smooth gain over frequency, as microphones and speakers differ. articulation: range of the
    factor by which the lips move further, and what is heard of them (but for closing, which is no matter of degree): a
    call's level (`engine.drive.viseme_level`) is then obeyed. Probabilities are per clip."""

    latents: int = 22
    reference_ahead: tuple[int, int] = (22, 40)
    reference_tries: int = 6
    start_probability: float = 0.10
    voice_dropped: float = 0.08
    gain_db: tuple[float, float] = (-6.0, 6.0)
    throat: tuple[float, float] = (0.85, 1.18)
    throat_probability: float = 0.6
    colour_db: float = 4.0
    noise_floor_probability: float = 0.30
    articulation: tuple[float, float] = (0.8, 1.3)
    given: GivenConfig = GivenConfig()


class Corpus:
    """An .npz of training.data.synthetic.corpus, by session. Raises RequestError ``bad_data`` for any other file."""

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as opened, np.load(opened) as file:
                self.frames, self.hops = file["frames"], file["hops"]
                self.lips, self.heads = file["lips"], file["heads"]
        except (OSError, EOFError, KeyError, TypeError, ValueError, BadZipFile) as error:
            raise RequestError(
                "bad_data", f"{path} is no corpus: make one with python -m training.data.synthetic.make_data"
            ) from error
        self._check(path)
        self.starts = np.concatenate([[0], np.cumsum(self.frames)[:-1]])
        self.head_starts = self.starts + HEAD_TAIL * np.arange(len(self.frames))
        self.hop_starts = 4 * self.starts + 8 * np.arange(len(self.frames))

    def _check(self, path: Path) -> None:
        """The arrays agree about how many frames there are."""
        if self.frames.dtype.kind not in "iu" or (self.frames < 1).any():
            raise RequestError("bad_data", f"{path} is no corpus: frames are not counts; make it anew")
        total, count = int(self.frames.sum()), self.frames.size
        wanted = {
            "frames": (count,),
            "hops": (4 * total + 8 * count, LogMelConfig().mels),
            "lips": (total, LIPS.stop - LIPS.start),
            "heads": (*self.heads.shape[:1], total + HEAD_TAIL * count, HEAD.stop - HEAD.start),
        }
        for name, shape in wanted.items():
            found = getattr(self, name).shape
            if found != shape or 0 in found:
                raise RequestError(
                    "bad_data", f"{path} is no corpus: {name} is {found}, its frames ask for {shape}; make it anew"
                )


def load_portraits(portraits: Path | None) -> tuple[FloatArray, FloatArray]:
    """Features [N, 20] and own mouth opening [N] of the training portraits; of painted faces where none are named."""
    chosen = training_landmarks(portraits)
    opening = np.array([entry["th"] / (JAW_SPAN * entry["mw"]) for entry in chosen], np.float32)
    return np.stack([reference_features(entry) for entry in chosen]), opening


class ClipSampler:
    """Draws batches without end; the same seed gives the same batches. estimator: of the drive's visemes. Raises
    RequestError ``short_corpus``."""

    def __init__(
        self, corpus: Corpus, features: FloatArray, opening: FloatArray, config: ClipConfig, seed: int,
        estimator: VisemeEstimator,
    ) -> None:  # fmt: skip
        self.estimator = estimator
        self.corpus, self.features, self.opening, self.config = corpus, features, opening, config
        self.mel = LogMelConfig()
        self.seed = seed
        self.frames = config.latents * FRAMES_PER_LATENT
        usable = np.maximum(corpus.frames - self.frames, 0)
        if not usable.any():
            raise RequestError("short_corpus", f"no session of the corpus is longer than a clip, {self.frames} frames")
        self.weights = usable / usable.sum()

    def batch(self, number: int, size: int, share: slice = slice(None)) -> ClipBatch:
        rng = np.random.default_rng((self.seed, number))
        clips = [self._clip(rng) for _ in range(size)]
        controls = np.stack([c[0] for c in clips])
        hops = np.stack([c[1] for c in clips])
        reference = np.array([c[2] for c in clips])
        who = rng.integers(len(self.features), size=size)
        levels = rng.uniform(*self.config.articulation, size=size).astype(np.float32)[:, None, None] ** LEVELLED
        controls[..., LIPS] = np.clip(controls[..., LIPS] * levels, LOWS[LIPS], HIGHS[LIPS])
        controls, given, mask = give(controls, self.config.given, rng)
        rows = [row[share] for row in (controls, hops, given, mask, self.features[who], self.opening[who], levels)]
        return self._pack(reference[share], *rows)

    def heard(self, number: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What an estimator learns from, of clips as a batch has them: tokens [size, HISTORY + T, token_size] and the
        lips over their scales [size, T, 5]."""
        rng = np.random.default_rng((self.seed, number))
        clips = [self._clip(rng) for _ in range(size)]
        lips = np.stack([controls for controls, _, _ in clips])[..., LIPS] / np.array(SCALES, np.float32)[LIPS]
        return self._tokens(np.stack([hops for _, hops, _ in clips])), torch.from_numpy(lips)

    def apart(self, seed: int) -> "ClipSampler":
        other = copy.copy(self)
        other.seed = seed
        return other

    def _pack(
        self, reference: NDArray[np.int64], controls: FloatArray, hops: FloatArray, given: FloatArray, mask: FloatArray,
        features: FloatArray, opening: FloatArray, levels: FloatArray,
    ) -> ClipBatch:  # fmt: skip
        """Absolute controls and what is given of them [B, T, 16], hops as `_hops` gives them, levels of the visemes
        [B, 1, 5], to a batch of tensors."""
        batch, frames, _ = controls.shape
        scales = np.array(SCALES, np.float32)
        own = np.zeros((batch, 1, len(CHANNELS)), np.float32)
        own[:, 0, INDEX["jaw"]] = opening
        relative = torch.from_numpy((controls - own) / scales)
        latents = torch.stack([pack_controls(clip) for clip in relative])
        tokens = self._tokens(hops)
        with (
            torch.no_grad(),
            torch.autocast("cpu", enabled=False),
        ):  # a clip is the same whatever the trainer computes in
            visemes = self.estimator(tokens) * torch.from_numpy(levels)
        controlled = torch.from_numpy(np.concatenate([given / scales * mask, mask], axis=2).astype(np.float32))
        drive = torch.cat([tokens[:, HISTORY:], visemes, controlled], 2)
        packed = drive.view(batch, frames // 4, 4, -1)
        return ClipBatch(latents, packed, torch.from_numpy(features), torch.from_numpy(reference))

    def _tokens(self, hops: FloatArray) -> torch.Tensor:
        """Of the frames that an estimator hears, [B, HISTORY + T, token_size]."""
        windows = np.lib.stride_tricks.sliding_window_view(hops, 16, axis=1)[:, ::4]
        return torch.from_numpy(np.ascontiguousarray(windows.transpose(0, 1, 3, 2))).flatten(2)

    def _clip(self, rng: np.random.Generator) -> tuple[FloatArray, FloatArray, int]:
        """Absolute controls [T, 16], hops as `_hops` gives them and the reference's index."""
        corpus = self.corpus
        session = int(rng.choice(len(self.weights), p=self.weights))
        starts_call = rng.random() < self.config.start_probability
        # The clip's frames are first-3 .. first+84; a session's first three frames may stand for those before a call.
        first = int(rng.integers(0, corpus.frames[session] - self.frames + 4))
        index = np.arange(first - 3, first - 3 + self.frames)
        head = corpus.heads[rng.integers(len(corpus.heads))]
        at = corpus.head_starts[session]
        controls = np.zeros((self.frames, len(CHANNELS)), np.float32)
        controls[:, HEAD] = head[at + np.maximum(index, 0)]
        controls[:, LIPS] = corpus.lips[corpus.starts[session] + np.clip(index, 0, None)]
        controls[index < 0, LIPS] = 0
        reference, pose = self._reference(head, at, first, int(corpus.frames[session]), rng)
        controls[:, POSE] -= pose
        hops = self._hops(session, index, starts_call, rng)
        if rng.random() < self.config.voice_dropped:
            hops[:] = self.mel.silence
            controls[:, LIPS] = 0
        return controls, hops, reference

    def _reference(
        self, head: NDArray[np.float16], at: int, first: int, frames: int, rng: np.random.Generator
    ) -> tuple[int, FloatArray]:
        """Index and pose of the photograph: of a few frames ahead, the one looking straightest, without a blink."""
        low, high = self.config.reference_ahead
        high = min(high, (frames + HEAD_TAIL - 1 - first) // FRAMES_PER_LATENT)
        tries = rng.integers(low, max(high, low + 1), self.config.reference_tries)
        rows = head[at + np.minimum(first + FRAMES_PER_LATENT * tries, frames + HEAD_TAIL - 1)].astype(np.float32)
        pose = rows[:, [i - HEAD.start for i in POSE]]
        scales = np.array([SCALES[i] for i in POSE], np.float32)
        badness = ((pose / scales) ** 2).sum(1) + 100 * (rows[:, 0] > 0.05)
        best = int(badness.argmin())
        return int(tries[best]), pose[best]

    def _hops(self, session: int, index: NDArray[np.int64], starts_call: bool, rng: np.random.Generator) -> FloatArray:
        """Hops of the frames, and of HISTORY before them, in another throat, colour and level, perhaps over a noise:
        [4 * (HISTORY + T) + 12, 40]."""
        config, mel = self.config, self.mel
        wanted = np.arange(4 * (index[0] - HISTORY) - 8, 4 * index[-1] + 8)
        hops = self.corpus.hops[self.corpus.hop_starts[session] + np.maximum(wanted, 0)].astype(np.float32)
        floor = np.float32(mel.silence)
        if rng.random() < config.throat_probability:
            hops = with_throat(hops, mel, float(rng.uniform(*config.throat)))
        gain_db = rng.uniform(*config.gain_db) + smooth_colour(mel.mels, config.colour_db, rng)
        gain = (gain_db / 10 / mel.scale).astype(np.float32)
        hops = np.where(hops > floor + 0.05, hops + gain, hops).astype(np.float32)
        if rng.random() < config.noise_floor_probability:
            tilt = np.linspace(0, rng.uniform(-2.0, 0.5), mel.mels) + rng.uniform(-7.5, -3.5)
            noise = tilt + 0.25 * rng.normal(size=hops.shape)
            power = 10 ** (hops * mel.scale + mel.mean) + 10**noise
            hops = (np.log10(power) - mel.mean) / mel.scale
        out: FloatArray = np.maximum(hops, floor).astype(np.float32)
        if starts_call:  # latent 0 shows frame index[0] + 3; nothing was heard before it
            out[wanted < 4 * (index[0] + 3)] = floor
        out[wanted < 0] = floor
        return out


def with_throat(hops: FloatArray, config: LogMelConfig, factor: float) -> FloatArray:
    """Log-mel hops [T, mels] of the same speech with all its frequencies times `factor`, as from a shorter (above 1) or
    longer throat (vocal tract length perturbation, Jaitly and Hinton 2013)."""
    centres = mel_edges(config)[1:-1]
    source = np.interp(centres / factor, centres, np.arange(config.mels))
    low = np.minimum(source.astype(int), config.mels - 2)
    part = (source - low).astype(np.float32)
    moved: FloatArray = hops[:, low] * (1 - part) + hops[:, low + 1] * part
    return moved


def smooth_colour(mels: int, spread_db: float, rng: np.random.Generator) -> FloatArray:
    """A gain in dB for each band [mels] that bends a few times over the spectrum."""
    knots = rng.normal(0, spread_db, 6)
    colour: FloatArray = np.interp(np.linspace(0, 5, mels), np.arange(6), knots).astype(np.float32)
    return colour
