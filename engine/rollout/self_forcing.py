"""Self Forcing (arXiv:2506.08009) with a rolling window: chunks without a knot, the start image as a pinned first
frame.

Per chunk: denoise c latents against the cache, then one clean pass overwrites their keys. The reference plays the start
image: it is cached once and stands just before the window (an attention sink), where Knot Forcing's runs ahead. A model
of text alone has none. LongLive (arXiv:2509.22622) pins the video's first latents instead, as the window's first.
"""

import torch
from torch import Tensor

from engine.rollout.base import REFERENCE_SLOT, Denoise, Pass, RolloutState, make_condition, reference_pass
from engine.rollout.flow import FewStepSchedule, draw
from ground.config import RolloutSpec


class SelfForcing:
    """The window's position 0 is the start image if there is one; the sink, past latents and the chunk follow."""

    def __init__(self, spec: RolloutSpec, schedule: FewStepSchedule) -> None:
        self.spec = spec
        self.schedule = schedule

    @property
    def drive_latents(self) -> int:
        return self.spec.chunk

    def new_state(self, reference: Tensor, features: Tensor, seed: int) -> RolloutState:
        return RolloutState(reference, features, torch.Generator().manual_seed(seed), reference_index=0)

    def denoise(self, state: RolloutState, drive: Tensor) -> Denoise:
        """drive [c, n, d] for latents i .. i+c-1."""
        if state.next_latent == 0 and self.spec.reference:
            yield reference_pass(state, drive)
        noisy = draw((self.spec.chunk, *state.reference.shape), state.generator, state.reference.device)
        clean = noisy
        for step, sigma in enumerate(self.schedule.sigmas):
            if step:
                noisy = self.schedule.renoise(clean, sigma, state.generator)
            prediction = yield self.make_pass(state, noisy, sigma, drive)
            assert prediction is not None
            clean = self.schedule.to_x0(prediction, noisy, sigma)
        yield self.make_pass(state, clean, 0.0, drive)
        state.next_latent += self.spec.chunk
        return clean

    def make_pass(self, state: RolloutState, latents: Tensor, sigma: float, drive: Tensor) -> Pass:
        """A denoising pass, or for sigma 0 the clean pass that commits."""
        i, c, context, sink = state.next_latent, self.spec.chunk, self.spec.context, self.spec.sink
        pinned = ((REFERENCE_SLOT, 0),) if self.spec.reference else ()
        first = len(pinned) + context  # position of the chunk
        rolled = max(0, i - context)  # latents that have left the window
        at_first = ((j, first + j - i + rolled) for j in range(min(sink, i)))
        lately = ((j, first + j - i) for j in range(sink + rolled, i))
        past = tuple((self.spec.cached_frame(j), at) for j, at in (*at_first, *lately))
        stays = sink + max(0, i + c - context)
        kept = tuple(self.spec.cached_frame(j) if j < sink or j >= stays else -1 for j in range(i, i + c))
        return Pass(
            latents=latents, sigmas=(sigma,) * c,
            condition=make_condition(None, state.features, c, tuple(state.reference.shape)), drive=drive,
            positions=tuple(range(first, first + c)), origin=i - first,
            reads=pinned + past, commits=() if sigma else kept,
        )  # fmt: skip
