"""Causal video diffusion transformer: Wan2.1's blocks and parameter names, noise levels by frame, a key-value cache
passed in.

One module serves every method and checkpoint family; they differ in their ``DiTConfig``. ``forward`` changes no
attribute: the state is in the ``CacheView`` that the caller passes. Independent of chunks, knots and calls.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.config import DiTConfig
from models.dit.attention import CacheView, FrameRuns, attend, rotary_angles, token_mask
from models.dit.audio_projection import AudioProjection
from models.dit.block import Attention, Block

TextContext = tuple[tuple[Tensor, Tensor], ...]


class DriveInjector(nn.Module):
    """Cross-attention of each latent frame to its own drive tokens. The output projection is initialised to zero, so an
    untrained injector adds nothing."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim, config.eps)
        self.attn = Attention(config.dim, config.heads, config.eps)
        nn.init.zeros_(self.attn.o.weight)
        nn.init.zeros_(self.attn.o.bias)

    def forward(self, x: Tensor, drive: Tensor) -> Tensor:
        """x [B, F, T, d], drive [B, F, n, d]."""
        queries = self.attn.queries(self.norm(x).flatten(0, 1))
        keys, values = self.attn.keys_values(drive.flatten(0, 1))
        return x + self.attn.output(attend(queries, keys, values)).view_as(x)


class Head(nn.Module):
    """Final modulation and projection to patches."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim, config.eps, elementwise_affine=False)
        self.head = nn.Linear(config.dim, math.prod(config.patch) * config.latent_channels)
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x [B, F, T, d], time [B, F, d] (not projected)."""
        shift, scale = (self.modulation + time.unsqueeze(2)).unsqueeze(3).unbind(2)
        return cast(Tensor, self.head(self.norm(x) * (1 + scale) + shift))


def without_queries(mask: Tensor | FrameRuns | None, skip: int, tokens: int) -> Tensor | FrameRuns | None:
    """A mask (over tokens, or as runs) without the queries of its first ``skip`` frames."""
    if mask is None or not skip:
        return mask
    return mask.after(skip) if isinstance(mask, FrameRuns) else mask[skip * tokens :]


