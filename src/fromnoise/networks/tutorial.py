"""The small networks of two well-known tutorials, layer for layer. Neither knows classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.networks.layers import ceil_to, crop_to, pad_to, sinusoid, sinusoid_table


class PulferUNet(nn.Module):
    """Brian Pulfer's U-Net ("Generating images with DDPMs: A PyTorch implementation").

    506,852 trainable parameters at 1 x 28 x 28, and a table of 1000 x 100 sinusoids that is not trained.
    The time is added to the *input* of each level; a level is three blocks of LayerNorm over (C, H, W), two
    convolutions and SiLUs, without residual. The normalisation fixes the image size, 28 x 28 as published:
    for any other the layers are the same and their shapes follow, on images padded to sides of 12, 20, 28,
    36 ... pixels, which are those that the two halvings and the odd third one give back exactly.
    """

    def __init__(
        self,
        channels: int = 1,
        *,
        size: tuple[int, int] = (28, 28),
        steps: int = 1000,
        time_dim: int = 100,
    ) -> None:
        """Build for images of one size.

        Args:
            channels: of the images.
            size: (H, W) of the images.
            steps: rows of the table of sinusoids, T of the schedule.
            time_dim: columns of that table.

        Raises:
            ValueError: a number is under 1.
        """
        super().__init__()
        numbers = {"channels": channels, "size": min(size), "steps": steps, "time_dim": time_dim}
        for name, value in numbers.items():
            if value < 1:
                raise ValueError(f"{name}={value} is too small; use 1 or more")
        self.size = tuple(size)
        self.padded = _odd_quarter(size[0]), _odd_quarter(size[1])
        self.register_buffer("table", sinusoid_table(steps, time_dim))

        h, w = self.padded
        full, half, quarter = (h, w), (h // 2, w // 2), (h // 4, w // 4)
        least = (quarter[0] - 1) // 2, (quarter[1] - 1) // 2

        self.level1 = _Level((channels, 10, 10, 10), full, time_dim)
        self.down1 = nn.Conv2d(10, 10, 4, 2, 1)
        self.level2 = _Level((10, 20, 20, 20), half, time_dim)
        self.down2 = nn.Conv2d(20, 20, 4, 2, 1)
        self.level3 = _Level((20, 40, 40, 40), quarter, time_dim)
        self.down3 = nn.Sequential(nn.Conv2d(40, 40, 2), nn.SiLU(), nn.Conv2d(40, 40, 4, 2, 1))

        self.middle = _Level((40, 20, 20, 40), least, time_dim)

        rise = nn.ConvTranspose2d(40, 40, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(40, 40, 2)
        self.up1 = nn.Sequential(*rise)
        self.level4 = _Level((80, 40, 20, 20), quarter, time_dim)
        self.up2 = nn.ConvTranspose2d(20, 20, 4, 2, 1)
        self.level5 = _Level((40, 20, 10, 10), half, time_dim)
        self.up3 = nn.ConvTranspose2d(10, 10, 4, 2, 1)
        self.level6 = _Level((20, 10, 10, 10), full, time_dim, norm_last=False)
        self.out = nn.Conv2d(10, channels, 3, 1, 1)

    def forward(self, x: Tensor, clock: Tensor, cond: Tensor | None = None) -> Tensor:
        """Predict from noisy images.

        Args:
            x: (B, C, H, W), of the size built for.
            clock: (B,) float, the step 0 .. T - 1; the table is interpolated linearly between steps, and ends
                in its first and last row.
            cond: None; the network knows no classes.

        Returns:
            (B, C, H, W).

        Raises:
            ValueError: images of another size, or ``cond`` is given.
        """
        _no_classes(cond)
        if tuple(x.shape[-2:]) != self.size:
            built, got = (" x ".join(map(str, size)) for size in (self.size, x.shape[-2:]))
            raise ValueError(f"this network is built for images of {built} pixels, not {got}")
        x = pad_to(x, *self.padded)
        time = self._time(clock).to(x.dtype)
        a = self.level1(x, time)
        b = self.level2(self.down1(a), time)
        c = self.level3(self.down2(b), time)
        x = self.middle(self.down3(c), time)
        x = self.level4(torch.cat([c, self.up1(x)], dim=1), time)
        x = self.level5(torch.cat([b, self.up2(x)], dim=1), time)
        x = self.level6(torch.cat([a, self.up3(x)], dim=1), time)
        return crop_to(self.out(x), *self.size)

    def _time(self, clock: Tensor) -> Tensor:
        """Rows of the table at (B,) clocks."""
        table = self.get_buffer("table")
        last = len(table) - 1
        clock = clock.clamp(0, last)
        below = clock.long()
        part = (clock - below).to(table.dtype)[:, None]
        return torch.lerp(table[below], table[(below + 1).clamp(max=last)], part)


class _Level(nn.Module):
    """The time, through Linear, SiLU, Linear, added to the input; then three blocks."""

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
        self.block1 = _Block(a, b, size)
        self.block2 = _Block(b, c, size)
        self.block3 = _Block(c, d, size, normed=norm_last)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.block3(self.block2(self.block1(x + self.time(time)[:, :, None, None])))


class _Block(nn.Module):
    """LayerNorm over (C, H, W), conv, SiLU, conv, SiLU."""

    def __init__(self, ins: int, outs: int, size: tuple[int, int], *, normed: bool = True) -> None:
        super().__init__()
        self.normed = normed
        self.norm = nn.LayerNorm([ins, *size])
        self.conv1 = nn.Conv2d(ins, outs, 3, 1, 1)
        self.conv2 = nn.Conv2d(outs, outs, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.normed:
            x = self._normalise(x)
        elif self.training:
            # The published block keeps and counts a norm that it does not use. At weight zero that norm has a
            # gradient like every other parameter, which training in several processes asks for.
            x = x + 0 * (self.norm.weight.sum() + self.norm.bias.sum())
        return F.silu(self.conv2(F.silu(self.conv1(x))))

    def _normalise(self, x: Tensor) -> Tensor:
        """``self.norm(x)``, without bringing a channels-last image into the other layout and back."""
        if not x.is_contiguous(memory_format=torch.channels_last):
            return self.norm(x)
        c, h, w = self.norm.normalized_shape
        weight, bias = self.norm.weight.permute(1, 2, 0), self.norm.bias.permute(1, 2, 0)
        last = F.layer_norm(x.permute(0, 2, 3, 1), (h, w, c), weight, bias, self.norm.eps)
        return last.permute(0, 3, 1, 2)


class SimpleUNet(nn.Module):
    """The U-Net of 0.86 M parameters: max-pooling down, bilinear up, ReLU before GroupNorm(8).

    As published it needs sides divisible by 8 and fails on 28 x 28; here images are padded, and the
    output cropped.
    """

    def __init__(self, channels: int = 1) -> None:
        """Build for images of any size with ``channels`` channels."""
        super().__init__()
        self.time = nn.Linear(_SIMPLE_TIME, _SIMPLE_TIME)
        self.down1 = _SimpleBlock(channels, 32)
        self.down2 = _SimpleBlock(32, 64)
        self.down3 = _SimpleBlock(64, 128)
        self.middle = _SimpleBlock(128, 128)
        self.up3 = _SimpleBlock(128 + 128, 64)
        self.up2 = _SimpleBlock(64 + 64, 32)
        self.up1 = _SimpleBlock(32 + 32, 32)
        self.out = nn.Conv2d(32, channels, 1)

    def forward(self, x: Tensor, clock: Tensor, cond: Tensor | None = None) -> Tensor:
        """Predict from noisy images.

        Args:
            x: (B, C, H, W), any H and W from 1.
            clock: (B,) float, any real number.
            cond: None; the network knows no classes.

        Returns:
            (B, C, H, W).

        Raises:
            ValueError: ``cond`` is given.
        """
        _no_classes(cond)
        height, width = x.shape[-2:]
        x = pad_to(x, ceil_to(height, 8), ceil_to(width, 8))
        time = F.relu(self.time(sinusoid(clock, _SIMPLE_TIME).to(x.dtype)))
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
    """conv, ReLU, norm; plus the time; conv, ReLU, norm."""

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


def _no_classes(cond: Tensor | None) -> None:
    if cond is not None:
        raise ValueError("this network knows no classes; leave cond out")


def _odd_quarter(side: int) -> int:
    """The smallest 4 n >= ``side`` with n odd and at least 3: n - 1 is halved and doubled without loss."""
    quarter = max(3, -(-side // 4))
    return 4 * (quarter + 1 - quarter % 2)
