"""Linear layers in 8-bit floats (e4m3): weights scaled by row once, activations by row at every call.

The rounding error of a value is at most 2^-4 of it, as e4m3 has three mantissa bits. The error of a product is
therefore at most 2^-3 of the sum of its terms' magnitudes, and about 4 % of the result for random terms. Hopper's
tensor cores also accumulate with less precision than fp32 (``use_fast_accum``); CPUs do not. Joining or splitting
matrices by rows does not change a bit, because each row has its own scale.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ground.errors import EngineError, RequestError
from models.config import ModelConfig

LARGEST = torch.finfo(torch.float8_e4m3fn).max


def scaled_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise x [M, K] to e4m3. Returns it with the scales [M, 1] of its rows in fp32. Rows of zeros stay zero."""
    scale = x.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / LARGEST
    return (x.float() / scale).to(torch.float8_e4m3fn), scale


def linear(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None) -> Tensor:
    """Linear map of x [..., K] by weight [N, K]. With scale [N, 1] it is computed in 8 bits, and N and K must be
    multiples of 16."""
    if scale is None:
        return F.linear(x, weight, bias)
    rows, row_scale = scaled_rows(x.flatten(0, -2))
    out: Tensor = torch._scaled_mm(
        rows, weight.t(), row_scale, scale.t(), bias=bias, out_dtype=x.dtype, use_fast_accum=True
    )
    return out.view(*x.shape[:-1], -1)


class Float8Linear(nn.Module):
    """Linear layer with 8-bit weights, built from an exact one; the bias keeps its type."""

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
    """Replace every linear layer of a module by a `Float8Linear`, one by one, so that the memory of each is freed
    before the next. Must run before `Attention.fuse`."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, Float8Linear(child))
        else:
            in_float8(child)


def require_float8(config: ModelConfig, device: torch.device) -> None:
    """Check that a model and a device support float8. Raises ``no_float8``: RequestError for a model of motion, whose
    layers are too small to gain; EngineError if torch has no such matrix product for the device (GPUs below compute
    capability 8.9, and newer GPUs with some versions of torch)."""
    if config.codec == "motion":
        raise RequestError(
            "no_float8", f"float8 is for models of video latents, not for {config.name}: choose another dtype",
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
            f"torch {torch.__version__} cannot multiply 8-bit floats scaled by rows on {device} (a GPU needs "
            "compute capability 8.9 or higher): use --dtype bfloat16",
        ) from reason
