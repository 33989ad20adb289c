"""The networks of two published tutorials, layer for layer; both are unconditional."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.networks.embeddings import sinusoid, sinusoid_table
from fromnoise.networks.layers import ceil_to, crop_to, pad_to
from fromnoise.registry import register


@register("network", "pulfer")
class PulferUNet(nn.Module):
    """U-Net of Pulfer's tutorial, for images of one size; 506,852 parameters for grey 28x28 images.

    The time embedding, from a table of 1000 x 100 sinusoids that is not trained, is added to the *input* of each level.
    A level consists of three blocks of LayerNorm over (C, H, W) and two convolutions with SiLU, without residual
    connections. The normalization fixes the image size, 28x28 as published. For other sizes the layers are the same on
    larger or smaller feature maps: images are padded to sides of 12, 20, 28, 36, ..., which the three downsamplings and
    upsamplings reproduce exactly.

    Source: Brian Pulfer, "Generating images with DDPMs: A PyTorch implementation".
    """

    fixed_size = True

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        *,
        size: tuple[int, int] = (28, 28),
        classes: int = 0,
        attributes: Sequence[tuple[float, float]] = (),
        timesteps: int = 1000,
        time_dim: int = 100,
    ) -> None:
        """Build the network for images of one size.

        Args:
            in_channels: channels of the images.
            out_channels: must equal ``in_channels``.
            size: (H, W) of the images.
            classes: must be 0.
            attributes: must be empty.
            timesteps: T, the number of rows of the table of sinusoids.
            time_dim: number of sinusoids of the time embedding

        Raises:
            ValueError: a number is smaller than 1, or classes, self-conditioning or a learned variance are requested.
        """
        super().__init__()
        _unconditional("pulfer", in_channels, out_channels, classes, attributes)
        numbers = {"in_channels": in_channels, "size": min(size), "timesteps": timesteps, "time_dim": time_dim}
        for name, value in numbers.items():
            if value < 1:
                raise ValueError(f"{name}={value} is too small; use 1 or more")
        self.size = tuple(size)
        self.padded = _odd_quarter(size[0]), _odd_quarter(size[1])
        self.register_buffer("table", sinusoid_table(timesteps, time_dim))

        h, w = self.padded
        full, half, quarter = (h, w), (h // 2, w // 2), (h // 4, w // 4)
        coarsest = (quarter[0] - 1) // 2, (quarter[1] - 1) // 2

        self.level1 = _PulferLevel((in_channels, 10, 10, 10), full, time_dim)
        self.down1 = nn.Conv2d(10, 10, 4, 2, 1)
        self.level2 = _PulferLevel((10, 20, 20, 20), half, time_dim)
        self.down2 = nn.Conv2d(20, 20, 4, 2, 1)
        self.level3 = _PulferLevel((20, 40, 40, 40), quarter, time_dim)
        self.down3 = nn.Sequential(nn.Conv2d(40, 40, 2), nn.SiLU(), nn.Conv2d(40, 40, 4, 2, 1))

        self.middle = _PulferLevel((40, 20, 20, 40), coarsest, time_dim)

        self.up1 = nn.Sequential(nn.ConvTranspose2d(40, 40, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(40, 40, 2))
        self.level4 = _PulferLevel((80, 40, 20, 20), quarter, time_dim)
        self.up2 = nn.ConvTranspose2d(20, 20, 4, 2, 1)
        self.level5 = _PulferLevel((40, 20, 10, 10), half, time_dim)
        self.up3 = nn.ConvTranspose2d(10, 10, 4, 2, 1)
        self.level6 = _PulferLevel((20, 10, 10, 10), full, time_dim, norm_last=False)
        self.out = nn.Conv2d(10, out_channels, 3, 1, 1)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """Predict from noisy images.

        Args:
            x: (B, C, H, W); (H, W) is the ``size`` of the constructor.
            t: (B,) float, the timestep, 0 to T - 1, limited to this range; linear interpolation of the table between
                integers.
            cond: must be None.

        Returns:
            (B, C, H, W).

        Raises:
            ValueError: the images have another size, or ``cond`` is given.
        """
        _no_condition(cond)
        if tuple(x.shape[-2:]) != self.size:
            own, given = ("x".join(map(str, size)) for size in (self.size, x.shape[-2:]))
            raise ValueError(f"this network is built for images of {own} pixels, not {given}")
        x = pad_to(x, *self.padded)
        time = self._time_embedding(t).to(x.dtype)
        a = self.level1(x, time)
        b = self.level2(self.down1(a), time)
        c = self.level3(self.down2(b), time)
        x = self.middle(self.down3(c), time)
        x = self.level4(torch.cat([c, self.up1(x)], dim=1), time)
        x = self.level5(torch.cat([b, self.up2(x)], dim=1), time)
        x = self.level6(torch.cat([a, self.up3(x)], dim=1), time)
        return crop_to(self.out(x), *self.size)

    def _time_embedding(self, t: Tensor) -> Tensor:
        """Rows of the table, interpolated linearly at ``t`` (B,)."""
        table = self.get_buffer("table")
        last = len(table) - 1
        t = t.clamp(0, last)
        below = t.long()
        part = (t - below).to(table.dtype)[:, None]
        return torch.lerp(table[below], table[(below + 1).clamp(max=last)], part)


class _PulferLevel(nn.Module):
    """The time embedding, after Linear, SiLU, Linear, added to the input; then three blocks."""

    def __init__(
        self,
        channels: tuple[int, int, int, int],
        size: tuple[int, int],
        time_dim: int,
        *,
        norm_last: bool = True,
    ) -> None:
        super().__init__()
        a, b, c, d = channels
        self.time = nn.Sequential(nn.Linear(time_dim, a), nn.SiLU(), nn.Linear(a, a))
        self.block1 = _PulferBlock(a, b, size)
        self.block2 = _PulferBlock(b, c, size)
        self.block3 = _PulferBlock(c, d, size, use_norm=norm_last)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.block3(self.block2(self.block1(x + self.time(time)[:, :, None, None])))


class _PulferBlock(nn.Module):
    """LayerNorm over (C, H, W), conv, SiLU, conv, SiLU."""

    def __init__(self, ins: int, outs: int, size: tuple[int, int], *, use_norm: bool = True) -> None:
        super().__init__()
        self.use_norm = use_norm
        self.norm = nn.LayerNorm([ins, *size])
        self.conv1 = nn.Conv2d(ins, outs, 3, 1, 1)
        self.conv2 = nn.Conv2d(outs, outs, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.use_norm:
            x = self._normalize(x)
        elif self.training:
            # The published block has a norm that it does not use. With factor 0 its parameters have a gradient, which
            # distributed training needs of every parameter.
            x = x + 0 * (self.norm.weight.sum() + self.norm.bias.sum())
        return F.silu(self.conv2(F.silu(self.conv1(x))))

    def _normalize(self, x: Tensor) -> Tensor:
        """``self.norm(x)``, without converting a channels_last input to the contiguous format and back."""
        if not x.is_contiguous(memory_format=torch.channels_last):
            return self.norm(x)
        c, h, w = self.norm.normalized_shape
        weight, bias = self.norm.weight.permute(1, 2, 0), self.norm.bias.permute(1, 2, 0)
        normalized = F.layer_norm(x.permute(0, 2, 3, 1), (h, w, c), weight, bias, self.norm.eps)
        return normalized.permute(0, 3, 1, 2)


@register("network", "simple")
class SimpleUNet(nn.Module):
    """U-Net of 0.86 million parameters: max-pooling down, bilinear upsampling, ReLU before GroupNorm(8).

    As published it needs sides divisible by 8 and fails at 28x28; here images are padded with zeros and the output is
    cropped.

    Source: a tutorial for MNIST that precomputes the tables of its schedule and compares the model with a VAE.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        *,
        classes: int = 0,
        attributes: Sequence[tuple[float, float]] = (),
    ) -> None:
        """Build the network; it accepts images of any size.

        Args:
            in_channels: channels of the images.
            out_channels: must equal ``in_channels``.
            classes: must be 0.
            attributes: must be empty.

        Raises:
            ValueError: a number is smaller than 1, or classes, self-conditioning or a learned variance are requested.
        """
        super().__init__()
        _unconditional("simple", in_channels, out_channels, classes, attributes)
        if in_channels < 1:
            raise ValueError(f"in_channels={in_channels} is too small; use 1 or more")
        self.time = nn.Linear(_SIMPLE_TIME, _SIMPLE_TIME)
        self.down1 = _SimpleBlock(in_channels, 32)
        self.down2 = _SimpleBlock(32, 64)
        self.down3 = _SimpleBlock(64, 128)
        self.middle = _SimpleBlock(128, 128)
        self.up3 = _SimpleBlock(128 + 128, 64)
        self.up2 = _SimpleBlock(64 + 64, 32)
        self.up1 = _SimpleBlock(32 + 32, 32)
        self.out = nn.Conv2d(32, out_channels, 1)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """Predict from noisy images.

        Args:
            x: (B, C, H, W), any H and W from 1.
            t: (B,) float, the timestep, any real number.
            cond: must be None.

        Returns:
            (B, C, H, W).

        Raises:
            ValueError: ``cond`` is given.
        """
        _no_condition(cond)
        height, width = x.shape[-2:]
        x = pad_to(x, ceil_to(height, 8), ceil_to(width, 8))
        time = F.relu(self.time(sinusoid(t, _SIMPLE_TIME).to(x.dtype)))
        a = self.down1(x, time)
        b = self.down2(F.max_pool2d(a, 2), time)
        c = self.down3(F.max_pool2d(b, 2), time)
        x = self.middle(F.max_pool2d(c, 2), time)
        x = self.up3(torch.cat([_bilinear(x), c], dim=1), time)
        x = self.up2(torch.cat([_bilinear(x), b], dim=1), time)
        x = self.up1(torch.cat([_bilinear(x), a], dim=1), time)
        return crop_to(self.out(x), height, width)


