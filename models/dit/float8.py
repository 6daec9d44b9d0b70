"""Linear layers in 8-bit floats (e4m3): weights scaled by row once, activations by row at every call.

A value is kept to 2^-4 of itself (e4m3 has three bits), so a product is off by 2^-3 of its terms' sizes at most, and by
about 4 % of its own size where they are random. Hopper's tensor cores also sum with fewer bits than fp32 holds
(``use_fast_accum``); CPUs do not. What is scaled by rows may be joined or cut by rows without changing a bit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ground.errors import EngineError, RequestError
from models.config import ModelConfig

LARGEST = torch.finfo(torch.float8_e4m3fn).max


def scaled_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [M, K] as e4m3 and its scales [M, 1] in fp32. Rows of zeros stay zeros."""
    scale = x.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / LARGEST
    return (x.float() / scale).to(torch.float8_e4m3fn), scale


def linear(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None) -> Tensor:
    """x [..., K] by weight [N, K]: in 8 bits where its rows have scales [N, 1]; N and K are then multiples of 16."""
    if scale is None:
        return F.linear(x, weight, bias)
    rows, row_scale = scaled_rows(x.flatten(0, -2))
    out: Tensor = torch._scaled_mm(
        rows, weight.t(), row_scale, scale.t(), bias=bias, out_dtype=x.dtype, use_fast_accum=True
    )
    return out.view(*x.shape[:-1], -1)


class Float8Linear(nn.Module):
    """A linear layer's map up to the rounding of its operands; its bias keeps its type."""

    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, exact: nn.Linear) -> None:
        super().__init__()
        weight, scale = scaled_rows(exact.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", exact.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias, self.scale)


def in_float8(module: nn.Module) -> None:
    """Every linear layer within, in turn: the memory of each is given back before the next. Not after fusing."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, Float8Linear(child))
        else:
            in_float8(child)


def require_float8(config: ModelConfig, device: torch.device) -> None:
    """Raises ``no_float8``: RequestError for a model of motion, whose layers are too small to gain by it; EngineError
    where torch has no such product, on GPUs below compute capability 8.9 and with some versions on newer."""
    if config.codec == "motion":
        raise RequestError(
            "no_float8", f"float8 is for models of video latents, {config.name} is none: choose another dtype",
            param="dtype",
        )  # fmt: skip
    x = torch.ones(64, 64, dtype=torch.bfloat16, device=device)
    rows, scale = scaled_rows(x)
    try:
        linear(x, rows, x[0], scale)
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except RuntimeError as reason:
        raise EngineError(
            "no_float8",
            f"{device} has no products of 8-bit floats scaled by rows in torch {torch.__version__} (a GPU needs "
            "compute capability 8.9 or higher): use --dtype bfloat16",
        ) from reason
