"""Colour transfer to a portrait: mean and deviation of each channel of CIE Lab (D65).

A chunk that starts from pictures of the previous chunk inherits its colour shifts. Matching every picture to the
portrait prevents them from accumulating. Independent of models.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

# sRGB (IEC 61966-2-1) to XYZ over the white point D65.
_TO_XYZ = (
    (0.412453 / 0.950456, 0.357580 / 0.950456, 0.180423 / 0.950456),
    (0.212671, 0.715160, 0.072169),
    (0.019334 / 1.088754, 0.119193 / 1.088754, 0.950227 / 1.088754),
)
_TO_LAB = ((0.0, 116.0, 0.0), (500.0, -500.0, 0.0), (0.0, 200.0, -200.0))
_DELTA = 6 / 29
FLAT = 1e-5  # lower bound of a channel's deviation: a flat channel is not stretched further


@dataclass(frozen=True, slots=True, eq=False)
class Colours:
    """Colour statistics of a picture. mean, deviation: [3], of its Lab channels."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, picture: Tensor) -> "Colours":
        """Statistics of RGB [3, H, W] in 0..1."""
        lab = to_lab(picture[None])[0].flatten(1)
        return cls(lab.mean(1), lab.std(1, correction=0))


def match_colours(pictures: Tensor, colours: Colours) -> Tensor:
    """Transfer colour statistics to each picture of RGB [N, 3, H, W] in 0..1."""
    lab = to_lab(pictures)
    mean, deviation = lab.mean((2, 3), keepdim=True), lab.std((2, 3), correction=0, keepdim=True)
    scale = colours.deviation[:, None, None] / deviation.clamp(min=FLAT)
    return to_rgb((lab - mean) * scale + colours.mean[:, None, None])


def to_lab(rgb: Tensor) -> Tensor:
    """Convert sRGB [N, 3, H, W] in 0..1 to Lab: L in 0..100, a, b."""
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = _mixed(linear, _TO_XYZ)
    root = torch.where(xyz > _DELTA**3, xyz.clamp(min=0) ** (1 / 3), xyz / (3 * _DELTA**2) + 4 / 29)
    lab = _mixed(root, _TO_LAB)
    return lab - lab.new_tensor([16.0, 0.0, 0.0])[:, None, None]


def to_rgb(lab: Tensor) -> Tensor:
    """Convert Lab [N, 3, H, W] to sRGB, clamped to 0..1."""
    middle = (lab[:, 0] + 16) / 116
    root = torch.stack([middle + lab[:, 1] / 500, middle, middle - lab[:, 2] / 200], 1)
    xyz = torch.where(root > _DELTA, root**3, 3 * _DELTA**2 * (root - 4 / 29))
    linear = torch.linalg.solve(xyz.new_tensor(_TO_XYZ), xyz.flatten(2)).view_as(xyz).clamp(0, 1)
    return torch.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear).clamp(0, 1)


def _mixed(x: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    return torch.einsum("ij,njhw->nihw", x.new_tensor(matrix), x)
