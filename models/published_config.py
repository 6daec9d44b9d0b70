"""Check of a published transformer's config.json against ours, before anything is loaded."""

import json
from pathlib import Path
from typing import Any

from ground.errors import EngineError
from models.config import ModelConfig

PUBLISHED = "config.json"


def check_published(config: ModelConfig, folder: Path) -> None:
    """Raises EngineError ``checkpoint_mismatch`` that names every field; without the file, nothing is compared."""
    path = folder / PUBLISHED
    if not path.is_file():
        return
    try:
        said = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise EngineError("checkpoint_broken", f"{path} is not readable JSON") from error
    if not isinstance(said, dict):
        raise EngineError("checkpoint_broken", f"{path} holds no fields")
    ours = expected(config)
    wrong = [f"{name} {said[name]}, not {ours[name]}" for name in ours if name in said and said[name] != ours[name]]
    if wrong:
        raise EngineError("checkpoint_mismatch", f"{path} is of another model than {config.name}: {', '.join(wrong)}")


def expected(config: ModelConfig) -> dict[str, Any]:
    """By the names of Wan2.1's and FlashHead's files."""
    dit, cell = config.dit, config.pixels_per_latent
    return {
        "dim": dit.dim, "in_dim": dit.in_dim, "out_dim": dit.latent_channels, "ffn_dim": dit.ffn_dim,
        "freq_dim": dit.frequency_dim, "num_heads": dit.heads, "num_layers": dit.layers, "eps": dit.eps,
        "patch_size": list(dit.patch), "vae_stride": [config.frames_per_latent, cell, cell], "has_image_input": False,
    }  # fmt: skip
