"""The U-Net of Ho et al. 2020 (app. B), and its relatives by options.

    x -> stem -> level 0 -> halve -> level 1 -> ... -> deepest -> middle
                    |                   |                 |          |
                    v skips             v                 v          |
         out <- level 0 <- double <- level 1 <- ... <- deepest <-----'

Level l has ``width * multipliers[l]`` channels. Going down, what enters a level and what each of its blocks
gives is kept; going up, the blocks of the level take it back, newest first, as the last channels of their
input. ``blocks + 1`` blocks going up take all; fewer leave the oldest, more go on without.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.networks.layers import (
    Attention,
    AttributeEmbedding,
    Downsample,
    Position,
    ResidualBlock,
    Shuffle,
    TimeEmbedding,
    Upsample,
    ceil_to,
    crop_to,
    norm_act,
    pad_to,
    variance_scaling,
    zero,
)
from fromnoise.networks.unet_levels import Down, Up

Conditioning = Literal["add", "scale-shift"]
Upsampling = Literal["nearest", "transposed", "shuffle"]
Init = Literal["torch", "variance-scaling"]

_SCALE_SHIFT: dict[str, bool] = {"add": False, "scale-shift": True}
_DOUBLE: dict[str, Callable[[int, int], nn.Module]] = {
    "nearest": lambda channels, above: Upsample(channels),
    "transposed": lambda channels, above: nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1),
    "shuffle": Shuffle,
}
_INITIALISE: dict[str, Callable[[nn.Module], None]] = {
    "torch": lambda root: None,
    "variance-scaling": variance_scaling,
}


class UNet(nn.Module):
    """The general U-Net: any image size, any channels, classes or none.

    Sides are padded to a multiple of ``multiple`` (see ``layers.pad_to``) and the output is cropped back;
    neither costs anything where the side is such a multiple already.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 4, 8),
        blocks: int = 2,
        blocks_up: int | None = None,
        attention: Sequence[int] = (),
        middle_attention: bool = True,
        heads: int = 1,
        head_dim: int | None = None,
        dropout: float = 0.0,
        groups: int = 8,
        norm_eps: float = 1e-6,
        conditioning: Conditioning = "add",
        classes: int = 0,
        attributes: Sequence[tuple[float, float]] = (),
        upsampling: Upsampling = "nearest",
        patch: int = 1,
        positions: bool = False,
        time_dim: int | None = None,
        hidden_dim: int | None = None,
        recompute: bool = False,
        init: Init = "torch",
        zero_output: bool = True,
    ) -> None:
        """Build the network.

        Args:
            in_channels: of the images; twice theirs when the network also sees an earlier estimate.
            out_channels: of what it predicts; twice the images' when it also predicts a variance.
            width: channels of the finest level.
            multipliers: of ``width``, one a level, the finest first.
            blocks: residual blocks a level going down.
            blocks_up: residual blocks a level going up; None for ``blocks + 1``, which takes every skip.
            attention: levels with attention after each block, 0 the finest (see ``attention_levels``).
            middle_attention: attention between the two middle blocks.
            heads: attention heads.
            head_dim: channels of a head, in place of ``heads``.
            dropout: probability, before the last convolution of each residual block.
            groups: of the group normalisation; must divide ``width``, and so divides every level.
            norm_eps: of the group normalisation.
            conditioning: the time is added within each block, or scales and shifts.
            classes: number of classes that can be told; 0 for an unconditional network.
            attributes: mean and deviation of each number that can be told in place of a class.
            upsampling: nearest neighbour and a convolution, a transposed convolution, or squares of pixels made of
                channels, which takes a small part of their time.
            patch: side of the squares of pixels that become channels at the stem, squares again at the end.
            positions: tell the network where each pixel lies (``layers.Position``), for images that are aligned.
            time_dim: number of sinusoids, None for ``width``.
            hidden_dim: size of the time embedding, None for ``4 * width``.
            recompute: of a residual block with its attention keep the input alone, and compute the rest again in the
                backward pass (Chen et al. 2016): less memory, more time.
            init: torch's own, or variance scaling (``layers.variance_scaling``).
            zero_output: begin with 0 in the last layer of each residual block, attention and the network.

        Raises:
            ValueError: an option is out of range; the message names the nearest legal value.
        """
        super().__init__()
        hidden_dim = 4 * width if hidden_dim is None else hidden_dim
        blocks_up = blocks + 1 if blocks_up is None else blocks_up
        _at_least_one(in_channels=in_channels, out_channels=out_channels, width=width, levels=len(multipliers))
        _at_least_one(blocks=blocks, blocks_up=blocks_up, groups=groups, patch=patch, hidden_dim=hidden_dim)
        _at_least_one(multipliers=min(multipliers))
        _divides("groups", groups, "width", width)
        if classes < 0:
            raise ValueError(f"classes={classes} is too small; use 0 for none")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} must lie in [0, 1)")
        if not all(0 <= level < len(multipliers) for level in attention):
            raise ValueError(f"attention={tuple(attention)} must name levels from 0 to {len(multipliers) - 1}")
        shifts = _choose("conditioning", conditioning, _SCALE_SHIFT)
        double = _choose("upsampling", upsampling, _DOUBLE)
        initialise = _choose("init", init, _INITIALISE)

        def residual(ins: int, outs: int) -> ResidualBlock:
            return ResidualBlock(
                ins, outs, hidden_dim, groups=groups, eps=norm_eps, dropout=dropout, scale_shift=shifts
            )

        def attend(channels: int, present: bool) -> nn.Module:
            if not present:
                return nn.Identity()
            return Attention(channels, heads=_heads(channels, heads, head_dim), groups=groups, eps=norm_eps)

        channels = [width * m for m in multipliers]
        entering = [width, *channels[:-1]]
        deepest = len(channels) - 1

        self.patch, self.multiple = patch, patch * 2**deepest
        self.time = TimeEmbedding(width if time_dim is None else time_dim, hidden_dim)
        # Row 0 is "no class", row c + 1 class c.
        self.labels = nn.Embedding(classes + 1, hidden_dim) if classes else None
        self.attributes = AttributeEmbedding(attributes, hidden_dim) if attributes else None
        self.stem = nn.Conv2d(in_channels * patch**2, width, 3, padding=1)
        self.place = Position(width) if positions else nn.Identity()

        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        for level, (ins, outs) in enumerate(zip(entering, channels, strict=True)):
            attended = level in attention
            self.down.append(
                Down(
                    [residual(ins if i == 0 else outs, outs) for i in range(blocks)],
                    [attend(outs, attended) for _ in range(blocks)],
                    nn.Identity() if level == deepest else Downsample(outs),
                    kept=min(blocks_up, blocks + 1),
                    recompute=recompute,
                )
            )
            below = outs if upsampling == "shuffle" else channels[min(level + 1, deepest)]
            coming = [below] + [outs] * (blocks_up - 1)
            skips = ([outs] * blocks + [ins] + [0] * blocks_up)[:blocks_up]
            self.up.append(
                Up(
                    [residual(x + skip, outs) for x, skip in zip(coming, skips, strict=True)],
                    [attend(outs, attended) for _ in range(blocks_up)],
                    nn.Identity() if level == 0 else double(outs, channels[level - 1]),
                    recompute=recompute,
                )
            )
        last = channels[-1]
        self.middle = nn.ModuleList([residual(last, last), attend(last, middle_attention), residual(last, last)])
        self.norm = nn.GroupNorm(groups, channels[0], norm_eps)
        self.out = nn.Conv2d(channels[0], out_channels * patch**2, 3, padding=1)

        initialise(self)
        if self.labels is not None:
            # Quieter than the time embedding, as in Peebles and Xie 2023.
            nn.init.normal_(self.labels.weight, std=0.02)
        if zero_output:
            zero(self.out)
            for module in self.modules():
                if isinstance(module, ResidualBlock):
                    zero(module.conv2)
                elif isinstance(module, Attention):
                    zero(module.out)

    def forward(self, x: Tensor, clock: Tensor, cond: Tensor | None = None) -> Tensor:
        """Predict from noisy images.

        Args:
            x: (B, in_channels, H, W), any H and W from 1.
            clock: (B,) float, what the network sees as time.
            cond: (B,) int64 class indices, -1 for no class; or (B, A) attributes, NaN for none; None tells nothing.

        Returns:
            (B, out_channels, H, W).

        Raises:
            ValueError: ``cond`` is given to an unconditional network.
        """
        height, width = x.shape[-2:]
        x = pad_to(x, ceil_to(height, self.multiple), ceil_to(width, self.multiple))
        if self.patch > 1:
            x = F.pixel_unshuffle(x, self.patch)

        time = self.time(clock, x.dtype)
        if self.labels is not None:
            time = time + (self.labels.weight[0] if cond is None else self.labels(cond + 1))
        elif self.attributes is not None:
            time = time + self.attributes(cond, len(x)).to(time.dtype)
        elif cond is not None:
            raise ValueError("this network knows no classes; build it with classes, or leave cond out")
        # Every block begins with this SiLU: taken once for all of them.
        time = F.silu(time)

        x = self.place(self.stem(x))
        kept = []
        for level in self.down:
            x, skips = level(x, time)
            kept.append(skips)
        before, attend, after = self.middle
        x = after(attend(before(x, time)), time)
        for level, skips in zip(reversed(self.up), reversed(kept), strict=True):
            x = level(x, skips, time)
        x = self.out(norm_act(x, self.norm))

        if self.patch > 1:
            x = F.pixel_shuffle(x, self.patch)
        return crop_to(x, height, width)


