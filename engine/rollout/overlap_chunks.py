"""Overlapping chunks (SoulX-FlashHead): each chunk is a clip by itself, without a cache; of the past it gets the motion
latents only.

Each chunk denoises k + c latents that all see each other. The first k, the motion latents, are the last pictures of the
chunk before, encoded again as the beginning of a clip. They are given, and overwrite the estimate before every step and
at the end. The decoder's owner puts them into ``state.knot``. The first chunk is given one latent, the portrait's; the
pictures of its k latents are never shown either, so every chunk shows the pictures of c latents.
"""

import torch
from torch import Tensor

from engine.rollout.base import Denoise, Pass, Rollout, RolloutState, refuse_unless
from engine.rollout.flow import draw
from ground.config import RolloutSpec
from models.config import ModelConfig


class OverlapChunks(Rollout):
    """``state.features`` [k + c, r, h, w]: the portrait as a clip that stands still, a channel condition of every
    pass. The window is not used."""

    @classmethod
    def misfit(cls, config: ModelConfig) -> str:
        return "" if config.makes_clips else "makes no chunks that are clips by themselves"

    @classmethod
    def check(cls, spec: RolloutSpec) -> None:
        refuse_unless(0 < spec.knot <= spec.chunk, "overlap_chunks needs 0 < knot <= chunk")
        refuse_unless(spec.sink == 0, "overlap_chunks keeps no past: a sink is self_forcing's")

    @property
    def context(self) -> int:
        return 0

    @property
    def drive_latents(self) -> int:
        return self.spec.knot + self.spec.chunk

    def emitted_frames(self, index: int, frames_per_latent: int) -> int:
        """A clip's first latent, which shows one picture, is never among the emitted."""
        return self.spec.chunk * frames_per_latent

    def denoise(self, state: RolloutState, drive: Tensor) -> Denoise:
        """drive [k + c, n, d] for the motion latents and the new ones; returns all of them, motion first."""
        given = state.reference[None] if state.knot is None else state.knot
        noisy = draw((self.drive_latents, *state.reference.shape), state.generator, state.reference.device)
        clean = noisy
        for step, sigma in enumerate(self.schedule.sigmas):
            if step:
                noisy = self.schedule.renoise(clean, sigma, state.generator)
            noisy = overwritten(noisy, given)
            prediction = yield self.make_pass(state, noisy, sigma, drive)
            assert prediction is not None
            clean = self.schedule.to_x0(prediction, noisy, sigma)
        state.next_latent += self.spec.chunk
        return overwritten(clean, given)

    def make_pass(self, state: RolloutState, noisy: Tensor, sigma: float, drive: Tensor) -> Pass:
        """One noise level for all latents, the motion latents among them."""
        frames = len(noisy)
        return Pass(
            latents=noisy, sigmas=(sigma,) * frames, condition=state.features, drive=drive,
            positions=tuple(range(frames)), origin=0, reads=(),
        )  # fmt: skip


def overwritten(latents: Tensor, given: Tensor) -> Tensor:
    """The given latents in place of the first."""
    return torch.cat([given.to(latents.dtype), latents[len(given) :]])
