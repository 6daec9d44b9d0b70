"""Prepared clips as examples for a model whose latents are a video's: the tensors that training.latents reads.

The encoder is the caller's. The one that belongs to the weights (`models.wan_vae`) is here without its weights.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from engine.drive import DriveBuffer
from engine.errors import RequestError
from models.config import ModelConfig
from training.video.clips import Clip, Floats, read_sound, read_window

Encoder = Callable[[Tensor], Tensor]  # uint8 [T, H, W, 3] to normalised latents [1 + (T - 1) / 4, C, h, w]


def example(clip: Clip, first: int, latents: int, model: ModelConfig, encode: Encoder) -> dict[str, Tensor]:
    """latents, drive and portrait, as training.latents.write_clip takes them, of a clip from frame `first` on: 22
    latents are 85 frames, of which the first is a latent by itself. Raises RequestError ``wrong_fps``."""
    if clip.fps != model.fps:
        raise RequestError(
            "wrong_fps", f"{clip.path.name} has {clip.fps} fps, {model.name} needs {model.fps}: prepare with --fps"
        )
    window = read_window(clip, first, 1 + (latents - 1) * model.frames_per_latent)
    pictures = torch.from_numpy(window.frames)
    drive = torch.from_numpy(_drive(clip, first, latents, model))
    return {"latents": encode(pictures), "drive": drive, "portrait": encode(pictures[-1:])[0]}


def _drive(clip: Clip, first: int, latents: int, model: ModelConfig) -> Floats:
    """[F, n, d]: as a call hears the clip, with nothing given but the voice. A token hears a little more than its own
    time, so a second of the clip on either side of the window is heard too."""
    begin = max(0, first - clip.fps)
    end = min(clip.frames, first + (latents + 1) * model.frames_per_latent + clip.fps)
    pcm = np.round(read_sound(clip, begin, end - begin) * 32768).clip(-32768, 32767).astype(np.int16)
    buffer = DriveBuffer(model, first_frame=first - begin)
    buffer.push_voice(pcm, 0)
    return buffer.take(0, latents).tokens
