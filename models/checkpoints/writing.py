"""Streaming writer of safetensors files, which holds one tensor in memory at a time."""

import json
import struct
from pathlib import Path

import torch

from ground.errors import RequestError
from ground.files import replacing
from models.checkpoints.checkpoint import Checkpoint
from models.checkpoints.headers import NAMES, TensorInfo

_ALIGNMENT = 8


def write(
    checkpoint: Checkpoint, path: Path, dtype: torch.dtype | None = None, metadata: dict[str, str] | None = None
) -> None:
    """Write a checkpoint to a safetensors file, atomically. dtype: type of all tensors; None keeps their types. Raises
    RequestError ``cannot_write``, ``not_finite``."""
    tensors = {name: TensorInfo(dtype or info.dtype, info.shape) for name, info in checkpoint.tensors.items()}
    # The order of the safetensors library: wide types first, so that every tensor is aligned to the width of its type.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(_header(tensors, order, metadata or {}))
        for name in order:
            value = checkpoint.read(name).detach().to("cpu")
            if value.is_floating_point() and not bool(_finite(value)):
                raise RequestError("not_finite", f"{checkpoint.label} contains NaN or infinite values, in {name}")
            flat = value.to(tensors[name].dtype).contiguous().flatten()
            file.write(flat.view(torch.uint8).numpy().data if flat.numel() else b"")


def _finite(value: torch.Tensor) -> torch.Tensor:
    return torch.isfinite(value.float() if value.dtype.itemsize == 1 else value).all()  # isfinite has no float8 version


def _header(tensors: dict[str, TensorInfo], order: list[str], metadata: dict[str, str]) -> bytes:
    at, header = 0, {"__metadata__": {"format": "pt", **metadata}}
    for name in order:
        info = tensors[name]
        header[name] = {"dtype": NAMES[info.dtype], "shape": list(info.shape), "data_offsets": [at, at + info.bytes]}  # type: ignore[dict-item]
        at += info.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text
