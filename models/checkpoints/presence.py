"""Check that a model's files exist. It needs no torch and does not look into the files."""

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
    """Names of the files that a model needs in its folder, in the order of loading."""
    speech = (WAV2VEC_CONFIG, WAV2VEC) if config.dit.audio is not None else ()
    return (DIT, *_OF_CODEC.get(config.codec, ()), *speech)


def is_there(folder: Path, file: str) -> bool:
    """Whether a file exists, as one file or as an index of shards."""
    path = folder / file
    return os.path.isfile(path) or os.path.isfile(path.with_name(path.name.removesuffix(".safetensors") + INDEX))


def missing(folder: Path, file: str) -> EngineError:
    """Error for a missing file of a model; its message says how to get the file."""
    remedy = "install knotcast again" if folder.parent == WEIGHTS else advice(folder.name, file)
    return EngineError(
        "checkpoint_missing", f"{folder.name} lacks {file} in {folder}: {remedy}; or start with random weights"
    )


def check_model(engine: EngineConfig) -> None:
    """Check the configured model and preset. Raises RequestError for an unknown model, an unknown preset or a preset of
    a model that has none, EngineError ``checkpoint_missing`` for missing files."""
    config = with_preset(find_config(engine.model), engine.preset)
    if engine.random_weights:
        return
    folder = model_folder(config.weights or config.name, engine.models_dir)
    for file in needed(config):
        if not is_there(folder, file):
            raise missing(folder, file)