class CausalWanDiT(nn.Module):
    """The transformer. Parameter names are those of Wan2.1, except for our ``drive_*``.

    Time embedding and modulation run in the model's dtype, as in Self Forcing's code; Wan2.1's code runs them in fp32.
    recompute: activation checkpointing of the blocks in training.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        dim = config.dim
        self.patch_embedding = nn.Conv3d(config.in_dim, dim, kernel_size=config.patch, stride=config.patch)
        if config.text_dim is not None:
            self.text_embedding = nn.Sequential(
                nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
            )
        self.time_embedding = nn.Sequential(nn.Linear(config.frequency_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head = Head(config)
        if config.drive_dim:
            self.drive_embedding = nn.Linear(config.drive_dim, dim)
            self.drive_place = nn.Parameter(torch.zeros(config.drive_tokens, dim))
            self.drive_injectors = nn.ModuleDict({str(i): DriveInjector(config) for i in config.drive_blocks})
        if config.audio is not None:
            self.audio_proj = AudioProjection(config.audio, dim)

    @classmethod
    def on_meta(cls, config: DiTConfig) -> "CausalWanDiT":
        """Build the module on the meta device, without memory: to compare shapes, or to be loaded later."""
        with torch.device("meta"):
            return cls(config)

    def fuse_projections(self) -> None:
        """Fuse the projections of each self-attention, for inference. The weights must be loaded."""
        for block in self.blocks:
            cast(Block, block).self_attn.fuse()

    def compile_blocks(self) -> None:
        """Compile the stages of the blocks, for inference. One compilation serves all blocks; a second one, with
        dynamic sizes where shapes differed, serves all further shapes. Widths and heads stay constant: when they were
        dynamic, a rotation took ten times as long as its memory traffic."""
        torch._dynamo.config.recompile_limit = 64  # separate code for one frame, no cache, no text, fused or not
        for block in self.blocks:
            for stage in ("project", "window", "after_attention", "feed_forward"):
                setattr(block, stage, torch.compile(getattr(block, stage), fullgraph=True))

    @property
    def _recomputes(self) -> bool:
        return self.recompute and torch.is_grad_enabled()

    def encode_text(self, text: Tensor) -> TextContext:
        """Compute keys and values of every block's text cross-attention, once per prompt.

        text: [B, 512, text_dim], padded with zeros; the padding is attended, as Wan2.1 uses no mask.
        """
        embedded = self.text_embedding(text)
        return tuple(cast(Block, block).cross_attn.keys_values(embedded) for block in self.blocks)

    def forward(
        self,
        latents: Tensor,
        sigmas: Tensor,
        condition: Tensor | None,
        drive: Tensor | None,
        context: TextContext | Tensor | None,
        cache: CacheView,
        positions: Tensor,
        skip: int = 0,
    ) -> Tensor:
        """Run one denoising pass. Returns the prediction [B, F - skip, C, h, w]; the config says of what.

        latents: [B, F, C, h, w]. sigmas: [B, F]; the network sees t = 1000 sigma. condition: [B, F, C+1+r, h, w],
        condition latent, mask (1 = given) and reference features; without inpainting only the features. drive: [B, F,
        n, drive_dim]; with an audio config [B, F, entries, layers * width] (`models.dit.audio_projection`), in place of
        the text. context: the text as `encode_text` returns it, or its embedding [B, 512, text_dim] (training).
        positions: [B, F], temporal. skip: number of leading frames that are only written to the cache, without a
        prediction.
        """
        x, grid = self.embed(latents, condition)
        time = self.embed_time(sigmas, x.dtype)
        modulation = self.time_projection(time).unflatten(-1, (6, -1))
        own = rotary_angles(positions, grid, self.config.rope_split)
        keys = own
        if cache.positions is not None:
            past = rotary_angles(cache.positions, grid, self.config.rope_split)
            keys = (torch.cat([past[0], own[0]], 1), torch.cat([past[1], own[1]], 1))
        mask = token_mask(cache.mask, grid[0] * grid[1]) if isinstance(cache.mask, Tensor) else cache.mask
        driven = self.embed_drive(drive.to(x.dtype)) if drive is not None and self.config.drive_dim else None
        text = self.text_embedding(context) if isinstance(context, Tensor) else None
        if drive is not None and self.config.audio is not None:
            text = self.audio_proj(drive.to(x.dtype))
        last = self.config.layers - 1
        for i, block in enumerate(self.blocks):
            words = context[i] if isinstance(context, tuple) else text
            spared = skip if i == last else 0
            seen = without_queries(mask, spared, grid[0] * grid[1])
            given = (x, modulation, (own, keys), seen, words, cache, i, spared)
            x = checkpoint(block, *given, use_reentrant=False) if self._recomputes else block(*given)
            if driven is not None and i in self.config.drive_blocks and spared < latents.shape[1]:
                x = self.drive_injectors[str(i)](x, driven[:, spared:])
        return self.unpatchify(self.head(x, time[:, skip:]), grid)

    def embed(self, latents: Tensor, condition: Tensor | None) -> tuple[Tensor, tuple[int, int]]:
        """Embed patches: tokens [B, F, T, d], and the grid (height, width) of a frame in tokens."""
        dtype = self.patch_embedding.weight.dtype
        x = latents if condition is None else torch.cat([latents, condition.to(latents.dtype)], dim=2)
        assert x.shape[2] == self.config.in_dim, f"{x.shape[2]} input channels, the model has {self.config.in_dim}"
        # A (1, ph, pw) kernel with equal stride is a linear map of patches: one matmul, without Conv3d's set-up cost.
        _, ph, pw = self.config.patch
        batch, frames, channels, height, width = x.shape
        grid = (height // ph, width // pw)
        x = x.view(batch, frames, channels, grid[0], ph, grid[1], pw).permute(0, 1, 3, 5, 2, 4, 6)
        patches = x.reshape(batch, frames, grid[0] * grid[1], channels * ph * pw).to(dtype)
        return F.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias), grid

    def embed_drive(self, drive: Tensor) -> Tensor:
        """Embed drive tokens [B, F, n, drive_dim] to [B, F, n, d]. A latent's tokens are its frames in order; a learned
        embedding of the place, initially zero, is added because attention ignores order."""
        return cast(Tensor, self.drive_embedding(drive) + self.drive_place)

    def embed_time(self, sigmas: Tensor, dtype: torch.dtype) -> Tensor:
        """Time embedding [B, F, d] of sigmas [B, F]: cosine half first, frequencies 10000^(-i/half), t = 1000 sigma
        (Wan2.1)."""
        half = self.config.frequency_dim // 2
        rate = torch.exp(-math.log(10000.0) * torch.arange(half, device=sigmas.device, dtype=torch.float32) / half)
        angles = (1000.0 * sigmas.float())[..., None] * rate
        return cast(Tensor, self.time_embedding(torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype)))

    def unpatchify(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Turn patches [B, F, T, pt*ph*pw*C], in Wan2.1's order (pt, ph, pw, C), into latents [B, F, C, h, w]."""
        _, ph, pw = self.config.patch
        batch, frames = x.shape[:2]
        channels = self.config.latent_channels
        x = x.view(batch, frames, grid[0], grid[1], ph, pw, channels).permute(0, 1, 6, 2, 4, 3, 5)
        return x.reshape(batch, frames, channels, grid[0] * ph, grid[1] * pw)


def randomise_(model: nn.Module, seed: int = 0) -> None:
    """Fill every parameter with seeded noise of unit gain, also those initialised to zero, for tests and throughput
    figures."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else parameter.numel()
            parameter.normal_(0.0, fan_in**-0.5, generator=generator)
            if name.endswith("gamma"):  # the autoencoder's norm scales
                parameter.fill_(1.0)
            elif "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)
