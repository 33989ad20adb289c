"""Autoencoders: an encoder to a Gaussian over latents, and a decoder.

    encoder   x -> space to depth by ``patch`` -> level 0 -> stride 2 -> level 1 -> ... -> moments
    decoder   z -> deepest level -> ... -> nearest upsampling -> level 0 -> depth to space -> x

Level l has ``width 2^l`` channels. The finest level works at 1/``patch`` of the image's resolution, where a convolution
costs 1/patch^2: on a CPU the full resolution would take most of the time.

An autoencoder is registered in the family ``autoencoder`` and has ``latent_shape``, ``size`` and ``factor``;
``decoder`` and ``log_scale`` (C,), the kind of distribution of a pixel given the latents and the logarithm of its scale
in each colour channel; ``encode(x)``, mean and log variance of q(z | x), and ``decode(z)``, the centre of p(x | z);
``decoder_network``, a module that ``decode`` calls once.

Source: Kingma and Welling 2014; Rombach et al. 2022, sec. 3.1.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.networks.layers import Downsample, Upsample, norm_act, zero
from fromnoise.registry import register

Decoder = Literal["gaussian", "logistic"]
_LOG_VARIANCE = (-30.0, 20.0)  # so that its exponential is finite; Rombach et al. clamp alike


class Block(nn.Module):
    """Residual block without a time embedding: norm, SiLU, convolution; norm, SiLU, convolution; plus the input."""

    def __init__(self, channels: int, groups: int) -> None:
        """Build the block; it starts as the identity.

        Args:
            channels: of the input and the output.
            groups: groups of the group normalizations.
        """
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(groups, channels), nn.GroupNorm(groups, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        zero(self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x + self.conv2(norm_act(self.conv1(norm_act(x, self.norm1)), self.norm2))


def _groups(channels: int) -> int:
    """Groups of a normalization: the largest number up to 16 that divides the channels."""
    return next(g for g in range(16, 0, -1) if channels % g == 0)


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(Block(channels, _groups(channels)) for _ in range(count)))


class _Trunks(nn.Module):
    """The convolutional trunks that the autoencoders share.

    Attributes:
        coarse: (width, h, w) at the coarsest level.
    """

    def __init__(
        self, in_channels: int, size: tuple[int, int], width: int, factor: int, patch: int, blocks: int
    ) -> None:
        """Build both trunks.

        Raises:
            ValueError: factor and patch are no powers of two, or the sides of the images no multiples of the factor.
        """
        super().__init__()
        if patch < 1 or factor < patch or 2 ** round(math.log2(factor)) != factor or factor % patch:
            raise ValueError(f"factor {factor} must be a power of two and a multiple of patch {patch}")
        if min(width, blocks) < 1:
            raise ValueError(f"width {width} and blocks {blocks} must be 1 or more")
        height, columns = size
        if height % factor or columns % factor:
            fits = [f for f in (8, 4, 2) if height % f == columns % f == 0 and f >= patch]
            whole = "x".join(str(-(-side // factor) * factor) for side in dict.fromkeys((height, columns)))
            also = f"autoencoder.factor {fits[0]}, or " if fits else ""
            raise ValueError(
                f"images of {height}x{columns} cannot be divided by factor {factor}: use {also}data.size {whole}"
            )
        channels = [width * 2**level for level in range(round(math.log2(factor // patch)) + 1)]
        down: list[nn.Module] = [nn.Conv2d(in_channels * patch**2, width, 3, padding=1)]
        for fine, coarse in zip(channels, channels[1:], strict=False):
            down += [_blocks(fine, blocks), Downsample(fine), nn.Conv2d(fine, coarse, 1)]
        up: list[nn.Module] = [_blocks(channels[-1], blocks)]
        for coarse, fine in zip(channels[::-1], channels[-2::-1], strict=False):
            up += [nn.Conv2d(coarse, fine, 1), Upsample(fine), _blocks(fine, blocks)]
        self.patch = patch
        self.down = nn.Sequential(*down, _blocks(channels[-1], blocks))
        self.up = nn.Sequential(*up)
        self.norm_in = nn.GroupNorm(_groups(channels[-1]), channels[-1])
        self.norm_out = nn.GroupNorm(_groups(width), width)
        self.pixels = nn.Conv2d(width, in_channels * patch**2, 3, padding=1)
        self.coarse = (channels[-1], height // factor, columns // factor)

    def encode(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to features (B, *coarse)."""
        return norm_act(self.down(F.pixel_unshuffle(x, self.patch)), self.norm_in)

    def decode(self, features: Tensor) -> Tensor:
        """Features (B, *coarse) to (B, C, H, W)."""
        return F.pixel_shuffle(self.pixels(norm_act(self.up(features), self.norm_out)), self.patch)


