"""Audio projection: a speech encoder's features, grouped by latent and projected to tokens.

Architecture and parameter names are those of SoulX-FlashHead. Independent of voices, calls and encoders.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import AudioConfig


class AudioProjection(nn.Module):
    """Projection of grouped features to ``config.tokens`` tokens per latent. A clip's first latent is a single video
    frame and has a separate input projection."""

    def __init__(self, config: AudioConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        features = config.layers * config.width
        self.proj1 = nn.Linear(config.window * features, config.hidden)
        self.proj1_vf = nn.Linear(config.entries * features, config.hidden)
        self.proj2 = nn.Linear(config.hidden, config.hidden)
        self.proj3 = nn.Linear(config.hidden, config.tokens * dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, grouped: Tensor) -> Tensor:
        """Project features [B, F, entries, layers * width], as `group` returns them, to tokens [B, F, n, d]."""
        first = self.proj1(grouped[:, :1, : self.config.window].flatten(2))
        later = self.proj1_vf(grouped[:, 1:].flatten(2))
        hidden = F.relu(self.proj2(F.relu(torch.cat([first, later], 1))))
        tokens: Tensor = self.norm(self.proj3(hidden).unflatten(-1, (self.config.tokens, -1)))
        return tokens


def group(features: Tensor, latents: int, config: AudioConfig) -> Tensor:
    """Group the features by latent: [F, entries, layers * width]. The first latent has only ``window`` entries; the
    rest are zero.

    features: [half a window + frames, layers, width], of the frames just before the clip and of the clip's own. A later
    latent gets the window that ends with its first frame, each frame between, and the window that starts with its last
    frame. The clip's last frame is repeated beyond its end, because waiting for two more frames of voice would cost
    80 ms.
    """
    half = config.window // 2
    frames = 1 + (latents - 1) * config.stride
    assert len(features) == half + frames, "features of another number of video frames"
    flat = torch.cat([features, features[-1:].expand(half, -1, -1)]).flatten(1)
    # A later latent's entries are the frames from ``half`` before its first to ``half`` after its last.
    later = flat[1:].unfold(0, config.entries, config.stride).transpose(1, 2)  # [F - 1, entries, features]
    first = F.pad(flat[: config.window], (0, 0, 0, config.entries - config.window))
    return torch.cat([first[None], later])
