"""Attention facade: kernels, rotary position embedding, and the view of a key-value cache.

The kernel is chosen once per device and dtype, and logged. A GPU test compares every kernel with plain SDPA.
Independent of rollouts, calls and the meaning of cached frames.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

log = logging.getLogger(__name__)
Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class FrameRuns:
    """A frame mask as runs of query frames that see the same key frames: (first, end, frames seen).

    Each run is attended without a mask by the fast kernels. A mask over tokens would be too large: for 47 frames of
    1560 tokens it would have 5.4 thousand million entries.
    """

    runs: tuple[tuple[int, int, tuple[int, ...]], ...]

    @classmethod
    def of(cls, mask: Tensor | Sequence[Sequence[bool]]) -> "FrameRuns":
        """Runs of a frame mask [F, K], True = may attend."""
        given = mask.tolist() if isinstance(mask, Tensor) else mask
        rows = [tuple(i for i, seen in enumerate(row) if seen) for row in given]
        starts = [i for i, row in enumerate(rows) if i == 0 or row != rows[i - 1]]
        return cls(tuple((a, b, rows[a]) for a, b in zip(starts, [*starts[1:], len(rows)], strict=True)))

    def after(self, skip: int) -> "FrameRuns":
        """The mask without its first ``skip`` query frames."""
        kept = [run for run in self.runs if run[1] > skip]
        return FrameRuns(tuple((max(0, first - skip), end - skip, seen) for first, end, seen in kept))


class CacheView(Protocol):
    """View of a key-value cache for one forward pass. Keys are stored before rotation.

    positions: [B, K] temporal positions of the K cached frames, None if there are none.
    mask: [F, K + F] bool over frames (cached frames, then own ones), True = may attend, or the same as runs; None
    allows everything.
    """

    @property
    def positions(self) -> Tensor | None: ...

    @property
    def mask(self) -> Tensor | FrameRuns | None: ...

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the cached frames, [B, K*T, H, D]."""
        ...

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Store the own frames' unrotated keys and values [B, F, T, H, D]. Called once per layer, after ``read``."""
        ...


class BlockMask:
    """Cache view without cached frames, for training and exactness tests. mask: [F, F] over own frames, True = may
    attend."""

    positions: Tensor | None = None

    def __init__(self, mask: Tensor | FrameRuns | None = None) -> None:
        self.mask = mask

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        raise AssertionError("a BlockMask holds no cached frames")

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Discard keys and values."""


def rotary_angles(positions: Tensor, grid: tuple[int, int], split: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the 3-axis rotary embedding for whole frames: two [B, F*T, 1, D/2] in fp32.

    positions: [B, F] temporal positions. grid: tokens (height, width) of a frame. split: head channels per axis; each
    axis has its own frequencies 10000^(-2i/channels) (Wan2.1). Angles are computed in fp64, so that large positions
    stay exact.
    """
    device = positions.device

    def axis(index: Tensor, channels: int) -> Tensor:
        rate = 10000.0 ** (-torch.arange(0, channels, 2, dtype=torch.float64, device=device) / channels)
        return index.to(torch.float64)[..., None] * rate

    height, width = grid
    batch, frames = positions.shape
    time = axis(positions, split[0])[:, :, None, None].expand(batch, frames, height, width, -1)
    rows = axis(torch.arange(height, device=device), split[1])[:, None].expand(batch, frames, height, width, -1)
    columns = axis(torch.arange(width, device=device), split[2]).expand(batch, frames, height, width, -1)
    angles = torch.cat([time, rows, columns], dim=-1).reshape(batch, frames * height * width, 1, -1)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate interleaved channel pairs (2i, 2i+1) of x [B, S, H, D] by the angles [B, S, 1, D/2]."""
    cos, sin = angles
    pairs = x.float().unflatten(-1, (-1, 2))
    across = torch.stack([-sin, sin], dim=-1)  # factor of each channel's partner
    turned: Tensor = pairs * cos[..., None] + pairs.flip(-1) * across
    return turned.flatten(-2).to(x.dtype)


def token_mask(mask: Tensor, tokens: int) -> Tensor:
    """Expand a frame mask [F, K] to a token mask [F*T, K*T]."""
    return mask.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | FrameRuns | None = None) -> Tensor:
    """Softmax attention, scale 1/sqrt(D). q [B, Q, H, D], k and v [B, K, H, D], mask [Q, K] bool; returns [B, Q, H, D].

    A tensor mask always uses plain SDPA. Without a mask the kernel chosen for the device runs.
    """
    if isinstance(mask, FrameRuns):
        return attend_runs(q, k, v, mask)
    if mask is not None:
        return sdpa(q, k, v, mask)
    return kernel_for(q.device.type, q.dtype)(q, k, v)


def attend_runs(q: Tensor, k: Tensor, v: Tensor, mask: FrameRuns) -> Tensor:
    """Attend run by run, each to the frames that it sees. Shapes as in `attend`."""
    tokens = q.shape[1] // mask.runs[-1][1]
    parts = [
        attend(q[:, first * tokens : end * tokens], take(k, seen, tokens), take(v, seen, tokens))
        for first, end, seen in mask.runs
    ]
    return torch.cat(parts, 1)


def take(x: Tensor, frames: tuple[int, ...], tokens: int) -> Tensor:
    """Select whole frames of x [B, F*T, ...] by slices, because an index tensor would have to be copied to the
    device."""
    starts = [i for i, at in enumerate(frames) if i == 0 or at != frames[i - 1] + 1]
    spans = zip(starts, [*starts[1:], len(frames)], strict=True)
    parts = [x[:, frames[a] * tokens : (frames[b - 1] + 1) * tokens] for a, b in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention with the kernel that torch chooses; the reference for the other kernels."""
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask)
    return out.transpose(1, 2)