_SIMPLE_TIME = 32


class _SimpleBlock(nn.Module):
    """Convolution, ReLU, GroupNorm; plus the time embedding; convolution, ReLU, GroupNorm."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(ins, outs, 3, padding=1)
        self.norm1 = nn.GroupNorm(8, outs)
        self.time = nn.Linear(_SIMPLE_TIME, outs)
        self.conv2 = nn.Conv2d(outs, outs, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, outs)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        x = self.norm1(F.relu(self.conv1(x), inplace=True)) + self.time(time)[:, :, None, None]
        return self.norm2(F.relu(self.conv2(x), inplace=True))


def _bilinear(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)


def _unconditional(
    name: str, in_channels: int, out_channels: int, classes: int, attributes: Sequence[tuple[float, float]]
) -> None:
    """Refuse what the published networks lack."""
    if classes or attributes:
        raise ValueError(f"network {name} is unconditional, without classes or attributes: use network unet")
    if in_channels != out_channels:
        raise ValueError(
            f"network {name} has no self-conditioning and no learned variance, so in_channels={in_channels} and "
            f"out_channels={out_channels} must be equal: use network unet"
        )


def _no_condition(cond: Tensor | None) -> None:
    if cond is not None:
        raise ValueError("this network is unconditional: call it without cond")


def _odd_quarter(side: int) -> int:
    """The smallest 4 n >= ``side`` with n odd and n >= 3, so that n - 1 is halved and doubled exactly."""
    quarter = max(3, -(-side // 4))
    return 4 * (quarter + 1 - quarter % 2)
