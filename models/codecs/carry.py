"""Streaming state of causal layers as a value: read in the order of the layers, collected anew at every call.

A ``Carry`` is passed through the modules during one call of one stream. The modules keep no state, so one set of
weights serves every stream.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class StreamState:
    """State of a stream. tails: last input frames of each causal layer, in the order of the layers; None before the
    first call."""

    tails: tuple[Tensor, ...] | None = None


class Carry:
    """State during one call: each causal layer takes its tail and keeps the next one, in the same order in each call.
    fresh: whether this is a stream's first call."""

    def __init__(self, state: StreamState) -> None:
        self.fresh = state.tails is None
        self._given = deque(state.tails or ())
        self._kept: list[Tensor] = []

    def take(self) -> Tensor:
        """Tail that this layer kept in the call before. The stream must not be fresh."""
        return self._given.popleft()

    def keep(self, tail: Tensor) -> None:
        """Keep a tail for the next call. It must not be a view, which would keep its whole base tensor in memory."""
        self._kept.append(tail)

    def lead(self, x: Tensor, frames: int, dim: int) -> Tensor:
        """Prepend to x the `frames` frames before it along `dim`, which are zeros at a stream's start, and keep the
        next tail."""
        if self.fresh:
            joined = F.pad(x, (0, 0) * (x.dim() - dim - 1) + (frames, 0))
            if x.shape[dim] == 0:  # an empty x has no layout, and later calls inherit the tail's
                joined = joined.contiguous(memory_format=torch.channels_last_3d)
        else:
            joined = torch.cat([self.take(), x], dim)
        self.keep(joined.narrow(dim, joined.shape[dim] - frames, frames).clone())
        return joined

    @property
    def state(self) -> StreamState:
        """State for the next call. All layers must have run."""
        assert not self._given, "the state is of another network"
        return StreamState(tuple(self._kept))


def in_parts(
    run: Callable[[Tensor, Carry], Tensor], parts: Iterable[Tensor], state: StreamState
) -> tuple[Tensor, StreamState]:
    """Run the layers over a stream's parts in turn. Returns the results joined along the first dimension, and the next
    state.

    The layers hold the activations of one part at a time, and one state: a tail is released when it is taken.
    """
    carry, made = Carry(state), list[Tensor]()
    for part in parts:
        if made:
            carry = Carry(carry.state)
        made.append(run(part, carry))
    return torch.cat(made), carry.state
