"""Checkpoint: names, shapes and types of a file's tensors, and a function that reads one of them.

The one view of every file format. Nothing is read until `Checkpoint.read` asks for a tensor, so a file
that does not fit is refused before memory is taken.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ground.errors import EngineError
from models.checkpoints.headers import TensorInfo


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """label: for messages. read: the tensor of a name, on the device it was opened for."""

    label: str
    tensors: Mapping[str, TensorInfo]
    read: Callable[[str], Tensor]

    @property
    def bytes(self) -> int:
        return sum(info.bytes for info in self.tensors.values())

    def renamed(self, name: Callable[[str], str]) -> "Checkpoint":
        """The same tensors by other names. Raises EngineError where two would share one."""
        origin: dict[str, str] = {}
        for old in self.tensors:
            if (new := name(old)) in origin:
                raise EngineError(
                    "checkpoint_mismatch", f"{self.label} holds {new} twice, as {origin[new]} and as {old}"
                )
            origin[new] = old
        tensors = {new: self.tensors[old] for new, old in origin.items()}
        return Checkpoint(self.label, tensors, lambda new: self.read(origin[new]))
