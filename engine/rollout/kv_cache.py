"""KV cache: for each call the reference, if it has one, and past latents; allocated once and never moved.

Keys are kept before rotation, so a frame may be read at any temporal position: a call has no length limit and moving
the reference is free. Knows no rollout: passes name the frames they read (where in the cache, and their position) and
where their own frames go, so eviction is an index.
"""

import torch
from torch import Tensor

from models.config import ModelConfig
from models.dit.attention import FrameRuns, take


class KVCache:
    """Keys and values of all layers: [layers, slots, frames, tokens, heads, head_dim] each. frames: of each
    call, as many as its rollout caches."""

    def __init__(
        self, config: ModelConfig, *, slots: int, frames: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        dit = config.dit
        shape = (dit.layers, slots, frames, config.tokens_per_latent, dit.heads, dit.head_dim)
        self.frames = frames
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros_like(self.keys)

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
    """``models.dit.attention.CacheView`` of one batched pass. It holds device tensors and constants only, so that a
    CUDA graph can replay the pass with other numbers in the tensors."""

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
        self.slots, self.targets = slots[:, None], targets
        self.positions = positions if frames.shape[1] else None
        self._rows = self.slots * cache.keys.shape[2] + frames  # of all slots' frames in one line

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Reads by one index of whole frames: the GPU's kernel for one index is four times as fast as for two."""
        keys = self.cache.keys[layer].flatten(0, 1)[self._rows.flatten()]
        values = self.cache.values[layer].flatten(0, 1)[self._rows.flatten()]
        batch, frames = self._rows.shape
        return keys.unflatten(0, (batch, frames)).flatten(1, 2), values.unflatten(0, (batch, frames)).flatten(1, 2)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        if self.kept:
            self.cache.keys[layer][self.slots, self.targets] = take(keys, self.kept, 1)
            self.cache.values[layer][self.slots, self.targets] = take(values, self.kept, 1)
