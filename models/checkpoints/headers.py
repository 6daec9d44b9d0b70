"""Validated safetensors headers: names, types, shapes and offsets are checked against the size of the file.

The safetensors library makes the same checks; the messages here say what is wrong with the file. Independent of any
model.
"""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ground.errors import EngineError

MAX_HEADER_BYTES = 100 * 2**20  # the library's own limit
MAX_NAME = 300
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Type and shape of a tensor that is not read yet."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Read and check the header of a safetensors file. Raises EngineError ``checkpoint_broken``."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            start = file.read(8)
            if len(start) < 8:
                raise broken(path, "it ends within its first 8 bytes")
            (length,) = struct.unpack("<Q", start)
            if length > MAX_HEADER_BYTES:
                raise broken(path, f"its header would be {length} bytes long, more than safetensors allows")
            if 8 + length > size:
                raise broken(path, "it ends within its header")
            text = file.read(length)
    except OSError as error:
        raise broken(path, error.strerror or "it cannot be read") from error
    return _check(path, _parse(path, text), size - 8 - length)


def broken(path: Path, reason: str) -> EngineError:
    return EngineError("checkpoint_broken", f"{path.name} is not a readable checkpoint: {reason}")


def check_name(path: Path, name: Any) -> None:
    """Require a printable name of 1 to 300 characters, because names appear in messages. Raises EngineError
    ``checkpoint_broken``."""
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= MAX_NAME:
        raise broken(path, f"it contains an invalid tensor name, {ascii(name)[:60]}")


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            raise ValueError("a name occurs twice in its header")
        return made

    try:
        header = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        known = str(error) if "occurs twice" in str(error) else "its header is not JSON"
        raise broken(path, known) from error
    if not isinstance(header, dict):
        raise broken(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    return header


def _check(path: Path, header: dict[str, Any], size: int) -> dict[str, TensorInfo]:
    """Require that each tensor's data has the length of its shape, and that together they fill the `size` bytes after
    the header without gaps or overlaps."""
    tensors, spans = {}, []
    for name, entry in header.items():
        check_name(path, name)
        tensors[name], span = _entry(path, name, entry)
        spans.append((*span, name))
    at = 0
    for begin, end, name in sorted(spans):
        if begin != at:
            raise broken(
                path, f"the data of {name} {'overlaps another tensor' if begin < at else 'begins after a gap'}"
            )
        at = end
    if at > size:
        raise broken(path, f"it is truncated, {at - size} bytes are missing")
    if at < size:
        raise broken(path, f"{size - at} bytes at its end belong to no tensor")
    return tensors


def _entry(path: Path, name: str, entry: Any) -> tuple[TensorInfo, tuple[int, int]]:
    try:
        kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise broken(path, f"its header does not describe {name}") from error
    numbers = [*shape, begin, end] if isinstance(shape, list) else [None]
    if not all(type(number) is int and 0 <= number < 2**48 for number in numbers):
        raise broken(path, f"the shape or the data offsets of {name} are invalid")
    if not isinstance(kind, str) or kind not in DTYPES:
        raise broken(path, f"{name} has an unsupported type, {str(kind)[:20]!r}")
    info = TensorInfo(DTYPES[kind], tuple(shape))
    if end - begin != info.bytes:
        raise broken(path, f"the length of {name} does not match its shape")
    return info, (begin, end)
