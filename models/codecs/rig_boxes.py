"""Boxes that follow a feature through the frames of a batch: placing, cutting out, writing back."""

from collections.abc import Sequence

import torch

Corner = tuple[int, int]  # row, column
LINE = 0.011  # half width of a painted line (lashes, closed lips), in picture units


def corners(centres: torch.Tensor, size: int, height: int, width: int) -> list[Corner]:
    """Upper left corners of height x width boxes around centres [N, 2] (-1..1, on the CPU), kept inside the picture."""
    pixels = (centres + 1) * (size / 2)
    rows = (pixels[:, 1] - height / 2).round().clamp(0, size - height)
    columns = (pixels[:, 0] - width / 2).round().clamp(0, size - width)
    return [(int(row), int(column)) for row, column in zip(rows.tolist(), columns.tolist(), strict=True)]


def cut(batch: torch.Tensor, at: Sequence[Corner], height: int, width: int) -> torch.Tensor:
    """Cut boxes [N, height, width, ...] out of pictures [N, S, S, ...]."""
    return torch.stack(
        [picture[row : row + height, column : column + width] for picture, (row, column) in zip(batch, at, strict=True)]
    )


def put(batch: torch.Tensor, at: Sequence[Corner], boxes: torch.Tensor) -> None:
    """Write boxes [N, h, w, ...] back into pictures [N, S, S, ...] in place."""
    height, width = boxes.shape[1:3]
    for picture, (row, column), box in zip(batch, at, boxes, strict=True):
        picture[row : row + height, column : column + width] = box


def patch(photo: torch.Tensor, x: float, y: float, half_width: float, half_height: float) -> torch.Tensor:
    """Rectangle [3, h, w] of a photograph [3, S, S]: centre and half sizes in -1..1 units, clipped to the picture, at
    least one pixel large."""
    size = photo.shape[-1]
    (left, right), (top, bottom) = (
        sorted(min(max(int((centre + side * half + 1) * size / 2), 0), size - 1) for side in (-1, 1))
        for centre, half in ((x, half_width), (y, half_height))
    )
    return photo[:, top : bottom + 1, left : right + 1]
