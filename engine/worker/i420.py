"""Conversion of RGB pictures to I420 on their own device, so that half the bytes leave it."""

import numpy as np
import torch
from torch import Tensor

# BT.601, limited range, in 20-bit fixed point: OpenCV's numbers, so that both ways give the same bytes.
_BITS = 20
_Y, _U, _V = (269484, 528482, 102760), (-155188, -305135, 460324), (460324, -385875, -74448)


def to_i420(frames: Tensor) -> np.ndarray:
    """uint8 RGB [N, H, W, 3], H and W even, to I420 [N, H*3/2, W] in host memory; the colour of four pixels is that of
    their upper left one (as OpenCV does it)."""
    if frames.device.type == "cpu":
        import cv2

        return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420) for frame in frames.numpy()])
    return on_device(frames).cpu().numpy()


def on_device(frames: Tensor) -> Tensor:
    """The same by torch alone; the answer stays on the device."""
    count, height, width = frames.shape[:3]
    luma = _weighted(frames, _Y, 16)
    colours = frames[:, ::2, ::2]
    planes = (_weighted(colours, weights, 128).view(count, height // 4, width) for weights in (_U, _V))
    return torch.cat([luma, *planes], 1)


def _weighted(pixels: Tensor, weights: tuple[int, int, int], offset: int) -> Tensor:
    red, green, blue = pixels.int().unbind(-1)
    total = weights[0] * red + weights[1] * green + weights[2] * blue
    return ((total + (1 << (_BITS - 1)) + (offset << _BITS)) >> _BITS).to(torch.uint8)
