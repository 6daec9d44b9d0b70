"""From a ``RolloutSpec`` to the strategy it names: the one table of rollouts."""

from collections.abc import Callable

from engine.rollout.base import Rollout
from engine.rollout.flow import FewStepSchedule
from engine.rollout.knot_forcing import KnotForcing
from engine.rollout.overlap_chunks import OverlapChunks
from engine.rollout.self_forcing import SelfForcing
from ground.config import RolloutSpec
from ground.errors import RequestError
from models.config import ModelConfig

STRATEGIES: dict[str, Callable[[RolloutSpec, FewStepSchedule], Rollout]] = {
    "knot_forcing": KnotForcing,
    "self_forcing": SelfForcing,
    "overlap_chunks": OverlapChunks,
}


def default_spec(config: ModelConfig, *, strategy: str = "", running_ahead: str = "") -> RolloutSpec:
    """The model's own rollout; n0 = N_train + k and s = N_train keep the trained distances. Empty = the default.

    Raises RequestError ``invalid_rollout`` for one that wants inputs which the model does not have, or chunks that it
    was not made for.
    """
    strategy = strategy or config.rollout
    if strategy == "knot_forcing" != config.rollout and not config.dit.inpainting:
        raise RequestError(
            "invalid_rollout",
            f"{config.name} has no input for knots: roll it out with {config.rollout}",
            param="rollout",
        )
    if (strategy == "overlap_chunks") != (config.rollout == "overlap_chunks"):
        raise RequestError(
            "invalid_rollout", f"{config.name} was not made for {strategy}: roll it out with {config.rollout}",
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
    schedule = FewStepSchedule.warped(spec.steps, config.shift, config.dit.prediction)
    return STRATEGIES[spec.strategy](spec, schedule)
