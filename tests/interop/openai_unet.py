"""The U-Net of improved-diffusion and guided-diffusion as their papers and code describe it, with their names.

Written for the tests, after openai/guided-diffusion (guided_diffusion/unet.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Residual block; ``change`` is "up", "down" or nothing."""

    def __init__(self, ins: int, outs: int, hidden: int, scale_shift: bool, change: str = "") -> None:
        super().__init__()
        self.scale_shift, self.change = scale_shift, change
        self.in_layers = nn.Sequential(nn.GroupNorm(32, ins), nn.SiLU(), nn.Conv2d(ins, outs, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(hidden, outs * (1 + scale_shift)))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, outs), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(outs, outs, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if ins == outs else nn.Conv2d(ins, outs, 1)

    def resize(self, x: Tensor) -> Tensor:
        if self.change == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2) if self.change == "down" else x

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.in_layers[2](self.resize(self.in_layers[1](self.in_layers[0](x))))
        e = self.emb_layers(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, dim=1)
            h = self.out_layers[0](h) * (1 + scale) + shift
            for layer in self.out_layers[1:]:
                h = layer(h)
        else:
            h = self.out_layers(h + e)
        return self.skip_connection(self.resize(x)) + h


class Attention(nn.Module):
    """Self-attention in the legacy or the new order of its projection."""

    def __init__(self, channels: int, heads: int, new_order: bool) -> None:
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        flat = x.reshape(b, c, -1)
        qkv = self.qkv(self.norm(flat))
        d = c // self.heads
        if self.new_order:
            q, k, v = (part.reshape(b * self.heads, d, -1) for part in qkv.chunk(3, dim=1))
        else:
            q, k, v = qkv.reshape(b * self.heads, 3 * d, -1).split(d, dim=1)
        weight = torch.softmax(torch.einsum("bct,bcs->bts", q, k) / math.sqrt(d), dim=-1)
        h = torch.einsum("bts,bcs->bct", weight, v).reshape(b, c, -1)
        return (flat + self.proj_out(h)).reshape(b, c, height, width)


class Down(nn.Module):
    """Strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Up(nn.Module):
    """Nearest neighbour and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class OpenAIUNet(nn.Module):
    """``UNetModel``; ``attention`` lists downsampling factors."""

    def __init__(
        self,
        channels: int = 3,
        outputs: int = 3,
        width: int = 32,
        multipliers: Sequence[float] = (1, 2),
        blocks: int = 1,
        attention: Sequence[int] = (2,),
        heads: int = 4,
        heads_up: int | None = None,
        head_channels: int | None = None,
        scale_shift: bool = True,
        updown: bool = False,
        new_order: bool = False,
        classes: int = 0,
    ) -> None:
        super().__init__()
        hidden = 4 * width
        self.width = width
        self.time_embed = nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        if classes:
            self.label_emb = nn.Embedding(classes, hidden)

        def attention_of(c: int, count: int) -> Attention:
            return Attention(c, c // head_channels if head_channels else count, new_order)

        up_heads = heads_up or heads
        ch = int(width * multipliers[0])
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(channels, ch, 3, padding=1)])])
        saved, factor, last = [ch], 1, len(multipliers) - 1
        for level, m in enumerate(multipliers):
            for _ in range(blocks):
                layers: list[nn.Module] = [Block(ch, int(width * m), hidden, scale_shift)]
                ch = int(width * m)
                if factor in attention:
                    layers.append(attention_of(ch, heads))
                self.input_blocks.append(nn.ModuleList(layers))
                saved.append(ch)
            if level != last:
                self.input_blocks.append(
                    nn.ModuleList([Block(ch, ch, hidden, scale_shift, "down") if updown else Down(ch)])
                )
                saved.append(ch)
                factor *= 2
        self.middle_block = nn.ModuleList(
            [Block(ch, ch, hidden, scale_shift), attention_of(ch, heads), Block(ch, ch, hidden, scale_shift)]
        )
        self.output_blocks = nn.ModuleList()
        for level, m in reversed(list(enumerate(multipliers))):
            for i in range(blocks + 1):
                layers = [Block(ch + saved.pop(), int(width * m), hidden, scale_shift)]
                ch = int(width * m)
                if factor in attention:
                    layers.append(attention_of(ch, up_heads))
                if level and i == blocks:
                    layers.append(Block(ch, ch, hidden, scale_shift, "up") if updown else Up(ch))
                    factor //= 2
                self.output_blocks.append(nn.ModuleList(layers))
        self.out = nn.Sequential(nn.GroupNorm(32, ch), nn.SiLU(), nn.Conv2d(ch, outputs, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        half = self.width // 2
        angle = t[:, None].float() * torch.exp(-math.log(10000) * torch.arange(half) / half)[None]
        embedding = self.time_embed(torch.cat([angle.cos(), angle.sin()], dim=-1))
        if y is not None:
            embedding = embedding + self.label_emb(y)
        saved = []
        for layers in self.input_blocks:
            x = through(layers, x, embedding)
            saved.append(x)
        x = through(self.middle_block, x, embedding)
        for layers in self.output_blocks:
            x = through(layers, torch.cat([x, saved.pop()], dim=1), embedding)
        return self.out(x)


def through(layers: Any, x: Tensor, embedding: Tensor) -> Tensor:
    """The layers in order; blocks take the embedding too."""
    for layer in layers:
        x = layer(x, embedding) if isinstance(layer, Block) else layer(x)
    return x
