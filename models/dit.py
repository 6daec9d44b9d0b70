"""The causal video diffusion transformer: Wan2.1's blocks and parameter names, per-frame noise levels, a cache it is
handed.

One module serves every method and checkpoint family; what differs is a ``DiTConfig``. ``forward`` changes no attribute:
state lives in the ``CacheView`` that the caller passes. Knows nothing of chunks, knots or calls.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.attention import CacheView, FrameRuns, attend, rotary_angles, rotate, token_mask
from models.config import DiTConfig

Angles = tuple[Tensor, Tensor]
TextContext = tuple[tuple[Tensor, Tensor], ...]


class RMSNorm(nn.Module):
    """Root mean square norm over the full width, before the split into heads (Wan2.1's qk-norm)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = F.rms_norm(x.float(), x.shape[-1:], None, self.eps).to(x.dtype)
        return normed * self.weight


class Attention(nn.Module):
    """Projections shared by self-, text and drive attention."""

    qkv_weight: Tensor | None
    qkv_bias: Tensor | None

    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim, eps), RMSNorm(dim, eps)
        self.register_buffer("qkv_weight", None, persistent=False)
        self.register_buffer("qkv_bias", None, persistent=False)

    def fuse(self) -> None:
        """One product for queries, keys and values from now on. Their weights become views of the joint one, so that
        names and memory stay as they are."""
        linears = (self.q, self.k, self.v)
        weight = torch.cat([linear.weight.detach() for linear in linears])
        bias = torch.cat([linear.bias.detach() for linear in linears])
        for linear, own_weight, own_bias in zip(linears, weight.chunk(3), bias.chunk(3), strict=True):
            linear.weight.data, linear.bias.data = own_weight, own_bias
        self.qkv_weight, self.qkv_bias = weight, bias

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of one and the same input, [B, S, H, D] each, not rotated."""
        if self.qkv_weight is None:
            return (self.queries(x), *self.keys_values(x))
        q, k, v = F.linear(x, self.qkv_weight, self.qkv_bias).chunk(3, -1)
        q, k = self.norm_q(q), self.norm_k(k)
        return (q.unflatten(-1, (self.heads, -1)), k.unflatten(-1, (self.heads, -1)), v.unflatten(-1, (self.heads, -1)))

    def queries(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.norm_q(self.q(x)).unflatten(-1, (self.heads, -1)))

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S, H, D] each, keys not rotated."""
        return self.norm_k(self.k(x)).unflatten(-1, (self.heads, -1)), self.v(x).unflatten(-1, (self.heads, -1))

    def output(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.o(x.flatten(-2)))


class Block(nn.Module):
    """One transformer block: self-attention, optional text cross-attention, feed-forward, per-frame AdaLN.

    Between the attentions it is three functions of tensors alone, which can be compiled and know no cache.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        dim, eps = config.dim, config.eps
        self.norm1 = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.self_attn = Attention(dim, config.heads, eps)
        if config.text_dim is not None:
            self.norm3 = nn.LayerNorm(dim, eps)
            self.cross_attn = Attention(dim, config.heads, eps)
        self.ffn = nn.Sequential(
            nn.Linear(dim, config.ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(config.ffn_dim, dim)
        )
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        angles: tuple[Angles, Angles],
        mask: Tensor | FrameRuns | None,
        text: tuple[Tensor, Tensor] | Tensor | None,
        cache: CacheView,
        layer: int,
        skip: int = 0,
    ) -> Tensor:
        """x [B, F, T, d]; time [B, F, 6, d] modulation; angles of the queries and of all keys; text as keys and values,
        or embedded [B, 512, d]. skip: of so many leading frames only keys and values are made; returns the others,
        [B, F - skip, T, d], and mask has queries for them alone."""
        frames, tokens = x.shape[1:3]
        queries, keys, values = self.project(x, time, angles[0])
        past = None if cache.positions is None else cache.read(layer)
        cache.write(layer, keys.unflatten(1, (frames, tokens)), values.unflatten(1, (frames, tokens)))
        x, time = x[:, skip:], time[:, skip:]
        if skip == frames:
            return x
        keys, values = self.window(past, keys, values, angles[1])
        x, words = self.after_attention(x, attend(queries[:, skip * tokens :], keys, values, mask), time)
        crossed = None
        if words is not None and text is not None:
            keys, values = self.cross_attn.keys_values(text) if isinstance(text, Tensor) else text
            # One prompt may serve a whole batch.
            crossed = attend(words, *(z.expand(len(x), -1, -1, -1) for z in (keys, values)))
        return self.feed_forward(x, crossed, time)

    def modulations(self, time: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale and gate of the self-attention, then of the feed-forward: [B, F, 1, d] each."""
        return (self.modulation + time).unsqueeze(3).unbind(2)

    def project(self, x: Tensor, time: Tensor, angles: Angles) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries, unrotated keys, values: [B, F*T, H, D]."""
        shift, scale = self.modulations(time)[:2]
        flat = (self.norm1(x) * (1 + scale) + shift).flatten(1, 2)
        queries, keys, values = self.self_attn.queries_keys_values(flat)
        return rotate(queries, angles), keys, values

    def window(
        self, past: tuple[Tensor, Tensor] | None, keys: Tensor, values: Tensor, angles: Angles
    ) -> tuple[Tensor, Tensor]:
        """Rotated keys and values of the cached frames and the own ones."""
        if past is not None:
            keys, values = torch.cat([past[0], keys], 1), torch.cat([past[1], values], 1)
        return rotate(keys, angles), values

    def after_attention(self, x: Tensor, attended: Tensor, time: Tensor) -> tuple[Tensor, Tensor | None]:
        """x with the self-attention added, and the queries of the text's."""
        x = x + self.modulations(time)[2] * self.self_attn.output(attended).view_as(x)
        words = self.cross_attn.queries(self.norm3(x.flatten(1, 2))) if hasattr(self, "cross_attn") else None
        return x, words

    def feed_forward(self, x: Tensor, crossed: Tensor | None, time: Tensor) -> Tensor:
        if crossed is not None:
            x = x + self.cross_attn.output(crossed).view_as(x)
        shift, scale, gate = self.modulations(time)[3:]
        return x + gate * cast(Tensor, self.ffn(self.norm2(x) * (1 + scale) + shift))


