"""Comparison of a published transformer's config.json with the model's config, before anything is loaded."""

import json
from pathlib import Path
from typing import Any

from ground.errors import EngineError
from models.config import ModelConfig

PUBLISHED = "config.json"


def check_published(config: ModelConfig, folder: Path) -> None:
    """Compare the config.json in a model's folder, if there is one. Raises EngineError ``checkpoint_mismatch`` that
    names every wrong field, ``checkpoint_broken``."""
    path = folder / PUBLISHED
    if not path.is_file():
        return
    try:
        said = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise EngineError("checkpoint_broken", f"{path} is not readable JSON") from error
    if not isinstance(said, dict):
        raise EngineError("checkpoint_broken", f"{path} is not a JSON object")
    ours = expected(config)
    wrong = [f"{name} {said[name]}, not {ours[name]}" for name in ours if name in said and said[name] != ours[name]]
    if wrong:
        raise EngineError("checkpoint_mismatch", f"{path} is not that of {config.name}: {', '.join(wrong)}")


def expected(config: ModelConfig) -> dict[str, Any]:
    """Expected fields of config.json, under the names that Wan2.1 and FlashHead use."""
    dit, cell = config.dit, config.pixels_per_latent
    return {
        "dim": dit.dim, "in_dim": dit.in_dim, "out_dim": dit.latent_channels, "ffn_dim": dit.ffn_dim,
        "freq_dim": dit.frequency_dim, "num_heads": dit.heads, "num_layers": dit.layers, "eps": dit.eps,
        "patch_size": list(dit.patch), "vae_stride": [config.frames_per_latent, cell, cell], "has_image_input": False,
    }  # fmt: skip
