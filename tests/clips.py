"""Stand-ins for training: clips of noise, a tiny motion model, and what draws without sharing."""

from dataclasses import replace

import numpy as np
import torch

from models.config import EMBEDDED, ModelConfig
from models.dit.transformer import CausalWanDiT, randomise_
from training.clips import ClipBatch
from training.noise import Draws

TINY = replace(
    EMBEDDED, name="tiny", dit=replace(EMBEDDED.dit, dim=24, layers=2, heads=2, ffn_dim=32, drive_blocks=(0,))
)
CPU = torch.device("cpu")


def noise_clips(size: int = 1, seed: int = 0, config: ModelConfig = EMBEDDED) -> ClipBatch:
    generator = torch.Generator().manual_seed(seed)
    dit = config.dit
    drive = torch.randn(size, 22, dit.drive_tokens, dit.drive_dim, generator=generator)
    drive[..., -16:] = 0  # nothing is given
    return ClipBatch(
        latents=torch.randn(size, 22, *config.latent_shape, generator=generator),
        drive=drive,
        features=torch.randn(size, dit.reference_channels, generator=generator),
        reference=torch.full((size,), 25),
        text=None if dit.text_dim is None else torch.randn(size, 5, dit.text_dim, generator=generator),
    )


def draws(size: int, seed: int = 0) -> Draws:
    return Draws(torch.Generator().manual_seed(seed), size, slice(None), CPU)


def random_model(config: ModelConfig = EMBEDDED, seed: int = 0) -> CausalWanDiT:
    dit = CausalWanDiT(config.dit)
    randomise_(dit, seed)
    return dit.eval().requires_grad_(False)


class NoiseClips:
    """Clips of noise, drawn as the real ones are: by seed and number alone."""

    def __init__(self, config: ModelConfig = TINY, seed: int = 0) -> None:
        self.config, self.seed = config, seed

    def batch(self, number: int, size: int, share: slice = slice(None)) -> ClipBatch:
        drawn = np.random.default_rng((self.seed, number)).integers(1 << 30)
        clip = noise_clips(size, int(drawn), self.config)
        return ClipBatch(
            clip.latents[share], clip.drive[share], clip.features[share], clip.reference[share],
            text=None if clip.text is None else clip.text[share],
        )  # fmt: skip

    def apart(self, seed: int) -> "NoiseClips":
        return NoiseClips(self.config, seed)
