"""Estimate of a stage's GPU memory, by arithmetic: fp32 weights sharded by FSDP2, blocks recomputed or not.

An estimate to choose machines by, of the peak, which is in backward: every network's weights, the gradient of the one
that is trained just then, both optimisers. AdamW's own temporaries are smaller than the activations, which are gone by
then; checkpoints are gathered tensor by tensor. What it leaves out (kernels' workspaces, fragments, NCCL) is about a
tenth more.
"""

import math
from dataclasses import dataclass

from models.dit.transformer import CausalWanDiT
from training.configs import StageConfig
from training.sequence import Layout

GIB = 2**30
FULL = 4  # bytes of an fp32 value
BLOCK_BYTES = 110  # that backward needs of one block, for one token and channel, under bf16 autocast (measured)
CACHED_BYTES = 6  # of a rollout's past in one block, for one token and channel: keys in fp32, values in bf16
GATHERED = 3  # blocks that are whole at once: the one in use, the one fetched ahead, a gradient on its way out


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one of `gpus` GPUs."""

    gpus: int
    parameters: int
    gradients: int
    optimiser: int
    ema: int
    activations: int

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimiser + self.ema + self.activations


def values(config: StageConfig) -> int:
    """Parameters of one network."""
    return sum(math.prod(value.shape) for value in CausalWanDiT.on_meta(config.model.dit).state_dict().values())


def forward_tokens(config: StageConfig) -> int:
    """Tokens of a clip that carry a gradient at once."""
    layout = Layout(config.rollout, config.chunks)
    frames = {
        "base": 1 + layout.latents,
        "causal": layout.context + layout.chunks * layout.span,
        "distill": layout.chunks * layout.span,
    }[config.stage]
    return frames * config.model.tokens_per_latent


def past_tokens(config: StageConfig) -> int:
    """Tokens whose keys and values a rollout keeps until backward: the reference and every chunk but the last."""
    if config.stage != "distill":
        return 0
    return (1 + Layout(config.rollout, config.chunks).clean) * config.model.tokens_per_latent


def memory(config: StageConfig, gpus: int) -> Memory:
    """With one clip at a time on each GPU: --accumulate batch / gpus."""
    network = values(config)
    trained = len(config.networks)
    held = trained + config.needs_teacher
    dit = config.model.dit
    tokens = forward_tokens(config)
    kept = dit.layers * FULL + BLOCK_BYTES if config.recompute else dit.layers * BLOCK_BYTES
    activations = tokens * dit.dim * kept + past_tokens(config) * dit.dim * dit.layers * CACHED_BYTES
    block = network // dit.layers
    return Memory(
        gpus=gpus,
        parameters=held * network * FULL // gpus + (GATHERED * block * FULL if gpus > 1 else 0),
        gradients=network * FULL // gpus,
        optimiser=trained * network * 2 * FULL // gpus,
        ema=network * FULL // gpus,
        activations=activations,
    )


def describe(config: StageConfig, gpus: tuple[int, ...] = (1, 4, 8)) -> str:
    """The plan as a table, GiB on each GPU."""
    columns = ("parameters", "gradients", "optimiser", "ema", "activations", "total")
    lines = [
        f"{config.model.name}, {config.stage}: {values(config):,} parameters a network; GiB on each GPU",
        f"{'GPUs':>5}{'--accumulate':>14}" + "".join(f"{name:>13}" for name in columns),
    ]
    for count in gpus:
        plan = memory(config, count)
        figures = "".join(f"{getattr(plan, name) / GIB:>13.1f}" for name in columns)
        lines.append(f"{count:>5}{config.batch // count:>14}{figures}")
    return "\n".join(lines)
