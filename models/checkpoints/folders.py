"""Paths and file names of models on disk."""

from pathlib import Path

from ground.files import reachable

DIT = "dit.safetensors"
VAE = "vae.safetensors"  # Wan2.1's autoencoder, official names
TINY = "tiny.safetensors"  # TAEHV's
LTX = "ltx-vae.safetensors"
LTX_CONFIG = "ltx-vae.json"
WAV2VEC = "wav2vec2/model.safetensors"
WAV2VEC_CONFIG = "wav2vec2/config.json"
INDEX = ".safetensors.index.json"  # of shards, in the place of any of them

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"


def models_folder(models_dir: str = "") -> Path:
    """The folder of all models that are not in the package."""
    return Path(models_dir) if models_dir else Path.home() / ".cache" / "knotcast" / "models"


def model_folder(name: str, models_dir: str = "") -> Path:
    """One model's folder, in the package if it is shipped. Raises RequestError ``cannot_read`` where nobody may look
    into it."""
    folder = WEIGHTS / name if is_packaged(name) else models_folder(models_dir) / name
    return reachable(folder / DIT).parent


def is_packaged(name: str) -> bool:
    """Its weights are shipped, and are nobody's to replace."""
    return (WEIGHTS / name).is_dir()
