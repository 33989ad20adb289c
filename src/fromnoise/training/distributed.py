"""What the processes of a run tell each other, besides gradients."""

from __future__ import annotations

from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor

from fromnoise.utils.errors import UserError


def same_step(accelerator: Accelerator, device: torch.device, step: int) -> None:
    """Check that every process resumed from the same step; wait for all.

    Raises:
        UserError: they see different run folders.
    """
    if accelerator.num_processes > 1:
        steps = cast(Tensor, accelerator.gather(torch.tensor([step], device=device)))
        if int(steps.min()) != int(steps.max()):
            raise UserError("the processes see different run folders: --out must lie on a disk that all of them share")


def agree(accelerator: Accelerator, device: torch.device, seconds: float, asked: bool) -> tuple[float, bool]:
    """The first process's clock, and whether any process was told to stop, in all of them."""
    if accelerator.num_processes == 1:
        return seconds, asked
    mine = torch.tensor([seconds if accelerator.is_main_process else 0.0, float(asked)], device=device)
    clock, told = cast(Tensor, accelerator.reduce(mine, "sum")).tolist()
    return clock, told > 0
