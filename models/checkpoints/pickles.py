"""Reader of trainers' ``.pt`` and ``.pth`` files, the only module that reads pickles.

Uses torch's restricted loader, which accepts tensors and plain containers only. The files are converted to safetensors
once and never loaded at run time. Independent of any model.
"""

import pickle  # for its exception only
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

# Keys of the networks in a file of Self Forcing and its derivatives, in order of preference: averaged weights first, as
# in their demos. The critic serves training only and is not listed.
WITHIN = ("generator_ema", "generator", "generator_lora")
# Every exception that torch's loader was seen to raise on damaged or unrelated files.
REASONS = (
    pickle.UnpicklingError, zipfile.BadZipFile, struct.error, RuntimeError, OSError, EOFError, ValueError, LookupError,
    AttributeError, TypeError, AssertionError, OverflowError, MemoryError, ImportError,
)  # fmt: skip


def open_pickle(path: Path) -> Checkpoint:
    """Open a trainer's file. Tensors of a zip file stay on disk (mmap) until they are read. Raises EngineError
    ``checkpoint_broken``."""
    try:
        with warnings.catch_warnings():  # torch warns of odd files; those are read or refused below anyway
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except REASONS as error:
        unsafe = "weights_only" in str(error).lower()
        reason = "it contains more than tensors, and only tensors are loaded" if unsafe else "torch cannot read it"
        raise broken(path, reason) from error
    part, weights = _weights(loaded)
    if not isinstance(weights, Mapping) or not weights:
        raise broken(path, f"it contains no named tensors, neither at the top level nor under {', '.join(WITHIN)}")
    tensors = {}
    for name, value in weights.items():
        check_name(path, name)
        plain = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
        if not plain or value.dtype not in NAMES:
            raise broken(path, f"{name} is not a plain tensor")
        tensors[name] = TensorInfo(value.dtype, tuple(value.shape))
    return Checkpoint(path.name + (f" ({part})" if part else ""), tensors, lambda name: weights[name].contiguous())


def _weights(loaded: Any) -> tuple[str, Any]:
    if isinstance(loaded, Mapping):
        for part in WITHIN:
            if part in loaded:
                return part, loaded[part]
    return "", loaded
