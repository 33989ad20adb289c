"""A classifier of noisy images, for classifier guidance (Dhariwal and Nichol 2021, sec. 4)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from fromnoise.networks.embeddings import TimeEmbedding
from fromnoise.networks.layers import Downsample, ResidualBlock, ceil_to, norm_act, pad_to


class NoisyClassifier(nn.Module):
    """Encoder of a U-Net, one residual block per level, then global average pooling and a linear layer."""

    def __init__(
        self, channels: int, classes: int, *, width: int = 32, multipliers: Sequence[int] = (1, 2, 4), groups: int = 8
    ) -> None:
        """Build the network.

        Args:
            channels: channels of the images.
            classes: number of classes.
            width: channels of the finest level.
            multipliers: channels of each level as multiples of ``width``, finest level first.
            groups: groups of each group normalization; must divide ``width``.
        """
        super().__init__()
        self.multiple = 2 ** (len(multipliers) - 1)
        self.time = TimeEmbedding(width, 4 * width)
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks, self.halves = nn.ModuleList(), nn.ModuleList()
        ins = width
        for i, m in enumerate(multipliers):
            self.blocks.append(ResidualBlock(ins, width * m, 4 * width, groups=groups, eps=1e-6, scale_shift=True))
            self.halves.append(Downsample(width * m) if i < len(multipliers) - 1 else nn.Identity())
            ins = width * m
        self.norm = nn.GroupNorm(groups, ins, 1e-6)
        self.out = nn.Linear(ins, classes)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Logits (B, classes) of noisy images ``x`` (B, C, H, W) at the timesteps ``t`` (B,), float."""
        x = pad_to(x, ceil_to(x.shape[-2], self.multiple), ceil_to(x.shape[-1], self.multiple))
        embedding = F.silu(self.time(t, x.dtype))
        x = self.stem(x)
        for block, downsample in zip(self.blocks, self.halves, strict=True):
            x = downsample(block(x, embedding))
        return self.out(norm_act(x, self.norm).mean((2, 3)))