def attention_levels(
    resolutions: Iterable[float], height: int, width: int, multipliers: Sequence[int], patch: int = 1
) -> tuple[int, ...]:
    """The levels whose feature maps are about as large as one of the resolutions.

    Level l of a padded H x W image has side sqrt(H W) / (patch 2^l); it is taken for r if
    round(log2(side / r)) = 0, so that 16 finds its level in images of 28 or 100 pixels and in oblong ones.

    Args:
        resolutions: sides in pixels, such as (16,).
        height: of the images, before padding.
        width: of the images, before padding.
        multipliers: of the U-Net, one a level.
        patch: of the U-Net.

    Returns:
        Level indices, 0 the finest, rising; empty if no level matches.

    Raises:
        ValueError: a resolution is not positive.
    """
    resolutions = tuple(resolutions)
    if any(r <= 0 for r in resolutions):
        raise ValueError(f"attention resolutions must be positive, not {min(resolutions)}")
    multiple = patch * 2 ** (len(multipliers) - 1)
    finest = math.sqrt(ceil_to(height, multiple) * ceil_to(width, multiple)) / patch
    sides = [finest / 2**level for level in range(len(multipliers))]
    near = [any(round(math.log2(side / r)) == 0 for r in resolutions) for side in sides]
    return tuple(level for level, attended in enumerate(near) if attended)


_Choice = TypeVar("_Choice")


def _choose(option: str, name: str, choices: dict[str, _Choice]) -> _Choice:
    if name not in choices:
        raise ValueError(f"{option}={name!r} is not known; use {' or '.join(choices)}")
    return choices[name]


def _at_least_one(**options: int) -> None:
    for name, value in options.items():
        if value < 1:
            raise ValueError(f"{name}={value} is too small; use 1 or more")


def _divides(name: str, value: int, whole: str, number: int) -> None:
    if value < 1 or number % value:
        nearest = min((d for d in range(1, number + 1) if number % d == 0), key=lambda d: abs(d - value))
        raise ValueError(f"{name}={value} must divide {whole}={number}; the nearest that does is {nearest}")


def _heads(channels: int, heads: int, head_dim: int | None) -> int:
    if head_dim is None:
        _divides("heads", heads, "attended channels", channels)
        return heads
    _divides("head_dim", head_dim, "attended channels", channels)
    return channels // head_dim
