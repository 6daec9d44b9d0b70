"""Loader of encoders in the folder format of transformers.

transformers is asked for only when an encoder is; nothing else here needs it. Weights are safetensors only.
"""

import json
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError

from ground.errors import EngineError

WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")


def import_transformers() -> ModuleType:
    """Raises EngineError where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what other packages say of themselves when they are imported
            import transformers
    except ImportError as error:
        raise EngineError(
            "encoders_missing", "this needs the package transformers: pip install 'knotcast[encoders]'"
        ) from error
    logging: Any = transformers.utils.logging  # untyped
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    return transformers


def read_config(folder: Path, family: str) -> dict[str, Any]:
    """A model's config.json; family: the ``model_type`` it must name."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise EngineError("encoder_missing", f"there is no {path}: put the files of a {family} model there") from error
    except (ValueError, RecursionError) as error:
        raise EngineError("encoder_broken", f"{path} is not JSON") from error
    found = config.get("model_type") if isinstance(config, dict) else None
    if found != family:
        raise EngineError("encoder_mismatch", f"{path} describes a model of type {found!r}, not {family!r}")
    if not any((folder / name).is_file() for name in WEIGHT_FILES):
        raise EngineError("encoder_missing", f"there is no {folder / WEIGHT_FILES[0]} (weights are safetensors only)")
    return dict(config)


def load_pretrained(
    kind: Any, folder: Path, device: torch.device, dtype: torch.dtype, spare: tuple[str, ...] = ()
) -> Any:
    """An instance of a transformers class with every weight of its own from the folder, ready to run, not to train.

    spare: beginnings of names that may be missing or left over, as what they belong to is not run. Raises EngineError
    for any other difference, and for files that cannot be read. Call `read_config` first.
    """
    from huggingface_hub.errors import StrictDataclassError  # comes with transformers: what a config may not say

    unreadable = (OSError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, SafetensorError)
    try:
        model, found = kind.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True,
            ignore_mismatched_sizes=True,  # or transformers would raise before the name could be told
        )  # fmt: skip
    except (*unreadable, StrictDataclassError) as error:
        raise EngineError("encoder_broken", f"the model in {folder} cannot be read: {first_line(error)}") from error
    mismatched = [key[0] if isinstance(key, tuple) else key for key in found["mismatched_keys"]]
    wrong = sorted(
        key
        for key in (*found["missing_keys"], *found["unexpected_keys"], *mismatched)
        if not (spare and key.startswith(spare)) or key in mismatched
    )
    if wrong:
        raise EngineError(
            "encoder_mismatch",
            f"the weights in {folder} do not fit its config.json: {len(wrong)} tensors differ, the first is {wrong[0]}",
        )
    return model.to(device).eval().requires_grad_(False)


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
