"""Training clips encoded beforehand: a folder of safetensors files, one clip each, for video models.

A file holds ``latents`` [F, C, h, w] (normalised, F exactly what the stage takes, the first latent one frame),
``drive`` [F, n, d], ``portrait`` [C, h, w] (the clip's last frame, encoded as a picture by itself, not latents[-1]),
and may hold ``text`` [512, D] (umT5, padding zeroed; without it the prompt is empty) and ``features`` [r].
"""

import copy
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ground.errors import RequestError
from ground.files import replacing
from models.config import ModelConfig
from training.clips import ClipBatch

TEXT_TOKENS = 512


def write_clip(path: Path, tensors: dict[str, Tensor]) -> None:
    """Atomically; the names and shapes are those of the module's docstring."""
    with replacing(path) as partial:
        save_file({name: value.contiguous() for name, value in tensors.items()}, partial)


class LatentFolder:
    """Draws clips at random, each with its reference between the two indices (the upper one excluded).

    frames: latents of every clip. Raises RequestError for a folder without clips, or with one that does not fit.
    """

    def __init__(self, folder: Path, model: ModelConfig, frames: int, reference: tuple[int, int], seed: int) -> None:
        self.model, self.reference, self.seed = model, reference, seed
        self.paths = sorted(folder.glob("*.safetensors"))
        if not self.paths:
            raise RequestError("no_data", f"{folder} holds no *.safetensors clips: see training/latents.py")
        for path in self.paths:
            self._check(path, frames)

    def _check(self, path: Path, frames: int) -> None:
        """By the file's header alone."""
        dit = self.model.dit
        wanted = {
            "latents": (frames, *self.model.latent_shape),
            "drive": (frames, dit.drive_tokens, dit.drive_dim),
            "portrait": self.model.latent_shape,
        }
        optional = {"text": (TEXT_TOKENS, dit.text_dim), "features": (dit.reference_channels,)}
        try:
            with safe_open(path, framework="pt") as file:
                found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise RequestError("bad_data", f"{path.name} is not a readable safetensors file") from error
        for name, shape in (wanted | {name: optional[name] for name in optional if name in found}).items():
            if found.get(name) != shape:
                raise RequestError(
                    "bad_data", f"{path.name}: {name} is {found.get(name, 'missing')}, this stage takes {shape}"
                )

    def batch(self, number: int, size: int, share: slice = slice(None)) -> ClipBatch:
        rng = np.random.default_rng((self.seed, number))
        which = rng.integers(len(self.paths), size=size)[share]
        reference = rng.integers(*self.reference, size=size)[share]
        clips = [load_file(self.paths[i]) for i in which]
        dit = self.model.dit
        text = None
        if dit.text_dim is not None:
            empty = torch.zeros(TEXT_TOKENS, dit.text_dim)
            text = torch.stack([clip.get("text", empty).float() for clip in clips])
        return ClipBatch(
            latents=torch.stack([clip["latents"].float() for clip in clips]),
            drive=torch.stack([clip["drive"].float() for clip in clips]),
            features=torch.stack([clip.get("features", torch.zeros(dit.reference_channels)).float() for clip in clips]),
            reference=torch.from_numpy(reference),
            portrait=torch.stack([clip["portrait"].float() for clip in clips]),
            text=text,
        )

    def apart(self, seed: int) -> "LatentFolder":
        other = copy.copy(self)
        other.seed = seed
        return other
