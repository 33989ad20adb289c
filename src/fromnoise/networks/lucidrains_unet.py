"""The U-Net of the package denoising-diffusion-pytorch (lucidrains), layer for layer.

    x -> stem -> down 0 -> down 1 -> ... -> down L-1 -> middle
          |        || skips  ||               ||          |
          |        vv        vv               vv          v
    out <- last <- up 0 <-- up 1 <-- ... <-- up L-1 <-----'

A level is two residual blocks, then attention. Downsampling widens: level l works at the width of level l - 1, and its
last convolution leads to ``width * multipliers[l]`` channels. Going up, each residual block takes one skip, newest
first, as the last channels of its input; the block before the output takes the stem's output in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.networks.embeddings import (
    AttributeEmbedding,
    AugmentationEmbedding,
    add_augmentation,
    add_condition,
    sinusoid,
)
from fromnoise.networks.layers import ceil_to, crop_to, pad_to
from fromnoise.registry import register


@register("network", "lucidrains")
class LucidrainsUNet(nn.Module):
    """U-Net of denoising-diffusion-pytorch: RMSNorm, linear attention on all levels but the last.

    35,711,491 parameters for 3 channels with the default options, 35,720,899 with self-conditioning (6 input channels).
    Sides are padded to a multiple of 2^(levels - 1), and the output is cropped back.

    Source: Phil Wang, denoising-diffusion-pytorch 2.3.4, class ``Unet``; after Ho et al. 2020, app. B.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        classes: int = 0,
        attributes: Sequence[tuple[float, float]] = (),
        augmentation: int = 0,
        width: int = 64,
        multipliers: tuple[int, ...] = (1, 2, 4, 8),
        full_attention: tuple[bool, ...] | None = None,
        heads: int = 4,
        head_dim: int = 32,
        memory_kv: int = 4,
        dropout: float = 0.0,
        theta: float = 10_000.0,
    ) -> None:
        """Build the network; the defaults are those of the published demonstration.

        Args:
            in_channels: channels of the images; twice as many for self-conditioning.
            out_channels: channels of the prediction; twice as many for a learned variance.
            classes: number of classes; 0 for none. Not in the source, which is unconditional.
            attributes: mean and standard deviation of each attribute; empty for none. Not in the source.
            augmentation: how many numbers describe what was done to an image; 0 for none. Not in the source.
            width: channels after the stem
            multipliers: channels of each level as multiples of the width, finest level first
            full_attention: per level, softmax attention (true) or linear attention (false); default: softmax attention
                on the last level alone. The middle always has softmax attention
            heads: attention heads
            head_dim: channels per attention head
            memory_kv: learned key/value pairs that each attention layer adds to those of the pixels
            dropout: dropout probability, between the two convolutions of each residual block
            theta: inverse of the lowest frequency of the time embedding

        Raises:
            ValueError: an option is out of range.
        """
        super().__init__()
        _at_least(1, in_channels=in_channels, out_channels=out_channels, levels=len(multipliers))
        _at_least(1, multipliers=min(multipliers), heads=heads, head_dim=head_dim)
        _at_least(0, memory_kv=memory_kv, classes=classes)
        _at_least(4, width=width)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} must lie in [0, 1)")
        if not 0 < theta < math.inf:
            raise ValueError(f"theta={theta} must be positive and finite; the published value is 10000")
        last = len(multipliers) - 1
        full = tuple(level == last for level in range(last + 1)) if full_attention is None else tuple(full_attention)
        if len(full) != last + 1:
            raise ValueError(f"full_attention={full} must have one entry per level: {last + 1}, not {len(full)}")

        outer = [width, *(width * m for m in multipliers[:-1])]
        inner = [width * m for m in multipliers]
        embedding = 4 * width

        def residual(ins: int, outs: int) -> _ResidualBlock:
            return _ResidualBlock(ins, outs, embedding, dropout)

        def attention(channels: int, linear: bool) -> _Attention:
            return _Attention(channels, heads=heads, head_dim=head_dim, memory_kv=memory_kv, linear=linear)

        self.width, self.theta, self.multiple = width, theta, 2**last
        self.stem = nn.Conv2d(in_channels, width, 7, padding=3)
        self.time = nn.Sequential(nn.Linear(width, embedding), nn.GELU(), nn.Linear(embedding, embedding))
        # Row 0 is "no class", row c + 1 is class c.
        self.labels = nn.Embedding(classes + 1, embedding) if classes else None
        self.attributes = AttributeEmbedding(attributes, embedding) if attributes else None
        self.augmentation = AugmentationEmbedding(augmentation, embedding) if augmentation else None
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, (ins, outs) in enumerate(zip(outer, inner, strict=True)):
            linear = not full[level]
            down = nn.Conv2d(ins, outs, 3, padding=1) if level == last else _Downsample(ins, outs)
            up = nn.Conv2d(outs, ins, 3, padding=1) if level == 0 else _Upsample(outs, ins)
            self.down.append(_Level([residual(ins, ins), residual(ins, ins)], attention(ins, linear), down))
            self.up.append(
                _Level([residual(outs + ins, outs), residual(outs + ins, outs)], attention(outs, linear), up)
            )
        self.middle1 = residual(inner[-1], inner[-1])
        self.middle_attention = attention(inner[-1], linear=False)
        self.middle2 = residual(inner[-1], inner[-1])
        self.last = residual(2 * width, width)
        self.out = nn.Conv2d(width, out_channels, 1)

        if self.labels is not None:
            # Small beside the time embedding, as in Peebles and Xie 2023.
            nn.init.normal_(self.labels.weight, std=0.02)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None, augmentation: Tensor | None = None) -> Tensor:
        """Predict from noisy images.

        Args:
            x: (B, in_channels, H, W), any H and W from 1.
            t: (B,) float, the timestep, 0 to T - 1.
            cond: (B,) int64 class indices, -1 for no class; or (B, A) float attributes, NaN for unknown ones; None for
                an unconditional prediction.
            augmentation: what was done to the images, (B, K); None for nothing.

        Returns:
            (B, out_channels, H, W).

        Raises:
            ValueError: ``cond`` is given, but the network is unconditional.
        """
        height, width = x.shape[-2:]
        x = pad_to(x, ceil_to(height, self.multiple), ceil_to(width, self.multiple))

        embedding = self.time(sinusoid(t, self.width, self.theta).to(x.dtype))
        # Every residual block begins with the SiLU of the embedding: computed once for all of them.
        embedding = add_condition(embedding, cond, self.labels, self.attributes)
        embedding = F.silu(add_augmentation(embedding, augmentation, self.augmentation))

        x = stem = self.stem(x)
        skips: list[Tensor] = []
        for level in self.down:
            x, features = level(x, embedding)
            skips += features
        x = self.middle2(self.middle_attention(self.middle1(x, embedding)), embedding)
        for level in reversed(self.up):
            x, _ = level(x, embedding, skips)
        x = self.last(torch.cat([x, stem], dim=1), embedding)
        return crop_to(self.out(x), height, width)


