"""Loader of encoders in the folder format of transformers.

transformers is imported only when an encoder is loaded; nothing else in the project needs it. Weights are safetensors
only.
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
    """Import transformers with warnings and progress bars off. Raises EngineError ``encoders_missing`` if it is not
    installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # import-time warnings of other packages
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
    """Read a model's config.json and check that weights exist. family: the required ``model_type``. Raises EngineError
    ``encoder_missing``, ``encoder_broken``, ``encoder_mismatch``."""
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
    """Load an instance of a transformers class for inference, with every weight from the folder.

    spare: prefixes of names that may be missing or left over, because their modules are not run. Raises EngineError
    ``encoder_mismatch`` for any other difference, ``encoder_broken`` for unreadable files. Call `read_config` first.
    """
    from huggingface_hub.errors import StrictDataclassError  # comes with transformers; raised for an invalid config

    unreadable = (OSError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, SafetensorError)
    try:
        model, found = kind.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True,
            ignore_mismatched_sizes=True,  # transformers would raise without the tensor's name
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
