"""Rollout variants with one mechanism of Knot Forcing removed or changed, for experiments only.

What a ``RolloutSpec`` can say is said there; what it cannot is a small subclass here. Every variant runs on the same
weights: a length of chunk, knot or window that they were not trained with is marked, and tells what a switch does, not
what training with it would.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from engine.rollout.base import REFERENCE_SLOT, Denoise, Pass, Rollout, RolloutState
from engine.rollout.flow import FewStepSchedule
from engine.rollout.knot_forcing import KnotForcing
from engine.rollout.strategies import STRATEGIES, default_spec
from ground.config import RolloutSpec
from models.config import ModelConfig


@dataclass(slots=True)
class FedState(RolloutState):
    """condition: what this chunk is given as its knot, which need not be what its estimate is averaged with."""

    condition: Tensor | None = None


class KnotSwitches(KnotForcing):
    """The knot's two uses apart. fed: given to the next chunk as a condition. fused: averaged with its estimate."""

    fed = True
    fused = True

    def new_state(self, reference: Tensor, features: Tensor, seed: int) -> FedState:
        state = super().new_state(reference, features, seed)
        return FedState(reference, features, state.generator, state.reference_index)

    def denoise(self, state: RolloutState, drive: Tensor) -> Denoise:
        assert isinstance(state, FedState)
        state.condition = state.knot if self.fed else None
        if not self.fused:
            state.knot = None
        return (yield from super().denoise(state, drive))

    def denoising_pass(
        self, state: RolloutState, noisy: Tensor, sigma: float, given: Tensor | None, drive: Tensor
    ) -> Pass:
        assert isinstance(state, FedState)
        return super().denoising_pass(state, noisy, sigma, state.condition, drive)

    def commit_pass(self, state: RolloutState, emitted: Tensor, drive: Tensor) -> Pass:
        """Its condition follows the denoising passes'; the knot itself is replaced when the chunk ends."""
        assert isinstance(state, FedState)
        state.knot = state.condition
        return super().commit_pass(state, emitted, drive)


class FedUnfused(KnotSwitches):
    """The next chunk is given the knot and makes its first latents alone."""

    fused = False


class AveragedUnfed(KnotSwitches):
    """The next chunk never sees the knot; its estimate is averaged with it all the same."""

    fed = False


class KnotIgnored(KnotSwitches):
    """The knot is denoised ahead and thrown away."""

    fed = False
    fused = False


class FixedReference(KnotForcing):
    """The reference stays at its first index: the rollout comes near, passes it and leaves it behind."""

    def run_ahead(self, state: RolloutState) -> None:
        """Never."""


class DrawnStart(KnotForcing):
    """Each call's countdown begins at another index, drawn by its seed between the nearest and the trained one."""

    def new_state(self, reference: Tensor, features: Tensor, seed: int) -> RolloutState:
        state = super().new_state(reference, features, seed)
        nearest = self.spec.chunk + self.spec.knot
        state.reference_index = int(torch.randint(nearest, self.spec.start + 1, (), generator=state.generator))
        return state


class NoReference(KnotForcing):
    """The reference is not attended. (Who it is still enters by the features' channels.)"""

    def reads(self, state: RolloutState) -> tuple[tuple[int, int], ...]:
        return tuple(read for read in super().reads(state) if read[0] != REFERENCE_SLOT)


@dataclass(frozen=True, slots=True)
class RolloutVariant:
    """changes: fields of the model's own ``RolloutSpec``. make: the strategy, None = the one the spec names.
    untrained: asks for a span, a window or a place of the reference that the shipped weights were not trained with."""

    name: str
    changes: Mapping[str, object] = field(default_factory=dict)
    make: Callable[[RolloutSpec, FewStepSchedule], Rollout] | None = None
    untrained: bool = False

    @property
    def label(self) -> str:
        return f"{self.name} *" if self.untrained else self.name

    def rollout(self, config: ModelConfig) -> Rollout:
        spec = replace(default_spec(config), **self.changes)  # type: ignore[arg-type]
        spec = replace(spec, start=config.trained_latents + spec.knot)
        schedule = FewStepSchedule.warped(spec.steps, config.shift, config.dit.prediction)
        return (self.make or STRATEGIES[spec.strategy])(spec, schedule)


LEGEND = "* a span, window or place of the reference that the weights were not trained with"

OWN = RolloutVariant("fed, fused")  # the model's own rollout
KNOTS: tuple[RolloutVariant, ...] = (
    OWN,
    RolloutVariant("fed, unfused", make=FedUnfused),
    RolloutVariant("not fed, averaged", make=AveragedUnfed),
    RolloutVariant("not fed, not averaged", make=KnotIgnored),
    RolloutVariant("k = 0", {"knot": 0}, untrained=True),
)
REFERENCES: tuple[RolloutVariant, ...] = (
    RolloutVariant("countdown", {"running_ahead": "countdown"}),
    RolloutVariant("constant", {"running_ahead": "constant"}),
    RolloutVariant("n0 drawn", {"running_ahead": "countdown"}, DrawnStart),
    RolloutVariant("s = c", {"running_ahead": "countdown", "stride": 3}),
    RolloutVariant("fixed index", make=FixedReference, untrained=True),
    RolloutVariant("none", make=NoReference, untrained=True),
)
STEPS: tuple[RolloutVariant, ...] = (
    RolloutVariant("1 step", {"steps": (1000,)}),
    RolloutVariant("2 steps", {"steps": (1000, 500)}),
    RolloutVariant("4 steps", {"steps": (1000, 750, 500, 250)}),
)
COMPONENTS: tuple[RolloutVariant, ...] = (
    RolloutVariant("window only", {"knot": 0}, FixedReference, untrained=True),
    RolloutVariant("+ knot", make=FixedReference, untrained=True),
    RolloutVariant("+ running ahead", {"running_ahead": "countdown"}),
    RolloutVariant("constant offset", {"running_ahead": "constant"}),
    RolloutVariant("Self Forcing", {"strategy": "self_forcing"}, untrained=True),
    RolloutVariant("k = 0", {"knot": 0}, untrained=True),
    RolloutVariant("k = 2", {"knot": 2}, untrained=True),
    RolloutVariant("L = 9", {"window": 9}, untrained=True),
    *STEPS[:2],
)
