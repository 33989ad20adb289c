"""Random views of images, between which the clustering encoder must see no difference.

A view is warped (shift, rotation, scale, shear, and a smooth random displacement), darkened or brightened, loses a
patch, and is noised by the forward process of diffusion, x_t = alpha x_0 + sigma eps (Ho et al. 2020, eq. 4) with a
random sigma and alpha = sqrt(1 - sigma^2). The noise hides small differences, such as the bar of a seven, before it
hides large ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_SHIFT, _ROTATION, _SCALE, _SHEAR = 0.05, math.radians(15), 0.15, 0.15  # shift in fractions of a side
_DISPLACEMENT, _DISPLACEMENT_GRID = 0.027, 5  # standard deviation in fractions of a side, at points of a grid
_GAMMA, _CONTRAST = 0.3, 0.3  # standard deviations of logarithms
_PATCH, _PATCH_PROBABILITY = 1 / 3, 0.5  # side of an erased square in fractions of the shorter side
_NOISE = 0.8  # largest sigma


def random_view(x: Tensor) -> Tensor:
    """A random view of each image, from torch's global random numbers.

    Args:
        x: images in [-1, 1], (B, C, H, W), on the CPU.
    """
    x = erase(adjust(warp(x)))
    sigma = _NOISE * torch.rand(len(x), 1, 1, 1)
    return (1 - sigma**2).sqrt() * x + sigma * torch.randn_like(x)


def warp(x: Tensor) -> Tensor:
    """Shift, rotate, scale, shear and locally displace each image; outside the image the border repeats."""
    count, _, height, width = x.shape
    rotation, scale, shear, right, down = torch.rand(5, count) * 2 - 1
    rotation, scale, shear = rotation * _ROTATION, 1 + scale * _SCALE, shear * _SHEAR
    first = torch.stack([scale * rotation.cos(), shear - scale * rotation.sin(), 2 * _SHIFT * right], 1)
    second = torch.stack([scale * rotation.sin(), scale * rotation.cos(), 2 * _SHIFT * down], 1)
    grid = F.affine_grid(torch.stack([first, second], 1), list(x.shape), align_corners=False)
    points = torch.randn(count, 2, _DISPLACEMENT_GRID, _DISPLACEMENT_GRID) * (2 * _DISPLACEMENT)
    smooth = F.interpolate(points, size=(height, width), mode="bicubic", align_corners=True)
    return F.grid_sample(x, grid + smooth.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)


def adjust(x: Tensor) -> Tensor:
    """Brightness v in [0, 1] of each image becomes c v^g with random c and g; each channel has its own c."""
    gamma = (_GAMMA * torch.randn(len(x), 1, 1, 1)).exp()
    contrast = (_CONTRAST * torch.randn(len(x), x.shape[1], 1, 1)).exp()
    return 2 * contrast * ((x + 1) / 2).clamp(1e-4, 1) ** gamma - 1


def erase(x: Tensor) -> Tensor:
    """Replace a random square of some of the images by the image's darkest value."""
    count, _, height, width = x.shape
    side = max(1, int(min(height, width) * _PATCH))
    top, left = torch.randint(height - side + 1, (count, 1)), torch.randint(width - side + 1, (count, 1))
    row, column = torch.arange(height), torch.arange(width)
    rows, columns = (row >= top) & (row < top + side), (column >= left) & (column < left + side)
    chosen = (torch.rand(count) < _PATCH_PROBABILITY)[:, None, None, None]
    inside = rows[:, None, :, None] & columns[:, None, None, :] & chosen
    return torch.where(inside, x.amin((1, 2, 3), keepdim=True), x)
