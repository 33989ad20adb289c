"""The networks and the preconditioning of EDM as its paper and code describe them, with the names of NVlabs/edm.

Written for the tests, after training/networks.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Conv(nn.Module):
    """Convolution after a change of resolution by the filter [1, 1]; ``kernel`` 0 is the change alone."""

    def __init__(self, ins: int, outs: int, kernel: int, change: str = "") -> None:
        super().__init__()
        self.change = change
        if kernel:
            self.weight = nn.Parameter(torch.randn(outs, ins, kernel, kernel) / math.sqrt(ins * kernel**2))
            self.bias = nn.Parameter(torch.randn(outs) / 10)
        if change:
            self.register_buffer("resample_filter", torch.full((1, 1, 2, 2), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        if self.change:
            f = self.resample_filter.tile(x.shape[1], 1, 1, 1)
            if self.change == "up":
                x = F.conv_transpose2d(x, 4 * f, groups=x.shape[1], stride=2)
            else:
                x = F.conv2d(x, f, groups=x.shape[1], stride=2)
        if hasattr(self, "weight"):
            x = F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)
        return x


def norm(channels: int, eps: float) -> nn.GroupNorm:
    """At most 32 groups, of at least 4 channels."""
    return nn.GroupNorm(min(32, channels // 4), channels, eps)


class Block(nn.Module):
    """``UNetBlock`` as SongUNet or DhariwalUNet uses it."""

    def __init__(self, ins: int, outs: int, hidden: int, song: bool, change: str = "", attention: bool = False) -> None:
        super().__init__()
        self.ins, self.song, eps = ins, song, 1e-6 if song else 1e-5
        self.heads = 0 if not attention else 1 if song else outs // 64
        self.norm0 = norm(ins, eps)
        self.conv0 = Conv(ins, outs, 3, change)
        self.affine = nn.Linear(hidden, outs if song else 2 * outs)
        self.norm1 = norm(outs, eps)
        self.conv1 = Conv(outs, outs, 3)
        if ins != outs or change:
            self.skip = Conv(ins, outs, 1 if song or ins != outs else 0, change)
        if self.heads:
            self.norm2 = norm(outs, eps)
            self.qkv = Conv(outs, 3 * outs, 1)
            self.proj = Conv(outs, outs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        root = math.sqrt(0.5) if self.song else 1.0
        h = self.conv0(F.silu(self.norm0(x)))
        e = self.affine(embedding)[:, :, None, None]
        if self.song:
            h = F.silu(self.norm1(h + e))
        else:
            scale, shift = e.chunk(2, dim=1)
            h = F.silu(shift + self.norm1(h) * (scale + 1))
        x = (self.conv1(h) + (self.skip(x) if hasattr(self, "skip") else x)) * root
        if self.heads:
            b, c, *_ = x.shape
            q, k, v = self.qkv(self.norm2(x)).reshape(b * self.heads, c // self.heads, 3, -1).unbind(2)
            weight = torch.softmax(torch.einsum("ncq,nck->nqk", q, k / math.sqrt(q.shape[1])), dim=2)
            x = (self.proj(torch.einsum("nqk,nck->ncq", weight, v).reshape(x.shape)) + x) * root
        return x


class EDMUNet(nn.Module):
    """``SongUNet`` (DDPM++) or ``DhariwalUNet``; ``attention`` lists resolutions."""

    def __init__(
        self,
        song: bool,
        side: int = 8,
        channels: int = 3,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 1,
        attention: Sequence[int] = (4,),
        classes: int = 0,
        augment: int = 0,
    ) -> None:
        super().__init__()
        self.song, self.width, hidden = song, width, 4 * width
        self.map_layer0, self.map_layer1 = nn.Linear(width, hidden), nn.Linear(hidden, hidden)
        self.map_label = nn.Linear(classes, width if song else hidden, bias=song) if classes else None
        if augment:
            self.map_augment = nn.Linear(augment, width, bias=False)
        self.enc, self.dec, skips = nn.ModuleDict(), nn.ModuleDict(), []
        ch = width if song else width * multipliers[0]
        sides = [side >> level for level in range(len(multipliers))]
        for level, m in enumerate(multipliers):
            name = f"{sides[level]}x{sides[level]}"
            if level == 0:
                self.enc[f"{name}_conv"] = Conv(channels, ch, 3)
            else:
                self.enc[f"{name}_down"] = Block(ch, ch, hidden, song, "down")
            skips.append(ch)
            for i in range(blocks):
                self.enc[f"{name}_block{i}"] = Block(ch, width * m, hidden, song, "", sides[level] in attention)
                ch = width * m
                skips.append(ch)
        for level, m in reversed(list(enumerate(multipliers))):
            name = f"{sides[level]}x{sides[level]}"
            if level == len(multipliers) - 1:
                self.dec[f"{name}_in0"] = Block(ch, ch, hidden, song, "", True)
                self.dec[f"{name}_in1"] = Block(ch, ch, hidden, song)
            else:
                self.dec[f"{name}_up"] = Block(ch, ch, hidden, song, "up")
            for i in range(blocks + 1):
                attends = sides[level] in attention and (not song or i == blocks)
                self.dec[f"{name}_block{i}"] = Block(ch + skips.pop(), width * m, hidden, song, "", attends)
                ch = width * m
        if song:
            self.dec[f"{side}x{side}_aux_norm"] = norm(ch, 1e-6)
            self.dec[f"{side}x{side}_aux_conv"] = Conv(ch, channels, 3)
        else:
            self.out_norm, self.out_conv = norm(ch, 1e-5), Conv(ch, channels, 3)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        half = self.width // 2
        angle = torch.outer(t, (1 / 10000) ** (torch.arange(half) / (half - self.song)))
        parts = [angle.sin(), angle.cos()] if self.song else [angle.cos(), angle.sin()]
        embedding = torch.cat(parts, dim=1)
        if self.song and self.map_label is not None:
            embedding = embedding + self.map_label(labels * math.sqrt(self.map_label.in_features))
        embedding = self.map_layer1(F.silu(self.map_layer0(embedding)))
        if not self.song and self.map_label is not None:
            embedding = embedding + self.map_label(labels)
        embedding = F.silu(embedding)
        skips = []
        for block in self.enc.values():
            x = block(x, embedding) if isinstance(block, Block) else block(x)
            skips.append(x)
        for name, block in self.dec.items():
            if "aux" in name:
                continue
            if x.shape[1] != block.ins:
                x = torch.cat([x, skips.pop()], dim=1)
            x = block(x, embedding)
        if not self.song:
            return self.out_conv(F.silu(self.out_norm(x)))
        last_norm, last_conv = list(self.dec.values())[-2:]
        return last_conv(F.silu(last_norm(x)))


class EDMPrecond(nn.Module):
    """D(x; sigma) of Karras et al. 2022, eq. 7 and table 1."""

    def __init__(self, model: EDMUNet, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.model, self.sigma_data = model, sigma_data

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        s, d = sigma.reshape(-1, 1, 1, 1), self.sigma_data
        out = self.model(x / (s**2 + d**2).sqrt(), s.flatten().log() / 4, labels)
        return d**2 / (s**2 + d**2) * x + s * d / (s**2 + d**2).sqrt() * out


def heun_steps(denoise: EDMPrecond, x: Tensor, steps: int, labels: Tensor | None = None) -> Tensor:
    """Alg. 1 of Karras et al. 2022 without churn from x at sigma = 80 down to 0.002, then 0."""
    i = torch.arange(steps, dtype=torch.float64)
    sigmas = (80 ** (1 / 7) + i / (steps - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    sigmas = torch.cat([sigmas, sigmas.new_zeros(1)])
    for t, s in zip(sigmas[:-1], sigmas[1:], strict=True):
        d = (x - denoise(x, t.float().expand(len(x)), labels)) / t
        following = x + (s - t) * d
        if s > 0:
            second = (following - denoise(following.float(), s.float().expand(len(x)), labels)) / s
            following = x + (s - t) * (d + second) / 2
        x = following.float()
    return x