def cudnn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return sdpa(q, k, v)


def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return sdpa(q, k, v)


def flash_attention_3(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    from flash_attn_interface import flash_attn_func  # type: ignore[import-not-found,unused-ignore]

    out: Tensor | tuple[Tensor, ...] = flash_attn_func(q, k, v)
    return out[0] if isinstance(out, tuple) else out


def flash_attention_2(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    from flash_attn import flash_attn_func  # type: ignore[import-not-found,unused-ignore]

    out: Tensor = flash_attn_func(q, k, v)
    return out


# In order of preference if nothing was measured. Plain SDPA runs everywhere and comes last.
KERNELS: dict[str, Kernel] = {
    "flash-attention-3": flash_attention_3,
    "flash-attention-2": flash_attention_2,
    "cudnn": cudnn,
    "flash": flash,
    "sdpa": sdpa,
}
_chosen: dict[tuple[str, torch.dtype], str] = {}  # one choice per device and dtype, for the whole process


def kernel_for(device: str, dtype: torch.dtype) -> Kernel:
    """The kernel in use. If none was chosen, choose the first that runs on a small input, for the whole process."""
    if (device, dtype) not in _chosen:
        runs = half_on_cuda(device, dtype)
        name = next((name for name in KERNELS if kernel_runs(name, _probe(dtype))), "sdpa") if runs else "sdpa"
        choose_kernel(device, dtype, name)
    return KERNELS[_chosen[device, dtype]]


def choose_kernel(device: str, dtype: torch.dtype, name: str) -> None:
    """Use this kernel from now on. CUDA graphs keep the kernel with which they were recorded."""
    log.info("attention: %s on %s %s", name, device, dtype)
    _chosen[device, dtype] = name


def half_on_cuda(device: str, dtype: torch.dtype) -> bool:
    """Whether there is a choice of kernels: on CUDA in 16-bit floats."""
    return device == "cuda" and dtype in (torch.float16, torch.bfloat16)


def _probe(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(1, 128, 2, 128, device="cuda", dtype=dtype)
    return x, x, x


def kernel_runs(name: str, inputs: tuple[Tensor, Tensor, Tensor]) -> bool:
    try:
        KERNELS[name](*inputs)
    except (ImportError, RuntimeError) as reason:
        log.debug("attention: %s not used (%s)", name, reason)
        return False
    return True


def measure_kernels(
    dtype: torch.dtype, queries: int, keys: int, heads: int, head_dim: int, repeats: int = 10
) -> dict[str, float]:
    """Milliseconds of each kernel that runs on the CUDA device, at batch size 1 with ``queries`` and ``keys`` tokens;
    the minimum over ``repeats``."""
    q = torch.randn(1, queries, heads, head_dim, device="cuda", dtype=dtype)
    k, v = (torch.randn(1, keys, heads, head_dim, device="cuda", dtype=dtype) for _ in range(2))
    times: dict[str, float] = {}
    for name, kernel in KERNELS.items():
        if not kernel_runs(name, (q, k, v)):
            continue
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
        marks[0].record()
        for mark in marks[1:]:
            kernel(q, k, v)
            mark.record()
        marks[-1].synchronize()
        times[name] = min(a.elapsed_time(b) for a, b in zip(marks, marks[1:], strict=False))
    return times


def choose_fastest(
    device: str, dtype: torch.dtype, queries: int, keys: int, heads: int, head_dim: int
) -> dict[str, float]:
    """Measure all kernels at the given shapes and choose the fastest. Returns the milliseconds by kernel, empty if
    there is no choice."""
    if not half_on_cuda(device, dtype):
        return {}
    times = measure_kernels(dtype, queries, keys, heads, head_dim)
    log.info("attention: milliseconds %s", {name: round(ms, 3) for name, ms in times.items()})
    choose_kernel(device, dtype, min(times, key=lambda name: times[name]))
    return times