class DriveInjector(nn.Module):
    """Cross-attention of each latent frame to its own driving tokens; adds nothing until it is trained (zero
    output)."""

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
    """A mask (over tokens, or runs) without its first ``skip`` frames of queries."""
    if mask is None or not skip:
        return mask
    return mask.after(skip) if isinstance(mask, FrameRuns) else mask[skip * tokens :]


class CausalWanDiT(nn.Module):
    """See the module's docstring. Names of parameters are Wan2.1's; ``drive_*`` are ours.

    Time embedding and modulation run in the model's dtype, as in Self Forcing's code; Wan2.1's keeps them in fp32.
    recompute: in training, blocks are run again in backward instead of keeping what they computed.
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
            self.drive_injectors = nn.ModuleDict({str(i): DriveInjector(config) for i in config.drive_blocks})

    @classmethod
    def on_meta(cls, config: DiTConfig) -> "CausalWanDiT":
        """The module without memory: to compare shapes, or to be filled by a loader."""
        with torch.device("meta"):
            return cls(config)

    def fuse_projections(self) -> None:
        """For inference, once the weights are in place."""
        for block in self.blocks:
            cast(Block, block).self_attn.fuse()

    def compile_blocks(self) -> None:
        """For inference. One compilation serves all blocks and all shapes: what remains between the products only
        moves memory, where shapes known beforehand gain little."""
        torch._dynamo.config.recompile_limit = 64  # one frame, no cache, no text, fused or not: each its own code
        for block in self.blocks:
            for stage in ("project", "window", "after_attention", "feed_forward"):
                setattr(block, stage, torch.compile(getattr(block, stage), dynamic=True, fullgraph=True))

    @property
    def _recomputes(self) -> bool:
        return self.recompute and torch.is_grad_enabled()

    def encode_text(self, text: Tensor) -> TextContext:
        """Keys and values of every block's text cross-attention, once per prompt.

        text: [B, 512, text_dim], padding already zero; padding is attended (Wan2.1 uses no mask).
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
        """One denoising pass; returns the prediction [B, F - skip, C, h, w] of the config's type.

        latents [B, F, C, h, w]; sigmas [B, F] (the network sees t = 1000 sigma); condition [B, F, C+1+r, h, w]
        (condition latent, mask with 1 = given, reference features); drive [B, F, n, drive_dim]; context: the text as
        `encode_text` gives it, or itself [B, 512, text_dim] (training); positions [B, F] temporal. skip: so many
        leading frames are only written to the cache, nothing is predicted for them.
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
        driven = None if drive is None else self.drive_embedding(drive.to(x.dtype))
        text = self.text_embedding(context) if isinstance(context, Tensor) else None
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
        """Tokens [B, F, T, d] and the grid (height, width) of a frame."""
        dtype = self.patch_embedding.weight.dtype
        x = latents if condition is None else torch.cat([latents, condition.to(latents.dtype)], dim=2)
        assert x.shape[2] == self.config.in_dim, f"{x.shape[2]} input channels, the model has {self.config.in_dim}"
        # A (1, ph, pw) kernel with equal stride is a linear map of patches: one matmul, and no Conv3d set-up cost.
        _, ph, pw = self.config.patch
        batch, frames, channels, height, width = x.shape
        grid = (height // ph, width // pw)
        x = x.view(batch, frames, channels, grid[0], ph, grid[1], pw).permute(0, 1, 3, 5, 2, 4, 6)
        patches = x.reshape(batch, frames, grid[0] * grid[1], channels * ph * pw).to(dtype)
        return F.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias), grid

    def embed_time(self, sigmas: Tensor, dtype: torch.dtype) -> Tensor:
        """[B, F, d]; cosine half first, frequencies 10000^(-i/half), t = 1000 sigma (Wan2.1)."""
        half = self.config.frequency_dim // 2
        rate = torch.exp(-math.log(10000.0) * torch.arange(half, device=sigmas.device, dtype=torch.float32) / half)
        angles = (1000.0 * sigmas.float())[..., None] * rate
        return cast(Tensor, self.time_embedding(torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype)))

    def unpatchify(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """[B, F, T, pt*ph*pw*C] in Wan's order (pt, ph, pw, C) to [B, F, C, h, w]."""
        _, ph, pw = self.config.patch
        batch, frames = x.shape[:2]
        channels = self.config.latent_channels
        x = x.view(batch, frames, grid[0], grid[1], ph, pw, channels).permute(0, 1, 6, 2, 4, 3, 5)
        return x.reshape(batch, frames, channels, grid[0] * ph, grid[1] * pw)


def randomise_(model: nn.Module, seed: int = 0) -> None:
    """Fill every parameter with seeded noise of unit gain, none left at zero: tests and throughput figures run on
    it."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else parameter.numel()
            parameter.normal_(0.0, fan_in**-0.5, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)
