"""The levels of the U-Net: what a way down does and keeps, and what a way up takes back."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def _plain(block: nn.Module, attend: nn.Module, x: Tensor, time: Tensor) -> Tensor:
    """A block and its attention."""
    return attend(block(x, time))


def _forgetful(block: nn.Module, attend: nn.Module, x: Tensor, time: Tensor) -> Tensor:
    """The same, of which only the input is kept for the backward pass."""
    if not torch.is_grad_enabled():
        return _plain(block, attend, x, time)
    return checkpoint(_plain, block, attend, x, time, use_reentrant=False)


class Down(nn.Module):
    """A level going down: blocks, each with its attention, then the halving; gives the features as well."""

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        attentions: Iterable[nn.Module],
        resample: nn.Module,
        *,
        kept: int,
        recompute: bool,
    ) -> None:
        super().__init__()
        self.run = _forgetful if recompute else _plain
        self.blocks = nn.ModuleList(blocks)
        self.attentions = nn.ModuleList(attentions)
        self.resample = resample
        self.kept = kept

    def forward(self, x: Tensor, time: Tensor) -> tuple[Tensor, list[Tensor]]:
        """From (B, C, H, W), what enters the next level; and what the way up takes back, oldest first."""
        skips = [x]
        for block, attend in zip(self.blocks, self.attentions, strict=True):
            x = self.run(block, attend, x, time)
            skips.append(x)
        return self.resample(x), skips[-self.kept :]


class Up(nn.Module):
    """A level going up: blocks, each beginning with the newest skip that is left, then the doubling."""

    def __init__(
        self, blocks: Iterable[nn.Module], attentions: Iterable[nn.Module], resample: nn.Module, *, recompute: bool
    ) -> None:
        super().__init__()
        self.run = _forgetful if recompute else _plain
        self.blocks = nn.ModuleList(blocks)
        self.attentions = nn.ModuleList(attentions)
        self.resample = resample

    def forward(self, x: Tensor, skips: list[Tensor], time: Tensor) -> Tensor:
        """What enters the level above; ``skips``, those of this level's way down, are used up."""
        for block, attend in zip(self.blocks, self.attentions, strict=True):
            if skips:
                x = torch.cat([x, skips.pop()], dim=1)
            x = self.run(block, attend, x, time)
        return self.resample(x)
