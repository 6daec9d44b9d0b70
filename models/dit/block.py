"""Transformer block of Wan2.1, split into stages that can be compiled separately.

Independent of the network around it; the cache is only read and written.
"""

from typing import TypeGuard, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import DiTConfig
from models.dit.attention import CacheView, FrameRuns, attend, rotate
from models.dit.float8 import linear

Angles = tuple[Tensor, Tensor]


class RMSNorm(nn.Module):
    """Root mean square norm over the full width, before the split into heads (qk-norm of Wan2.1)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = F.rms_norm(x.float(), x.shape[-1:], None, self.eps).to(x.dtype)
        return normed * self.weight


class Attention(nn.Module):
    """Query, key, value and output projections of an attention, with qk-norm. Used for self-, text and drive
    attention."""

    qkv_weight: Tensor | None
    qkv_bias: Tensor | None
    qkv_scale: Tensor | None

    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim, eps), RMSNorm(dim, eps)
        for name in ("weight", "bias", "scale"):
            self.register_buffer(f"qkv_{name}", None, persistent=False)

    def fuse(self) -> None:
        """Fuse the projections of queries, keys and values into one matrix product. Their tensors become views of the
        joint tensors, so parameter names and memory use stay the same."""
        layers = (self.q, self.k, self.v)
        for name in self.q.state_dict():  # weight and bias; also scale in 8 bits
            joint = torch.cat([getattr(layer, name).detach() for layer in layers])
            for layer, own in zip(layers, joint.chunk(3), strict=True):
                getattr(layer, name).data = own
            setattr(self, f"qkv_{name}", joint)

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of one input, [B, S, H, D] each, not rotated."""
        if self.qkv_weight is None or self.qkv_bias is None:
            return (self.queries(x), *self.keys_values(x))
        q, k, v = linear(x, self.qkv_weight, self.qkv_bias, self.qkv_scale).chunk(3, -1)
        q, k = self.norm_q(q), self.norm_k(k)
        return (q.unflatten(-1, (self.heads, -1)), k.unflatten(-1, (self.heads, -1)), v.unflatten(-1, (self.heads, -1)))

    def queries(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.norm_q(self.q(x)).unflatten(-1, (self.heads, -1)))

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (not rotated) and values, [B, S, H, D] each."""
        return self.norm_k(self.k(x)).unflatten(-1, (self.heads, -1)), self.v(x).unflatten(-1, (self.heads, -1))

    def output(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.o(x.flatten(-2)))


def _is_audio(text: tuple[Tensor, Tensor] | Tensor) -> TypeGuard[Tensor]:
    return isinstance(text, Tensor) and text.dim() == 4


class Block(nn.Module):
    """Transformer block: self-attention, optional cross-attention (to a text, or from each frame to its own audio),
    feed-forward, AdaLN per frame.

    The work between the attentions is split into four functions of tensors only (`project`, `window`,
    `after_attention`, `feed_forward`), which can be compiled because they do not use the cache.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        dim, eps = config.dim, config.eps
        self.norm1 = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.self_attn = Attention(dim, config.heads, eps)
        if config.text_dim is not None or config.audio is not None:
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
        """Run the block; returns [B, F - skip, T, d].

        x: [B, F, T, d]. time: [B, F, 6, d], modulation. angles: of the queries, and of all keys. text: keys and values,
        or an embedded text [B, 512, d], or audio [B, F, n, d]. skip: number of leading frames whose keys and values are
        computed and cached without an output. mask: queries are the other frames only.
        """
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
            crossed = self.attend_by_frame(words, text[:, skip:]) if _is_audio(text) else self.attend_text(words, text)
        return self.feed_forward(x, crossed, time)

    def attend_text(self, words: Tensor, text: tuple[Tensor, Tensor] | Tensor) -> Tensor:
        """Attend from all queries [B, S, H, D] to a text. A text of batch size 1 serves the whole batch."""
        keys, values = self.cross_attn.keys_values(text) if isinstance(text, Tensor) else text
        return attend(words, *(z.expand(len(words), -1, -1, -1) for z in (keys, values)))

    def attend_by_frame(self, words: Tensor, audio: Tensor) -> Tensor:
        """Attend from the queries [B, F*T, H, D] of each frame to the same frame's audio tokens [B, F, n, d]."""
        frames = audio.shape[1]
        queries = words.unflatten(1, (frames, -1)).flatten(0, 1)
        return attend(queries, *self.cross_attn.keys_values(audio.flatten(0, 1))).reshape(words.shape)

    def modulations(self, time: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale and gate of the self-attention, then of the feed-forward: [B, F, 1, d] each."""
        return (self.modulation + time).unsqueeze(3).unbind(2)

    def project(self, x: Tensor, time: Tensor, angles: Angles) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries, unrotated keys, and values, [B, F*T, H, D] each."""
        shift, scale = self.modulations(time)[:2]
        flat = (self.norm1(x) * (1 + scale) + shift).flatten(1, 2)
        queries, keys, values = self.self_attn.queries_keys_values(flat)
        return rotate(queries, angles), keys, values

    def window(
        self, past: tuple[Tensor, Tensor] | None, keys: Tensor, values: Tensor, angles: Angles
    ) -> tuple[Tensor, Tensor]:
        """Rotated keys and values of the cached frames, followed by those of the own frames."""
        if past is not None:
            keys, values = torch.cat([past[0], keys], 1), torch.cat([past[1], values], 1)
        return rotate(keys, angles), values

    def after_attention(self, x: Tensor, attended: Tensor, time: Tensor) -> tuple[Tensor, Tensor | None]:
        """x plus the self-attention's output, and the queries of the cross-attention (None without one)."""
        x = x + self.modulations(time)[2] * self.self_attn.output(attended).view_as(x)
        words = self.cross_attn.queries(self.norm3(x.flatten(1, 2))) if hasattr(self, "cross_attn") else None
        return x, words

    def feed_forward(self, x: Tensor, crossed: Tensor | None, time: Tensor) -> Tensor:
        if crossed is not None:
            x = x + self.cross_attn.output(crossed).view_as(x)
        shift, scale, gate = self.modulations(time)[3:]
        return x + gate * cast(Tensor, self.ffn(self.norm2(x) * (1 + scale) + shift))
