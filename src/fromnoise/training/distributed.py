"""What the processes of a run exchange besides gradients."""

from __future__ import annotations

from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor

from fromnoise.utils.errors import UserError


def check_same_step(accelerator: Accelerator, device: torch.device, step: int) -> None:
    """Wait for all processes, and check that they resumed from the same step.

    Raises:
        UserError: they read different run directories.
    """
    if accelerator.num_processes > 1:
        steps = cast(Tensor, accelerator.gather(torch.tensor([step], device=device)))
        if int(steps.min()) != int(steps.max()):
            raise UserError(
                "the processes read different run directories: --out must be on a disk that all processes share"
            )


def sync_clock_and_stop(
    accelerator: Accelerator, device: torch.device, seconds: float, stop_requested: bool
) -> tuple[float, bool]:
    """Agree on the time and on stopping.

    Args:
        accelerator: the processes.
        device: of this process.
        seconds: training time by this process's clock.
        stop_requested: whether this process is asked to stop.

    Returns:
        The clock of the first process, and whether any process is asked to stop.
    """
    if accelerator.num_processes == 1:
        return seconds, stop_requested
    local = torch.tensor([seconds if accelerator.is_main_process else 0.0, float(stop_requested)], device=device)
    clock, stop_requests = cast(Tensor, accelerator.reduce(local, "sum")).tolist()
    return clock, stop_requests > 0
