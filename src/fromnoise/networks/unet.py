"""The U-Net of Ho et al. 2020 (app. B), with options for its later variants.

    x -> stem -> level 0 -> downsample -> level 1 -> ... -> deepest -> middle
                    |                        |                 |          |
                    v skips                  v                 v          |
         out <- level 0 <--- upsample <-- level 1 <- ... <- deepest <-----'

Level l has ``width * multipliers[l]`` channels. On the way down, the input of each level and the output of each of its
blocks are stored as skip connections; on the way up, each block of the level takes one, newest first, as the last
channels of its input. ``blocks + 1`` blocks on the way up use all skips; fewer leave out the oldest, and further blocks
have none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.networks.embeddings import (
    AttributeEmbedding,
    AugmentationEmbedding,
    PositionEmbedding,
    TimeEmbedding,
    add_augmentation,
    add_condition,
)
from fromnoise.networks.layers import (
    Attention,
    Downsample,
    PixelShuffleUpsample,
    ResidualBlock,
    Upsample,
    ceil_to,
    crop_to,
    norm_act,
    pad_to,
    variance_scaling,
    zero,
)
from fromnoise.networks.unet_levels import DownLevel, UpLevel
from fromnoise.registry import register

AttentionResidual = Literal["input", "normalized"]
Conditioning = Literal["add", "scale-shift"]
Upsampling = Literal["nearest", "transposed", "shuffle"]
Init = Literal["torch", "variance-scaling"]

_SCALE_SHIFT: dict[str, bool] = {"add": False, "scale-shift": True}
_NORMALIZED_RESIDUAL: dict[str, bool] = {"input": False, "normalized": True}
_UPSAMPLE: dict[str, Callable[[int, int], nn.Module]] = {
    "nearest": lambda ins, outs: Upsample(ins),
    "transposed": lambda ins, outs: nn.ConvTranspose2d(ins, ins, 4, stride=2, padding=1),
    "shuffle": PixelShuffleUpsample,
}
_INITIALIZE: dict[str, Callable[[nn.Module], None]] = {
    "torch": lambda root: None,
    "variance-scaling": variance_scaling,
}


@register("network", "unet")
class UNet(nn.Module):
    """General U-Net: any image size and number of channels, unconditional or conditioned on classes or attributes.

    Images are padded with zeros to sides that are multiples of ``multiple`` (see ``layers.pad_to``), and the output is
    cropped back; sides that are multiples already cost nothing.

    Source: Ho et al. 2020, app. B; options after Dhariwal and Nichol 2021, sec. 3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        size: tuple[int, int] | None = None,
        classes: int = 0,
        attributes: Sequence[tuple[float, float]] = (),
        augmentation: int = 0,
        width: int = 64,
        multipliers: tuple[int, ...] = (1, 2, 4, 8),
        blocks: int = 2,
        blocks_up: int | None = None,
        attention_resolutions: tuple[int, ...] = (16,),
        middle_attention: bool = True,
        attention_residual: AttentionResidual = "input",
        heads: int = 1,
        head_dim: int | None = None,
        dropout: float = 0.0,
        groups: int = 8,
        norm_eps: float = 1e-6,
        conditioning: Conditioning = "add",
        upsampling: Upsampling = "nearest",
        patch: int = 1,
        positions: bool = False,
        time_dim: int | None = None,
        hidden_dim: int | None = None,
        init: Init = "torch",
        recompute: bool = False,
        zero_output: bool = False,
    ) -> None:
        """Build the network.

        Args:
            in_channels: channels of the images; twice as many for self-conditioning.
            out_channels: channels of the prediction; twice as many for a learned variance.
            size: (H, W) of the training images; needed if ``attention_resolutions`` is not empty. The network accepts
                images of any size.
            classes: number of classes; 0 for none.
            attributes: mean and standard deviation of each attribute; empty for none.
            augmentation: how many numbers describe what was done to an image; 0 for none.
            width: channels of the finest level
            multipliers: channels of each level as multiples of the width, finest level first
            blocks: residual blocks per level on the way down
            blocks_up: residual blocks per level on the way up; default: one more than on the way down
            attention_resolutions: sides, in pixels, of the feature maps that get self-attention
            middle_attention: self-attention between the two middle blocks, at the coarsest level
            attention_residual: what attention adds its output to: its input, or its normalized input as in the Keras
                DDPM example
            heads: attention heads
            head_dim: channels per attention head, instead of a number of heads; where it does not divide the channels,
                their largest divisor below it
            dropout: dropout probability, before the last convolution of each residual block
            groups: groups of each group normalization; must divide the width
            norm_eps: epsilon of the group normalizations
            conditioning: the time embedding is added in each residual block (Ho et al. 2020), or scales and shifts
                after the normalization (Dhariwal and Nichol 2021)
            upsampling: nearest neighbour and a convolution, a transposed convolution, or pixel shuffle, the fastest
            patch: pixel-unshuffle factor at the input, undone at the output: a larger patch is faster and coarser
            positions: add an embedding of the pixel coordinates, for images that are aligned with each other
            time_dim: number of sinusoids of the time embedding; default: the width
            hidden_dim: size of the time embedding; default: 4 times the width
            init: initialization of the weights: torch's, or variance scaling (Ho et al. 2020)
            recompute: recompute the activations of each block in the backward pass instead of storing them (Chen et al.
                2016): less memory, for one more forward pass of each block
            zero_output: initialize the last layer of each residual block, of each attention and of the network to zero

        Raises:
            ValueError: an option is out of range; the message names the nearest valid value.
        """
        super().__init__()
        hidden_dim = 4 * width if hidden_dim is None else hidden_dim
        blocks_up = blocks + 1 if blocks_up is None else blocks_up
        _at_least_one(in_channels=in_channels, out_channels=out_channels, width=width)
        if not multipliers:
            raise ValueError("multipliers=() has no levels; give one number for each level, such as (1, 2)")
        _at_least_one(blocks=blocks, blocks_up=blocks_up, groups=groups, patch=patch, hidden_dim=hidden_dim)
        _at_least_one(multipliers=min(multipliers), head_dim=1 if head_dim is None else head_dim)
        _divides("groups", groups, "width", width)
        if classes < 0:
            raise ValueError(f"classes={classes} is too small; use 0 for none")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} must lie in [0, 1)")
        if not 0 < norm_eps < math.inf:
            raise ValueError(f"norm_eps={norm_eps} must be positive and finite, such as 1e-6")
        scale_shift = _choose("conditioning", conditioning, _SCALE_SHIFT)
        upsample = _choose("upsampling", upsampling, _UPSAMPLE)
        initialize = _choose("init", init, _INITIALIZE)
        normalized_residual = _choose("attention_residual", attention_residual, _NORMALIZED_RESIDUAL)
        attention_at: tuple[int, ...] = ()
        if attention_resolutions:
            if size is None:
                raise ValueError(
                    f"attention_resolutions={tuple(attention_resolutions)} are in pixels of the images: give their "
                    "size=(H, W), or attention_resolutions=() for attention in the middle alone"
                )
            attention_at = attention_levels(attention_resolutions, *size, multipliers, patch)

        def residual(ins: int, outs: int) -> ResidualBlock:
            return ResidualBlock(
                ins, outs, hidden_dim, groups=groups, eps=norm_eps, dropout=dropout, scale_shift=scale_shift
            )

        def attention(channels: int, present: bool) -> nn.Module:
            if not present:
                return nn.Identity()
            return Attention(
                channels,
                heads=_heads(channels, heads, head_dim),
                groups=groups,
                eps=norm_eps,
                normalized_residual=normalized_residual,
            )

        channels = [width * m for m in multipliers]
        entering = [width, *channels[:-1]]
        deepest = len(channels) - 1

        self.patch, self.multiple = patch, patch * 2**deepest
        # every call launches the same kernels and draws no random numbers: a CUDA graph can replay it
        self.capturable = dropout == 0 and not recompute and not augmentation
        self.time = TimeEmbedding(width if time_dim is None else time_dim, hidden_dim)
        # Row 0 is "no class", row c + 1 is class c.
        self.labels = nn.Embedding(classes + 1, hidden_dim) if classes else None
        self.attributes = AttributeEmbedding(attributes, hidden_dim) if attributes else None
        self.augmentation = AugmentationEmbedding(augmentation, hidden_dim) if augmentation else None
        self.stem = nn.Conv2d(in_channels * patch**2, width, 3, padding=1)
        self.place = PositionEmbedding(width) if positions else nn.Identity()

        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        for level, (ins, outs) in enumerate(zip(entering, channels, strict=True)):
            has_attention = level in attention_at
            self.down.append(
                DownLevel(
                    [residual(ins if i == 0 else outs, outs) for i in range(blocks)],
                    [attention(outs, has_attention) for _ in range(blocks)],
                    nn.Identity() if level == deepest else Downsample(outs),
                    skips=min(blocks_up, blocks + 1),
                    recompute=recompute,
                )
            )
            below = outs if upsampling == "shuffle" else channels[min(level + 1, deepest)]
            block_ins = [below] + [outs] * (blocks_up - 1)
            skip_ins = ([outs] * blocks + [ins] + [0] * blocks_up)[:blocks_up]
            self.up.append(
                UpLevel(
                    [residual(x + skip, outs) for x, skip in zip(block_ins, skip_ins, strict=True)],
                    [attention(outs, has_attention) for _ in range(blocks_up)],
                    nn.Identity() if level == 0 else upsample(outs, channels[level - 1]),
                    recompute=recompute,
                )
            )
        last = channels[-1]
        self.middle = nn.ModuleList([residual(last, last), attention(last, middle_attention), residual(last, last)])
        self.norm = nn.GroupNorm(groups, channels[0], norm_eps)
        self.out = nn.Conv2d(channels[0], out_channels * patch**2, 3, padding=1)

        initialize(self)
        if self.labels is not None:
            # Small beside the time embedding, as in Peebles and Xie 2023.
            nn.init.normal_(self.labels.weight, std=0.02)
        if zero_output:
            zero(self.out)
            for module in self.modules():
                if isinstance(module, ResidualBlock):
                    zero(module.conv2)
                elif isinstance(module, Attention):
                    zero(module.out)

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
        if self.patch > 1:
            x = F.pixel_unshuffle(x, self.patch)

        # Every residual block begins with the SiLU of the embedding: computed once for all of them.
        embedding = add_condition(self.time(t, x.dtype), cond, self.labels, self.attributes)
        embedding = F.silu(add_augmentation(embedding, augmentation, self.augmentation))

        x = self.place(self.stem(x))
        features = []
        for level in self.down:
            x, skips = level(x, embedding)
            features.append(skips)
        block1, attention, block2 = self.middle
        x = block2(attention(block1(x, embedding)), embedding)
        for level, skips in zip(reversed(self.up), reversed(features), strict=True):
            x = level(x, skips, embedding)
        x = self.out(norm_act(x, self.norm))

        if self.patch > 1:
            x = F.pixel_shuffle(x, self.patch)
        return crop_to(x, height, width)


