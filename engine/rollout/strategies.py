"""Table of rollout strategies, and their construction from a ``RolloutSpec``."""

from dataclasses import replace

from engine.rollout.base import Rollout
from engine.rollout.flow import FewStepSchedule
from engine.rollout.knot_forcing import KnotForcing
from engine.rollout.overlap_chunks import OverlapChunks
from engine.rollout.self_forcing import SelfForcing
from ground.config import RolloutSpec
from ground.errors import RequestError
from models.config import ModelConfig

STRATEGIES: dict[str, type[Rollout]] = {
    "knot_forcing": KnotForcing,
    "self_forcing": SelfForcing,
    "overlap_chunks": OverlapChunks,
}


def find_strategy(name: str) -> type[Rollout]:
    """Raises RequestError ``unknown_rollout``."""
    if name not in STRATEGIES:
        raise RequestError(
            "unknown_rollout", f"unknown rollout {name!r}: choose one of {', '.join(STRATEGIES)}", param="rollout"
        )
    return STRATEGIES[name]


def rollouts_of(config: ModelConfig) -> tuple[str, ...]:
    """Names of the strategies that fit a model, its own first."""
    fitting = (name for name, strategy in STRATEGIES.items() if not strategy.misfit(config))
    return tuple(sorted(fitting, key=lambda name: name != config.rollout))


def default_spec(config: ModelConfig, *, strategy: str = "", running_ahead: str = "") -> RolloutSpec:
    """The model's own rollout; n0 = N_train + k and s = N_train keep the trained distances. Empty = the default.

    Raises RequestError ``unknown_rollout``, or ``invalid_rollout`` for a strategy that does not fit the model.
    """
    strategy = strategy or config.rollout
    if misfit := find_strategy(strategy).misfit(config):
        raise RequestError(
            "invalid_rollout", f"{config.name} {misfit}: roll it out with {' or '.join(rollouts_of(config))}",
            param="rollout",
        )  # fmt: skip
    return RolloutSpec(
        strategy=strategy,
        chunk=config.chunk,
        knot=config.knot,
        window=config.window,
        sink=config.sink,
        reference=config.dit.inpainting,
        steps=config.steps,
        running_ahead=running_ahead or config.running_ahead,
        start=config.trained_latents + config.knot,
        stride=config.trained_latents,
    )


def make_rollout(spec: RolloutSpec, config: ModelConfig) -> Rollout:
    """Raises RequestError ``unknown_rollout`` or ``invalid_rollout``."""
    schedule = FewStepSchedule.warped(spec.steps, config.shift, config.dit.prediction)
    return find_strategy(spec.strategy)(spec, schedule)


def own_rollout(config: ModelConfig, strategy: str = "", running_ahead: str = "") -> Rollout:
    """The rollout of ``default_spec``."""
    return make_rollout(default_spec(config, strategy=strategy, running_ahead=running_ahead), config)


def early_jump(rollout: Rollout, config: ModelConfig) -> Rollout:
    """The same with a reference that jumps for the first time in chunk 2, so that every shape of pass is met early."""
    spec = rollout.spec
    return make_rollout(replace(spec, start=2 * spec.chunk + spec.knot), config)
