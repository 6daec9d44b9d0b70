"""Viseme estimator: lip controls frame by frame, by a small causal network on log-mel.

The transformer hears the same log-mel, but has one token of its own for four frames and half a dozen layers for
everything: it hears voices that it was not trained on less well. So its drive holds this estimate beside the features.
It looks no further ahead than they do, and back over a window of its own, so it has no state. Trained by
training.viseme_estimator.
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
VISEMES = 5  # jaw, pucker, smile, press, upper over their scales (ground.motion), the first of its channels
LEVELLED = np.array([1, 1, 1, 0, 1], np.float32)  # which of them a level scales: lips are closed or are not
_DILATIONS = (1, 2, 1, 4)
HISTORY = 2 * sum(_DILATIONS)  # frames before the first that is told


class VisemeEstimator(nn.Module):
    """Tokens of consecutive frames (`models.encoders.mel.LogMelConfig`) to what the lips do in them."""

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
        """[B, HISTORY + T, token_size] to [B, T, VISEMES]; every frame hears itself and the HISTORY before it."""
        x = self.proj(tokens)
        x = x + self.first(x)
        for norm, conv, layer in zip(self.norms, self.convs, self.layers, strict=True):
            heard = _convolved(F.gelu(norm(self._dropped(x))), cast(nn.Conv1d, conv))
            x = x[:, -heard.shape[1] :] + heard
            x = x + layer(self._dropped(x))
        return cast(Tensor, self.out(x))

    def _dropped(self, x: Tensor) -> Tensor:
        """In training: without some of its channels, the same for a whole clip."""
        return x * self.drop(torch.ones_like(x[:, :1])) if self.training else x


def _convolved(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """[B, T, C] through a convolution over T, as one product of its taps: quicker for so few frames."""
    dilation = conv.dilation[0]
    taps = x.unfold(1, 2 * dilation + 1, 1)[..., ::dilation].flatten(2)
    return F.linear(taps, conv.weight.flatten(1), conv.bias)


def _feed_forward(width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


@cache
def load_viseme_estimator(path: Path | None = None) -> VisemeEstimator:
    """None = the shipped one. Raises EngineError ``checkpoint_broken`` for a file that is missing or holds something
    else, ``checkpoint_missing`` for the shipped one.
    """
    if path is None and not WEIGHTS.is_file():
        raise EngineError("checkpoint_missing", f"{WEIGHTS} is not there: install knotcast again")
    path, estimator = path or WEIGHTS, VisemeEstimator()
    try:
        estimator.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise EngineError(
            "checkpoint_broken", f"{path} is no viseme estimator: make one with training.viseme_estimator"
        ) from error
    return estimator.eval().requires_grad_(False)
