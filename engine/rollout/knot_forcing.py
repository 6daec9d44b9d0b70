"""Knot Forcing (arXiv:2512.21734, Algorithm 1): chunks bound by a temporal knot, under a reference that runs ahead.

Each chunk denoises c + k latents and emits c. The k latents beyond are the knot: the next chunk gets them as a
*condition* (channels and mask, its own noise stays noise) and its last step averages its estimate of them with the
knot. The reference is one pinned frame whose temporal index n stays ahead of the rollout; as keys are cached
unrotated, moving it costs nothing.
"""

import torch
from torch import Tensor

from engine.rollout.base import (
    REFERENCE_SLOT,
    Denoise,
    Pass,
    Rollout,
    RolloutState,
    make_condition,
    reference_pass,
    refuse_unless,
)
from engine.rollout.flow import draw
from ground.config import RolloutSpec
from models.config import ModelConfig


class KnotForcing(Rollout):
    """Names follow Algorithm 1: c, k, L, i (next latent), n (index of the reference), s (its stride).

    L - c past latents are cached. running_ahead: ``countdown`` is the paper's rule (the reference jumps s ahead when
    the rollout comes near, its distance counts down in between); ``constant`` keeps it ``start`` latents ahead of the
    chunk. n0 = N_train + k and s = N_train for a model trained on N_train latents.
    """

    @classmethod
    def misfit(cls, config: ModelConfig) -> str:
        return "" if config.dit.inpainting else "has no input for knots"

    @classmethod
    def check(cls, spec: RolloutSpec) -> None:
        refuse_unless(0 <= spec.knot <= spec.chunk < spec.window, "knot_forcing needs 0 <= knot <= chunk < window")
        refuse_unless(spec.sink == 0, "knot_forcing keeps no first latents: a sink is self_forcing's")
        refuse_unless(
            spec.start >= spec.chunk + spec.knot and spec.stride >= spec.chunk,
            "the reference must start at least chunk + knot ahead and jump by at least chunk",
        )

    @property
    def context(self) -> int:
        return self.spec.window - self.spec.chunk

    def cached_frame(self, latent: int) -> int:
        """Where a past latent lies in the cache: in a ring behind the reference."""
        return int(self.spec.reference) + latent % self.context

    @property
    def drive_latents(self) -> int:
        return self.spec.chunk + self.spec.knot

    @property
    def ahead(self) -> int:
        return self.spec.knot

    def new_state(self, reference: Tensor, features: Tensor, seed: int) -> RolloutState:
        return RolloutState(reference, features, torch.Generator().manual_seed(seed), reference_index=self.spec.start)

    def denoise(self, state: RolloutState, drive: Tensor) -> Denoise:
        """drive [c + k, n, d] for latents i .. i+c+k-1."""
        c, k, sigmas = self.spec.chunk, self.spec.knot, self.schedule.sigmas
        if state.next_latent == 0:
            yield reference_pass(state, drive)
        self.run_ahead(state)
        given = state.knot  # the first chunk has none: everything is to be generated
        noisy = draw((c + k, *state.reference.shape), state.generator, state.reference.device)
        clean = noisy
        for step, sigma in enumerate(sigmas):
            if step:
                noisy = self.schedule.renoise(clean, sigma, state.generator)
            prediction = yield self.denoising_pass(state, noisy, sigma, given, drive)
            assert prediction is not None
            clean = self.schedule.to_x0(prediction, noisy, sigma)
        emitted, knot = clean[:c], clean[c:]  # the knot handed on is never the fused one
        if given is not None:
            emitted = torch.cat([(given + emitted[:k]) / 2, emitted[k:]])
        yield self.commit_pass(state, emitted, drive[:c])
        state.knot = knot if k else None
        state.next_latent += c
        return emitted

    def run_ahead(self, state: RolloutState) -> None:
        """Keep n beyond the chunk: Algorithm 1's countdown and jump, or a constant distance."""
        i, n, spec = state.next_latent, state.reference_index, self.spec
        if spec.running_ahead == "constant":
            n = i + spec.start
        while i + spec.chunk + spec.knot > n:
            n += spec.stride
        state.reference_index = n

    def reads(self, state: RolloutState) -> tuple[tuple[int, int], ...]:
        """The reference and the last L - c emitted latents, at positions relative to the window: past 0 .. L-c-1,
        chunk from L-c on, reference n - i ahead of the chunk's first latent."""
        i, context = state.next_latent, self.context
        past = tuple((self.cached_frame(j), j - i + context) for j in range(max(0, i - context), i))
        return ((REFERENCE_SLOT, context + state.reference_index - i), *past)

    def denoising_pass(
        self, state: RolloutState, noisy: Tensor, sigma: float, given: Tensor | None, drive: Tensor
    ) -> Pass:
        context, frames = self.context, len(noisy)
        return Pass(
            latents=noisy, sigmas=(sigma,) * frames,
            condition=make_condition(given, state.features, frames, tuple(state.reference.shape)), drive=drive,
            positions=tuple(range(context, context + frames)), origin=state.next_latent - context,
            reads=self.reads(state),
        )  # fmt: skip

    def commit_pass(self, state: RolloutState, emitted: Tensor, drive: Tensor) -> Pass:
        """The clean pass (line 19): emitted latents at sigma 0 see the old window and the reference; their keys
        replace the oldest. Older latents keep the keys they had (append, not recompute). The fused latent is its own
        condition."""
        i, c, context = state.next_latent, self.spec.chunk, self.context
        given = emitted[: self.spec.knot] if state.knot is not None else None
        first_kept = i + c - context
        return Pass(
            latents=emitted, sigmas=(0.0,) * c,
            condition=make_condition(given, state.features, c, tuple(state.reference.shape)), drive=drive,
            positions=tuple(range(context, context + c)), origin=i - context, reads=self.reads(state),
            commits=tuple(self.cached_frame(j) if j >= first_kept else -1 for j in range(i, i + c)),
        )  # fmt: skip
