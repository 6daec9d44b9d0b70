"""Interface of training sets: batches of clips, equal for every process that asks for the same rows.

A clip is latents with what drives them and a reference that lies ahead in time. Knows no model family.
"""

from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor

from training.noise import Draws


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """latents [B, F, C, h, w]; drive [B, F, n, d]; features [B, r] of the reference; reference [B], its index from the
    first latent. portrait: its latent [B, C, h, w], None = the zero latent. text: [B, 512, D], None = the model has no
    text."""

    latents: Tensor
    drive: Tensor
    features: Tensor
    reference: Tensor
    portrait: Tensor | None = None
    text: Tensor | None = None

    def to(self, device: torch.device) -> "ClipBatch":
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in given.items() if value is not None})


class Clips(Protocol):
    """Endless batches of clips, drawn by a seed."""

    def batch(self, number: int, size: int, share: slice = slice(None)) -> ClipBatch:
        """Batch number `number`, always the same `size` clips; returns those in `share`."""
        ...

    def apart(self, seed: int) -> "Clips":
        """The same set, drawn by another seed."""
        ...


@dataclass(frozen=True, slots=True)
class DropoutConfig:
    """Probabilities per clip that a condition is withheld. A withheld drive or text is all zeros; a withheld reference
    stays in its place as noise (bidirectional only). both: text and drive are withheld together, as guidance needs it;
    the others are drawn independently."""

    text: float = 0.0
    drive: float = 0.0
    reference: float = 0.0
    both: float = 0.0


def withhold(batch: ClipBatch, dropout: DropoutConfig, draws: Draws) -> ClipBatch:
    """Drop drive and text of some clips."""
    if not (dropout.text or dropout.drive or dropout.both):
        return batch
    some = draws.rand() >= dropout.both
    drive = batch.drive * (some & (draws.rand() >= dropout.drive))[:, None, None, None]
    text = batch.text
    if text is not None:
        text = text * (some & (draws.rand() >= dropout.text))[:, None, None]
    return replace(batch, drive=drive, text=text)
