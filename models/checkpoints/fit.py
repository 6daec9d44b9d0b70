"""Comparison of a checkpoint with a network: names, shapes and types, before any tensor is read."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ground.errors import EngineError
from models.checkpoints.checkpoint import Checkpoint

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
NAMED = 3  # names that `Fit.line` gives of each kind of fault

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Fit:
    """Result of a comparison.

    fitting: number of tensors that fit. missing, unexpected: names. shapes: names with a wrong shape. types: names
    whose type is not a plain float. ignored: names of known tensors that are not used.
    """

    fitting: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: tuple[str, ...]
    types: tuple[str, ...]
    ignored: tuple[str, ...]

    @property
    def good(self) -> bool:
        return not (self.missing or self.unexpected or self.shapes or self.types)

    @property
    def faults(self) -> list[tuple[str, tuple[str, ...]]]:
        kinds = {
            "missing": self.missing, "unexpected": self.unexpected, "with a wrong shape": self.shapes,
            "with a wrong type": self.types,
        }  # fmt: skip
        return [(kind, names) for kind, names in kinds.items() if names]

    @property
    def line(self) -> str:
        """All kinds of faults in one line, each with its first `NAMED` names."""
        parts = []
        for kind, names in self.faults:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            parts.append(f"{len(names)} {kind} ({', '.join(names[:NAMED])}{more})")
        return "; ".join(parts)


def compare(checkpoint: Checkpoint, wanted: Shapes, ignored: tuple[str, ...] = ()) -> Fit:
    """Compare a checkpoint with the wanted names and shapes. ignored: prefixes of unwanted names that are allowed."""
    found = checkpoint.tensors
    extra = sorted(found.keys() - wanted.keys())
    known = tuple(name for name in extra if ignored and name.startswith(ignored))
    both = sorted(found.keys() & wanted.keys())
    shapes = tuple(
        f"{name} {list(found[name].shape)}, not {list(wanted[name])}"
        for name in both
        if found[name].shape != wanted[name]
    )
    types = tuple(
        f"{name} {str(found[name].dtype).removeprefix('torch.')}" for name in both if found[name].dtype not in FLOATS
    )
    return Fit(
        fitting=sum(found[name].shape == wanted[name] and found[name].dtype in FLOATS for name in both),
        missing=tuple(sorted(wanted.keys() - found.keys())),
        unexpected=tuple(name for name in extra if name not in known),
        shapes=shapes, types=types, ignored=known,
    )  # fmt: skip


def require(checkpoint: Checkpoint, wanted: Shapes, ignored: tuple[str, ...], model: str) -> Fit:
    """Compare as `compare` does. Raises EngineError ``checkpoint_mismatch`` if there is any fault."""
    fit = compare(checkpoint, wanted, ignored)
    if not fit.good:
        raise EngineError("checkpoint_mismatch", f"{checkpoint.label} does not fit {model}: {fit.line}")
    return fit


def shapes_of(module: nn.Module) -> Shapes:
    """Names and shapes of a network's tensors; it may be on the meta device."""
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}
