"""A toy model with random weights for laws that must hold for any weights, and a recorder of its passes."""

from dataclasses import replace

import torch
from torch import Tensor

from engine.rollout.base import Pass, Rollout, RolloutState
from engine.rollout.job import ChunkJob
from engine.rollout.strategies import default_spec, make_rollout
from engine.worker.runner import ModelRunner, SlottedPass
from ground.config import RolloutSpec
from models.config import DiTConfig, ModelConfig
from models.dit.transformer import CausalWanDiT, randomise_
from models.registry import LoadedModel

TOY = ModelConfig(
    name="toy",
    dit=DiTConfig(
        dim=48,
        layers=3,
        heads=2,
        ffn_dim=96,
        latent_channels=4,
        reference_channels=2,
        text_dim=None,
        drive_dim=6,
        drive_tokens=2,
        drive_blocks=(0, 1),
    ),
    fps=25,
    latent_size=(4, 4),
    pixel_size=(32, 32),
    codec="",
)


def toy_runner(slots: int = 2, frames: int = 4, config: ModelConfig = TOY) -> ModelRunner:
    dit = CausalWanDiT(config.dit)
    randomise_(dit, seed=5)
    dit.eval().requires_grad_(False)
    model = LoadedModel(config, dit, None, None, torch.device("cpu"), torch.float32)
    return ModelRunner(model, slots=slots, frames=frames)


def toy_rollout(config: ModelConfig = TOY, **changes: object) -> Rollout:
    spec: RolloutSpec = replace(default_spec(config), **changes)  # type: ignore[arg-type]
    return make_rollout(spec, config)


def new_state(rollout: Rollout, seed: int = 1, config: ModelConfig = TOY) -> RolloutState:
    generator = torch.Generator().manual_seed(100 + seed)
    reference = torch.randn(config.latent_shape, generator=generator)
    features = torch.randn(config.dit.reference_channels, *config.latent_size, generator=generator)
    return rollout.new_state(reference, features, seed)


def toy_drive(latents: int, seed: int = 3, config: ModelConfig = TOY) -> Tensor:
    """Drive of a whole call, [latents, n, d]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(latents, config.dit.drive_tokens, config.dit.drive_dim, generator=generator)


def record(
    runner: ModelRunner, rollout: Rollout, chunks: int, *, slot: int = 0, seed: int = 1, joined: bool = False
) -> tuple[Tensor, list[tuple[Pass, Tensor | None]]]:
    """All latents of some chunks, and every pass with its answer. Commits run by themselves unless ``joined``."""
    state = new_state(rollout, seed)
    drive = toy_drive(chunks * rollout.spec.chunk + rollout.spec.knot)
    trace: list[tuple[Pass, Tensor | None]] = []
    latents: list[Tensor] = []
    held: Pass | None = None
    for _ in range(chunks):
        span = drive[state.next_latent : state.next_latent + rollout.drive_latents]
        job = ChunkJob(rollout.denoise(state, span), held)
        while job.next_pass is not None:
            work = job.next_pass
            answer = runner.run([SlottedPass(slot, work)])[0]
            trace.append((work, answer))
            job.answer(answer)
        assert job.latents is not None
        latents.append(job.latents)
        held = job.held
        if not joined and held is not None:
            trace.append((held, runner.run([SlottedPass(slot, held)])[0]))
            held = None
    return torch.cat(latents), trace
