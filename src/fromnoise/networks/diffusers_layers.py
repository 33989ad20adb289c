"""Layers of the networks ``diffusers`` and ``adm`` and of the autoencoder ``diffusers``.

The names of their parts are those of the weights of diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.networks.attention import self_attention
from fromnoise.networks.layers import norm_act, normalize

Activation = Literal["silu", "swish", "mish", "gelu", "relu"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "swish": F.silu,
    "mish": F.mish,
    "gelu": F.gelu,
    "relu": F.relu,
}
"""Activations of the residual blocks, by the library's names."""


@dataclass(frozen=True)
class BlockOptions:
    """What all residual blocks and attention layers of a network share.

    Attributes:
        time_dim: size of the time embedding; None for a network without a time.
        groups: groups of each group normalization.
        eps: epsilon of the group normalizations.
        dropout: dropout probability before the second convolution.
        activation: key of ``ACTIVATIONS``.
        scale_shift: the time embedding scales and shifts after the second normalization, instead of being added.
        head_dim: channels of an attention head; None for a single head.
        heads: number of attention heads, in place of ``head_dim``.
        group_channels: channels of a group, at least: a normalization of fewer channels has fewer groups.
    """

    time_dim: int | None
    groups: int
    eps: float
    dropout: float
    activation: str
    scale_shift: bool
    head_dim: int | None
    heads: int | None = None
    group_channels: int = 1

    def groups_for(self, channels: int) -> int:
        """Groups of a normalization of so many channels."""
        return max(1, min(self.groups, channels // self.group_channels))


class ResnetBlock(nn.Module):
    """Residual block: norm, activation, (resampling), convolution; time; norm, activation, dropout, convolution.

    out = (shortcut(x) + h) / scale. With ``resample``, x and the activated x are average-pooled or repeated by 2 first.
    """

    def __init__(
        self,
        ins: int,
        outs: int,
        options: BlockOptions,
        *,
        scale: float = 1.0,
        resample: Callable[[Tensor], Tensor] | None = None,
        project: bool = False,
    ) -> None:
        """Build the block.

        Args:
            ins: channels of the input; a 1x1 convolution on the shortcut if ``outs`` differs.
            outs: channels of the output.
            options: shared by all blocks.
            scale: the output is divided by it.
            resample: change of resolution.
            project: a 1x1 convolution on the shortcut in any case.
        """
        super().__init__()
        self.options, self.scale, self.resample = options, scale, resample
        self.activation = ACTIVATIONS[options.activation]
        self.norm1 = nn.GroupNorm(options.groups_for(ins), ins, options.eps)
        self.conv1 = nn.Conv2d(ins, outs, 3, padding=1)
        if options.time_dim is not None:
            self.time_emb_proj = nn.Linear(options.time_dim, 2 * outs if options.scale_shift else outs)
        self.norm2 = nn.GroupNorm(options.groups_for(outs), outs, options.eps)
        self.dropout = nn.Dropout(options.dropout)
        self.conv2 = nn.Conv2d(outs, outs, 3, padding=1)
        same = ins == outs and not project
        self.conv_shortcut = nn.Identity() if same else nn.Conv2d(ins, outs, 1)

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """Map (B, ins, H, W) and the activated time embedding, (B, time_dim) or None, to (B, outs, H', W')."""
        h = self._norm_act(x, self.norm1)
        if self.resample is not None:
            x, h = self.resample(x), self.resample(h)
        h = self.conv1(h)
        time = None if self.options.time_dim is None else self.time_emb_proj(embedding)
        if time is not None and self.options.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            h = self._norm_act(h, self.norm2, scale=scale, shift=shift)
        else:
            h = self._norm_act(h, self.norm2, addend=time)
        h = self.conv_shortcut(x) + self.conv2(self.dropout(h))
        return h if self.scale == 1 else h / self.scale

    def _norm_act(
        self,
        x: Tensor,
        norm: nn.GroupNorm,
        addend: Tensor | None = None,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> Tensor:
        """Activation((1 + scale) GroupNorm(x + addend) + shift)."""
        if self.activation is F.silu:
            return norm_act(x, norm, addend=addend, scale=scale, shift=shift)
        x = normalize(x if addend is None else x + addend[:, :, None, None], norm)
        if scale is not None and shift is not None:
            x = torch.addcmul(shift[:, :, None, None], x, scale[:, :, None, None] + 1)
        return self.activation(x)


class AttentionLayer(nn.Module):
    """Multi-head self-attention over all pixels: (group norm), attention, linear; plus the input, over ``scale``."""

    def __init__(self, channels: int, options: BlockOptions, *, groups: int | None, scale: float = 1.0) -> None:
        """Build the layer.

        Args:
            channels: of the input and the output.
            options: shared by all blocks.
            groups: groups of its normalization; None for no normalization.
            scale: the output is divided by it.

        Raises:
            ValueError: a head has more channels than the layer, or the heads do not divide them.
        """
        super().__init__()
        if options.heads is not None and channels % options.heads:
            raise ValueError(f"heads={options.heads} must divide the {channels} channels of an attention")
        head_dim = options.head_dim or channels
        if options.heads is not None:
            head_dim = channels // options.heads
        if head_dim > channels:
            raise ValueError(f"attention_head_dim={head_dim} is more than the {channels} channels of an attention")
        self.heads, self.scale = channels // head_dim, scale
        inner = self.heads * head_dim
        self.group_norm = nn.GroupNorm(groups, channels, options.eps) if groups is not None else None
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, inner) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(inner, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        tokens = (x if self.group_norm is None else normalize(x, self.group_norm)).flatten(2).transpose(1, 2)
        qkv = torch.cat([self.to_q(tokens), self.to_k(tokens), self.to_v(tokens)], dim=2)
        out = self.to_out[0](self_attention(qkv, self.heads)).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + out if self.scale == 1 else (x + out) / self.scale


class ConvDownsample(nn.Module):
    """3x3 convolution of stride 2, padded on all sides (padding 1) or at the bottom and on the right (padding 0)."""

    def __init__(self, channels: int, padding: int) -> None:
        """Build the layer; the number of channels stays the same."""
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)
        self.padding = padding

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """Halve the sides."""
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.padding == 0 else x)


class ConvUpsample(nn.Module):
    """Nearest-neighbour upsampling and a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        """Build the layer; the number of channels stays the same."""
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """Double the sides."""
        return self.conv(repeat_pixels(x))


def repeat_pixels(x: Tensor) -> Tensor:
    """Nearest-neighbour upsampling by 2."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def pool_pixels(x: Tensor) -> Tensor:
    """Mean of 2x2 pixels."""
    return F.avg_pool2d(x, 2)


class Level(nn.Module):
    """Residual blocks, each followed by its attention if the level has any; the middle has a block before the first."""

    def __init__(self, resnets: Sequence[nn.Module], attentions: Sequence[nn.Module]) -> None:
        """Build the level.

        Args:
            resnets: residual blocks.
            attentions: as many, or one less for the middle, or none.
        """
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        if attentions:
            self.attentions = nn.ModuleList(attentions)
        self.has_attention = bool(attentions)

    def block(self, index: int, x: Tensor, embedding: Tensor | None) -> Tensor:
        """A residual block and its attention."""
        x = self.resnets[index](x, embedding)
        return self.attentions[index](x) if self.has_attention else x


class DownLevel(Level):
    """A level on the way down; the last module halves the sides."""

    def __init__(
        self, resnets: Sequence[nn.Module], attentions: Sequence[nn.Module], downsample: nn.Module | None
    ) -> None:
        """Build the level; ``downsample`` is None on the deepest."""
        super().__init__(resnets, attentions)
        self.downsamplers = nn.ModuleList([] if downsample is None else [downsample])

    def forward(self, x: Tensor, embedding: Tensor | None) -> list[Tensor]:
        """The outputs of all blocks and of the downsampling, oldest first."""
        features = []
        for index in range(len(self.resnets)):
            x = self.block(index, x, embedding)
            features.append(x)
        for downsample in self.downsamplers:
            features.append(downsample(x, embedding))
        return features


class MiddleLevel(Level):
    """Two residual blocks at the coarsest resolution, with attention between them."""

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """Apply the level."""
        x = self.block(0, x, embedding)
        return self.resnets[1](x, embedding)


class UpLevel(Level):
    """A level on the way up; the last module doubles the sides."""

    def __init__(
        self, resnets: Sequence[nn.Module], attentions: Sequence[nn.Module], upsample: nn.Module | None
    ) -> None:
        """Build the level; ``upsample`` is None on the finest."""
        super().__init__(resnets, attentions)
        self.upsamplers = nn.ModuleList([] if upsample is None else [upsample])

    def forward(self, x: Tensor, skips: list[Tensor], embedding: Tensor | None) -> Tensor:
        """Apply the level; each block removes the newest skip, at the end of the list."""
        for index in range(len(self.resnets)):
            x = self.block(index, torch.cat([x, skips.pop()], dim=1), embedding)
        for upsample in self.upsamplers:
            x = upsample(x, embedding)
        return x
