"""Codec interface of every model family: encodes a portrait once a call, decodes latents to pictures chunk by chunk.

Streaming state is a value: the decoder takes a state and returns the next one. So one codec object serves every call,
and decoding in chunks equals decoding at once. Independent of wire formats, clocks and rollouts.
"""

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from engine.portrait.portrait import Portrait

State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class Reference:
    """Encoded portrait, made once a call.

    latent: [C, h, w], the encoded photograph. features: [r, h, w], identity features for the network (r may be 0).
    payload: further data for the decoder, private to the codec that made it.
    """

    latent: torch.Tensor
    features: torch.Tensor
    payload: Any


class StreamingDecoder(Protocol[State]):
    """Decoder from latents to pictures, chunk by chunk. ``State`` is immutable and belongs to one call."""

    def initial_state(self) -> State:
        """The state before the first latent of a call."""
        ...

    def decode(self, latents: torch.Tensor, reference: Reference, state: State) -> tuple[torch.Tensor, State]:
        """Decode [F, C, h, w] to RGB uint8 [N, H, W, 3] on the codec's device. Also returns the next state.

        N is 4F, or 4F - 3 when the state is fresh: a call's first latent shows only the last of its four frames. Codecs
        of separate clips have another N (`models.codecs.clip`).
        """
        ...


class Codec(StreamingDecoder[State], Protocol[State]):
    """Complete codec of a model family: reference encoder and streaming decoder."""

    def encode_reference(self, portrait: Portrait) -> Reference:
        """Encode a photograph and its landmarks, once a call."""
        ...
