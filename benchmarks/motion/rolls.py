"""Batched rollouts of the embedded model ("rolls") by the engine's own runner and cache.

Finished rolls can be kept in a folder, to continue an interrupted run. The key of a kept roll is a hash of weights,
rollout, seeds, faces and the voice's samples.
"""

import hashlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.motion.held_out import Case
from benchmarks.motion.motion_figures import FloatArray
from benchmarks.motion.variants import RolloutVariant
from engine.drive.buffer import DriveBuffer
from engine.rollout.base import Rollout
from engine.rollout.job import ChunkJob
from engine.rollout.kv_cache import KVCache
from engine.rollout.strategies import own_rollout
from engine.worker.runner import ModelRunner, SlottedPass
from ground.errors import EngineError
from ground.files import replacing
from ground.motion import FRAMES_PER_LATENT, INDEX, JAW_SPAN, NAMES, SCALES
from models.checkpoints.folders import WEIGHTS
from models.codecs.deblocking import deblock
from models.codecs.motion import reference_features, unpack_controls
from models.config import EMBEDDED
from models.dit.transformer import CausalWanDiT
from models.encoders.mel import LogMelConfig
from models.encoders.visemes import WEIGHTS as VISEME_WEIGHTS
from models.encoders.visemes import VisemeEstimator, load_viseme_estimator
from models.registry import LoadedModel, load_weights

BLOCK = EMBEDDED.fps  # frames that are pushed at a time
SHIPPED = WEIGHTS / EMBEDDED.name / "dit.safetensors"


def drive(
    one: Case, controls: FloatArray | None, latents: int, estimator: VisemeEstimator | None = None
) -> torch.Tensor:
    """Drive tokens [latents, 4, d] of a call with this voice, followed by silence. controls: [frames, 16], absolute;
    NaN = not given. estimator: None = the shipped one."""
    buffer, mel = DriveBuffer(EMBEDDED, estimator=estimator), LogMelConfig()
    step = mel.sample_rate // EMBEDDED.fps
    pcm = np.zeros(max(len(one.speech.sound), (4 * latents + 2 * BLOCK) * step), np.int16)
    pcm[: len(one.speech.sound)] = np.clip(one.speech.sound, -1, 1) * 32767
    tokens, frame = [], 0
    for latent in range(latents):
        while buffer.ready_until() <= latent:
            buffer.push_voice(pcm[frame * step : (frame + BLOCK) * step], frame * step)
            given = [] if controls is None else controls[frame : frame + BLOCK].tolist()
            for at, row in enumerate(given, frame):
                buffer.push_pose(dict(zip(NAMES, row, strict=True)), at)
            frame += BLOCK
        tokens.append(torch.from_numpy(buffer.take(latent, 1).tokens))
    return torch.cat(tokens)


def load(weights: Path) -> LoadedModel:
    """The embedded model without a codec, in fp32 on the CPU. Raises EngineError."""
    dit = CausalWanDiT.on_meta(EMBEDDED.dit)
    load_weights(dit, weights, torch.device("cpu"), torch.float32)
    return LoadedModel(EMBEDDED, dit.eval().requires_grad_(False), None, None, torch.device("cpu"), torch.float32)


def roll(
    model: LoadedModel, drives: Sequence[torch.Tensor], features: Sequence[NDArray[np.float32]], seeds: Sequence[int],
    chunks: int, rollout: Rollout | None = None,
) -> NDArray[np.float32]:  # fmt: skip
    """Scaled controls [calls, 12 * chunks, 16] of several calls that run as a batch, as their latents hold them.
    rollout: None = the model's own."""
    rollout = rollout or own_rollout(EMBEDDED)
    runner = ModelRunner(model, slots=len(drives), frames=rollout.cached_frames)
    assert isinstance(runner.cache, KVCache)
    zero = torch.zeros(EMBEDDED.latent_shape)
    maps = [torch.from_numpy(f)[:, None, None].expand(-1, 2, 2).contiguous() for f in features]
    states = [rollout.new_state(zero, own, seed) for own, seed in zip(maps, seeds, strict=True)]
    held: list[object] = [None] * len(drives)
    out: list[list[torch.Tensor]] = [[] for _ in drives]
    for _ in range(chunks):
        at = states[0].next_latent
        jobs = [
            ChunkJob(rollout.denoise(state, drive[at : at + rollout.drive_latents]), before)  # type: ignore[arg-type]
            for state, drive, before in zip(states, drives, held, strict=True)
        ]
        while jobs[0].next_pass is not None:
            passes = [SlottedPass(slot, job.next_pass) for slot, job in enumerate(jobs) if job.next_pass is not None]
            for job, answer in zip(jobs, runner.run(passes), strict=True):
                job.answer(answer)
        for slot, job in enumerate(jobs):
            assert job.latents is not None
            out[slot].append(unpack_controls(job.latents))
            held[slot] = job.held
    return torch.stack([torch.cat(parts) for parts in out]).numpy()


