"""Linear operators on images: what is lost of them, y = A x, and how much of it can be had back without a model.

An operator is three functions: ``forward`` A, ``adjoint`` A^T, with <A x, y> = <x, A^T y>, and ``inverse``, the
pseudo-inverse A^+ of Moore and Penrose. ``guidance.DDNM``, ``guidance.Posterior`` and ``repaint.Repaint`` need no
more to draw images that agree with y.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor


class Operator(ABC):
    """A linear map of images (B, C, H, W)."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A x: what is left of the images."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y, images."""

    @abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        """A^+ y: the smallest images of those that come nearest to y."""

    def agree(self, x: Tensor, y: Tensor) -> Tensor:
        """The images nearest to ``x`` of those that give ``y``: x + A^+ (y - A x)."""
        return x + self.inverse(y - self.forward(x))


class Mask(Operator):
    """Some pixels are seen and the others are 0: its own adjoint and its own pseudo-inverse."""

    def __init__(self, seen: Tensor) -> None:
        """Keep where.

        Args:
            seen: bool, broadcastable to (C, H, W): true where the pixel is known.
        """
        self.seen = seen

    def forward(self, x: Tensor) -> Tensor:
        """The seen pixels, (B, C, H, W)."""
        return torch.where(self.seen.to(x.device), x, 0)

    def adjoint(self, y: Tensor) -> Tensor:
        """As ``forward``."""
        return self.forward(y)

    def inverse(self, y: Tensor) -> Tensor:
        """As ``forward``."""
        return self.forward(y)

    def agree(self, x: Tensor, y: Tensor) -> Tensor:
        """``x`` with the seen pixels of ``y``, to the last bit."""
        return torch.where(self.seen.to(x.device), y, x)


class Separable(Operator):
    """A matrix on each of channels, rows and columns: (K x R x L) x, whose pseudo-inverse is (K^+ x R^+ x L^+) y.

    ``grey``, ``downsample`` and ``blur`` make the usual ones.
    """

    def __init__(
        self, channels: Tensor | None = None, rows: Tensor | None = None, columns: Tensor | None = None
    ) -> None:
        """Invert the matrices.

        Args:
            channels: (C', C); None leaves them alone.
            rows: (H', H), on the second last axis.
            columns: (W', W), on the last.
        """
        self._matrices = [m if m is None else m.to(torch.float64) for m in (channels, rows, columns)]
        self._adjoints = [m if m is None else m.T for m in self._matrices]
        self._inverses = [m if m is None else torch.linalg.pinv(m) for m in self._matrices]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C', H', W')."""
        return _apply(self._matrices, x)

    def adjoint(self, y: Tensor) -> Tensor:
        """(B, C, H, W)."""
        return _apply(self._adjoints, y)

    def inverse(self, y: Tensor) -> Tensor:
        """(B, C, H, W)."""
        return _apply(self._inverses, y)


def _apply(matrices: Sequence[Tensor | None], x: Tensor) -> Tensor:
    """One matrix for each axis from the channels on."""
    for axis, matrix in enumerate(matrices, start=1):
        if matrix is not None:
            x = (x.movedim(axis, -1) @ matrix.to(x).T).movedim(-1, axis)
    return x


def grey(weights: Sequence[float] = (0.299, 0.587, 0.114)) -> Separable:
    """Colour is lost: the channels' weighted mean is left (the usual weights: ITU-R BT.601).

    Args:
        weights: of the channels, summing to 1, so that the range of pixels stays what it is.
    """
    return Separable(channels=torch.tensor([list(weights)], dtype=torch.float64))


def downsample(height: int, width: int, factor: int) -> Separable:
    """Detail is lost: each square of ``factor`` x ``factor`` pixels becomes its mean.

    Args:
        height: of the whole images.
        width: of the whole images.
        factor: by which they shrink.

    Raises:
        ValueError: the factor does not divide the sides.
    """
    if height % factor or width % factor:
        raise ValueError(f"{height}x{width} pixels cannot be taken {factor} by {factor}")

    def means(side: int) -> Tensor:
        return torch.eye(side // factor, dtype=torch.float64).repeat_interleave(factor, dim=1) / factor

    return Separable(rows=means(height), columns=means(width))


def blur(height: int, width: int, deviation: float, least: float = 0.05) -> Separable:
    """Sharpness is lost: a Gaussian kernel, images being mirrored at their edges.

    What the blur leaves of the finest patterns is below the steps of 8-bit pixels and comes back as noise alone:
    patterns of which less than ``least`` is left are counted as lost.

    Args:
        height: of the images.
        width: of the images.
        deviation: of the kernel, in pixels.
        least: the smallest singular value that is kept.
    """

    def kernel(side: int) -> Tensor:
        reach = max(1, round(4 * deviation))
        taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / deviation) ** 2)
        matrix = torch.zeros(side, side, dtype=torch.float64)
        for shift, tap in zip(range(-reach, reach + 1), taps / taps.sum(), strict=True):
            place = (torch.arange(side) + shift) % (2 * side)
            place = torch.where(place < side, place, 2 * side - 1 - place)
            matrix[torch.arange(side), place] += tap
        left, values, right = torch.linalg.svd(matrix)
        return (left * torch.where(values < least, 0.0, values)) @ right

    return Separable(rows=kernel(height), columns=kernel(width))
