"""Reader of checkpoint files in every published format: safetensors, shards with an index, trainers' ``.pt``.

Opening reads names, shapes and types only; `Checkpoint.read` reads a tensor.
"""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ground.errors import EngineError
from ground.files import reachable
from models.checkpoints.checkpoint import Checkpoint
from models.checkpoints.folders import INDEX
from models.checkpoints.headers import TensorInfo, broken, check_name, read_header
from models.checkpoints.pickles import open_pickle

PICKLED = (".pt", ".pth", ".bin", ".ckpt")
MAX_INDEX_BYTES = 64 * 2**20


def open_checkpoint(path: Path, device: str = "cpu") -> Checkpoint:
    """Open a safetensors file, an index of shards, a trainer's ``.pt``, or a folder that contains exactly one of them.

    If the file does not exist but its index of shards does, the shards are opened. Raises EngineError
    ``checkpoint_missing``, ``checkpoint_ambiguous``, ``checkpoint_broken``, RequestError ``cannot_read``.
    """
    if reachable(path).is_dir():
        path = _in_folder(path)
    index = path if path.name.endswith(INDEX) else path.with_name(path.name.removesuffix(".safetensors") + INDEX)
    if index.is_file() and not (path != index and path.is_file()):
        return _shards(index, device)
    if not path.is_file():
        raise EngineError("checkpoint_missing", f"there is no checkpoint {path}")
    if path.suffix in PICKLED:
        return open_pickle(path)
    if path.suffix != ".safetensors":
        raise broken(path, f"its name must end in .safetensors or one of {', '.join(PICKLED)}")
    return _file(path, device)


def _in_folder(folder: Path) -> Path:
    """Path of the only checkpoint in a folder written by diffusers, PEFT or a trainer."""
    for pattern in (f"*{INDEX}", "*.safetensors", *(f"*{suffix}" for suffix in PICKLED)):
        found = sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
        if len(found) > 1:
            raise EngineError(
                "checkpoint_ambiguous",
                f"{folder} holds {len(found)} checkpoints: choose one of {', '.join(path.name for path in found[:4])}",
            )
        if found:
            return found[0]
    raise EngineError("checkpoint_missing", f"there is no checkpoint in {folder}")


def _file(path: Path, device: str) -> Checkpoint:
    tensors = read_header(path)
    try:
        file = safe_open(path, framework="pt", device=device)
    except (OSError, SafetensorError) as error:
        raise broken(path, "its header is not that of a safetensors file") from error
    return Checkpoint(path.name, tensors, file.get_tensor)


def _shards(index: Path, device: str) -> Checkpoint:
    """Open all shards of an index. Each tensor must be in the shard that the index names, and no shard may contain a
    tensor that the index does not list."""
    try:
        if index.stat().st_size > MAX_INDEX_BYTES:
            raise broken(index, "it is too large for an index")
        place = json.loads(index.read_text())["weight_map"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise broken(index, "it is not an index of shards") from error
    if not isinstance(place, dict) or not all(isinstance(name, str) for name in place.values()):
        raise broken(index, "it is not an index of shards")
    for key in place:
        check_name(index, key)
    tensors: dict[str, TensorInfo] = {}
    readers: dict[str, Callable[[str], Tensor]] = {}
    for name in sorted(set(place.values())):
        if not re.fullmatch(r"[\w.-]+\.safetensors", name):  # shards must be in the folder of the index
            raise broken(index, f"its shard {name[:60]!r} is not the name of a .safetensors file in its folder")
        if not (path := index.with_name(name)).is_file():
            raise broken(index, f"its shard {name} is missing")
        shard = _file(path, device)
        readers[name] = shard.read
        if strange := sorted(key for key in shard.tensors if place.get(key) != name):
            raise broken(index, f"it does not list {strange[0]}, which {name} contains")
        tensors |= shard.tensors
    if absent := sorted(place.keys() - tensors.keys()):
        raise broken(index, f"it lists {absent[0]} in {place[absent[0]]}, which does not contain it")
    return Checkpoint(index.name, tensors, partial(_read_shard, readers, place))


def _read_shard(readers: dict[str, Callable[[str], Tensor]], place: dict[str, str], key: str) -> Tensor:
    return readers[place[key]](key)
