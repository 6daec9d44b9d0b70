"""Starting weights of a stage: an earlier stage's checkpoint, an engine's weights, or Wan2.1's in any published format.

Names are Wan2.1's in all of them, or are turned into these (`models.checkpoints`). What a plain text-to-video
checkpoint does not have (input channels of condition and mask, driving cross-attention) is zero or adds nothing, so
that the first step equals the model it came from.
"""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from ground.errors import RequestError
from ground.motion import CHANNELS
from models.checkpoints.names import transformer_name
from models.checkpoints.reading import open_checkpoint
from models.dit.transformer import CausalWanDiT
from training.checkpoint import averaged_weights

PATCH = "patch_embedding.weight"
DRIVE = "drive_embedding.weight"


def read_weights(path: Path) -> dict[str, Tensor]:
    """The averaged weights of a training checkpoint, else all of a file or folder, by official names. Raises
    RequestError, EngineError."""
    if path.suffix == ".safetensors" and (averaged := averaged_weights(path)[0]):
        return averaged
    checkpoint = open_checkpoint(path).renamed(transformer_name)
    return {name: checkpoint.read(name) for name in checkpoint.tensors}


def origin(**files: Path | None) -> dict[str, str]:
    """Identity of a file that a run starts from: a digest of its contents, or that there is none."""
    return {name: "none" if path is None else _digest(path) for name, path in files.items()}


def _digest(path: Path) -> str:
    """Of a file, or of all files of a folder."""
    digest = hashlib.sha256()
    for part in sorted(path.iterdir()) if path.is_dir() else [path]:
        if part.is_file():
            with part.open("rb") as file:
                hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def fill(model: CausalWanDiT, weights: dict[str, Tensor]) -> None:
    """Take over weights in fp32; new input channels are zero, driving modules that are missing keep their own start.

    Raises RequestError where names or shapes differ in any other way.
    """
    own = model.state_dict()
    given = {name: value.float() for name, value in weights.items()}
    wanted = own.get(PATCH)
    found = given.get(PATCH)
    if wanted is not None and found is not None and found.dim() == 5 and found.shape[1] < wanted.shape[1]:
        added = found.new_zeros(len(found), wanted.shape[1] - found.shape[1], *found.shape[2:])
        given[PATCH] = torch.cat([found, added], 1)
    if not any(name.startswith("drive_") for name in given):
        given |= {name: value for name, value in own.items() if name.startswith("drive_")}
    given |= _what_drives_lack(given, model)
    wrong = sorted(
        name for name in own.keys() | given.keys()
        if name not in own or name not in given or own[name].shape != given[name].shape
    )  # fmt: skip
    if wrong:
        raise RequestError(
            "start_mismatch",
            f"the checkpoint does not fit this model: {len(wrong)} tensors differ, the first is {wrong[0]}",
        )
    model.load_state_dict(given)


def _what_drives_lack(given: dict[str, Tensor], model: CausalWanDiT) -> dict[str, Tensor]:
    """Of weights trained when the drive's tokens had no places, or no visemes before the given controls: zeros."""
    dit, embedding = model.config, given.get(DRIVE)
    if embedding is None or DRIVE not in model.state_dict():
        return {}
    filled = {"drive_place": given.get("drive_place", embedding.new_zeros(dit.drive_tokens, dit.dim))}
    if dit.visemes and embedding.shape[1] == dit.drive_dim - dit.visemes:
        features, controls = embedding.split([embedding.shape[1] - 2 * len(CHANNELS), 2 * len(CHANNELS)], 1)
        filled[DRIVE] = torch.cat([features, embedding.new_zeros(len(embedding), dit.visemes), controls], 1)
    return filled
