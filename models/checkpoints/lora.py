"""LoRA adapters in PEFT's format, merged into the weights they were trained on: W += alpha / r * B A.

The result of a merge is an ordinary checkpoint; no other module handles adapters.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ground.errors import EngineError, RequestError
from models.checkpoints.checkpoint import Checkpoint
from models.checkpoints.headers import TensorInfo
from models.checkpoints.names import bare_name
from models.checkpoints.reading import open_checkpoint

_PAIR = re.compile(r"(.+)\.lora_(A|B)(?:\.\w+)?\.weight")
# Settings of PEFT with which W += alpha / r * B A does not hold.
_OTHER_RULES = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "fan_in_fan_out")
MAX_CONFIG_BYTES = 2**20
MAX_ALPHA = 1e6


@dataclass(frozen=True, slots=True)
class Adapter:
    """An open adapter. pairs: official name of a weight to the names of its A [r, in] and B [out, r]. alpha: numerator
    of the scale alpha / r."""

    checkpoint: Checkpoint
    pairs: Mapping[str, tuple[str, str]]
    alpha: float

    def scale(self, weight: str) -> float:
        return self.alpha / self.checkpoint.tensors[self.pairs[weight][0]].shape[0]


def open_adapter(path: Path, name: Callable[[str], str], alpha: float | None = None) -> Adapter:
    """Open an adapter: a folder or file of PEFT, or a trainer's ``.pt`` with the same names.

    name: maps a parameter's name to its official name. alpha: used if no adapter_config.json beside the file gives one.
    Raises EngineError, RequestError ``no_alpha``.
    """
    checkpoint = open_checkpoint(path)
    config = _config(path / "adapter_config.json" if path.is_dir() else path.with_name("adapter_config.json"))
    if found := [rule for rule in _OTHER_RULES if config.get(rule)]:
        raise EngineError("adapter_unsupported", f"the adapter {path.name} uses {found[0]}, which is not supported")
    alpha = config.get("lora_alpha", alpha)
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        raise RequestError(
            "no_alpha", f"no adapter_config.json beside {path.name} gives the adapter's alpha: set --lora-alpha"
        )
    if not abs(alpha) < MAX_ALPHA:
        raise EngineError(
            "adapter_unsupported", f"the alpha of the adapter {path.name} is not a number below a million"
        )
    halves: dict[str, dict[str, str]] = {}
    for key in checkpoint.tensors:
        if not (found_pair := _PAIR.fullmatch(bare_name(key))):
            raise EngineError("adapter_unsupported", f"{checkpoint.label} contains {key}, not part of a LoRA pair")
        pair = halves.setdefault(name(f"{found_pair[1]}.weight"), {})
        if found_pair[2] in pair:
            raise EngineError("adapter_unsupported", f"{checkpoint.label} contains more than one adapter, see {key}")
        pair[found_pair[2]] = key
    if alone := sorted(weight for weight, pair in halves.items() if len(pair) < 2):
        raise EngineError("checkpoint_mismatch", f"{checkpoint.label} contains only A or only B for {alone[0]}")
    return Adapter(checkpoint, {weight: (pair["A"], pair["B"]) for weight, pair in halves.items()}, float(alpha))


def is_adapter(names: Mapping[str, TensorInfo]) -> bool:
    return any(_PAIR.fullmatch(bare_name(name)) for name in names)


def merge(base: Checkpoint, adapter: Adapter) -> Checkpoint:
    """Add an adapter to a base checkpoint with official names, tensor by tensor as they are read. Raises EngineError
    ``checkpoint_mismatch`` if a pair fits no weight."""
    for weight, (a, b) in adapter.pairs.items():
        down, up = adapter.checkpoint.tensors[a].shape, adapter.checkpoint.tensors[b].shape
        shape = base.tensors[weight].shape if weight in base.tensors else None
        if len(down) != 2 or len(up) != 2 or up[1] != down[0] or not down[0] or shape != (up[0], down[1]):
            raise EngineError(
                "checkpoint_mismatch",
                f"{adapter.checkpoint.label} does not fit {base.label}: its pair for {weight} is "
                f"{list(up)} times {list(down)}, the weight is {list(shape) if shape else 'missing'}",
            )

    def read(name: str) -> Tensor:
        value = base.read(name)
        if name not in adapter.pairs:
            return value
        a, b = (adapter.checkpoint.read(key).float() for key in adapter.pairs[name])
        return (value.float() + adapter.scale(name) * (b @ a)).to(value.dtype)

    return Checkpoint(f"{base.label} with {adapter.checkpoint.label}", base.tensors, read)


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text()) if path.stat().st_size <= MAX_CONFIG_BYTES else None
    except (OSError, ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise EngineError("checkpoint_broken", f"{path.name} beside the adapter is not a readable JSON object")
    return config
