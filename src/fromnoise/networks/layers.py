"""The parts that the networks are built from.

Every part takes and gives (B, C, H, W) in whatever dtype and memory format it is handed, and keeps both: with
channels_last images the attention's (B, HW, C) tokens are views, not copies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.networks.attention import attend
from fromnoise.networks.kernels.group_norm import NormOptions, fused, usable


def pad_to(x: Tensor, height: int, width: int) -> Tensor:
    """Pad (B, C, h, w) to (B, C, height, width) with zeros, evenly; an odd one goes below and on the right.

    Zero is the mid grey of images in [-1, 1], the mean of pure noise, and what the convolutions themselves
    see beyond the edge; unlike reflection it is defined for one pixel. A size that is right already costs
    nothing.
    """
    down, right = height - x.shape[-2], width - x.shape[-1]
    if down == 0 and right == 0:
        return x
    return F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))


def crop_to(x: Tensor, height: int, width: int) -> Tensor:
    """Undo ``pad_to``: the middle (B, C, height, width) of x, as a view; x itself if that is all of it."""
    if x.shape[-2] == height and x.shape[-1] == width:
        return x
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


def ceil_to(side: int, multiple: int) -> int:
    """Round ``side`` up to a multiple of ``multiple``."""
    return -(-side // multiple) * multiple


def sinusoid(clock: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Take sines, then cosines, of the clock at geometric frequencies.

    sin(c f_k) and cos(c f_k), f_k = max_period^(-k / (h - 1)), k = 0 .. h - 1, h = dim // 2: the
    Transformer's position embedding as Ho et al. 2020 use it (sec. 4). An odd ``dim`` ends in a zero.

    Args:
        clock: (B,) float, any real number.
        dim: at least 4.
        max_period: one over the lowest frequency.

    Returns:
        (B, dim), float32 or wider: half precision cannot tell step 998 from 999.
    """
    clock = clock.to(torch.promote_types(clock.dtype, torch.float32))
    half = dim // 2
    place = torch.arange(half, dtype=clock.dtype, device=clock.device)
    angle = clock[:, None] * torch.exp(place * (-math.log(max_period) / (half - 1)))
    waves = torch.cat([angle.sin(), angle.cos()], dim=1)
    return F.pad(waves, (0, 1)) if dim % 2 else waves


