"""The U-Net of the library diffusers, ``UNet2DModel``, with the library's options and names of weights.

    x -> conv_in -> down 0 -> down 1 -> ... -> down L-1 -> middle
                    |  skips  |                |            |
                    v         v                v            v
         out <----- up L-1 <- up L-2 <- ... <- up 0 <-------'

On the way down, the output of ``conv_in``, of each block and of each downsampling is a skip connection; each block on
the way up, one more per level than on the way down, takes the newest as the last channels of its input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.networks.diffusers_layers import (
    ACTIVATIONS,
    Activation,
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
from fromnoise.networks.embeddings import AttributeEmbedding, AugmentationEmbedding, add_augmentation, add_class
from fromnoise.networks.layers import ceil_to, crop_to, norm_act, pad_to
from fromnoise.registry import register

DownBlock = Literal["DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"]
UpBlock = Literal["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"]
Resampling = Literal["conv", "resnet"]
_DOWN: tuple[DownBlock, ...] = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
_UP: tuple[UpBlock, ...] = ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")


@register("network", "diffusers")
class DiffusersUNet(nn.Module):
    """UNet2DModel of diffusers: options and weights have the library's names.

    Sides are padded to a multiple of 2^(levels - 1), and the output is cropped back; the library accepts such multiples
    only.

    Source: diffusers 0.42, class ``UNet2DModel``; after Ho et al. 2020, app. B, and Dhariwal and Nichol 2021, sec. 3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        classes: int = 0,
        attributes: Sequence[tuple[float, float]] = (),
        augmentation: int = 0,
        center_input_sample: bool = False,
        time_embedding_type: Literal["positional", "learned"] = "positional",
        time_embedding_dim: int | None = None,
        freq_shift: float = 0,
        flip_sin_to_cos: bool = True,
        down_block_types: tuple[DownBlock, ...] = _DOWN,
        mid_block_type: Literal["UNetMidBlock2D", "none"] = "UNetMidBlock2D",
        up_block_types: tuple[UpBlock, ...] = _UP,
        block_out_channels: tuple[int, ...] = (224, 448, 672, 896),
        layers_per_block: int = 2,
        mid_block_scale_factor: float = 1.0,
        downsample_padding: Literal[0, 1] = 1,
        downsample_type: Resampling = "conv",
        upsample_type: Resampling = "conv",
        dropout: float = 0.0,
        act_fn: Activation = "silu",
        attention_head_dim: int | None = 8,
        norm_num_groups: int = 32,
        attn_norm_num_groups: int | None = None,
        norm_eps: float = 1e-5,
        resnet_time_scale_shift: Literal["default", "scale_shift"] = "default",
        add_attention: bool = True,
        num_train_timesteps: int | None = None,
        null_class: int | None = None,
    ) -> None:
        """Build the network; the defaults are those of the library.

        Args:
            in_channels: channels of the images; twice as many for self-conditioning.
            out_channels: channels of the prediction; twice as many for a learned variance.
            classes: number of classes; 0 for none.
            attributes: mean and standard deviation of each attribute; empty for none. Not in the source.
            augmentation: how many numbers describe what was done to an image; 0 for none. Not in the source.
            center_input_sample: map the input x to 2 x - 1
            time_embedding_type: sinusoids of the timestep, or a learned table of ``num_train_timesteps`` rows
            time_embedding_dim: size of the time embedding; default: 4 times the first of ``block_out_channels``
            freq_shift: the frequencies are 10000^(-k / (h - freq_shift)), k = 0 .. h - 1
            flip_sin_to_cos: cosines before sines
            down_block_types: kind of each level on the way down, finest first; ``Attn`` has self-attention after each
                block, ``ResnetDownsample`` resamples in a residual block
            mid_block_type: kind of the middle, or none
            up_block_types: kind of each level on the way up, coarsest first
            block_out_channels: channels of each level, finest first
            layers_per_block: residual blocks of a level on the way down; one more on the way up
            mid_block_scale_factor: outputs of the layers of the middle are divided by it
            downsample_padding: 1 on all sides, or 0 for one row at the bottom and one column on the right
            downsample_type: downsampling of levels with attention
            upsample_type: upsampling of levels with attention
            dropout: dropout probability, before the last convolution of each residual block
            act_fn: activation of the residual blocks
            attention_head_dim: channels of an attention head; null: one head
            norm_num_groups: groups of each group normalization
            attn_norm_num_groups: groups of the normalization before the attention of the middle; null: those of
                the others, or no normalization with ``resnet_time_scale_shift`` scale_shift
            norm_eps: epsilon of the group normalizations
            resnet_time_scale_shift: the time embedding is added in each residual block, or scales and shifts
            add_attention: self-attention in the middle
            num_train_timesteps: rows of the learned table of ``time_embedding_type``
            null_class: row of the class embedding that stands for no class; null: none does, and the network has no
                unconditional prediction

        Raises:
            ValueError: an option is out of range, or options do not fit each other.
        """
        super().__init__()
        levels = len(block_out_channels)
        _check(levels, in_channels, out_channels, block_out_channels, down_block_types, up_block_types)
        if layers_per_block < 1:
            raise ValueError(f"layers_per_block={layers_per_block} is too small; use 1 or more")
        if not 0 <= dropout < 1 or not 0 < norm_eps < math.inf or not mid_block_scale_factor > 0:
            raise ValueError("dropout must lie in [0, 1), norm_eps and mid_block_scale_factor must be positive")
        if act_fn not in ACTIVATIONS:
            raise ValueError(f"act_fn={act_fn!r} is not known; use {', '.join(ACTIVATIONS)}")
        if null_class is not None and not 0 <= null_class <= classes:
            raise ValueError(f"null_class={null_class} must lie between 0 and the number of classes, {classes}")
        for name, groups in (("norm_num_groups", norm_num_groups), ("attn_norm_num_groups", attn_norm_num_groups)):
            wrong = groups is not None and (groups < 1 or any(c % groups for c in block_out_channels))
            if wrong:
                raise ValueError(f"{name}={groups} must divide each of block_out_channels={block_out_channels}")
        first, last = block_out_channels[0], block_out_channels[-1]
        time_dim = time_embedding_dim or 4 * first
        scale_shift = resnet_time_scale_shift == "scale_shift"
        options = BlockOptions(time_dim, norm_num_groups, norm_eps, dropout, act_fn, scale_shift, attention_head_dim)

        self.activation = ACTIVATIONS[act_fn]
        self.center_input_sample, self.freq_shift, self.flip = center_input_sample, freq_shift, flip_sin_to_cos
        self.multiple, self.null_class, self.classes = 2 ** (levels - 1), null_class, classes
        self.needs_label = classes > 0 and null_class is None
        self.conv_in = nn.Conv2d(in_channels, first, 3, padding=1)
        self.time_proj = None
        if time_embedding_type == "learned":
            if not num_train_timesteps or num_train_timesteps < 1:
                raise ValueError("time_embedding_type learned needs num_train_timesteps")
            self.time_proj = nn.Embedding(num_train_timesteps, first)
        elif first < 2 or not first // 2 > freq_shift:
            raise ValueError(f"freq_shift={freq_shift} must be less than half of the first level's {first} channels")
        self.time_embedding = nn.ModuleDict(
            {"linear_1": nn.Linear(first, time_dim), "linear_2": nn.Linear(time_dim, time_dim)}
        )
        self.class_embedding = nn.Embedding(classes + (null_class is not None), time_dim) if classes else None
        self.attributes = AttributeEmbedding(attributes, time_dim) if attributes else None
        self.augmentation = AugmentationEmbedding(augmentation, time_dim) if augmentation else None

        def attentions(channels: int, count: int, kind: str) -> list[nn.Module]:
            present = kind.startswith("Attn")
            return [AttentionLayer(channels, options, groups=norm_num_groups) for _ in range(count if present else 0)]

        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        ins = first
        for level, (kind, outs) in enumerate(zip(down_block_types, block_out_channels, strict=True)):
            resnets = [ResnetBlock(ins if i == 0 else outs, outs, options) for i in range(layers_per_block)]
            resample: nn.Module | None = None
            if level < levels - 1:
                by_resnet = kind.startswith("Resnet") or (kind.startswith("Attn") and downsample_type == "resnet")
                resample = (
                    ResnetBlock(outs, outs, options, resample=pool_pixels)
                    if by_resnet
                    else ConvDownsample(outs, downsample_padding)
                )
            self.down_blocks.append(DownLevel(resnets, attentions(outs, layers_per_block, kind), resample))
            ins = outs
        self.mid_block = None
        if mid_block_type != "none":
            groups = attn_norm_num_groups if attn_norm_num_groups or scale_shift else norm_num_groups
            scale = mid_block_scale_factor
            attention = [AttentionLayer(last, options, groups=groups, scale=scale)] if add_attention else []
            self.mid_block = MiddleLevel([ResnetBlock(last, last, options, scale=scale) for _ in range(2)], attention)
        below = last
        for level, (kind, outs) in enumerate(zip(up_block_types, reversed(block_out_channels), strict=True)):
            finer = block_out_channels[max(levels - 2 - level, 0)]
            skips = [outs] * layers_per_block + [finer]
            resnets = [ResnetBlock((outs if i else below) + skip, outs, options) for i, skip in enumerate(skips)]
            resample = None
            if level < levels - 1:
                by_resnet = kind.startswith("Resnet") or (kind.startswith("Attn") and upsample_type == "resnet")
                resample = ResnetBlock(outs, outs, options, resample=repeat_pixels) if by_resnet else ConvUpsample(outs)
            self.up_blocks.append(UpLevel(resnets, attentions(outs, len(skips), kind), resample))
            below = outs
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, first, norm_eps)
        self.conv_out = nn.Conv2d(first, out_channels, 3, padding=1)

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
            ValueError: ``cond`` is given, but the network is unconditional; or a class is not, and none stands for it.
        """
        height, width = x.shape[-2:]
        x = pad_to(x, ceil_to(height, self.multiple), ceil_to(width, self.multiple))
        if self.center_input_sample:
            x = 2 * x - 1
        embedding = add_augmentation(self._embedding(t, cond, x.dtype), augmentation, self.augmentation)
        embedding = self.activation(embedding)
        x = self.conv_in(x)
        skips = [x]
        for level in self.down_blocks:
            skips += level(skips[-1], embedding)
        x = skips[-1] if self.mid_block is None else self.mid_block(skips[-1], embedding)
        for level in self.up_blocks:
            x = level(x, skips, embedding)
        return crop_to(self.conv_out(norm_act(x, self.conv_norm_out)), height, width)

    def _embedding(self, t: Tensor, cond: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The embedding of the time and of the class, (B, time_dim)."""
        if self.time_proj is not None:
            features = self.time_proj(t.round().long().clamp(0, self.time_proj.num_embeddings - 1))
        else:
            features = sinusoids(t, self.conv_in.out_channels, self.freq_shift, self.flip)
        linear1, linear2 = self.time_embedding["linear_1"], self.time_embedding["linear_2"]
        embedding = linear2(F.silu(linear1(features.to(dtype))))
        if self.attributes is not None:
            return embedding + self.attributes(cond, len(t)).to(dtype)
        return add_class(embedding, cond, self.class_embedding, self.null_class)


