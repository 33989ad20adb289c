"""Levels of the U-Net: on the way down a level stores skip connections, on the way up it uses them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def _block(block: nn.Module, attention: nn.Module, x: Tensor, embedding: Tensor) -> Tensor:
    """A residual block and its attention."""
    return attention(block(x, embedding))


def _recomputed_block(block: nn.Module, attention: nn.Module, x: Tensor, embedding: Tensor) -> Tensor:
    """Like ``_block``, but only the input is stored for the backward pass, which computes the rest again.

    Source: Chen et al. 2016, "Training deep nets with sublinear memory cost".
    """
    if not torch.is_grad_enabled():
        return _block(block, attention, x, embedding)
    return checkpoint(_block, block, attention, x, embedding, use_reentrant=False)


class DownLevel(nn.Module):
    """A level on the way down: residual blocks, each followed by its attention; then the downsampling."""

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        attentions: Iterable[nn.Module],
        resample: nn.Module,
        *,
        skips: int,
        recompute: bool,
    ) -> None:
        """Build the level.

        Args:
            blocks: residual blocks.
            attentions: one per block; the identity where there is none.
            resample: the downsampling; the identity on the deepest level.
            skips: number of skip connections that the way up uses.
            recompute: store only the input of each block for the backward pass.
        """
        super().__init__()
        self.run = _recomputed_block if recompute else _block
        self.blocks = nn.ModuleList(blocks)
        self.attentions = nn.ModuleList(attentions)
        self.resample = resample
        self.skips = skips

    def forward(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Apply the level.

        Args:
            x: (B, C, H, W).
            embedding: (B, D), SiLU of the time embedding.

        Returns:
            The input of the next level, and the skip connections, oldest first.
        """
        features = [x]
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            x = self.run(block, attention, x, embedding)
            features.append(x)
        return self.resample(x), features[-self.skips :]


class UpLevel(nn.Module):
    """A level on the way up: residual blocks, each on its input and one skip connection; then the upsampling."""

    def __init__(
        self, blocks: Iterable[nn.Module], attentions: Iterable[nn.Module], resample: nn.Module, *, recompute: bool
    ) -> None:
        """Build the level.

        Args:
            blocks: residual blocks.
            attentions: one per block; the identity where there is none.
            resample: the upsampling; the identity on the finest level.
            recompute: store only the input of each block for the backward pass.
        """
        super().__init__()
        self.run = _recomputed_block if recompute else _block
        self.blocks = nn.ModuleList(blocks)
        self.attentions = nn.ModuleList(attentions)
        self.resample = resample

    def forward(self, x: Tensor, skips: list[Tensor], embedding: Tensor) -> Tensor:
        """Apply the level.

        Args:
            x: (B, C, H, W).
            skips: skip connections of the same level on the way down; each block removes the newest, at the end of the
                list, and blocks after the last skip have none.
            embedding: (B, D), SiLU of the time embedding.

        Returns:
            The input of the next finer level.
        """
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            if skips:
                x = torch.cat([x, skips.pop()], dim=1)
            x = self.run(block, attention, x, embedding)
        return self.resample(x)