def sinusoid_table(steps: int, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Tabulate the tutorial's sinusoids, (steps, dim) float32, sines on even and cosines on odd channels.

    Channels j and j + 1, j even, hold sin(c f_j) and cos(c f_j) with f_j = max_period^(-2j / dim). As
    published the exponent has the channel j itself where the Transformer has j / 2, so that frequencies
    fall twice as fast.
    """
    place = torch.arange(0, dim, 2, dtype=torch.float64)
    angle = torch.arange(steps, dtype=torch.float64)[:, None] * max_period ** (-2 * place / dim)
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[:, :dim].float()


class TimeEmbedding(nn.Module):
    """sinusoid -> Linear -> SiLU -> Linear (Ho et al. 2020, app. B)."""

    def __init__(self, dim: int, hidden: int) -> None:
        """Embed the clock in ``dim`` sinusoids, then in ``hidden`` channels.

        Raises:
            ValueError: ``dim`` is under 4.
        """
        super().__init__()
        if dim < 4:
            raise ValueError(f"time_dim={dim} is too small for sinusoids; use 4 or more")
        self.dim = dim
        self.lower = nn.Linear(dim, hidden)
        self.upper = nn.Linear(hidden, hidden)

    def forward(self, clock: Tensor, dtype: torch.dtype) -> Tensor:
        """Map (B,) to (B, hidden); the sinusoids are taken in float32 and cast to ``dtype`` after."""
        return self.upper(F.silu(self.lower(sinusoid(clock, self.dim).to(dtype))))


class AttributeEmbedding(nn.Module):
    """Standardised numbers -> Linear -> SiLU -> Linear; a vector of its own where they are not known."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, scales: Sequence[tuple[float, float]], hidden: int) -> None:
        """Embed numbers of these means and deviations in ``hidden`` channels."""
        super().__init__()
        mean, deviation = torch.tensor([[float(v) for v in pair] for pair in scales]).T
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("deviation", deviation, persistent=False)
        self.lower = nn.Linear(len(scales), hidden)
        self.upper = nn.Linear(hidden, hidden)
        self.unknown = nn.Parameter(torch.zeros(hidden))

    def forward(self, cond: Tensor | None, count: int) -> Tensor:
        """Map (B, A), NaN or None for unknown, to (B, hidden), B = ``count``."""
        if cond is None:
            return self.unknown.expand(count, -1)
        known = cond.isfinite().all(1, keepdim=True)
        # what is not used is 0, not NaN: a gradient of NaN times 0 is NaN
        standard = torch.where(known, (cond - self.mean) / self.deviation, 0.0)
        return torch.where(known, self.upper(F.silu(self.lower(standard))), self.unknown)


def normalise(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Group normalisation; unlike ``F.group_norm`` it takes a single image whose groups hold one value."""
    if usable(x):
        return fused(x, norm.weight, norm.bias, NormOptions(norm.num_groups, norm.eps, act=False))
    return torch.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)


def norm_act(
    x: Tensor,
    norm: nn.GroupNorm,
    *,
    plus: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """SiLU((1 + scale) GroupNorm(x + plus) + shift) (Dhariwal and Nichol 2021, sec. 3.1), in one piece where it can be.

    Args:
        x: (B, C, H, W).
        norm: its normalisation.
        plus: (B, C), added first; None for 0.
        scale: (B, C), given together with ``shift`` or not at all.
        shift: (B, C).
    """
    if usable(x):
        config = NormOptions(norm.num_groups, norm.eps, act=True)
        return fused(x, norm.weight, norm.bias, config, plus, scale, shift)
    if plus is not None:
        x = x + plus[:, :, None, None]
    x = normalise(x, norm)
    if scale is not None and shift is not None:
        x = torch.addcmul(shift[:, :, None, None], x, scale[:, :, None, None] + 1)
    return F.silu(x)


class Position(nn.Module):
    """Where a pixel lies, as features that are added: a linear map of waves along both axes.

    Convolutions see places only by the zeros beyond the edge. The waves, sin and cos of 2^k pi y / 4 with y in
    [-1, 1] (Mildenhall et al. 2020, eq. 4, from lower frequencies on), span the image whatever its size.
    """

    def __init__(self, channels: int, waves: int = 4) -> None:
        """Take ``waves`` sines and cosines along each axis, k = 0, 1 .., the first a quarter of a period long."""
        super().__init__()
        self.waves = waves
        self.linear = nn.Linear(4 * waves, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Add to (B, C, H, W)."""
        turns = math.pi / 4 * 2.0 ** torch.arange(self.waves, device=x.device)
        axes: list[Tensor] = []
        for count, shape in ((x.shape[-2], (-1, 1, 1)), (x.shape[-1], (1, -1, 1))):
            at = (2 * torch.arange(count, device=x.device) + 1) / count - 1
            angle = (at[:, None] * turns).reshape(shape[0], shape[1], self.waves)
            axes += [w.expand(x.shape[-2], x.shape[-1], -1) for w in (angle.sin(), angle.cos())]
        return x + self.linear(torch.cat(axes, dim=2).to(x.dtype)).permute(2, 0, 1)


class ResidualBlock(nn.Module):
    """Norm, SiLU, conv; the time joins; norm, SiLU, dropout, conv; plus the input (Ho et al. 2020, app. B).

    The time is added before the second norm, or scales and shifts its output.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_dim: int,
        *,
        groups: int,
        eps: float,
        dropout: float = 0.0,
        scale_shift: bool = False,
    ) -> None:
        """Make a block; ``forward`` takes an embedding of size ``time_dim``, its SiLU already taken."""
        super().__init__()
        self.scale_shift = scale_shift
        self.norm1 = nn.GroupNorm(groups, in_channels, eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(time_dim, 2 * out_channels if scale_shift else out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map (B, in, H, W) and (B, time_dim) to (B, out, H, W)."""
        h = self.conv1(norm_act(x, self.norm1))
        told = self.time(time)
        if self.scale_shift:
            scale, shift = told.chunk(2, dim=1)
            h = norm_act(h, self.norm2, scale=scale, shift=shift)
        else:
            h = norm_act(h, self.norm2, plus=told)
        return self.conv2(self.dropout(h)).add_(self.shortcut(x))


class Attention(nn.Module):
    """Self-attention among all pixels: norm, fused softmax(q k' / sqrt(d)) v, linear, plus the input."""

    def __init__(self, channels: int, *, heads: int, groups: int, eps: float) -> None:
        """Attend with ``heads`` heads, which must divide ``channels``."""
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels, eps)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        tokens = normalise(x, self.norm).flatten(2).transpose(1, 2)
        mixed = attend(self.qkv(tokens), self.heads)
        return x + self.out(mixed).transpose(1, 2).unflatten(2, x.shape[2:])


class Downsample(nn.Module):
    """Convolution of stride 2, padded below and on the right only.

    That is TensorFlow's SAME at even sides, as in Ho et al. 2020, so that weights of theirs keep their
    meaning.
    """

    def __init__(self, channels: int) -> None:
        """Keep the number of channels."""
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H/2, W/2), H and W even."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest neighbour, then a convolution: no checkerboard (Odena et al. 2016)."""

    def __init__(self, channels: int) -> None:
        """Keep the number of channels."""
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, 2H, 2W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Shuffle(nn.Module):
    """A linear map of each pixel to a square of four (Shi et al. 2016), on the coarse side of the doubling."""

    def __init__(self, channels: int, above: int) -> None:
        """Give ``above`` channels, those of the finer level."""
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * above, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, above, 2H, 2W)."""
        return F.pixel_shuffle(self.conv(x), 2)


def variance_scaling(root: nn.Module) -> None:
    """Draw convolutions and linear layers from U(-b, b), b^2 = 3 / ((fan_in + fan_out) / 2), biases 0.

    Glorot and Bengio 2010, eq. 16: variance scaling at scale 1, fan-avg, uniform, as in Ho et al. 2020. The
    three projections inside an ``Attention`` are three layers.
    """
    for module in root.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in root.modules():
        if isinstance(module, Attention):
            for weight in module.qkv.weight.chunk(3):
                nn.init.xavier_uniform_(weight)


def zero(layer: nn.Conv2d | nn.Linear) -> None:
    """Set weight and bias to exactly 0 (Ho et al. 2020 have variance scaling at scale 1e-10)."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
