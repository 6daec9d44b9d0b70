"""Codec of models whose chunks are clips: decodes whole chunks, and encodes their last pictures as the next chunk's
first latents.

Nothing streams here; the state between chunks is those latents. Knows no transformer, no rollout and no clock.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ground.fitting import fit_picture
from models.codecs.base import Portrait, Reference
from models.codecs.carry import StreamState
from models.codecs.colours import Colours, match_colours
from models.codecs.wan_vae import WanDecoder, WanEncoder
from models.config import ModelConfig


class ClipVAE(Protocol):
    """Whole clips. Pictures are RGB [N, 3, H, W] in 0..1 and latents [F, C, h, w] as the transformer knows them, both
    fp32; the first latent is one picture."""

    def encode(self, pictures: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...


class WanClips:
    """Wan2.1's autoencoder, each clip a stream of its own."""

    def __init__(self, encoder: WanEncoder, decoder: WanDecoder) -> None:
        self.encoder, self.decoder = encoder, decoder

    def encode(self, pictures: Tensor) -> Tensor:
        return self.encoder(pictures, StreamState())[0]  # type: ignore[no-any-return]

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents, StreamState())[0]  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True, eq=False)
class ClipState:
    """shown: [k, C, h, w], the last pictures shown as the first latents of a clip; None before the first chunk."""

    shown: Tensor | None = None


class ClipCodec:
    """One serves every call. A chunk's first ``config.knot`` latents repeat what was shown and are not shown again."""

    def __init__(self, vae: ClipVAE, config: ModelConfig, device: torch.device) -> None:
        self.vae, self.size, self.device = vae, config.pixel_size, device
        self._clip = config.frames_of(config.knot + config.chunk)
        self._shared = config.frames_of(config.knot)

    def encode_reference(self, portrait: Portrait) -> Reference:
        """A portrait of any size. features are the latents of a clip of it, [k + c, C, h, w], latent is the first."""
        rgb = torch.from_numpy(np.ascontiguousarray(fit_picture(portrait.rgb, *self.size)))
        picture = rgb.to(self.device).permute(2, 0, 1).float() / 255
        latents = self.vae.encode(picture.expand(self._clip, -1, -1, -1))
        return Reference(latent=latents[0], features=latents, payload=Colours.of(picture))

    def initial_state(self) -> ClipState:
        return ClipState()

    def decode(self, latents: Tensor, reference: Reference, state: ClipState) -> tuple[Tensor, ClipState]:
        """A chunk's latents [k + c, C, h, w] to the new pictures, RGB uint8 [N, H, W, 3] on its device, in the
        portrait's colours; N is the frames of c latents. They are encoded as they are, not rounded to whole values."""
        pictures = match_colours(self.vae.decode(latents.to(self.device)), reference.payload)
        shown = self.vae.encode(pictures[-self._shared :])
        new = pictures[self._shared :].mul(255).round_().to(torch.uint8)
        return new.permute(0, 2, 3, 1).contiguous(), ClipState(shown)
