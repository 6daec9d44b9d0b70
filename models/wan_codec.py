"""The codec of Wan2.1's latents: a portrait becomes one latent, latents become pictures by the full or the tiny decoder.

The portrait is encoded as a stream of one picture, as the first frame of a video is. Knows no transformer and no clock.
"""

from typing import Literal, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from models.carry import StreamState
from models.codec import Portrait, Reference
from models.config import VAEConfig
from models.dit import randomise_
from models.tiny_decoder import TinyDecoder
from models.wan_vae import WanDecoder, WanEncoder

Module = TypeVar("Module", bound=nn.Module)
Kind = Literal["wan", "wan-tiny"]


class PictureDecoder(Protocol):
    """Normalised latents [F, 16, h, w] to RGB [N, 3, 8h, 8w] in 0..1, fp32, and the next state."""

    def __call__(self, latents: Tensor, state: StreamState) -> tuple[Tensor, StreamState]: ...


def build_decoder(
    kind: Kind, device: torch.device | str, dtype: torch.dtype, config: VAEConfig | None = None
) -> WanDecoder | TinyDecoder:
    """A decoder with seeded noise for weights, drawn where it is to live."""
    module: WanDecoder | TinyDecoder
    with torch.device("meta"):
        module = (WanDecoder if kind == "wan" else TinyDecoder)(config or VAEConfig())
    return _filled(module, device, dtype)


def build_encoder(device: torch.device | str, dtype: torch.dtype, config: VAEConfig | None = None) -> WanEncoder:
    """The encoder, likewise."""
    with torch.device("meta"):
        module = WanEncoder(config or VAEConfig())
    return _filled(module, device, dtype)


def _filled(module: Module, device: torch.device | str, dtype: torch.dtype) -> Module:
    module = module.to(dtype).to_empty(device=device)
    randomise_(module)
    for layer in module.modules():
        if isinstance(layer, nn.Conv3d):
            layer.to(memory_format=torch.channels_last_3d)
        elif isinstance(layer, nn.Conv2d):
            layer.to(memory_format=torch.channels_last)
    return module.eval().requires_grad_(False)