class _Level(nn.Module):
    """Two residual blocks, attention after the second, and a change of resolution."""

    def __init__(self, blocks: Sequence[nn.Module], attention: nn.Module, resample: nn.Module) -> None:
        super().__init__()
        self.block1, self.block2 = blocks
        self.attention = attention
        self.resample = resample

    def forward(
        self, x: Tensor, embedding: Tensor, skips: list[Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Apply the level.

        Args:
            x: (B, C, H, W).
            embedding: (B, D), SiLU of the time embedding.
            skips: features to concatenate before each block; the newest, at the end of the list, are removed from it.

        Returns:
            The input of the next level, and the features after each block, the second after its attention.
        """
        first = self.block1(x if skips is None else torch.cat([x, skips.pop()], dim=1), embedding)
        second = self.block2(first if skips is None else torch.cat([first, skips.pop()], dim=1), embedding)
        second = self.attention(second)
        return self.resample(second), (first, second)


class _RMSNorm(nn.Module):
    """Normalization of each pixel over its channels: sqrt(C) g x / max(|x|, 1e-12).

    Source: Zhang and Sennrich 2019, "Root mean square layer normalization".
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (B, C, H, W)."""
        return F.normalize(x, dim=1) * (math.sqrt(len(self.gain)) * self.gain)[:, None, None]


class _ResidualBlock(nn.Module):
    """Convolution, RMSNorm, (scale, shift), SiLU, dropout; convolution, RMSNorm, SiLU; plus the input.

    The time embedding scales and shifts after the first normalization: (1 + scale) h + shift.
    """

    def __init__(self, ins: int, outs: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.time = nn.Linear(embedding, 2 * outs)
        self.conv1 = nn.Conv2d(ins, outs, 3, padding=1)
        self.norm1 = _RMSNorm(outs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outs, outs, 3, padding=1)
        self.norm2 = _RMSNorm(outs)
        self.shortcut = nn.Identity() if ins == outs else nn.Conv2d(ins, outs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map (B, ins, H, W) and the embedding (B, D), its SiLU taken, to (B, outs, H, W)."""
        scale, shift = self.time(embedding)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm1(self.conv1(x)), scale + 1)
        h = self.norm2(self.conv2(self.dropout(F.silu(h))))
        return F.silu(h) + self.shortcut(x)


class _Attention(nn.Module):
    """Multi-head attention over the pixels and learned memory keys and values, with RMSNorm before and a residual.

    Linear attention has a second RMSNorm after its output projection.

    Source: Vaswani et al. 2017, eq. 1; Shen et al. 2021 (linear); Sukhbaatar et al. 2019 (memory).
    """

    def __init__(self, channels: int, *, heads: int, head_dim: int, memory_kv: int, linear: bool) -> None:
        super().__init__()
        self.heads, self.linear = heads, linear
        self.norm = _RMSNorm(channels)
        self.qkv = nn.Linear(channels, 3 * heads * head_dim, bias=False)
        self.memory = nn.Parameter(torch.randn(2, heads, memory_kv, head_dim)) if memory_kv else None
        self.out = nn.Linear(heads * head_dim, channels)
        self.out_norm = _RMSNorm(channels) if linear else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        if self.memory is not None:
            memory_k, memory_v = self.memory.to(k.dtype).unsqueeze(1).expand(-1, x.shape[0], -1, -1, -1)
            k, v = torch.cat([memory_k, k], dim=2), torch.cat([memory_v, v], dim=2)
        mixed = linear_attention(q, k, v) if self.linear else F.scaled_dot_product_attention(q, k, v)
        out = self.out(mixed.transpose(1, 2).flatten(2)).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.out_norm(out)


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention whose cost is linear in the number of tokens.

    d^(-1/2) softmax_features(q) (softmax_tokens(k)^T v)

    Args:
        q: queries (B, heads, N, d).
        k: keys (B, heads, M, d).
        v: values (B, heads, M, d).

    Returns:
        (B, heads, N, d).

    Source: Shen et al. 2021, "Efficient attention: attention with linear complexities".
    """
    context = k.softmax(dim=2).transpose(2, 3) @ v
    return (q.softmax(dim=3) * q.shape[3] ** -0.5) @ context


class _Downsample(nn.Module):
    """2x2 pixel-unshuffle and a 1x1 convolution: (B, C, H, W) to (B, outs, H/2, W/2)."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4 * ins, outs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the sides."""
        return self.conv(F.pixel_unshuffle(x, 2))


class _Upsample(nn.Module):
    """Nearest-neighbour upsampling and a 3x3 convolution: (B, C, H, W) to (B, outs, 2H, 2W)."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(ins, outs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Double the sides."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _at_least(minimum: int, **options: int) -> None:
    for name, value in options.items():
        if value < minimum:
            raise ValueError(f"{name}={value} is too small; use {minimum} or more")
