"""Streaming wav2vec2: the features of every layer for each video frame, from the last 8 seconds of voice.

The whole bounded window is run again for every chunk. Nothing cheaper is right: the first layer's group norm takes its
statistics over all of the window, and every layer attends to all of it. So a frame's features are not those that the
whole recording would give, but those that a model trained on 8 s windows saw (FlashHead). The state is a value; one
encoder serves every call. Knows nothing of calls, latents or the transformer that is driven.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ground.errors import EngineError
from ground.units import DRIVE_RATE
from models.encoders.pretrained import import_transformers, load_pretrained, read_config

WINDOW_SECONDS = 8
WINDOW = WINDOW_SECONDS * DRIVE_RATE
UNUSED = ("lm_head.", "masked_spec_embed", "wav2vec2.masked_spec_embed")  # letters; what training masks with


@dataclass(frozen=True, slots=True)
class SpeechState:
    """What a stream remembers: at most the last 8 s of its sound, float32 on the CPU, and the index in the call of the
    first of these samples."""

    samples: Tensor
    first: int = 0


class SpeechEncoder:
    """A pure function of (sound, state). layers, width: of what it returns; 12 and 768 for the base model."""

    def __init__(self, model: Any, device: torch.device, dtype: torch.dtype) -> None:
        """model: a ``Wav2Vec2Model`` on its device."""
        self.layers, self.width = int(model.config.num_hidden_layers), int(model.config.hidden_size)
        self._model, self._device, self._dtype = model, device, dtype

    @classmethod
    def load(cls, folder: Path, device: torch.device | str, dtype: torch.dtype) -> "SpeechEncoder":
        """From config.json and model.safetensors as transformers writes them (facebook/wav2vec2-base-960h). Raises
        EngineError for what is missing, unreadable, or does not fit."""
        config = read_config(folder, "wav2vec2")
        if config.get("do_stable_layer_norm") or config.get("add_adapter"):
            raise EngineError(
                "encoder_mismatch", f"{folder} holds another shape of wav2vec2 than the base model's: use base-960h"
            )
        place = torch.device(device)
        return cls(load_pretrained(import_transformers().Wav2Vec2Model, folder, place, dtype, UNUSED), place, dtype)

    @classmethod
    def random(cls, device: torch.device | str, dtype: torch.dtype, **small: Any) -> "SpeechEncoder":
        """Seeded noise for weights. small: fields of transformers' ``Wav2Vec2Config`` (default: the base model's)."""
        transformers, place = import_transformers(), torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**small))
        return cls(model.to(device=place, dtype=dtype).eval().requires_grad_(False), place, dtype)

    def initial_state(self) -> SpeechState:
        return SpeechState(torch.zeros(0))

    @torch.inference_mode()
    def encode(self, samples: Tensor, state: SpeechState, frames: int, fps: int) -> tuple[Tensor, SpeechState]:
        """Add mono sound at 16 kHz (any number of samples, also none; float with full scale 1) and return the last
        ``frames`` video frames of the window `[frames, layers, width]`, the last of which ends where the sound does.

        The window is always 8 s: a call begins after 8 s of digital silence, as FlashHead's does, which also keeps
        the shapes. It is brought to zero mean and unit variance as base-960h's feature extractor does, silence
        included. Its convolutions' output (50 a second) becomes `fps` a second, linearly from the first to the last,
        before the layers attend: what they give is by frame already, and that is what FlashHead was trained on.
        """
        assert samples.dim() == 1 and samples.is_floating_point(), "mono sound, float with full scale 1"
        assert 0 < frames <= WINDOW_SECONDS * fps, "no more frames than the window has"
        state = _remember(samples, state)
        window = F.pad(state.samples, (WINDOW - len(state.samples), 0)).to(self._device)
        window = (window - window.mean()) / torch.sqrt(window.var(correction=0) + 1e-7)
        features = self._model.feature_extractor(window.to(self._dtype)[None]).float()
        by_frame = F.interpolate(features, size=WINDOW_SECONDS * fps, mode="linear", align_corners=True)
        states = self._attend(by_frame.transpose(1, 2).to(self._dtype))
        return states[0, -frames:].clone(), state

    def _attend(self, features: Tensor) -> Tensor:
        """Convolutional features [1, F, c] to what each layer gives [1, F, layers, width]."""
        encoder = self._model.encoder
        hidden = cast(Tensor, self._model.feature_projection(features)[0])
        hidden = encoder.layer_norm(hidden + encoder.pos_conv_embed(hidden))
        given = []
        for layer in encoder.layers:
            hidden = layer(hidden)
            given.append(hidden)
        return torch.stack(given, dim=2)


def _remember(samples: Tensor, state: SpeechState) -> SpeechState:
    sound = torch.cat([state.samples, samples.detach().float().cpu()])
    surplus = max(0, len(sound) - WINDOW)
    return SpeechState(sound[surplus:].clone() if surplus else sound, state.first + surplus)
