"""Viseme estimator: lip controls frame by frame, by a small causal network on log-mel.

The transformer hears the same log-mel, but with one latent for four frames and half a dozen layers it generalises less
well to unknown voices. So its drive contains this estimate beside the features. The network looks no further ahead than
the features, and back over a fixed window, so it needs no state. Trained by training.viseme_estimator.
"""

from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ground.errors import EngineError
from models.encoders.mel import LogMelConfig

WEIGHTS = Path(__file__).resolve().parents[1] / "weights" / "embedded" / "visemes.safetensors"
VISEMES = 5  # jaw, pucker, smile, press, upper: the first channels of ground.motion, divided by their scales
LEVELLED = np.array([1, 1, 1, 0, 1], np.float32)  # visemes that a level scales; not press: it is all or nothing
_DILATIONS = (1, 2, 1, 4)
HISTORY = 2 * sum(_DILATIONS)  # input frames before the first output frame


class VisemeEstimator(nn.Module):
    """Causal network from tokens of consecutive frames (`models.encoders.mel.LogMelConfig`) to visemes."""

    def __init__(self, width: int = 192, dropout: float = 0.0) -> None:
        super().__init__()
        self.proj = nn.Linear(LogMelConfig().token_size, width)
        self.first = _feed_forward(width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in _DILATIONS)
        self.convs = nn.ModuleList(nn.Conv1d(width, width, 3, dilation=dilation) for dilation in _DILATIONS)
        self.layers = nn.ModuleList(_feed_forward(width) for _ in _DILATIONS)
        self.out = nn.Linear(width, VISEMES)
        self.drop = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [B, HISTORY + T, token_size] to visemes [B, T, VISEMES]. Each output depends on its own frame and
        the HISTORY frames before it."""
        x = self.proj(tokens)
        x = x + self.first(x)
        for norm, conv, layer in zip(self.norms, self.convs, self.layers, strict=True):
            heard = _convolved(F.gelu(norm(self._dropped(x))), cast(nn.Conv1d, conv))
            x = x[:, -heard.shape[1] :] + heard
            x = x + layer(self._dropped(x))
        return cast(Tensor, self.out(x))

    def _dropped(self, x: Tensor) -> Tensor:
        """Dropout in training: drops the same channels for a whole clip."""
        return x * self.drop(torch.ones_like(x[:, :1])) if self.training else x


def _convolved(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """Apply a convolution over T to [B, T, C], as one matrix product over its taps: faster for few frames."""
    dilation = conv.dilation[0]
    taps = x.unfold(1, 2 * dilation + 1, 1)[..., ::dilation].flatten(2)
    return F.linear(taps, conv.weight.flatten(1), conv.bias)


def _feed_forward(width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


@cache
def load_viseme_estimator(path: Path | None = None) -> VisemeEstimator:
    """Load a viseme estimator; None loads the shipped one. Raises EngineError ``checkpoint_broken`` for a missing or
    unsuitable file, ``checkpoint_missing`` if the shipped one is missing.
    """
    if path is None and not WEIGHTS.is_file():
        raise EngineError("checkpoint_missing", f"{WEIGHTS} is missing: install knotcast again")
    path, estimator = path or WEIGHTS, VisemeEstimator()
    try:
        estimator.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise EngineError(
            "checkpoint_broken", f"{path} is not a viseme estimator: make one with training.viseme_estimator"
        ) from error
    return estimator.eval().requires_grad_(False)
