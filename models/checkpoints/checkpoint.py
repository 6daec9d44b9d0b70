"""Checkpoint: names, shapes and types of a file's tensors, and a function that reads one of them.

Every file format is opened as a `Checkpoint`. Tensor data is read only by `Checkpoint.read`, so a checkpoint that does
not fit is refused before memory is allocated.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ground.errors import EngineError
from models.checkpoints.headers import TensorInfo


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An open checkpoint.

    label: its name in messages. tensors: type and shape by tensor name. read: loads the tensor of a name onto the
    device that the checkpoint was opened for.
    """

    label: str
    tensors: Mapping[str, TensorInfo]
    read: Callable[[str], Tensor]

    @property
    def bytes(self) -> int:
        return sum(info.bytes for info in self.tensors.values())

    def renamed(self, name: Callable[[str], str]) -> "Checkpoint":
        """Rename every tensor by a function of its name. Raises EngineError ``checkpoint_mismatch`` if two tensors get
        the same name."""
        origin: dict[str, str] = {}
        for old in self.tensors:
            if (new := name(old)) in origin:
                raise EngineError(
                    "checkpoint_mismatch", f"{self.label} contains {new} twice, as {origin[new]} and as {old}"
                )
            origin[new] = old
        tensors = {new: self.tensors[old] for new, old in origin.items()}
        return Checkpoint(self.label, tensors, lambda new: self.read(origin[new]))
