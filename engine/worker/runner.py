"""The only owner of the model on its device: batches passes, runs them, encodes references and decodes latents.

The only code that knows dtypes, devices and inference mode. It runs what it is given and never decides when.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from engine.portrait.portrait import Portrait
from engine.rollout.base import Pass, Rollout, RolloutState
from engine.rollout.job import ChunkJob
from engine.rollout.kv_cache import KVCache
from engine.rollout.strategies import own_rollout, rollouts_of
from engine.worker.graphs import Graphs
from engine.worker.i420 import to_i420
from ground.config import EngineConfig
from ground.errors import EngineError
from models.codecs.base import Codec, Reference
from models.codecs.wan import DECODERS, WanCodec
from models.dit.attention import FrameRuns, choose_fastest
from models.dit.audio_projection import group
from models.encoders.speech import SpeechState
from models.encoders.text import TextSource
from models.registry import LoadedModel, load_model


@dataclass(frozen=True, slots=True, eq=False)
class SlottedPass:
    """A pass and the cache slot of the call it belongs to."""

    slot: int
    work: Pass


def default_threads() -> int:
    """Half the cores this process may use: the gateway, the encoder and perhaps a browser need the others."""
    return max(1, len(os.sched_getaffinity(0)) // 2)


@dataclass(frozen=True, slots=True)
class Execution:
    """How passes are run; the answers are the same up to rounding. graphs: as CUDA graphs (elsewhere without effect).
    fused: one product for queries, keys and values. compiled: blocks, and Wan2.1's decoder, through torch.compile (a
    minute at the start). runs: a joined pass attends run by run of its frames, not under a mask over tokens. spare:
    frames only committed leave the last block after their keys and values."""

    graphs: bool = True
    fused: bool = True
    compiled: bool = False
    runs: bool = True
    spare: bool = True


def execution_of(model: LoadedModel) -> Execution:
    """The execution of calls. A GPU compiles video models, which takes up to a minute at the start; for a motion model
    it does not pay."""
    return Execution(compiled=model.device.type == "cuda" and model.config.codec in DECODERS)


def choose_attention(model: LoadedModel, rollout: Rollout) -> dict[str, float]:
    """Use the attention kernel that is fastest here at the shapes of a denoising step. Returns the milliseconds of
    each."""
    tokens, dit, own = model.config.tokens_per_latent, model.config.dit, rollout.drive_latents
    keys = (own + rollout.cached_frames) * tokens
    return choose_fastest(model.device.type, model.dtype, own * tokens, keys, dit.heads, dit.head_dim)


class ModelRunner:
    """Runs one loaded model. ``slots`` calls have a place in its cache, of ``frames`` frames each."""

    def __init__(self, model: LoadedModel, *, slots: int, frames: int, execution: Execution = Execution()) -> None:
        self.model = model
        self.config = model.config
        self.execution = execution
        self.device, self.dtype = model.device, model.dtype
        self.cache = KVCache(self.config, slots=slots, frames=frames, device=self.device, dtype=self.dtype)
        self.graphs = Graphs(self.device, limit=16 * slots) if execution.graphs and self.device.type == "cuda" else None
        if execution.fused:
            model.dit.fuse_projections()
        if execution.compiled:
            model.dit.compile_blocks()
        self.prepare(model.codec)

    def prepare(self, codec: Codec[Any] | None) -> None:
        """Compile the parts of a decoder that gain by it, where the execution asks for it, and let cuDNN measure its
        convolution algorithms. The first is permanent for the decoder, the second for the process."""
        if self.execution.compiled and isinstance(codec, WanCodec):
            torch.backends.cudnn.benchmark = True
            codec.compile_layers()

    @property
    def codec(self) -> Codec[Any]:
        if self.model.codec is None:
            raise EngineError(
                "no_codec", f"the model {self.config.name} has no codec: it can be benchmarked, not called"
            )
        return self.model.codec

    @classmethod
    def start(cls, config: EngineConfig) -> "ModelRunner":
        """Load the model that the config names and allocate the cache for its own rollout."""
        model = load_model(
            config.model, device=config.device, dtype=config.dtype, random_weights=config.random_weights,
            models_dir=config.models_dir, preset=config.preset, slots=config.slots,
            text=TextSource(config.prompt, config.text, config.models_dir),
        )  # fmt: skip
        if model.device.type == "cpu":
            torch.set_num_threads(config.threads or default_threads())
        rollout = own_rollout(model.config)
        choose_attention(model, rollout)
        return cls(model, slots=config.slots, frames=rollout.cached_frames, execution=execution_of(model))

    @property
    def prepares_shapes(self) -> bool:
        """Each new shape of pass costs the call that brings it a recording or a compilation: `warm_up` meets them."""
        return self.graphs is not None or self.execution.compiled

    @property
    def frames(self) -> int:
        """Cached frames of each call."""
        return self.cache.frames

    @property
    def rollouts(self) -> tuple[str, ...]:
        """Those that fit the model and this cache, the model's own first."""
        names = rollouts_of(self.config)
        return tuple(name for name in names if own_rollout(self.config, name).cached_frames <= self.frames)

    @torch.inference_mode()
    def run(self, passes: Sequence[SlottedPass]) -> list[Tensor | None]:
        """Run passes of different calls; those of equal shape as one batch. Answers in order, None for commits."""
        groups: dict[tuple[object, ...], list[int]] = {}
        for index, item in enumerate(passes):
            groups.setdefault(item.work.shape_key, []).append(index)
        answers: list[Tensor | None] = [None] * len(passes)
        for indices in groups.values():
            group = [passes[i] for i in indices]
            predictions = self._run_batch(group)
            if not group[0].work.is_commit:
                for i, prediction in zip(indices, predictions, strict=True):
                    answers[i] = prediction
        return answers

    def synchronise(self) -> None:
        """Wait for the device: a GPU's passes are only queued when ``run`` returns."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def _run_batch(self, group: Sequence[SlottedPass]) -> Tensor:
        """[B, F, C, h, w] in fp32 of the frames that are not clean; all passes of the group share a shape key."""
        first = group[0].work
        inputs = (
            self._numbers(group),
            torch.stack([item.work.latents for item in group]),
            torch.stack([item.work.condition for item in group]),
            torch.stack([item.work.drive for item in group]),
        )
        work = partial(self._forward, first)
        if self.graphs is None:
            return work(inputs)
        return self.graphs.run((first.shape_key, len(group)), work, inputs)

    def _numbers(self, group: Sequence[SlottedPass]) -> Tensor:
        """All numbers of the passes in one copy that nobody waits for, [B, 1 + 2 K + N + 2 F]: slot, frames and
        positions read, frames written to, own positions, noise levels. Doubles hold both kinds exactly."""
        rows = [
            [
                item.slot,
                *(frame for frame, _ in item.work.reads),
                *(at for _, at in item.work.reads),
                *(frame for frame in item.work.commits if frame >= 0),
                *item.work.positions,
                *item.work.sigmas,
            ]
            for item in group
        ]
        numbers = torch.tensor(rows, dtype=torch.float64, pin_memory=self.device.type == "cuda")
        return numbers.to(self.device, non_blocking=True)

    def _forward(self, like: Pass, inputs: tuple[Tensor, ...]) -> Tensor:
        """From tensors of the device alone; ``like`` gives what all passes of the shape have in common."""
        numbers, latents, *given = inputs
        dit = self.config.dit  # inputs that the model does not have are left out
        condition = given[0] if dit.condition_channels else None
        drive = given[1] if dit.drive_dim or dit.audio else None
        reads, kept, frames = len(like.reads), like.kept, like.frames
        sizes = [1, reads, reads, len(kept), frames]
        slots, read, read_at, targets, positions = numbers[:, :-frames].long().split(sizes, 1)
        clean = like.clean if self.execution.spare else 0
        view = self.cache.view(slots[:, 0], read, read_at, targets, kept, self._mask(like))
        prediction = self.model.dit(
            latents, numbers[:, -frames:].float(), condition, drive, self.model.context, view, positions, clean
        )
        return cast(Tensor, prediction[:, like.clean - clean :].float())

    def _mask(self, like: Pass) -> Tensor | FrameRuns | None:
        if like.mask is None:
            return None
        return FrameRuns.of(like.mask) if self.execution.runs else torch.tensor(like.mask, device=self.device)

    def make_chunk(
        self, slot: int, rollout: Rollout, state: RolloutState, drive: Tensor, held: Pass | None = None
    ) -> tuple[Tensor, Pass | None]:
        """One chunk of one call from start to end: its latents and the commit still to run (or to join)."""
        job = ChunkJob(rollout.denoise(state, drive.to(self.device)), held)
        while job.next_pass is not None:
            job.answer(self.run([SlottedPass(slot, job.next_pass)])[0])
        assert job.latents is not None
        return job.latents, job.held

    @torch.inference_mode()
    def encode_reference(self, portrait: Portrait) -> Reference:
        """Once per call; latent and features on the model's device."""
        return self.codec.encode_reference(portrait)

    @torch.inference_mode()
    def listen(self, samples: np.ndarray, heard: SpeechState | None, latents: int) -> tuple[Tensor, SpeechState]:
        """The drive [F, entries, d] of a chunk's latents and the next state, for a model with a speech encoder.
        samples: float32 at 16 kHz since the last chunk, to the end of this one's last frame. heard: None = a call's
        first."""
        speech, audio = self.model.speech, self.config.dit.audio
        assert speech is not None and audio is not None, "the model has no speech encoder"
        frames = audio.window // 2 + self.config.frames_of(latents)
        sound = torch.from_numpy(samples)
        features, heard = speech.encode(sound, heard or speech.initial_state(), frames, self.config.fps)
        return group(features, latents, audio), heard

    @torch.inference_mode()
    def decode(self, latents: Tensor, reference: Reference, state: Any) -> tuple[np.ndarray, Any]:
        """I420 pictures [N, H*3/2, W] of latents [F, C, h, w], in host memory, and the decoder's next state; chunk by
        chunk equals whole."""
        frames, state = self.codec.decode(latents, reference, state)
        return to_i420(frames), state