def unfiltered(rolled: NDArray[np.float32]) -> NDArray[np.float32]:
    """Relative controls of a roll from the call's first frame on [calls, 12 * chunks - 3, 16]."""
    return np.asarray(rolled[:, FRAMES_PER_LATENT - 1 :] * np.array(SCALES, np.float32))


def shown(rolled: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same after the codec's smoothing of the steps between latents."""
    return unfiltered(deblock(torch.from_numpy(rolled), None).numpy())


def chunks_of(seconds: float) -> int:
    """Number of chunks that last about this long, at least 2. A chunk has 12 frames, the first one 9."""
    return max(2, round((seconds * EMBEDDED.fps + 3) / 12))


class BenchModel:
    """A measured model, driven by the voice alone. It uses the viseme estimator in the folder of its weights if there
    is one, else the shipped one. kept: folder of finished rolls, None = in memory only. Raises EngineError if the
    weights are missing or do not fit."""

    def __init__(self, weights: Path, kept: Path | None = None) -> None:
        if not weights.is_file():
            raise EngineError("checkpoint_missing", f"no weights at {weights}: name a file written by training.export")
        self.kept = kept
        self.model = load(weights)
        own = weights.with_name(VISEME_WEIGHTS.name)
        estimator = own if own.is_file() else VISEME_WEIGHTS
        self.estimator = load_viseme_estimator(estimator)
        self.digest = hashlib.sha256(weights.read_bytes() + estimator.read_bytes()).hexdigest()[:12]
        self._rolled: dict[str, NDArray[np.float32]] = {}

    def roll(
        self, variant: RolloutVariant, cases: Sequence[Case], faces: Sequence[dict[str, float]], seeds: Sequence[int],
        seconds: float, *, raw: bool = False,
    ) -> FloatArray:  # fmt: skip
        """Absolute controls [calls, frames, 16] of calls that run as a batch, with a case, a face and a seed each. raw:
        without the codec's smoothing of the steps between latents."""
        rolled = self._rolled_or_kept(variant, cases, faces, seeds, chunks_of(seconds))
        motion = unfiltered(rolled) if raw else shown(rolled)
        opening = [[face["th"] / (JAW_SPAN * face["mw"])] for face in faces]
        motion[..., INDEX["jaw"]] += np.array(opening, np.float32)
        return motion.astype(np.float64)

    def _rolled_or_kept(
        self, variant: RolloutVariant, cases: Sequence[Case], faces: Sequence[dict[str, float]], seeds: Sequence[int],
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
            drives = {id(one): drive(one, None, 3 * chunks + 3, self.estimator) for one in cases}
            features = [reference_features(face) for face in faces]
            self._rolled[key] = roll(self.model, [drives[id(one)] for one in cases], features, seeds, chunks, rollout)
            print(f" {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
            if place is not None:
                keep(place, self._rolled[key])
        return self._rolled[key]

    def seeds_of(
        self,
        variant: RolloutVariant,
        one: Case,
        face: dict[str, float],
        seeds: int,
        seconds: float,
        *,
        raw: bool = False,
    ) -> FloatArray:
        """Absolute controls [seeds, frames, 16] of one voice and face with several seeds. raw: as in ``roll``."""
        return self.roll(variant, [one] * seeds, [face] * seeds, range(100, 100 + seeds), seconds, raw=raw)


def keep(place: Path, motion: NDArray[np.float32]) -> None:
    """Save a roll atomically as .npy."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with replacing(place) as draft, draft.open("wb") as file:
        np.save(file, motion)
