"""Self rollout: a batch of calls by the engine's own strategies, with a gradient through one step of each chunk.

The passes are the engine's (`Rollout.denoise`); here they are run in lockstep, without inference mode and against a
cache whose entries are replaced, never written over. Gradient flows through the last denoising pass of every chunk
alone (the exit step): earlier steps, the clean pass that fills the cache and the knot handed on are constants.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from engine.rollout.base import Pass, Rollout, RolloutState
from engine.rollout.flow import FewStepSchedule
from engine.rollout.job import ChunkJob
from engine.rollout.strategies import make_rollout
from ground.config import RolloutSpec
from models.config import ModelConfig
from models.dit.transformer import CausalWanDiT
from training.clips import ClipBatch

CachedFrame = list[tuple[Tensor, Tensor]]  # per layer keys and values [B, T, H, D]


class FrameView:
    """A CacheView of some cached frames as they were when it was made, so that a forward may be run again
    (recomputation) after the cache has moved on. Keeps what is written to it, if it is to."""

    mask: Tensor | None = None

    def __init__(self, frames: Sequence[CachedFrame], positions: Tensor, keep: bool) -> None:
        self.frames = frames
        self.positions: Tensor | None = positions if frames else None
        self.keep = keep
        self.written: CachedFrame = []

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        keys, values = zip(*(frame[layer] for frame in self.frames), strict=True)
        return torch.cat(keys, 1), torch.cat(values, 1)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        if self.keep:
            self.written.append((keys, values))


class PassRunner:
    """Runs the same pass of several calls as one batch; the counterpart of `engine.worker.runner.ModelRunner`."""

    def __init__(self, model: CausalWanDiT, text: Tensor | None, device: torch.device) -> None:
        self.model, self.text, self.device = model, text, device
        self.cache: dict[int, CachedFrame] = {}

    def run(self, passes: Sequence[Pass]) -> Tensor:
        """The raw prediction [B, F, C, h, w] in fp32; a commit pass also replaces frames of the cache."""
        first = passes[0]
        view = FrameView(
            [self.cache[frame] for frame, _ in first.reads],
            torch.tensor([[at for _, at in item.reads] for item in passes], device=self.device),
            first.is_commit,
        )
        prediction: Tensor = self.model(
            torch.stack([item.latents for item in passes]),
            torch.tensor([item.sigmas for item in passes], device=self.device),
            torch.stack([item.condition for item in passes]),
            torch.stack([item.drive for item in passes]),
            self.text,
            view,
            torch.tensor([item.positions for item in passes], device=self.device),
        )
        for own, frame in enumerate(first.commits):
            if frame >= 0:
                self.cache[frame] = [(keys[:, own], values[:, own]) for keys, values in view.written]
        return prediction.float()


def self_rollout(
    model: CausalWanDiT, config: ModelConfig, spec: RolloutSpec, batch: ClipBatch, seeds: Sequence[int], chunks: int,
    exit_step: int, *, gradient: bool,
) -> Tensor:  # fmt: skip
    """What the model makes of a batch when left to itself, [B, chunks * c, C, h, w].

    seeds: of each call's noise. exit_step: the rollout takes the clean estimate of this step (0 = the first) for its
    answer, in every chunk. Knot Forcing's reference stands at the clip's own index, or as `spec` has it.
    """
    rollout = make_rollout(replace(spec, steps=spec.steps[: exit_step + 1]), config)
    exit_sigma = FewStepSchedule.warped(spec.steps, config.shift, config.dit.prediction).sigmas[exit_step]
    states = [_state(rollout, batch, row, seed) for row, seed in enumerate(seeds)]
    runner = PassRunner(model, batch.text, batch.latents.device)
    out = []
    for _ in range(chunks):
        at = states[0].next_latent
        drives = batch.drive[:, at : at + rollout.drive_latents]
        jobs = [ChunkJob(rollout.denoise(state, drive)) for state, drive in zip(states, drives, strict=True)]
        while jobs[0].next_pass is not None:
            passes = [job.next_pass for job in jobs if job.next_pass is not None]
            is_exit = not passes[0].is_commit and passes[0].sigmas[0] == exit_sigma
            with torch.set_grad_enabled(gradient and is_exit):
                predictions = runner.run(passes)
            with torch.set_grad_enabled(gradient):
                for job, prediction in zip(jobs, predictions, strict=True):
                    job.answer(None if passes[0].is_commit else prediction)
        with torch.no_grad():
            runner.run([job.held for job in jobs if job.held is not None])
        for state in states:
            state.knot = None if state.knot is None else state.knot.detach()
        out.append(torch.stack([job.latents for job in jobs if job.latents is not None]))
    return torch.cat(out, 1)


def _state(rollout: Rollout, batch: ClipBatch, row: int, seed: int) -> RolloutState:
    height, width = batch.latents.shape[-2:]
    reference = torch.zeros_like(batch.latents[row, 0]) if batch.portrait is None else batch.portrait[row]
    features = batch.features[row, :, None, None].expand(-1, height, width)
    state = rollout.new_state(reference, features, seed)
    state.reference_index = int(batch.reference[row])
    return state
