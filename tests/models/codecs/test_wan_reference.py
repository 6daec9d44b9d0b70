"""The transformer against Wan2.1's own formulas, written down a second time: what a relative law cannot see."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import DiTConfig
from models.dit.attention import BlockMask
from models.dit.transformer import CausalWanDiT, randomise_

CONFIG = DiTConfig(dim=96, layers=2, heads=2, ffn_dim=64, latent_channels=4, inpainting=False, text_dim=10)


def wan(w: dict[str, Tensor], x: Tensor, t: float, text: Tensor, heads: int = 2) -> Tensor:
    """x [C, F, h, w], one noise level, bidirectional: Wan2.1's model.py for one sample (patch 1x2x2, eps 1e-6)."""

    def linear(name: str, y: Tensor) -> Tensor:
        return F.linear(y, w[f"{name}.weight"], w[f"{name}.bias"])

    def rms(name: str, y: Tensor) -> Tensor:
        return y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6) * w[f"{name}.weight"]

    def norm(y: Tensor) -> Tensor:
        return F.layer_norm(y, y.shape[-1:], eps=1e-6)

    y = F.conv3d(x[None], w["patch_embedding.weight"], w["patch_embedding.bias"], stride=(1, 2, 2))
    _, dim, f, h, wd = y.shape
    y = y[0].flatten(1).T
    d = dim // heads
    sizes = (d - 4 * (d // 6), 2 * (d // 6), 2 * (d // 6))
    at = torch.stack(torch.meshgrid(torch.arange(f), torch.arange(h), torch.arange(wd), indexing="ij"), -1).view(-1, 3)
    angle = torch.cat(
        [at[:, i, None].double() / 10000 ** (torch.arange(0, n, 2).double() / n) for i, n in enumerate(sizes)], 1
    )
    turn = torch.polar(torch.ones_like(angle), angle)[:, None]

    def rope(z: Tensor) -> Tensor:
        pairs = torch.view_as_complex(z.double().reshape(len(z), heads, -1, 2))
        return torch.view_as_real(pairs * turn).flatten(2).float()

    def attention(name: str, y: Tensor, context: Tensor | None = None) -> Tensor:
        source = y if context is None else context
        q, k = rms(f"{name}.norm_q", linear(f"{name}.q", y)), rms(f"{name}.norm_k", linear(f"{name}.k", source))
        q, k, v = (z.view(len(z), heads, d) for z in (q, k, linear(f"{name}.v", source)))
        if context is None:
            q, k = rope(q), rope(k)
        weights = (torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(d)).softmax(-1)
        return linear(f"{name}.o", torch.einsum("hqk,khd->qhd", weights, v).flatten(1))

    wave = t * 10000.0 ** (-torch.arange(128) / 128)
    e = linear("time_embedding.2", F.silu(linear("time_embedding.0", torch.cat([wave.cos(), wave.sin()]))))
    e0 = linear("time_projection.1", F.silu(e)).view(6, dim)
    context = linear("text_embedding.2", F.gelu(linear("text_embedding.0", text), approximate="tanh"))
    for n in range(2):
        b = f"blocks.{n}"
        m = w[f"{b}.modulation"][0] + e0
        y = y + attention(f"{b}.self_attn", norm(y) * (1 + m[1]) + m[0]) * m[2]
        crossed = F.layer_norm(y, (dim,), w[f"{b}.norm3.weight"], w[f"{b}.norm3.bias"], 1e-6)
        y = y + attention(f"{b}.cross_attn", crossed, context)
        inner = F.gelu(linear(f"{b}.ffn.0", norm(y) * (1 + m[4]) + m[3]), approximate="tanh")
        y = y + linear(f"{b}.ffn.2", inner) * m[5]
    m = w["head.modulation"][0] + e
    y = linear("head.head", norm(y) * (1 + m[1]) + m[0]).view(f, h, wd, 1, 2, 2, -1)
    return torch.einsum("fhwpqrc->cfphqwr", y).reshape(-1, f, 2 * h, 2 * wd)


def test_one_forward_equals_wans_formulas() -> None:
    dit = CausalWanDiT(CONFIG)
    randomise_(dit, seed=3)
    generator = torch.Generator().manual_seed(0)
    x, text = torch.randn(3, 4, 6, 4, generator=generator), torch.randn(7, 10, generator=generator)
    with torch.no_grad():
        context, at = dit.encode_text(text[None]), torch.arange(3)[None]
        ours = dit(x[None], torch.full((1, 3), 0.625), None, None, context, BlockMask(), at)
        theirs = wan(dit.state_dict(), x.transpose(0, 1), 625.0, text).transpose(0, 1)
    torch.testing.assert_close(ours[0], theirs, atol=2e-4, rtol=1e-3)
