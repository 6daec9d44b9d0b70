"""Streaming wav2vec2: the features of every layer for each video frame, from the last 8 seconds of voice.

The whole window is encoded again for every chunk. A cheaper way would change the result: the first layer's group norm
takes its statistics over the whole window, and every layer attends to all of it. So a frame's features differ from
those of the whole recording; they are the features of 8 s windows, on which FlashHead was trained. The state is a
value; one encoder serves every call. Independent of calls, latents and the video transformer.
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
# The output layer for letters, and the mask embedding of the training.
UNUSED = ("lm_head.", "masked_spec_embed", "wav2vec2.masked_spec_embed")


@dataclass(frozen=True, slots=True)
class SpeechState:
    """State of a stream. samples: at most the last 8 s of its sound, float32 on the CPU. first: index in the call of
    the first of these samples."""

    samples: Tensor
    first: int = 0


class SpeechEncoder:
    """wav2vec2 as a pure function of sound and state. layers, width: dimensions of the features; 12 and 768 for the
    base model."""

    def __init__(self, model: Any, device: torch.device, dtype: torch.dtype) -> None:
        """model: a ``Wav2Vec2Model`` on its device."""
        self.layers, self.width = int(model.config.num_hidden_layers), int(model.config.hidden_size)
        self._model, self._device, self._dtype = model, device, dtype

    @classmethod
    def load(cls, folder: Path, device: torch.device | str, dtype: torch.dtype) -> "SpeechEncoder":
        """Load from config.json and model.safetensors in the format of transformers (facebook/wav2vec2-base-960h).
        Raises EngineError for missing, unreadable or unsuitable files."""
        config = read_config(folder, "wav2vec2")
        if config.get("do_stable_layer_norm") or config.get("add_adapter"):
            raise EngineError(
                "encoder_mismatch", f"{folder} contains a variant of wav2vec2 that is not supported: use base-960h"
            )
        place = torch.device(device)
        return cls(load_pretrained(import_transformers().Wav2Vec2Model, folder, place, dtype, UNUSED), place, dtype)

    @classmethod
    def random(cls, device: torch.device | str, dtype: torch.dtype, **small: Any) -> "SpeechEncoder":
        """Build with seeded random weights. small: fields of transformers' ``Wav2Vec2Config`` (default: the base
        model's)."""
        transformers, place = import_transformers(), torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**small))
        return cls(model.to(device=place, dtype=dtype).eval().requires_grad_(False), place, dtype)

    def initial_state(self) -> SpeechState:
        return SpeechState(torch.zeros(0))

    @torch.inference_mode()
    def encode(self, samples: Tensor, state: SpeechState, frames: int, fps: int) -> tuple[Tensor, SpeechState]:
        """Add mono sound at 16 kHz (float with full scale 1; any number of samples, also 0). Returns the features
        `[frames, layers, width]` of the window's last ``frames`` video frames, which end with the sound, and the next
        state.

        The window always has 8 s: as in FlashHead, a call is preceded by 8 s of digital silence, so shapes never
        change. The window, including silence, is normalised to zero mean and unit variance, as by base-960h's feature
        extractor. The output of the convolutions (50 a second) is interpolated linearly to `fps` a second, first and
        last value aligned, before the attention layers. So their outputs are per video frame, as FlashHead was trained.
        """
        assert samples.dim() == 1 and samples.is_floating_point(), "mono sound, float with full scale 1"
        assert 0 < frames <= WINDOW_SECONDS * fps, "from 1 frame to all frames of the window"
        state = _remember(samples, state)
        window = F.pad(state.samples, (WINDOW - len(state.samples), 0)).to(self._device)
        window = (window - window.mean()) / torch.sqrt(window.var(correction=0) + 1e-7)
        features = self._model.feature_extractor(window.to(self._dtype)[None]).float()
        by_frame = F.interpolate(features, size=WINDOW_SECONDS * fps, mode="linear", align_corners=True)
        states = self._attend(by_frame.transpose(1, 2).to(self._dtype))
        return states[0, -frames:].clone(), state

    def _attend(self, features: Tensor) -> Tensor:
        """Outputs [1, F, layers, width] of all attention layers for convolutional features [1, F, c]."""
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
