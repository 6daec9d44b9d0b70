"""Rollout variants with one mechanism of Knot Forcing removed or changed, for experiments only.

A variant is a change of ``RolloutSpec``, or a small subclass where the spec has no field for it. All variants run with
the same weights. Those with a chunk, knot, window or position of the reference that the weights were not trained with
are marked: they show the effect of a switch, not of training with it.
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
    """State of ``KnotSwitches``. condition: the knot that this chunk is given, None = none; ``knot`` is the one with
    which its estimate is averaged."""

    condition: Tensor | None = None


class KnotSwitches(KnotForcing):
    """Knot Forcing with a switch for each use of the knot. fed: the next chunk is given it as a condition. fused: it is
    averaged with the next chunk's estimate."""

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
        """The commit pass has the same condition as the denoising passes. It may replace the knot, because the chunk's
        end does so anyway."""
        assert isinstance(state, FedState)
        state.knot = state.condition
        return super().commit_pass(state, emitted, drive)


class FedUnfused(KnotSwitches):
    """The next chunk is given the knot; its estimate is not averaged with it."""

    fused = False


class AveragedUnfed(KnotSwitches):
    """The next chunk is not given the knot; its estimate is averaged with it."""

    fed = False


class KnotIgnored(KnotSwitches):
    """The knot is denoised and discarded."""

    fed = False
    fused = False


class FixedReference(KnotForcing):
    """The reference stays at its first index, which the rollout approaches and passes."""

    def run_ahead(self, state: RolloutState) -> None:
        """Leave the reference where it is."""


class DrawnStart(KnotForcing):
    """The countdown of each call begins at a random index between the nearest possible and the trained one."""

    def new_state(self, reference: Tensor, features: Tensor, seed: int) -> RolloutState:
        state = super().new_state(reference, features, seed)
        nearest = self.spec.chunk + self.spec.knot
        state.reference_index = int(torch.randint(nearest, self.spec.start + 1, (), generator=state.generator))
        return state


class NoReference(KnotForcing):
    """The reference is not attended to. Identity still enters through the features' channels."""

    def reads(self, state: RolloutState) -> tuple[tuple[int, int], ...]:
        return tuple(read for read in super().reads(state) if read[0] != REFERENCE_SLOT)


@dataclass(frozen=True, slots=True)
class RolloutVariant:
    """A named variant. changes: fields of the model's own ``RolloutSpec``. make: strategy, None = the spec's.
    untrained: has a span, a window or a position of the reference that the shipped weights were not trained with."""

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


LEGEND = "* a span, window or position of the reference that the weights were not trained with"

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
