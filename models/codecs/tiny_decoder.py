"""Tiny decoder of Wan2.1's latents in the layout of TAEHV (taew2_1): 2D convolutions and one frame of memory.

Its pictures are softer than the full decoder's, for a twenty-fifth of the work. Parameter names are those of the
published file. The file's encoder is not used: the full encoder encodes the portrait once a call. Tensors are
[T, C, H, W] inside.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.codecs.carry import Carry, StreamState
from models.codecs.wan_vae import FRAMES_PER_LATENT, LATENT_CHANNELS
from models.config import VAEConfig

LIMIT = 3.0  # latents are compressed into -3..3 by tanh


def _conv(channels: int, out: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1, bias=bias)


class MemoryBlock(nn.Module):
    """Residual block over each frame and the frame before it. The frame before a stream's first is zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.ModuleDict(
            {"0": _conv(2 * channels, channels), "2": _conv(channels, channels), "4": _conv(channels, channels)}
        )

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        past = carry.lead(x, 1, dim=0)[:-1]
        y = F.relu(self.conv["0"](torch.cat([x, past], 1)))
        return F.relu(self.conv["4"](F.relu(self.conv["2"](y))) + x)


class Grow(nn.Module):
    """Upsampling: doubles height and width, and turns each frame into `times` frames."""

    def __init__(self, channels: int, times: int) -> None:
        super().__init__()
        self.times = times
        self.conv = nn.Conv2d(channels, times * channels, 1, bias=False)

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        # Nearest-neighbour upsampling commutes with a 1x1 convolution, which costs a quarter when it comes first.
        x = self.conv(x).unflatten(1, (self.times, -1)).flatten(0, 1)
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


class TinyDecoder(nn.Module):
    """Streaming decoder from latents to pictures."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = config.tiny_widths
        layers: dict[str, nn.Module] = {"1": _conv(LATENT_CHANNELS, widths[0])}
        for stage, times in enumerate((1, 2, 2)):
            first, width = 3 + 6 * stage, widths[stage]
            layers |= {str(first + i): MemoryBlock(width) for i in range(3)}
            layers |= {str(first + 4): Grow(width, times), str(first + 5): _conv(width, widths[stage + 1], bias=False)}
        layers["22"] = _conv(widths[-1], 3)
        self.decoder = nn.ModuleDict(layers)

    def forward(self, latents: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Decode normalised latents [F, 16, h, w] to RGB [N, 3, 8h, 8w] in 0..1, fp32. Also returns the next state.

        N = 4F, or 4F - 3 when the state is fresh: a stream's first latent shows only the last of its four pictures.
        """
        carry = Carry(state)
        x = LIMIT * torch.tanh(latents.float() / LIMIT)
        x = x.to(next(self.parameters()).dtype).contiguous(memory_format=torch.channels_last)
        x = F.relu(self.decoder["1"](x))
        for number in ("3", "4", "5", "7", "8", "9", "10", "11", "13", "14", "15", "16", "17", "19", "20"):
            layer = self.decoder[number]
            x = layer(x) if isinstance(layer, nn.Conv2d) else layer(x, carry)
        x = self.decoder["22"](F.relu(x)).float().clamp(0, 1)
        return x[FRAMES_PER_LATENT - 1 :] if carry.fresh else x, carry.state
