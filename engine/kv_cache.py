"""The key/value cache: for every call pinned frames plus a ring of past latents, allocated once and never moved.

Keys are kept before rotation, so a frame may be read at any temporal position: a call has no length limit and moving
the reference is free. Counters are the caller's integers; eviction is a ring index. Knows no rollout: passes name the
frames they read (slot in the cache, position) and where their own frames go.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

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
        slots: Sequence[int],
        reads: Sequence[Sequence[tuple[int, int]]],
        commits: Sequence[Sequence[int]],
        mask: Tensor | None = None,
    ) -> "BatchView":
        """A view for a batch of passes, one row a call.

        reads: per row (cached frame, temporal position) pairs, all rows equally long. commits: per row, for each own
        frame the cached frame it is written to, -1 = nowhere.
        """
        return BatchView(self, slots, reads, commits, mask)


class BatchView:
    """``models.attention.CacheView`` of one batched pass."""

    def __init__(
        self,
        cache: KVCache,
        slots: Sequence[int],
        reads: Sequence[Sequence[tuple[int, int]]],
        commits: Sequence[Sequence[int]],
        mask: Tensor | None,
    ) -> None:
        device = cache.keys.device
        self.cache = cache
        self.mask = mask
        self.slots = torch.tensor(slots, device=device)[:, None]
        self.frames = torch.tensor([[frame for frame, _ in row] for row in reads], device=device)
        self.positions = torch.tensor([[at for _, at in row] for row in reads], device=device) if reads[0] else None
        kept = [
            (row, own, frame) for row, frames in enumerate(commits) for own, frame in enumerate(frames) if frame >= 0
        ]
        self.kept = torch.tensor(kept, device=device).T if kept else None  # rows: batch row, own frame, cached frame

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        keys = self.cache.keys[layer][self.slots, self.frames]
        values = self.cache.values[layer][self.slots, self.frames]
        return keys.flatten(1, 2), values.flatten(1, 2)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        if self.kept is None:
            return
        row, own, frame = self.kept
        slot = self.slots[row, 0]
        self.cache.keys[layer][slot, frame] = keys[row, own]
        self.cache.values[layer][slot, frame] = values[row, own]
