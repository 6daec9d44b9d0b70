"""Data parallelism: FSDP2 shards weights, gradients and optimiser state; each process works on its rows.

Started by torchrun there are several, else there is one and nothing here does anything. Works on CPU (gloo) as on GPU.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ground.errors import RequestError
from models.dit.transformer import CausalWanDiT
from models.registry import choose_device


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a run. mesh: None for a single one."""

    device: torch.device
    rank: int = 0
    size: int = 1
    mesh: DeviceMesh | None = None

    @property
    def leads(self) -> bool:
        """Whether this process writes files and messages for all."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """This process's rows of a piece of `rows` rows."""
        if rows % self.size:
            raise RequestError("uneven_batch", f"{rows} clips do not divide among {self.size} processes")
        own = rows // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def place(self, model: CausalWanDiT) -> None:
        """Move a model onto the device; with several processes shard it, block by block, so that no device ever holds
        all weights at once (the host does until then, once for each of its processes)."""
        if self.mesh is None:
            model.to(self.device)
            return
        # It warns of outputs that are views, lest they be changed in place. Ours never are.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        for block in model.blocks:
            fully_shard(block, mesh=self.mesh)
        fully_shard(model, mesh=self.mesh)

    def mean(self, figures: Tensor) -> Tensor:
        """Mean over processes."""
        if self.mesh is None:
            return figures
        total = figures.clone()
        dist.all_reduce(total)
        return total / self.size

    def any(self, said: bool) -> bool:
        """Whether `said` is true in any process. All processes must call it."""
        return bool(self.mean(torch.tensor(float(said), device=self.device)) > 0)


@contextmanager
def joined(device: str) -> Iterator[World]:
    """Context of the processes that torchrun started; the group is left at the end."""
    place = choose_device(device)
    if place.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, whose rounding is far below training's noise
    if not dist.is_torchelastic_launched():
        yield World(place)
        return
    if place.type == "cuda":
        place = torch.device("cuda", dist.get_node_local_rank())
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        mesh = init_device_mesh(place.type, (dist.get_world_size(),))
        yield World(place, dist.get_rank(), dist.get_world_size(), mesh)
        dist.barrier()  # a process that leaves while another still communicates ends that one with SIGABRT
    finally:
        dist.destroy_process_group()


def whole(value: Tensor) -> Tensor:
    """A sharded tensor gathered; all processes must call it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def placed(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, sharded and placed as `like` is."""
    if isinstance(like, DTensor):
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value.to(like.device)
