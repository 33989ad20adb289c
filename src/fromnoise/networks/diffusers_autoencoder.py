"""The autoencoder of the library diffusers, ``AutoencoderKL``, with the library's options and names of weights.

    encoder   x -> conv_in -> down 0 -> stride 2 -> down 1 -> ... -> middle -> conv_out -> (quant_conv) -> moments
    decoder   z -> (post_quant_conv) -> conv_in -> middle -> up 0 -> nearest upsampling -> up 1 -> ... -> conv_out -> x

Source: Rombach et al. 2022, app. E.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fromnoise.networks.autoencoder import Decoder, moments
from fromnoise.networks.diffusers_layers import (
    Activation,
    AttentionLayer,
    BlockOptions,
    ConvDownsample,
    ConvUpsample,
    DownLevel,
    Level,
    MiddleLevel,
    ResnetBlock,
)
from fromnoise.networks.layers import ceil_to, norm_act
from fromnoise.registry import register

_EPS = 1e-6  # of all normalizations


class _DecoderLevel(Level):
    """Residual blocks; the last module doubles the sides."""

    def __init__(self, resnets: Sequence[nn.Module], upsample: nn.Module | None) -> None:
        """Build the level; ``upsample`` is None on the finest."""
        super().__init__(resnets, ())
        self.upsamplers = nn.ModuleList([] if upsample is None else [upsample])

    def forward(self, x: Tensor) -> Tensor:
        """Apply the level."""
        for index in range(len(self.resnets)):
            x = self.block(index, x, None)
        for upsample in self.upsamplers:
            x = upsample(x, None)
        return x


def _middle(channels: int, attention: bool, options: BlockOptions) -> MiddleLevel:
    """Two residual blocks, with attention of one head between them if the network has it."""
    attentions = [AttentionLayer(channels, options, groups=options.groups)] if attention else []
    return MiddleLevel([ResnetBlock(channels, channels, options) for _ in range(2)], attentions)


class _KLEncoder(nn.Module):
    """Images to the features of the moments."""

    def __init__(
        self,
        in_channels: int,
        outs: int,
        channels: tuple[int, ...],
        blocks: int,
        attention: bool,
        options: BlockOptions,
    ) -> None:
        """Build it: as many levels as ``channels`` has entries, finest first, of ``blocks`` residual blocks each."""
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        levels, ins = [], channels[0]
        for level, width in enumerate(channels):
            resnets = [ResnetBlock(ins if i == 0 else width, width, options) for i in range(blocks)]
            last = level == len(channels) - 1
            levels.append(DownLevel(resnets, (), None if last else ConvDownsample(width, padding=0)))
            ins = width
        self.down_blocks = nn.ModuleList(levels)
        self.mid_block = _middle(channels[-1], attention, options)
        self.conv_norm_out = nn.GroupNorm(options.groups, channels[-1], _EPS)
        self.conv_out = nn.Conv2d(channels[-1], outs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, outs, h, w)."""
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x, None)[-1]
        return self.conv_out(norm_act(self.mid_block(x, None), self.conv_norm_out))


