"""Baseline of the speed figures: the same network and passes in plain eager PyTorch, with the cache of published
rollouts.

As in Self Forcing, keys are cached after rotation at absolute positions, the window moves by copying, and a commit is a
separate pass through all blocks and the head. Differences from its code: window and chunk are concatenated in every
layer of every pass (there the chunk is written into a buffer, of which a slice is attended to); no counters are read
back from the device (there in every layer); rotation is the engine's in fp32 (there in complex fp64); torch chooses the
attention kernel. A reference with rotated keys cannot run ahead, so this serves to measure time only: its pictures are
not those of Knot Forcing.
"""

from typing import cast

import torch
from torch import Tensor

from engine.rollout.base import Pass, Rollout, RolloutState
from engine.rollout.job import ChunkJob
from models.dit.attention import rotary_angles, rotate, sdpa
from models.dit.block import Block
from models.registry import LoadedModel


class TextbookRunner:
    """One call of one model. context: past latents in the cache, besides the reference if the model has one."""

    def __init__(self, model: LoadedModel, context: int) -> None:
        self.model, self.config, self.device = model, model.config, model.device
        tokens = model.config.tokens_per_latent
        self.pinned, self.kept = tokens if model.config.dit.inpainting else 0, context * tokens
        self.cache: list[tuple[Tensor, Tensor]] = []  # a layer: reference, then the window, [1, S, H, D]

    @torch.inference_mode()
    def make_chunk(self, rollout: Rollout, state: RolloutState, drive: Tensor) -> Tensor:
        """Clean latents [c, C, h, w] of the next chunk. Also runs their commit."""
        job = ChunkJob(rollout.denoise(state, drive))
        while job.next_pass is not None:
            prediction = self.forward(job.next_pass)
            job.answer(None if job.next_pass.is_commit else prediction)
        assert job.latents is not None and job.held is not None
        self.forward(job.held)
        return job.latents

    def forward(self, work: Pass) -> Tensor:
        """Run a pass: prediction [F, C, h, w] in fp32. A commit pass also moves the window."""
        dit = self.model.dit
        positions = torch.tensor([[at + work.origin for at in work.positions]], device=self.device)
        x, grid = dit.embed(work.latents[None], work.condition[None] if dit.config.condition_channels else None)
        time = dit.embed_time(torch.tensor([work.sigmas], device=self.device), x.dtype)
        modulation = dit.time_projection(time).unflatten(-1, (6, -1))
        angles = rotary_angles(positions, grid, dit.config.rope_split)
        driven = dit.embed_drive(work.drive[None].to(x.dtype)) if dit.config.drive_dim else None
        written = []
        for layer, module in enumerate(dit.blocks):
            block = cast(Block, module)
            queries, keys, values = block.project(x, modulation, angles)
            keys = rotate(keys, angles)
            written.append((keys, values))
            if self.cache:
                keys, values = (torch.cat(pair, 1) for pair in zip(self.cache[layer], (keys, values), strict=True))
            x, words = block.after_attention(x, sdpa(queries, keys, values), modulation)
            crossed = None if words is None or self.model.context is None else sdpa(words, *self.model.context[layer])
            x = block.feed_forward(x, crossed, modulation)
            if driven is not None and layer in dit.config.drive_blocks:
                x = dit.drive_injectors[str(layer)](x, driven)
        if work.is_commit:
            self.commit(written)
        return dit.unpatchify(dit.head(x, time), grid)[0].float()

    def commit(self, written: list[tuple[Tensor, Tensor]]) -> None:
        """Add keys and values to the cache. The reference, the first commit, stays; the window keeps its last
        latents."""
        if not self.cache:
            self.cache = written
            return

        def moved(old: Tensor, new: Tensor) -> Tensor:
            window = torch.cat([old[:, self.pinned :], new], 1)[:, -self.kept :]
            return torch.cat([old[:, : self.pinned], window], 1)

        self.cache = [
            (moved(keys, own_keys), moved(values, own_values))
            for (keys, values), (own_keys, own_values) in zip(self.cache, written, strict=True)
        ]
