"""Check, without torch, whether a model's files are there. It does not say whether they fit."""

import os
from pathlib import Path

from ground.config import EngineConfig
from ground.errors import EngineError
from models.checkpoints.folders import DIT, INDEX, LTX, TINY, VAE, WAV2VEC, WAV2VEC_CONFIG, WEIGHTS, model_folder
from models.checkpoints.manifest import advice
from models.config import ModelConfig, find_config
from models.presets import with_preset

_OF_CODEC = {"wan": (VAE,), "wan-tiny": (VAE, TINY), "wan-clips": (VAE,), "ltx-clips": (LTX,)}


def needed(config: ModelConfig) -> tuple[str, ...]:
    """Files of a model's folder, in the order of loading."""
    speech = (WAV2VEC_CONFIG, WAV2VEC) if config.dit.audio is not None else ()
    return (DIT, *_OF_CODEC.get(config.codec, ()), *speech)


def is_there(folder: Path, file: str) -> bool:
    """As it is, or as shards with their index."""
    path = folder / file
    return os.path.isfile(path) or os.path.isfile(path.with_name(path.name.removesuffix(".safetensors") + INDEX))


def missing(folder: Path, file: str) -> EngineError:
    """What to say of a model's file that is not there: how to get it."""
    remedy = "install knotcast again" if folder.parent == WEIGHTS else advice(folder.name, file)
    return EngineError(
        "checkpoint_missing", f"{folder.name} lacks {file} in {folder}: {remedy}; or start with random weights"
    )


def check_model(engine: EngineConfig) -> None:
    """Raises AvatarError for a model that nobody knows, a preset that it has not, and for files that are missing."""
    config = with_preset(find_config(engine.model), engine.preset)
    if engine.random_weights:
        return
    folder = model_folder(config.weights or config.name, engine.models_dir)
    for file in needed(config):
        if not is_there(folder, file):
            raise missing(folder, file)
