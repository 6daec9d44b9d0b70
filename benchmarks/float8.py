"""The blocks' linear layers in 8-bit floats: an experiment of the speed figures, not a way the engine runs.

Rows of the weights are scaled once, rows of the activations at every call; sums are fp32. Embeddings, modulation and
the head stay as they are.
"""

import torch
from torch import Tensor, nn

LARGEST = torch.finfo(torch.float8_e4m3fn).max


def scaled_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [M, K] as e4m3 and its scales [M, 1] in fp32."""
    scale = x.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / LARGEST
    return (x.float() / scale).to(torch.float8_e4m3fn), scale


class Float8Linear(nn.Module):
    """The same map as a linear layer in bf16, up to the rounding of its operands."""

    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = scaled_rows(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        rows, scale = scaled_rows(x.flatten(0, -2))
        out: Tensor = torch._scaled_mm(
            rows, self.weight.t(), scale, self.scale.t(), bias=self.bias, out_dtype=x.dtype, use_fast_accum=True
        )
        return out.view(*x.shape[:-1], -1)


def in_float8(blocks: nn.Module) -> None:
    """Every linear layer within."""
    for name, module in blocks.named_children():
        if isinstance(module, nn.Linear):
            setattr(blocks, name, Float8Linear(module))
        else:
            in_float8(module)
