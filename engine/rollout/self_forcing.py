"""Self Forcing (arXiv:2506.08009) with a rolling window: chunks without a knot, the start image as a pinned first
frame.

Per chunk: denoise c latents against the cache, then one clean pass overwrites their keys. The reference plays the start
image: it is cached once and stands just before the window (an attention sink), whereas Knot Forcing's runs ahead. A
text-to-video model has none. LongLive (arXiv:2509.22622) pins the video's first latents instead, as the window's first.
"""

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


class SelfForcing(Rollout):
    """The window's position 0 is the start image if there is one; the sink, past latents and the chunk follow. L - c
    past latents are cached, ``sink`` of them for good."""

    @classmethod
    def misfit(cls, config: ModelConfig) -> str:
        return "makes chunks that are clips by themselves" if config.makes_clips else ""

    @classmethod
    def check(cls, spec: RolloutSpec) -> None:
        refuse_unless(spec.chunk < spec.window, "self_forcing needs chunk < window")
        refuse_unless(
            spec.sink <= max(0, spec.window - 2 * spec.chunk), "the sink leaves a past chunk's room in the window"
        )

    @property
    def context(self) -> int:
        return self.spec.window - self.spec.chunk

    def cached_frame(self, latent: int) -> int:
        """Where a past latent lies in the cache: behind the reference the sink, then a ring."""
        sink = self.spec.sink
        return int(self.spec.reference) + min(latent, sink) + max(0, latent - sink) % (self.context - sink)

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
        i, c, context, sink = state.next_latent, self.spec.chunk, self.context, self.spec.sink
        pinned = ((REFERENCE_SLOT, 0),) if self.spec.reference else ()
        first = len(pinned) + context  # position of the chunk
        rolled = max(0, i - context)  # latents that have left the window
        at_first = ((j, first + j - i + rolled) for j in range(min(sink, i)))
        lately = ((j, first + j - i) for j in range(sink + rolled, i))
        past = tuple((self.cached_frame(j), at) for j, at in (*at_first, *lately))
        stays = sink + max(0, i + c - context)
        kept = tuple(self.cached_frame(j) if j < sink or j >= stays else -1 for j in range(i, i + c))
        return Pass(
            latents=latents, sigmas=(sigma,) * c,
            condition=make_condition(None, state.features, c, tuple(state.reference.shape)), drive=drive,
            positions=tuple(range(first, first + c)), origin=i - first,
            reads=pinned + past, commits=() if sigma else kept,
        )  # fmt: skip