class _KLDecoder(nn.Module):
    """Latents to images."""

    def __init__(
        self, latents: int, outs: int, channels: tuple[int, ...], blocks: int, attention: bool, options: BlockOptions
    ) -> None:
        """Build it: the levels of the encoder in reverse order, with one residual block more each."""
        super().__init__()
        self.conv_in = nn.Conv2d(latents, channels[-1], 3, padding=1)
        self.mid_block = _middle(channels[-1], attention, options)
        levels, ins = [], channels[-1]
        for level, width in enumerate(reversed(channels)):
            resnets = [ResnetBlock(ins if i == 0 else width, width, options) for i in range(blocks + 1)]
            levels.append(_DecoderLevel(resnets, None if level == len(channels) - 1 else ConvUpsample(width)))
            ins = width
        self.up_blocks = nn.ModuleList(levels)
        self.conv_norm_out = nn.GroupNorm(options.groups, channels[0], _EPS)
        self.conv_out = nn.Conv2d(channels[0], outs, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Map (B, latents, h, w) to (B, outs, H, W)."""
        x = self.mid_block(self.conv_in(z), None)
        for level in self.up_blocks:
            x = level(x)
        return self.conv_out(norm_act(x, self.conv_norm_out))


@register("autoencoder", "diffusers")
class DiffusersAutoencoder(nn.Module):
    """AutoencoderKL of diffusers, layer for layer; each level but the first halves the sides.

    Latents are feature maps. The weights have the library's names after ``layers.``; ``log_scale`` is not among them.

    Attributes:
        latent_shape: (Z, H/factor, W/factor).
        size: (H, W) of the training images.
        factor: side of an image over side of its latents, for images of any size.
        log_scale: logarithm of the decoder's scale in each colour channel, float32 (C,).
        decoder: the kind of its distribution.
    """

    def __init__(
        self,
        in_channels: int,
        size: tuple[int, int],
        block_out_channels: tuple[int, ...] = (64,),
        layers_per_block: int = 1,
        latent_channels: int = 4,
        norm_num_groups: int = 32,
        act_fn: Activation = "silu",
        mid_block_add_attention: bool = True,
        use_quant_conv: bool = True,
        use_post_quant_conv: bool = True,
        decoder: Decoder = "logistic",
    ) -> None:
        """Build the network.

        Args:
            in_channels: C.
            size: (H, W), multiples of 2^(levels - 1).
            block_out_channels: channels of each level, finest first.
            layers_per_block: residual blocks of each level of the encoder; the decoder's have one more.
            latent_channels: Z.
            norm_num_groups: groups of the group normalizations.
            act_fn: activation of the residual blocks.
            mid_block_add_attention: whether the coarsest level has self-attention.
            use_quant_conv: whether a 1x1 convolution follows the encoder.
            use_post_quant_conv: whether a 1x1 convolution precedes the decoder.
            decoder: distribution of a pixel given the latents, for likelihoods.

        Raises:
            ValueError: an option is out of range, or the images' sides are no multiples of the factor.
        """
        super().__init__()
        channels = tuple(block_out_channels)
        if not channels or min(*channels, layers_per_block, latent_channels, norm_num_groups) < 1:
            raise ValueError("numbers of channels, layers and groups must be 1 or more, of one level at least")
        wrong = next((c for c in channels if c % norm_num_groups), None)
        if wrong is not None:
            raise ValueError(f"norm_num_groups {norm_num_groups} must divide block_out_channels, such as {wrong}")
        factor = 2 ** (len(channels) - 1)
        if size[0] % factor or size[1] % factor:
            whole = "x".join(str(ceil_to(side, factor)) for side in dict.fromkeys(size))
            raise ValueError(
                f"images of {size[0]}x{size[1]} cannot be divided by {factor}, the factor of {len(channels)} levels: "
                f"use fewer block_out_channels, or data.size {whole}"
            )
        options = BlockOptions(None, norm_num_groups, _EPS, 0.0, act_fn, False, None)
        both = {"channels": channels, "blocks": layers_per_block, "attention": mid_block_add_attention}
        parts: dict[str, nn.Module] = {
            "encoder": _KLEncoder(in_channels, 2 * latent_channels, **both, options=options),
            "decoder": _KLDecoder(latent_channels, in_channels, **both, options=options),
        }
        if use_quant_conv:
            parts["quant_conv"] = nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1)
        if use_post_quant_conv:
            parts["post_quant_conv"] = nn.Conv2d(latent_channels, latent_channels, 1)
        self.layers = nn.ModuleDict(parts)
        self.log_scale = nn.Parameter(torch.full((in_channels,), math.log(0.1)))
        self.latent_shape = (latent_channels, size[0] // factor, size[1] // factor)
        self.size, self.factor, self.decoder = size, factor, decoder

    @property
    def decoder_network(self) -> nn.Module:
        """The decoder without ``post_quant_conv``."""
        return self.layers["decoder"]

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z | x), float32 (B, Z, h, w) each, of images (B, C, H, W) in [-1, 1]."""
        return moments(self._optional("quant_conv", self.layers["encoder"](x)))

    def decode(self, z: Tensor) -> Tensor:
        """The centre of p(x | z), float32 (B, C, H, W), of latents (B, Z, h, w)."""
        return self.layers["decoder"](self._optional("post_quant_conv", z)).float()

    def _optional(self, name: str, x: Tensor) -> Tensor:
        return self.layers[name](x) if name in self.layers else x
