"""Layers of the networks.

Every layer maps (B, C, H, W) to (B, C, H, W) and keeps the dtype and the memory format of its input: with channels_last
images the tokens of the attention, (B, HW, C), are views and not copies.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.networks.attention import self_attention
from fromnoise.networks.kernels.group_norm import GroupNormOptions, can_fuse, fused_group_norm


def pad_to(x: Tensor, height: int, width: int) -> Tensor:
    """Pad (B, C, h, w) to (B, C, height, width) with zeros, equally on both sides; an odd row or column is added last.

    Zero is mid grey for images in [-1, 1], the mean of pure noise, and the padding of the convolutions; unlike
    reflection it is defined for a single pixel. If the size is right already, ``x`` itself is returned.
    """
    rows, columns = height - x.shape[-2], width - x.shape[-1]
    if rows == 0 and columns == 0:
        return x
    return F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


def crop_to(x: Tensor, height: int, width: int) -> Tensor:
    """Undo ``pad_to``: the central (B, C, height, width) of ``x`` as a view, or ``x`` itself if the size is right."""
    if x.shape[-2] == height and x.shape[-1] == width:
        return x
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


def ceil_to(side: int, multiple: int) -> int:
    """Round ``side`` up to a multiple of ``multiple``."""
    # no negative number is divided, which ONNX rounds towards zero
    return (side + multiple - 1) // multiple * multiple


def normalize(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Group normalization; unlike ``F.group_norm`` it accepts a batch of one image whose groups have one value each."""
    if can_fuse(x):
        options = GroupNormOptions(norm.num_groups, norm.eps, silu=False)
        return fused_group_norm(x, norm.weight, norm.bias, options)
    return torch.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)


def norm_act(
    x: Tensor,
    norm: nn.GroupNorm,
    *,
    addend: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """SiLU((1 + scale) GroupNorm(x + addend) + shift), by the fused CPU kernel where it is available.

    Args:
        x: (B, C, H, W).
        norm: the group normalization.
        addend: (B, C); None for 0.
        scale: (B, C), given together with ``shift`` or not at all.
        shift: (B, C).

    Source: Dhariwal and Nichol 2021, sec. 3.1 (adaptive group normalization).
    """
    if can_fuse(x):
        options = GroupNormOptions(norm.num_groups, norm.eps, silu=True)
        return fused_group_norm(x, norm.weight, norm.bias, options, addend, scale, shift)
    if addend is not None:
        x = x + addend[:, :, None, None]
    x = normalize(x, norm)
    if scale is not None and shift is not None:
        x = torch.addcmul(shift[:, :, None, None], x, scale[:, :, None, None] + 1)
    return F.silu(x)


class ResidualBlock(nn.Module):
    """Residual block: norm, SiLU, convolution; norm, SiLU, dropout, convolution; plus the input.

    The time embedding is added before the second norm (Ho et al. 2020, app. B) or, with ``scale_shift``, scales and
    shifts the output of that norm (Dhariwal and Nichol 2021, sec. 3.1).
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
        """Build the block.

        Args:
            in_channels: channels of the input; a 1x1 convolution on the shortcut if ``out_channels`` differs.
            out_channels: channels of the output.
            time_dim: size of the time embedding.
            groups: groups of the group normalizations.
            eps: epsilon of the group normalizations.
            dropout: dropout probability, before the second convolution.
            scale_shift: the time embedding scales and shifts.
        """
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

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map (B, in, H, W) and the SiLU of the time embedding, (B, time_dim), to (B, out, H, W)."""
        h = self.conv1(norm_act(x, self.norm1))
        projected = self.time(embedding)
        if self.scale_shift:
            scale, shift = projected.chunk(2, dim=1)
            h = norm_act(h, self.norm2, scale=scale, shift=shift)
        else:
            h = norm_act(h, self.norm2, addend=projected)
        return self.conv2(self.dropout(h)).add_(self.shortcut(x))


class Attention(nn.Module):
    """Multi-head self-attention over all pixels: group norm, attention, linear; plus the residual.

    The residual is the input (Ho et al. 2020, app. B) or, with ``normalized_residual``, the normalized input.

    Source of ``normalized_residual``: A. K. Nain 2022, "Denoising Diffusion Probabilistic Model", Keras code examples.
    """

    def __init__(
        self, channels: int, *, heads: int, groups: int, eps: float, normalized_residual: bool = False
    ) -> None:
        """Build the layer.

        Args:
            channels: of the input and the output.
            heads: number of heads; must divide ``channels``.
            groups: groups of the group normalization.
            eps: epsilon of the group normalization.
            normalized_residual: add the output to the normalized input instead of the input.
        """
        super().__init__()
        self.heads, self.normalized_residual = heads, normalized_residual
        self.norm = nn.GroupNorm(groups, channels, eps)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        normalized = normalize(x, self.norm)
        mixed = self_attention(self.qkv(normalized.flatten(2).transpose(1, 2)), self.heads)
        out = self.out(mixed).transpose(1, 2).unflatten(2, x.shape[2:])
        return (normalized if self.normalized_residual else x) + out


class Downsample(nn.Module):
    """3x3 convolution of stride 2, padded at the bottom and on the right only.

    This equals TensorFlow's padding SAME at even sides, as in Ho et al. 2020, so that their weights can be used.
    """

    def __init__(self, channels: int) -> None:
        """Build the layer; the number of channels stays the same."""
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H/2, W/2), H and W even."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest-neighbour upsampling and a 3x3 convolution, which avoids checkerboard artifacts (Odena et al. 2016)."""

    def __init__(self, channels: int) -> None:
        """Build the layer; the number of channels stays the same."""
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, 2H, 2W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class PixelShuffleUpsample(nn.Module):
    """1x1 convolution at the coarse resolution, then pixel shuffle (Shi et al. 2016)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """Build the layer."""
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 4 * out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, out, 2H, 2W)."""
        return F.pixel_shuffle(self.conv(x), 2)


def variance_scaling(root: nn.Module) -> None:
    """Initialize convolutions and linear layers from U(-b, b), b^2 = 3 / ((fan_in + fan_out) / 2), and biases to 0.

    This is variance scaling with scale 1, fan-avg, uniform. Query, key and value projections of an ``Attention`` are
    initialized as three separate layers.

    Source: Glorot and Bengio 2010, eq. 16; Ho et al. 2020.
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
    """Set weight and bias to exactly 0, where Ho et al. 2020 use variance scaling with scale 1e-10."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
