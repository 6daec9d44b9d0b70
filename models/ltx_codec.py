"""LTX-Video's autoencoder (128 channels, 32x in space, 8x in time) through diffusers, for whole clips.

Its latents are brought to the statistics that it carries itself. diffusers is asked for when a model needs it.
"""

from typing import Any, cast

import torch
from torch import Tensor

from engine.errors import EngineError
from models.config import LTXConfig


class LtxClips:
    """A ``models.clip_codec.ClipVAE``. vae: an ``AutoencoderKLLTXVideo`` on its device."""

    def __init__(self, vae: Any) -> None:
        self._vae = vae
        # In fp32 whatever the weights are: latents are.
        self._mean, self._deviation = (
            values.float()[:, None, None] * scale
            for values, scale in ((vae.latents_mean, 1.0), (vae.latents_std, 1.0 / vae.config.scaling_factor))
        )

    @classmethod
    def random(cls, config: LTXConfig, device: torch.device, dtype: torch.dtype) -> "LtxClips":
        """Seeded noise for weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            vae = _import_vae()(**_arguments(config))
        return cls(vae.to(device=device, dtype=dtype).eval().requires_grad_(False))

    @classmethod
    def empty(cls, config: LTXConfig) -> Any:
        """The autoencoder on the meta device, to be filled by a loader."""
        with torch.device("meta"):
            return _import_vae()(**_arguments(config))

    def encode(self, pictures: Tensor) -> Tensor:
        """[N, 3, H, W] in 0..1 to [F, 128, h, w], N = 8F - 7: the mean, nothing is drawn."""
        x = (2 * pictures - 1).to(self._vae.dtype).transpose(0, 1)[None]
        mean = cast(Tensor, self._vae.encode(x).latent_dist.mode())[0].transpose(0, 1).float()
        return (mean - self._mean) / self._deviation

    def decode(self, latents: Tensor) -> Tensor:
        """Back, in fp32. The published decoder takes no timestep."""
        x = (latents.float() * self._deviation + self._mean).to(self._vae.dtype).transpose(0, 1)[None]
        video = cast(Tensor, self._vae.decode(x, return_dict=False)[0])
        return video[0].transpose(0, 1).float().add(1).div(2).clamp(0, 1)


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
            "package_missing", "this model's pictures need diffusers: pip install 'knotcast[ltx]'"
        ) from error
    return AutoencoderKLLTXVideo
