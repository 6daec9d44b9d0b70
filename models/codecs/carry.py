"""Streaming state of causal layers as a value: read in the order of the layers, collected anew at every call.

A ``Carry`` lives for one call of one stream; the modules it is handed through keep nothing themselves, so one set of
weights serves every stream at once.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class StreamState:
    """tails: the last frames before each causal layer, in the order of the layers; None before the first call."""

    tails: tuple[Tensor, ...] | None = None


class Carry:
    """Every layer that remembers takes its tail and keeps the next one, in the same order in each call."""

    def __init__(self, state: StreamState) -> None:
        self.fresh = state.tails is None
        self._given = deque(state.tails or ())
        self._kept: list[Tensor] = []

    def take(self) -> Tensor:
        """What this layer kept in the call before; only of a stream that is not fresh."""
        return self._given.popleft()

    def keep(self, tail: Tensor) -> None:
        """No view: it would hold on to all of the tensor it was cut from."""
        self._kept.append(tail)

    def lead(self, x: Tensor, frames: int, dim: int) -> Tensor:
        """x behind the `frames` that came before it along `dim`: zeros before a stream's first."""
        if self.fresh:
            joined = F.pad(x, (0, 0) * (x.dim() - dim - 1) + (frames, 0))
            if x.shape[dim] == 0:  # has no layout to take over, and all that follow take over the tail's
                joined = joined.contiguous(memory_format=torch.channels_last_3d)
        else:
            joined = torch.cat([self.take(), x], dim)
        self.keep(joined.narrow(dim, joined.shape[dim] - frames, frames).clone())
        return joined

    @property
    def state(self) -> StreamState:
        """For the next call, once all layers have run."""
        assert not self._given, "the state is of another network"
        return StreamState(tuple(self._kept))


def in_parts(
    run: Callable[[Tensor, Carry], Tensor], parts: Iterable[Tensor], state: StreamState
) -> tuple[Tensor, StreamState]:
    """What the layers make of a stream's parts, one after the other, joined along the first dimension, and the next
    state. No more than one part is in the layers' memory at a time, and one state: a tail goes when it is taken."""
    carry, made = Carry(state), list[Tensor]()
    for part in parts:
        if made:
            carry = Carry(carry.state)
        made.append(run(part, carry))
    return torch.cat(made), carry.state
