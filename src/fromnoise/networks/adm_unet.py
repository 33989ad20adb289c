"""The U-Net of Dhariwal and Nichol 2021 (ADM), with options of improved-diffusion before it and of EDM after it.

    x -> conv_in -> level 0 -> resample -> level 1 -> ... -> coarsest -> middle
           |          ||          |          ||                 ||         |
           v          vv          v          vv                 vv         v
    out <- norm <--- level 0 <- resample <- level 1 <- ... <- coarsest <---'

The first convolution, each block on the way down and each change of resolution leave a skip connection; each block on
the way up, one more per level than on the way down, takes the newest as the last channels of its input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.networks.diffusers_layers import (
    AttentionLayer,
    BlockOptions,
    ConvDownsample,
    ConvUpsample,
    DownLevel,
    MiddleLevel,
    ResnetBlock,
    UpLevel,
    pool_pixels,
    repeat_pixels,
)
from fromnoise.networks.diffusers_unet import sinusoids
from fromnoise.networks.embeddings import AttributeEmbedding, AugmentationEmbedding, add_augmentation, add_class
from fromnoise.networks.layers import ceil_to, crop_to, norm_act, pad_to, zero
from fromnoise.registry import register


@register("network", "adm")
class ADMUNet(nn.Module):
    """U-Net of improved-diffusion, guided-diffusion (ADM) and EDM (DDPM++ and ADM).

    Sides are padded to a multiple of 2^(levels - 1), and the output is cropped back.

    Source: Nichol and Dhariwal 2021, app. A; Dhariwal and Nichol 2021, sec. 3; Karras et al. 2022, app. F.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        classes: int = 0,
        attributes: Sequence[tuple[float, float]] = (),
        augmentation: int = 0,
        width: int = 128,
        multipliers: tuple[float, ...] = (1, 2, 3, 4),
        blocks: int = 2,
        stem_width: int | None = None,
        attention: tuple[bool, ...] | None = None,
        attention_up: Literal["all", "last"] = "all",
        middle_attention: bool = True,
        heads: int = 4,
        heads_up: int | None = None,
        head_dim: int | None = None,
        conditioning: Literal["add", "scale-shift"] = "scale-shift",
        resample_blocks: bool = False,
        resample_projection: bool = False,
        residual_scale: float = 1.0,
        groups: int = 32,
        group_channels: int = 1,
        norm_eps: float = 1e-5,
        time_dim: int | None = None,
        hidden_dim: int | None = None,
        freq_shift: float = 0,
        flip_sin_to_cos: bool = True,
        class_position: Literal["output", "input"] = "output",
        null_class: int | None = None,
        dropout: float = 0.0,
        zero_output: bool = True,
    ) -> None:
        """Build the network; the defaults are those of guided-diffusion's scripts at 64x64 pixels.

        Args:
            in_channels: channels of the images; twice as many for self-conditioning.
            out_channels: channels of the prediction; twice as many for a learned variance.
            classes: number of classes; 0 for none.
            attributes: mean and standard deviation of each attribute; empty for none. Not in the sources.
            augmentation: how many numbers describe what was done to an image; 0 for none. Not in the sources.
            width: channels, of which those of the levels are multiples
            multipliers: channels of each level as multiples of the width, finest level first
            blocks: residual blocks of a level on the way down; one more on the way up
            stem_width: channels after the first convolution; default: those of the finest level
            attention: per level, self-attention after its blocks; default: on all levels but the finest
            attention_up: on the way up, attention after all blocks of such a level, or after its last alone
            middle_attention: self-attention between the two blocks of the middle
            heads: attention heads
            heads_up: attention heads on the way up; default: as many
            head_dim: channels per attention head, instead of a number of heads
            conditioning: the time embedding is added in each residual block, or scales and shifts
            resample_blocks: change the resolution in a residual block (BigGAN) instead of by a convolution
            resample_projection: a 1x1 convolution on the shortcut of these blocks
            residual_scale: outputs of residual blocks and of attention are divided by it
            groups: groups of a group normalization
            group_channels: channels of a group, at least: narrow layers have fewer groups
            norm_eps: epsilon of the group normalizations
            time_dim: number of sinusoids of the time embedding; default: the width
            hidden_dim: size of the time embedding; default: 4 times the width
            freq_shift: the frequencies are 10000^(-k / (h - freq_shift)), k = 0 .. h - 1
            flip_sin_to_cos: cosines before sines
            class_position: where the class is added: to the output of the time embedding or to its sinusoids
            null_class: row of the class embedding that stands for no class; null: none does, and the network has no
                unconditional prediction
            dropout: dropout probability, before the last convolution of each residual block
            zero_output: initialize the last layer of each residual block, of each attention and of the network to zero

        Raises:
            ValueError: an option is out of range, or options do not fit each other.
        """
        super().__init__()
        channels = [round(width * m) for m in multipliers]
        if not channels or min(in_channels, out_channels, blocks, width, groups, group_channels, *channels) < 1:
            raise ValueError(
                "channels, width, blocks, groups and group_channels must be 1 or more, and multipliers have one number "
                "per level, such as (1, 2)"
            )
        present = tuple(level > 0 for level in range(len(channels))) if attention is None else tuple(attention)
        if len(present) != len(channels):
            raise ValueError(f"attention={present} must have one entry per level: {len(channels)}, not {len(present)}")
        if not 0 <= dropout < 1 or not 0 < norm_eps < math.inf or not 0 < residual_scale < math.inf:
            raise ValueError("dropout must lie in [0, 1), norm_eps and residual_scale must be positive")
        if null_class is not None and not 0 <= null_class <= classes:
            raise ValueError(f"null_class={null_class} must lie between 0 and the number of classes, {classes}")
        for name, number in (("heads", heads), ("heads_up", heads_up), ("head_dim", head_dim)):
            if number is not None and number < 1:
                raise ValueError(f"{name}={number} is too small; use 1 or more")
        time_dim, hidden = time_dim or width, hidden_dim or 4 * width
        if not time_dim // 2 > freq_shift:
            raise ValueError(f"freq_shift={freq_shift} must be less than half of time_dim={time_dim}")
        options = BlockOptions(
            hidden,
            groups,
            norm_eps,
            dropout,
            "silu",
            conditioning == "scale-shift",
            head_dim,
            heads=None if head_dim is not None else heads,
            group_channels=group_channels,
        )
        up_options = options if head_dim is not None else replace(options, heads=heads_up or heads)
        stem = stem_width or channels[0]
        deepest = len(channels) - 1

        self.time_dim, self.freq_shift, self.flip = time_dim, freq_shift, flip_sin_to_cos
        self.multiple, self.null_class, self.class_position = 2**deepest, null_class, class_position
        self.needs_label = classes > 0 and null_class is None
        self.conv_in = nn.Conv2d(in_channels, stem, 3, padding=1)
        self.time_embedding = nn.ModuleDict(
            {"linear_1": nn.Linear(time_dim, hidden), "linear_2": nn.Linear(hidden, hidden)}
        )
        size = time_dim if class_position == "input" else hidden
        self.class_embedding = nn.Embedding(classes + (null_class is not None), size) if classes else None
        self.attributes = AttributeEmbedding(attributes, hidden) if attributes else None
        self.augmentation = AugmentationEmbedding(augmentation, hidden) if augmentation else None

        def resnet(ins: int, outs: int) -> ResnetBlock:
            return ResnetBlock(ins, outs, options, scale=residual_scale)

        def attentions(outs: int, wanted: Sequence[bool], own: BlockOptions) -> list[nn.Module]:
            return (
                [
                    AttentionLayer(outs, own, groups=own.groups_for(outs), scale=residual_scale) if w else nn.Identity()
                    for w in wanted
                ]
                if any(wanted)
                else []
            )

        def resampled(outs: int, by: Literal["down", "up"]) -> nn.Module:
            if not resample_blocks:
                return ConvDownsample(outs, 1) if by == "down" else ConvUpsample(outs)
            change = pool_pixels if by == "down" else repeat_pixels
            return ResnetBlock(outs, outs, options, scale=residual_scale, resample=change, project=resample_projection)

        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        entering = [stem, *channels[:-1]]
        for level, (ins, outs) in enumerate(zip(entering, channels, strict=True)):
            resnets = [resnet(outs if i else ins, outs) for i in range(blocks)]
            down = None if level == deepest else resampled(outs, "down")
            self.down_blocks.append(DownLevel(resnets, attentions(outs, [present[level]] * blocks, options), down))
        last = channels[-1]
        middle = attentions(last, [middle_attention], options)
        self.mid_block = MiddleLevel([resnet(last, last), resnet(last, last)], middle)
        below = last
        for level in range(deepest, -1, -1):
            outs, skips = channels[level], [channels[level]] * blocks + [entering[level]]
            resnets = [resnet((outs if i else below) + skip, outs) for i, skip in enumerate(skips)]
            wanted = [present[level] and (attention_up == "all" or i == blocks) for i in range(blocks + 1)]
            up = None if level == 0 else resampled(outs, "up")
            self.up_blocks.append(UpLevel(resnets, attentions(outs, wanted, up_options), up))
            below = outs
        self.conv_norm_out = nn.GroupNorm(options.groups_for(channels[0]), channels[0], norm_eps)
        self.conv_out = nn.Conv2d(channels[0], out_channels, 3, padding=1)
        if zero_output:
            zero(self.conv_out)
            for module in self.modules():
                if isinstance(module, ResnetBlock):
                    zero(module.conv2)
                elif isinstance(module, AttentionLayer):
                    zero(module.to_out[0])  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None, augmentation: Tensor | None = None) -> Tensor:
        """Predict from noisy images.

        Args:
            x: (B, in_channels, H, W), any H and W from 1.
            t: (B,) float, the time input.
            cond: (B,) int64 class indices, -1 for no class; or (B, A) float attributes, NaN for unknown ones; None for
                an unconditional prediction.
            augmentation: what was done to the images, (B, K); None for nothing.

        Returns:
            (B, out_channels, H, W).

        Raises:
            ValueError: ``cond`` is given, but the network is unconditional; or a class is not, and none stands for it.
        """
        height, width = x.shape[-2:]
        x = pad_to(x, ceil_to(height, self.multiple), ceil_to(width, self.multiple))
        # Every residual block begins with the SiLU of the embedding: computed once for all of them.
        embedding = F.silu(add_augmentation(self._embedding(t, cond, x.dtype), augmentation, self.augmentation))
        x = self.conv_in(x)
        skips = [x]
        for level in self.down_blocks:
            skips += level(skips[-1], embedding)
        x = self.mid_block(skips[-1], embedding)
        for level in self.up_blocks:
            x = level(x, skips, embedding)
        return crop_to(self.conv_out(norm_act(x, self.conv_norm_out)), height, width)

    def _embedding(self, t: Tensor, cond: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The embedding of the time and of the condition, (B, hidden_dim)."""
        linear1, linear2 = self.time_embedding["linear_1"], self.time_embedding["linear_2"]
        features = sinusoids(t, self.time_dim, self.freq_shift, self.flip).to(dtype)
        classes = None if self.attributes is not None else cond
        if self.class_position == "input":
            features = add_class(features, classes, self.class_embedding, self.null_class)
        embedding = linear2(F.silu(linear1(features)))
        if self.attributes is not None:
            return embedding + self.attributes(cond, len(t)).to(embedding.dtype)
        if self.class_position == "input":
            return embedding
        return add_class(embedding, classes, self.class_embedding, self.null_class)
