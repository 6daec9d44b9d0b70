"""Paths and file names of models on disk."""

from pathlib import Path

from ground.files import reachable

DIT = "dit.safetensors"
VAE = "vae.safetensors"  # Wan2.1's autoencoder, official names
TINY = "tiny.safetensors"  # TAEHV's decoder
LTX = "ltx-vae.safetensors"
LTX_CONFIG = "ltx-vae.json"
WAV2VEC = "wav2vec2/model.safetensors"
WAV2VEC_CONFIG = "wav2vec2/config.json"
INDEX = ".safetensors.index.json"  # replaces .safetensors in a file's name when the file is split into shards

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"


def models_folder(models_dir: str = "") -> Path:
    """Folder of all models that are not shipped with the package."""
    return Path(models_dir) if models_dir else Path.home() / ".cache" / "knotcast" / "models"


def model_folder(name: str, models_dir: str = "") -> Path:
    """Folder of one model, inside the package if it is shipped. Raises RequestError ``cannot_read`` without permission
    to read it."""
    folder = WEIGHTS / name if is_packaged(name) else models_folder(models_dir) / name
    return reachable(folder / DIT).parent


def is_packaged(name: str) -> bool:
    """Whether the weights are shipped with the package and must not be overwritten."""
    return (WEIGHTS / name).is_dir()
