"""Reader of trainers' ``.pt`` and ``.pth`` files: the only place that reads a pickle, by torch's loader for tensors and
plain containers.

Nothing runs on weights read here: they are converted to safetensors once. Knows no model.
"""

import pickle  # its exception only
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.checkpoints.checkpoint import Checkpoint
from models.checkpoints.headers import NAMES, TensorInfo, broken, check_name

# What Self Forcing and its relatives keep side by side; averaged weights first, as their demos do. The critic is for
# training only.
WITHIN = ("generator_ema", "generator", "generator_lora")
# All that a file which is no checkpoint has been seen to raise in torch's loader.
REASONS = (
    pickle.UnpicklingError, zipfile.BadZipFile, struct.error, RuntimeError, OSError, EOFError, ValueError, LookupError,
    AttributeError, TypeError, AssertionError, OverflowError, MemoryError, ImportError,
)  # fmt: skip


def open_pickle(path: Path) -> Checkpoint:
    """The weights in a trainer's file, left on the disk until they are read. Raises EngineError
    ``checkpoint_broken``."""
    try:
        with warnings.catch_warnings():  # of torch, about files that are refused, or read, in a moment
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except REASONS as error:
        unsafe = "weights_only" in str(error).lower()
        reason = "it holds more than tensors, and nothing else is loaded" if unsafe else "torch cannot read it"
        raise broken(path, reason) from error
    part, weights = _weights(loaded)
    if not isinstance(weights, Mapping) or not weights:
        raise broken(path, f"it holds no tensors by name, at its top or under {', '.join(WITHIN)}")
    tensors = {}
    for name, value in weights.items():
        check_name(path, name)
        plain = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
        if not plain or value.dtype not in NAMES:
            raise broken(path, f"{name} is no plain tensor")
        tensors[name] = TensorInfo(value.dtype, tuple(value.shape))
    return Checkpoint(path.name + (f" ({part})" if part else ""), tensors, lambda name: weights[name].contiguous())


def _weights(loaded: Any) -> tuple[str, Any]:
    if isinstance(loaded, Mapping):
        for part in WITHIN:
            if part in loaded:
                return part, loaded[part]
    return "", loaded