def attention_levels(
    resolutions: Iterable[float], height: int, width: int, multipliers: Sequence[int], patch: int = 1
) -> tuple[int, ...]:
    """Levels of a U-Net whose feature maps are closest in size to the given resolutions.

    Level l of a padded H x W image has side sqrt(H W) / (patch 2^l); it matches the resolution r if
    round(log2(side / r)) = 0, so that 16 has a matching level for images of 28 or 100 pixels and for oblong ones.

    Args:
        resolutions: sides in pixels, such as (16,).
        height: H, before padding.
        width: W, before padding.
        multipliers: one per level of the U-Net.
        patch: pixel-unshuffle factor at the input of the U-Net.

    Returns:
        Indices of the levels in increasing order, 0 for the finest; empty if no level matches.

    Raises:
        ValueError: a resolution is not positive.
    """
    resolutions = tuple(resolutions)
    if any(r <= 0 for r in resolutions):
        raise ValueError(f"attention_resolutions={resolutions} must be positive")
    multiple = patch * 2 ** (len(multipliers) - 1)
    finest = math.sqrt(ceil_to(height, multiple) * ceil_to(width, multiple)) / patch
    sides = [finest / 2**level for level in range(len(multipliers))]
    matches = [any(round(math.log2(side / r)) == 0 for r in resolutions) for side in sides]
    return tuple(level for level, matched in enumerate(matches) if matched)


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
        _divides("heads", heads, "channels of the attention", channels)
        return heads
    return channels // next(d for d in range(min(head_dim, channels), 0, -1) if channels % d == 0)
