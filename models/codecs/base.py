"""Codec interface of every model family: a portrait becomes a Reference once, latents become pictures chunk by chunk.

Streaming state is a value: the decoder takes one and returns the next, so that one codec object serves every call and
decoding in chunks equals decoding in one go. Knows no wire format, no clock and no rollout.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class Portrait:
    """A photograph of one face in the canonical framing, and where its features are.

    rgb: uint8 [S, S, 3]; eyes level, 0.211 of the width apart, at 0.454 of the height.
    landmarks: positions and sizes in -1..1 picture units (x right, y down). confidence: 0..1, trust in the landmarks.
    """

    rgb: npt.NDArray[np.uint8]
    landmarks: Mapping[str, float]
    confidence: float = 1.0


@dataclass(frozen=True, slots=True)
class Reference:
    """A portrait as the network and the decoder see it; made once a call.

    latent: [C, h, w], the photograph itself. features: [r, h, w], identity for the network (r may be 0).
    payload: what this codec's decoder needs besides; private to the codec that made it.
    """

    latent: torch.Tensor
    features: torch.Tensor
    payload: Any


class StreamingDecoder(Protocol[State]):
    """Latents to pictures, chunk by chunk. ``State`` is immutable and belongs to one call."""

    def initial_state(self) -> State:
        """The state before the first latent of a call."""
        ...

    def decode(self, latents: torch.Tensor, reference: Reference, state: State) -> tuple[torch.Tensor, State]:
        """Decode [F, C, h, w] to RGB uint8 [N, H, W, 3], on the codec's device, and the next state.

        N is 4F, or 4F - 3 when the state is fresh: a call's first latent shows only the last of its four frames.
        Clips by themselves have their own count (models.clip_codec).
        """
        ...


class Codec(StreamingDecoder[State], Protocol[State]):
    """The whole of what a model family brings to the runner."""

    def encode_reference(self, portrait: Portrait) -> Reference:
        """Once per call: photograph and landmarks to the reference."""
        ...