def sinusoids(t: Tensor, dim: int, shift: float, flip: bool) -> Tensor:
    """Sinusoidal embedding of the timestep in float32; the last channel is 0 if ``dim`` is odd.

    sin(t f_k) and cos(t f_k),  f_k = 10000^(-k / (h - shift)),  k = 0 .. h - 1,  h = dim // 2

    Args:
        t: (B,) float.
        dim: number of channels.
        shift: as above.
        flip: cosines before sines.

    Returns:
        (B, dim), float32.
    """
    half = dim // 2
    k = torch.arange(half, dtype=torch.float32, device=t.device)
    # this order of the operations is the library's: at t = 1000 another one changes the angle by 1e-4
    angle = t[:, None].float() * torch.exp(-math.log(10_000.0) * k / (half - shift))
    parts = [angle.cos(), angle.sin()] if flip else [angle.sin(), angle.cos()]
    return F.pad(torch.cat(parts, dim=1), (0, dim % 2))


def _check(
    levels: int,
    in_channels: int,
    out_channels: int,
    channels: tuple[int, ...],
    down: tuple[str, ...],
    up: tuple[str, ...],
) -> None:
    """Check the numbers of levels and channels.

    Raises:
        ValueError: one is wrong.
    """
    if not levels == len(down) == len(up) or levels == 0:
        raise ValueError(
            f"block_out_channels, down_block_types and up_block_types have {levels}, {len(down)} and {len(up)} "
            "entries; give one per level to each"
        )
    if min(in_channels, out_channels, *channels) < 1:
        raise ValueError("numbers of channels must be 1 or more")
