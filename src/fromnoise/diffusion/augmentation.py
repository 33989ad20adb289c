"""Augmentation of training images that does not leak into samples: its parameters are a condition of the network.

Karras et al. 2022, app. F.2, after Karras et al. 2020 ("Training generative adversarial networks with limited data"):
each operation is applied with a probability, and its parameters are a second condition of the network. Sampling
gives none, which is the condition of an image that was left as it is.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.registry import register


class Augmentation(ABC):
    """Changes training images, and describes each change by some numbers, which are 0 for no change.

    Attributes:
        conditions: how many numbers.
    """

    conditions: ClassVar[int]

    @abstractmethod
    def __call__(self, x0: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Change a batch of images.

        Args:
            x0: clean images (B, C, H, W) in [-1, 1].
            noise: the random numbers of these training images.

        Returns:
            Images of the same shape, and what was done to each, float32 (B, ``conditions``).
        """


@register("augmentation", "edm")
@dataclass(frozen=True)
class EDMAugmentation(Augmentation):
    """Flips, scaling, rotation, anisotropic scaling and translation, each with a probability (Karras et al. 2022).

    The nine numbers of the condition, table 6: a_0; a_1; a_2; cos a_3 - 1, sin a_3; a_5 cos a_4, a_5 sin a_4; a_6, a_7.
    Flips of both directions move pixels; the other operations are one bicubic resampling with reflected borders (the
    paper's code filters with wavelets). An image to which nothing is done keeps its bits.

    Attributes:
        probability: of each of the six operations; 0.12 and 0.15 in the paper.
        flip: mirror images in both directions; false where mirrored images are no images of the set
        scale: standard deviation of log2 of the factor of scaling
        rotate: largest angle of rotation, as a fraction of half a turn; 1 is any angle
        anisotropy: standard deviation of log2 of the factor of scaling along an axis of any angle
        translate: standard deviation of the translation, as a fraction of the side
    """

    probability: float = 0.12
    flip: bool = True
    scale: float = 0.2
    rotate: float = 1.0
    anisotropy: float = 0.2
    translate: float = 0.125

    conditions: ClassVar[int] = 9

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: one is out of range.
        """
        for name, highest in (("probability", 1.0), ("rotate", 1.0), ("translate", 1.0), ("scale", 4.0)):
            if not 0 <= getattr(self, name) <= highest:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, {highest:g}]")
        if not 0 <= self.anisotropy <= 4:
            raise ValueError(f"anisotropy={self.anisotropy} must lie in [0, 4]")

    def __call__(self, x0: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """See ``Augmentation``."""
        z = noise.normal((14,), Stream.AUGMENTATION, like=torch.empty(0, dtype=torch.float64))
        u = torch.special.ndtr(z)  # uniform numbers, of the same draw
        on = u[:, :6] < self.probability
        mirrored = on[:, :2] & (u[:, 6:8] < 0.5) & self.flip
        angle = math.pi * self.rotate * (2 * u[:, 8] - 1) * on[:, 3]
        axis = math.pi * (2 * u[:, 9] - 1)
        zoom, stretch = z[:, 10] * on[:, 2], z[:, 11] * on[:, 4]
        shift = z[:, 12:14] * on[:, 5:6]
        described = [*mirrored.T, zoom, angle.cos() - 1, angle.sin(), stretch * axis.cos(), stretch * axis.sin()]
        vector = torch.stack([*(d.double() for d in described), *shift.T], dim=1)
        moved = _flipped(x0, mirrored.to(x0.device))
        # what was at a point of the input is at matrix @ point + shift of the output
        zoomed, rotated = torch.exp2(self.scale * zoom), _rotation(angle)
        along = torch.diag_embed(torch.exp2(torch.stack([stretch, -stretch], dim=1) * self.anisotropy))
        matrix = zoomed[:, None, None] * rotated @ _rotation(axis) @ along @ _rotation(-axis)
        changed = on[:, 2:].any(1)
        if bool(changed.any()):
            rows = changed.nonzero().squeeze(1)
            where = rows.to(x0.device)
            moved = moved.index_copy(0, where, _resampled(moved[where], matrix[rows], self.translate * shift[rows]))
        return moved, vector.to(x0.device, torch.float32)


def _flipped(x: Tensor, mirrored: Tensor) -> Tensor:
    """Images (B, C, H, W) mirrored horizontally and vertically where the columns of ``mirrored``, (B, 2), say so."""
    for column, side in ((0, 3), (1, 2)):
        x = torch.where(mirrored[:, column, None, None, None], x.flip(side), x)
    return x


def _rotation(angle: Tensor) -> Tensor:
    """Rotation matrices of angles (B,), (B, 2, 2)."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1)


def _resampled(x: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    """Images moved by affine maps about their centre, by bicubic interpolation.

    Args:
        x: (B, C, H, W).
        matrix: of each map, in pixels, float64 (B, 2, 2).
        shift: of each map, in sides, (B, 2).
    """
    height, width = x.shape[-2:]
    sides = torch.tensor([width, height], dtype=torch.float64)
    inverse = torch.linalg.inv(matrix)
    # grid_sample asks where each output pixel comes from, in coordinates from -1 to 1 along each side
    theta = inverse * (sides / sides[:, None])
    offset = -(theta @ (2 * shift)[:, :, None])
    affine = torch.cat([theta, offset], dim=2).to(x.device, x.dtype)
    with torch.autocast(x.device.type, enabled=False):
        grid = F.affine_grid(affine, list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, mode="bicubic", padding_mode="reflection", align_corners=False).clamp(-1, 1)
