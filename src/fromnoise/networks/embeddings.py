"""Embeddings of the timestep, of the condition and of the pixel coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sinusoid(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoidal embedding of the timestep: first all sines, then all cosines.

    sin(t f_k) and cos(t f_k),  f_k = max_period^(-k / (h - 1)),  k = 0 .. h - 1,  h = dim // 2

    If ``dim`` is odd, the last channel is 0.

    Args:
        t: (B,) float, any real number.
        dim: at least 4.
        max_period: inverse of the lowest frequency.

    Returns:
        (B, dim), float32 or float64: half precision cannot represent the difference between timesteps 998 and 999.

    Source: the position embedding of Vaswani et al. 2017 (sec. 3.5), as used by Ho et al. 2020 (app. B).
    """
    t = t.to(torch.promote_types(t.dtype, torch.float32))
    half = dim // 2
    k = torch.arange(half, dtype=t.dtype, device=t.device)
    angle = t[:, None] * torch.exp(k * (-math.log(max_period) / (half - 1)))
    embedding = torch.cat([angle.sin(), angle.cos()], dim=1)
    return F.pad(embedding, (0, 1)) if dim % 2 else embedding


def sinusoid_table(steps: int, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Table of sinusoids of Pulfer's tutorial: sines on even and cosines on odd channels.

    Channels j and j + 1, j even, of row t are sin(t f_j) and cos(t f_j) with f_j = max_period^(-2j / dim). The exponent
    contains the channel j, as published, where Vaswani et al. 2017 have j / 2: the frequencies fall twice as fast.

    Args:
        steps: number of rows, T.
        dim: number of channels.
        max_period: inverse of the lowest frequency, up to the exponent above.

    Returns:
        (steps, dim), float32.
    """
    j = torch.arange(0, dim, 2, dtype=torch.float64)
    angle = torch.arange(steps, dtype=torch.float64)[:, None] * max_period ** (-2 * j / dim)
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[:, :dim].float()


class TimeEmbedding(nn.Module):
    """Embedding of the timestep: sinusoids, Linear, SiLU, Linear (Ho et al. 2020, app. B)."""

    def __init__(self, dim: int, hidden: int) -> None:
        """Build the embedding.

        Args:
            dim: number of sinusoids.
            hidden: size of the embedding.

        Raises:
            ValueError: ``dim`` is smaller than 4.
        """
        super().__init__()
        if dim < 4:
            raise ValueError(f"time_dim={dim} is too small for a sinusoidal embedding; use 4 or more")
        self.dim = dim
        self.lower = nn.Linear(dim, hidden)
        self.upper = nn.Linear(hidden, hidden)

    def forward(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        """Map (B,) to (B, hidden); the sinusoids are computed in float32, then cast to ``dtype``."""
        return self.upper(F.silu(self.lower(sinusoid(t, self.dim).to(dtype))))


class AttributeEmbedding(nn.Module):
    """Embedding of attributes: standardization, Linear, SiLU, Linear; a learned vector for unknown attributes."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, scales: Sequence[tuple[float, float]], hidden: int) -> None:
        """Build the embedding.

        Args:
            scales: mean and standard deviation of each of the A attributes.
            hidden: size of the embedding.
        """
        super().__init__()
        mean, deviation = torch.tensor([[float(v) for v in pair] for pair in scales]).T
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("deviation", deviation, persistent=False)
        self.lower = nn.Linear(len(scales), hidden)
        self.upper = nn.Linear(hidden, hidden)
        self.unknown = nn.Parameter(torch.zeros(hidden))

    def forward(self, cond: Tensor | None, count: int) -> Tensor:
        """Map (B, A) to (B, hidden), B = ``count``; rows with a NaN are unknown, and all rows if ``cond`` is None."""
        if cond is None:
            return self.unknown.expand(count, -1)
        known = cond.isfinite().all(1, keepdim=True)
        # 0 instead of NaN in the rows that are not used: 0 times NaN would make the gradient NaN
        standard = torch.where(known, (cond - self.mean) / self.deviation, 0.0)
        return torch.where(known, self.upper(F.silu(self.lower(standard))), self.unknown)


class AugmentationEmbedding(nn.Linear):
    """What was done to a training image: a linear layer without bias, so that no augmentation adds nothing.

    Source: Karras et al. 2022, app. F.2.
    """

    def __init__(self, conditions: int, hidden: int) -> None:
        """Build the layer, with weights of 0.

        Args:
            conditions: how many numbers describe the augmentation of an image.
            hidden: size of the embedding to which it is added.
        """
        super().__init__(conditions, hidden, bias=False)
        nn.init.zeros_(self.weight)


def add_augmentation(embedding: Tensor, augmentation: Tensor | None, layer: AugmentationEmbedding | None) -> Tensor:
    """Add the embedding of the augmentation to that of time and condition.

    Args:
        embedding: (B, D).
        augmentation: what was done to each image, (B, K); None for nothing.
        layer: None if the network takes no augmentation.

    Raises:
        ValueError: ``augmentation`` is given, but there is no layer.
    """
    if augmentation is None:
        return embedding
    if layer is None:
        raise ValueError("this network takes no augmentation: build it with augmentation, or leave it out")
    return embedding + layer(augmentation.to(embedding.dtype))


def add_condition(
    embedding: Tensor, cond: Tensor | None, labels: nn.Embedding | None, attributes: AttributeEmbedding | None
) -> Tensor:
    """Add the embedding of the condition to that of the time.

    Args:
        embedding: (B, D), embedding of the time.
        cond: (B,) int64 class indices, -1 for no class; or (B, A) float attributes, NaN for unknown; or None.
        labels: table whose row 0 is "no class" and whose row c + 1 is class c; None if the network has no classes.
        attributes: None if the network has no attributes.

    Returns:
        (B, D).

    Raises:
        ValueError: ``cond`` is given, but there are neither classes nor attributes.
    """
    if labels is not None:
        return embedding + (labels.weight[0] if cond is None else labels(cond + 1))
    if attributes is not None:
        return embedding + attributes(cond, len(embedding)).to(embedding.dtype)
    if cond is not None:
        raise ValueError("this network is unconditional: build it with classes or attributes, or call it without cond")
    return embedding


def add_class(embedding: Tensor, cond: Tensor | None, table: nn.Embedding | None, null_class: int | None) -> Tensor:
    """Add the embedding of a class, from a table whose row of no class is anywhere or missing.

    Args:
        embedding: (B, D).
        cond: (B,) int64 class indices, -1 for no class; or None.
        table: a row per class, and that of no class; None if the network has no classes.
        null_class: row of no class; None if there is none.

    Returns:
        (B, D).

    Raises:
        ValueError: ``cond`` is given, but there are no classes; or a class is not, and no row stands for it.
    """
    if table is None:
        if cond is not None:
            raise ValueError("this network is unconditional: call it without cond")
        return embedding
    if null_class is None:
        if cond is None or bool((cond < 0).any()):
            raise ValueError("this network has no embedding for no class: give a class to every image")
        return embedding + table(cond)
    if cond is None:
        return embedding + table.weight[null_class]
    return embedding + table(torch.where(cond < 0, null_class, cond + (cond >= null_class)))


class PositionEmbedding(nn.Module):
    """Embedding of the pixel coordinates, added to the features: a linear map of sinusoids along both axes.

    The sinusoids are sin(2^k pi y / 4) and cos(2^k pi y / 4), k = 0, 1 .., with y in [-1, 1] at any size
    of the image. Without them, convolutions can infer a position from the zero padding at the edges alone.

    Source: Mildenhall et al. 2020, eq. 4, starting at a lower frequency.
    """

    def __init__(self, channels: int, waves: int = 4) -> None:
        """Build the embedding.

        Args:
            channels: of the features.
            waves: number of frequencies along each axis.
        """
        super().__init__()
        self.waves = waves
        self.linear = nn.Linear(4 * waves, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Add the embedding to (B, C, H, W)."""
        frequencies = math.pi / 4 * 2.0 ** torch.arange(self.waves, device=x.device)
        axes: list[Tensor] = []
        for count, shape in ((x.shape[-2], (-1, 1, 1)), (x.shape[-1], (1, -1, 1))):
            y = (2 * torch.arange(count, device=x.device) + 1) / count - 1
            angle = (y[:, None] * frequencies).reshape(shape[0], shape[1], self.waves)
            axes += [w.expand(x.shape[-2], x.shape[-1], -1) for w in (angle.sin(), angle.cos())]
        return x + self.linear(torch.cat(axes, dim=2).to(x.dtype)).permute(2, 0, 1)