def moments(out: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance, float32, from a network's output (B, 2Z, ...)."""
    mean, log_variance = out.float().chunk(2, dim=1)
    return mean, log_variance.clamp(*_LOG_VARIANCE)


@register("autoencoder", "convolutional")
class ConvolutionalAutoencoder(nn.Module):
    """Latents are feature maps (Z, H/factor, W/factor), each cell of a region of the image: for latent diffusion.

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
        width: int = 64,
        factor: int = 8,
        patch: int = 4,
        blocks: int = 2,
        latent_channels: int = 4,
        decoder: Decoder = "logistic",
    ) -> None:
        """Build the network.

        Args:
            in_channels: C.
            size: (H, W), multiples of ``factor``.
            width: channels of the finest level; each coarser level has twice as many.
            factor: side of the image over side of the latents, a power of two.
            patch: side of the squares of pixels that become channels before the first convolution.
            blocks: residual blocks of each level.
            latent_channels: Z.
            decoder: distribution of a pixel given the latents, for likelihoods.

        Raises:
            ValueError: an option is out of range, or the images' sides are no multiples of the factor.
        """
        super().__init__()
        if latent_channels < 1:
            raise ValueError(f"latent_channels {latent_channels} must be 1 or more")
        self.trunks = _Trunks(in_channels, size, width, factor, patch, blocks)
        channels, *sides = self.trunks.coarse
        self.to_moments = nn.Conv2d(channels, 2 * latent_channels, 1)
        self.from_latents = nn.Conv2d(latent_channels, channels, 3, padding=1)
        self.log_scale = nn.Parameter(torch.full((in_channels,), math.log(0.1)))
        self.latent_shape = (latent_channels, sides[0], sides[1])
        self.size, self.factor, self.decoder = size, factor, decoder

    @property
    def decoder_network(self) -> nn.Module:
        """The decoder's trunk."""
        return self.trunks.up

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z | x), float32 (B, Z, h, w) each, of images (B, C, H, W) in [-1, 1]."""
        return moments(self.to_moments(self.trunks.encode(x)))

    def decode(self, z: Tensor) -> Tensor:
        """The centre of p(x | z), float32 (B, C, H, W), of latents (B, Z, h, w)."""
        return self.trunks.decode(self.from_latents(z)).float()


@register("autoencoder", "vector")
class VectorAutoencoder(nn.Module):
    """Latents are vectors, (D, 1, 1), that describe the whole image: for a VAE that generates images by itself.

    Attributes:
        latent_shape: (D, 1, 1).
        size: (H, W) of the training images.
        factor: None: images of another size have no latents.
        log_scale: logarithm of the decoder's scale in each colour channel, float32 (C,).
        decoder: the kind of its distribution.
    """

    def __init__(
        self,
        in_channels: int,
        size: tuple[int, int],
        width: int = 32,
        factor: int = 4,
        patch: int = 1,
        blocks: int = 1,
        dimensions: int = 32,
        decoder: Decoder = "logistic",
    ) -> None:
        """Build the network.

        Args:
            in_channels: C.
            size: (H, W), multiples of ``factor``.
            width: channels of the finest level; each coarser level has twice as many.
            factor: side of the image over side of the feature maps before the linear layer, a power of two.
            patch: side of the squares of pixels that become channels before the first convolution.
            blocks: residual blocks of each level.
            dimensions: D.
            decoder: distribution of a pixel given the latents.

        Raises:
            ValueError: an option is out of range, or the images' sides are no multiples of the factor.
        """
        super().__init__()
        if dimensions < 1:
            raise ValueError(f"dimensions {dimensions} must be 1 or more")
        self.trunks = _Trunks(in_channels, size, width, factor, patch, blocks)
        flat = math.prod(self.trunks.coarse)
        self.to_moments = nn.Linear(flat, 2 * dimensions)
        self.from_latents = nn.Linear(dimensions, flat)
        self.log_scale = nn.Parameter(torch.full((in_channels,), math.log(0.1)))
        self.latent_shape = (dimensions, 1, 1)
        self.size, self.factor, self.decoder = size, None, decoder

    @property
    def decoder_network(self) -> nn.Module:
        """The decoder's trunk."""
        return self.trunks.up

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z | x), float32 (B, D, 1, 1) each, of images (B, C, H, W) in [-1, 1]."""
        return moments(self.to_moments(self.trunks.encode(x).flatten(1))[..., None, None])

    def decode(self, z: Tensor) -> Tensor:
        """The centre of p(x | z), float32 (B, C, H, W), of latents (B, D, 1, 1)."""
        return self.trunks.decode(self.from_latents(z.flatten(1)).unflatten(1, self.trunks.coarse)).float()
