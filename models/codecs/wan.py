"""Codec of Wan2.1's latents: encodes a portrait to one latent and decodes by the full or the tiny decoder.

The portrait is encoded as the first frame of a video, a stream of one picture. Independent of transformer and clock.
"""

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from engine.portrait.portrait import Portrait
from ground.fitting import fit_picture
from models.codecs.base import Reference
from models.codecs.carry import StreamState
from models.codecs.tiny_decoder import TinyDecoder
from models.codecs.wan_vae import WanDecoder, WanEncoder
from models.config import VAEConfig
from models.dit.transformer import randomise_

Decoder = WanDecoder | TinyDecoder
Part = TypeVar("Part", bound=nn.Module)
DECODERS: dict[str, type[WanDecoder] | type[TinyDecoder]] = {"wan": WanDecoder, "wan-tiny": TinyDecoder}


class WanCodec:
    """Codec of Wan2.1's latents; one object serves every call. size: (width, height) of the pictures in pixels."""

    def __init__(self, encoder: WanEncoder, decoder: Decoder, size: tuple[int, int]) -> None:
        self.encoder, self.decoder, self.size = encoder, decoder, size
        self.device = next(encoder.parameters()).device

    def compile_layers(self) -> None:
        """Compile the full decoder, for inference on a GPU. The tiny decoder is too small to gain by it."""
        if isinstance(self.decoder, WanDecoder):
            self.decoder.compile_layers()

    def encode_reference(self, portrait: Portrait) -> Reference:
        """Encode a portrait of any size to its latent [16, h, w] in fp32; features are empty, [0, h, w]."""
        rgb = torch.from_numpy(np.ascontiguousarray(fit_picture(portrait.rgb, *self.size)))
        picture = rgb.to(self.device).permute(2, 0, 1).float() / 255
        latent = self.encoder(picture[None], StreamState())[0][0]
        return Reference(latent=latent, features=latent.new_zeros(0, *latent.shape[1:]), payload=None)

    def initial_state(self) -> StreamState:
        """The state before the first latent of a call."""
        return StreamState()

    def decode(self, latents: Tensor, reference: Reference, state: StreamState) -> tuple[Tensor, StreamState]:
        """Decode latents [F, 16, h, w] to RGB uint8 [N, H, W, 3] on the codec's device. Also returns the next state.
        N = 4F, or 4F - 3 when the state is fresh."""
        if len(latents) == 0:
            width, height = self.size
            return torch.empty((0, height, width, 3), dtype=torch.uint8, device=self.device), state
        pictures, state = self.decoder(latents.to(self.device), state)
        return pictures.mul_(255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous(), state


def build_decoder(
    kind: str, device: torch.device | str, dtype: torch.dtype, config: VAEConfig | None = None
) -> Decoder:
    """Build the decoder ``wan`` or ``wan-tiny`` with seeded random weights, drawn on the device."""
    return random_part(on_meta(DECODERS[kind], config or VAEConfig()), device, dtype)


def build_encoder(device: torch.device | str, dtype: torch.dtype, config: VAEConfig | None = None) -> WanEncoder:
    """Build the encoder with seeded random weights, drawn on the device."""
    return random_part(on_meta(WanEncoder, config or VAEConfig()), device, dtype)


def on_meta(kind: type[Part], config: VAEConfig) -> Part:
    """Build a part on the meta device: shapes without memory, to be loaded later."""
    with torch.device("meta"):
        return kind(config)


def random_part(part: Part, device: torch.device | str, dtype: torch.dtype) -> Part:
    part = part.to(dtype).to_empty(device=device)
    randomise_(part)
    return finished(part)


def finished(part: Part) -> Part:
    """Prepare a part for inference: weights channels last in memory, no gradients."""
    for layer in part.modules():
        if isinstance(layer, nn.Conv3d | nn.Conv2d):
            layout = torch.channels_last_3d if isinstance(layer, nn.Conv3d) else torch.channels_last
            layer.weight.data = layer.weight.data.contiguous(memory_format=layout)
    return part.eval().requires_grad_(False)
