"""The key/value cache: for every call pinned frames plus a ring of past latents, allocated once and never moved.

Keys are kept before rotation, so a frame may be read at any temporal position: a call has no length limit and moving
the reference is free. Counters are the caller's integers; eviction is a ring index. Knows no rollout: passes name the
frames they read (slot in the cache, position) and where their own frames go.
"""

import torch
from torch import Tensor

from models.attention import FrameRuns, take
from models.config import ModelConfig

PINNED = 1  # the reference


def ring_slot(latent: int, context: int) -> int:
    """Where past latent number ``latent`` lies in a cache of ``context`` past latents."""
    return PINNED + latent % context


class KVCache:
    """Keys and values of all layers: [layers, slots, frames, tokens, heads, head_dim] each."""

    def __init__(
        self, config: ModelConfig, *, slots: int, context: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        dit = config.dit
        shape = (dit.layers, slots, PINNED + context, config.tokens_per_latent, dit.heads, dit.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros_like(self.keys)

    @property
    def frames(self) -> int:
        return self.keys.shape[2]

    def view(
        self,
        slots: Tensor,
        frames: Tensor,
        positions: Tensor,
        targets: Tensor,
        kept: tuple[int, ...] = (),
        mask: Tensor | FrameRuns | None = None,
    ) -> "BatchView":
        """A view for a batch of passes, one row a call; all integers, on the cache's device.

        slots: [B]. frames, positions: [B, K], the cached frames that are read and their temporal positions. targets:
        [B, N], the cached frames that the N ``kept`` own frames are written to.
        """
        return BatchView(self, slots, frames, positions, targets, kept, mask)


class BatchView:
    """``models.attention.CacheView`` of one batched pass. What it holds are device tensors and constants, so that a
    pass can be recorded and run again with other numbers in the tensors."""

    def __init__(
        self,
        cache: KVCache,
        slots: Tensor,
        frames: Tensor,
        positions: Tensor,
        targets: Tensor,
        kept: tuple[int, ...],
        mask: Tensor | FrameRuns | None,
    ) -> None:
        self.cache, self.kept, self.mask = cache, kept, mask
        self.slots, self.frames, self.targets = slots[:, None], frames, targets
        self.positions = positions if frames.shape[1] else None

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        keys = self.cache.keys[layer][self.slots, self.frames]
        values = self.cache.values[layer][self.slots, self.frames]
        return keys.flatten(1, 2), values.flatten(1, 2)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        if self.kept:
            self.cache.keys[layer][self.slots, self.targets] = take(keys, self.kept, 1)
            self.cache.values[layer][self.slots, self.targets] = take(values, self.kept, 1)
