"""Codec of models whose chunks are clips: decodes whole chunks, and encodes their last pictures as the next chunk's
first latents.

The autoencoder does not stream; these latents are the only state between chunks. Independent of transformer, rollout
and clock.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from engine.portrait.portrait import Portrait
from ground.fitting import fit_picture
from models.codecs.base import Reference
from models.codecs.carry import StreamState
from models.codecs.colours import Colours, match_colours
from models.codecs.wan_vae import WanDecoder, WanEncoder
from models.config import ModelConfig


class ClipVAE(Protocol):
    """Autoencoder of whole clips. Pictures are RGB [N, 3, H, W] in 0..1 and latents are normalised [F, C, h, w], both
    fp32; the first latent is one picture."""

    def encode(self, pictures: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...


class WanClips:
    """Wan2.1's autoencoder; each clip is a separate stream."""

    def __init__(self, encoder: WanEncoder, decoder: WanDecoder) -> None:
        self.encoder, self.decoder = encoder, decoder

    def encode(self, pictures: Tensor) -> Tensor:
        return self.encoder(pictures, StreamState())[0]  # type: ignore[no-any-return]

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents, StreamState())[0]  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True, eq=False)
class ClipState:
    """Decoder state of a call. shown: [k, C, h, w], latents of the last shown pictures, with which the next clip
    starts; None before the first chunk."""

    shown: Tensor | None = None


class ClipCodec:
    """Codec of clips; one object serves every call. A chunk's first ``config.knot`` latents repeat pictures that were
    shown already and are not shown again."""

    def __init__(self, vae: ClipVAE, config: ModelConfig, device: torch.device) -> None:
        self.vae, self.size, self.device = vae, config.pixel_size, device
        self._clip = config.frames_of(config.knot + config.chunk)
        self._shared = config.frames_of(config.knot)

    def encode_reference(self, portrait: Portrait) -> Reference:
        """Encode a portrait of any size. features: [k + c, C, h, w], latents of a clip that repeats the portrait.
        latent: the first of them."""
        rgb = torch.from_numpy(np.ascontiguousarray(fit_picture(portrait.rgb, *self.size)))
        picture = rgb.to(self.device).permute(2, 0, 1).float() / 255
        latents = self.vae.encode(picture.expand(self._clip, -1, -1, -1))
        return Reference(latent=latents[0], features=latents, payload=Colours.of(picture))

    def initial_state(self) -> ClipState:
        return ClipState()

    def decode(self, latents: Tensor, reference: Reference, state: ClipState) -> tuple[Tensor, ClipState]:
        """Decode a chunk's latents [k + c, C, h, w] to its new pictures, RGB uint8 [N, H, W, 3] on the codec's device,
        with the portrait's colours. N is the number of frames of c latents. The next state is encoded from the pictures
        before they are rounded to uint8."""
        pictures = match_colours(self.vae.decode(latents.to(self.device)), reference.payload)
        shown = self.vae.encode(pictures[-self._shared :])
        new = pictures[self._shared :].mul(255).round_().to(torch.uint8)
        return new.permute(0, 2, 3, 1).contiguous(), ClipState(shown)
