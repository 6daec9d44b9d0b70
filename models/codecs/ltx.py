"""LTX-Video's autoencoder (128 channels, 32x in space, 8x in time) through diffusers, for whole clips.

Latents are normalised by the statistics in the checkpoint. diffusers is imported only when a model needs it.
"""

import json
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ground.errors import EngineError
from models.config import LTXConfig


class LtxClips:
    """A ``models.codecs.clip.ClipVAE``. vae: an ``AutoencoderKLLTXVideo`` on its device."""

    _mean: Tensor
    _deviation: Tensor

    def __init__(self, vae: Any) -> None:
        self._vae = vae
        # In fp32 for any type of the weights, because latents are fp32.
        self._mean, self._deviation = (
            values.float()[:, None, None] * scale
            for values, scale in ((vae.latents_mean, 1.0), (vae.latents_std, 1.0 / vae.config.scaling_factor))
        )

    @classmethod
    def random(cls, config: LTXConfig, device: torch.device, dtype: torch.dtype) -> "LtxClips":
        """Build the autoencoder with seeded random weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            vae = _import_vae()(**_arguments(config))
        return cls(vae.to(device=device, dtype=dtype).eval().requires_grad_(False))

    @classmethod
    def empty(cls, config: LTXConfig, published: Path) -> Any:
        """Build the autoencoder on the meta device, to be loaded later. published: path of its config.json; without
        this file the shape is that of ``config``. Raises EngineError ``package_missing``, ``checkpoint_broken``."""
        kind = _import_vae()
        try:
            arguments = json.loads(published.read_text()) if published.is_file() else _arguments(config)
            with torch.device("meta"):
                return kind.from_config(arguments)
        except (OSError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError) as error:
            raise EngineError("checkpoint_broken", f"{published} does not describe an LTX-Video autoencoder") from error

    def encode(self, pictures: Tensor) -> Tensor:
        """Encode [N, 3, H, W] in 0..1 to [F, 128, h, w], N = 8F - 7: the mean, without sampling."""
        x = (2 * pictures - 1).to(self._vae.dtype).transpose(0, 1)[None]
        mean = cast(Tensor, self._vae.encode(x).latent_dist.mode())[0].transpose(0, 1).float()
        return (mean - self._mean) / self._deviation

    def decode(self, latents: Tensor) -> Tensor:
        """Decode [F, 128, h, w] to [N, 3, H, W] in 0..1. The timestep of a conditional decoder is 0; no noise is
        added."""
        x = (latents.float() * self._deviation + self._mean).to(self._vae.dtype).transpose(0, 1)[None]
        timestep = x.new_zeros(1) if self._vae.config.timestep_conditioning else None
        video = cast(Tensor, self._vae.decode(x, timestep, return_dict=False)[0])
        pictures: Tensor = video[0].transpose(0, 1).float()
        return pictures.add(1).div(2).clamp(0, 1)


def _arguments(config: LTXConfig) -> dict[str, Any]:
    return {
        "block_out_channels": config.widths,
        "decoder_block_out_channels": config.widths,
        "layers_per_block": config.blocks,
        "decoder_layers_per_block": config.blocks,
    }


def _import_vae() -> Any:
    try:
        from diffusers import AutoencoderKLLTXVideo
    except ImportError as error:
        raise EngineError(
            "package_missing", "this model's autoencoder needs diffusers: pip install 'knotcast[ltx]'"
        ) from error
    return AutoencoderKLLTXVideo
