"""Linear operators on images, y = A x: masks, grayscale conversion, downsampling and blur.

An operator consists of ``forward`` (A), ``adjoint`` (A^T, with <A x, y> = <x, A^T y>) and ``pseudo_inverse`` (the
Moore-Penrose inverse A^+). The inverse solvers need nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor


class LinearOperator(ABC):
    """A linear map of images (B, C, H, W)."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A x, the measurement of images (B, C, H, W)."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y, shaped as images (B, C, H, W)."""

    @abstractmethod
    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """A^+ y, shaped as images: the least-norm solution of the least-squares problem A x = y."""

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """The images nearest to ``x`` among those with A x = y: x + A^+ (y - A x)."""
        return x + self.pseudo_inverse(y - self.forward(x))


class Mask(LinearOperator):
    """Keeps some pixels and sets the others to 0; its own adjoint and its own pseudo-inverse."""

    def __init__(self, known: Tensor) -> None:
        """Set the mask.

        Args:
            known: bool, broadcastable to (C, H, W): true where the pixel is measured.
        """
        self.known = known

    def forward(self, x: Tensor) -> Tensor:
        """The images with unknown pixels set to 0, (B, C, H, W)."""
        return torch.where(self.known.to(x.device), x, 0)

    def adjoint(self, y: Tensor) -> Tensor:
        """The same map as ``forward``."""
        return self.forward(y)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """The same map as ``forward``."""
        return self.forward(y)

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """``x`` with the known pixels of ``y``, bit for bit."""
        return torch.where(self.known.to(x.device), y, x)


class Separable(LinearOperator):
    """A Kronecker product of matrices on channels, rows and columns, K x R x L, with pseudo-inverse K^+ x R^+ x L^+.

    ``grayscale``, ``downsampling`` and ``gaussian_blur`` make such operators.
    """

    def __init__(
        self, channels: Tensor | None = None, rows: Tensor | None = None, columns: Tensor | None = None
    ) -> None:
        """Compute the pseudo-inverses.

        Args:
            channels: K, (C', C); None is the identity.
            rows: R, (H', H), acting on the height; None is the identity.
            columns: L, (W', W), acting on the width; None is the identity.
        """
        self._matrices = [m if m is None else m.to(torch.float64) for m in (channels, rows, columns)]
        self._adjoints = [m if m is None else m.T for m in self._matrices]
        self._pseudo_inverses = [m if m is None else torch.linalg.pinv(m) for m in self._matrices]

    def forward(self, x: Tensor) -> Tensor:
        """A x, (B, C', H', W')."""
        return _apply(self._matrices, x)

    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y, (B, C, H, W)."""
        return _apply(self._adjoints, y)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """A^+ y, (B, C, H, W)."""
        return _apply(self._pseudo_inverses, y)


def _apply(matrices: Sequence[Tensor | None], x: Tensor) -> Tensor:
    """Multiply each axis of ``x`` from the channels on by its matrix."""
    for axis, matrix in enumerate(matrices, start=1):
        if matrix is not None:
            x = (x.movedim(axis, -1) @ matrix.to(x).T).movedim(-1, axis)
    return x


def grayscale(weights: Sequence[float] = (0.299, 0.587, 0.114)) -> Separable:
    """The weighted mean of the channels; by default the luma of ITU-R BT.601.

    Args:
        weights: one a channel; they sum to 1, so that pixels stay in their range.
    """
    return Separable(channels=torch.tensor([list(weights)], dtype=torch.float64))


def downsampling(height: int, width: int, factor: int) -> Separable:
    """The mean of each square of ``factor`` x ``factor`` pixels.

    Args:
        height: of the full images, in pixels.
        width: of the full images, in pixels.
        factor: height and width are divided by it.

    Raises:
        ValueError: the factor does not divide height and width.
    """
    if height % factor or width % factor:
        raise ValueError(f"a factor of {factor} does not divide {height}x{width} pixels")

    def means(side: int) -> Tensor:
        return torch.eye(side // factor, dtype=torch.float64).repeat_interleave(factor, dim=1) / factor

    return Separable(rows=means(height), columns=means(width))


def gaussian_blur(height: int, width: int, std: float, min_singular_value: float = 0.05) -> Separable:
    """Convolution with a Gaussian kernel; images are mirrored at their edges.

    Singular values below ``min_singular_value`` are set to 0: the frequencies that the blur leaves below the
    resolution of 8-bit pixels would be recovered as noise.

    Args:
        height: of the images, in pixels.
        width: of the images, in pixels.
        std: standard deviation of the kernel, in pixels.
        min_singular_value: the smallest singular value that is kept, of the matrix of each axis.
    """

    def kernel(side: int) -> Tensor:
        radius = max(1, round(4 * std))
        taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / std) ** 2)
        matrix = torch.zeros(side, side, dtype=torch.float64)
        for shift, tap in zip(range(-radius, radius + 1), taps / taps.sum(), strict=True):
            index = (torch.arange(side) + shift) % (2 * side)
            index = torch.where(index < side, index, 2 * side - 1 - index)
            matrix[torch.arange(side), index] += tap
        left, values, right = torch.linalg.svd(matrix)
        return (left * torch.where(values < min_singular_value, 0.0, values)) @ right

    return Separable(rows=kernel(height), columns=kernel(width))
