"""The report of a training step, and the counters that a training state stores beside its tensors."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from typing import Any

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None


@dataclass(frozen=True)
class StepReport:
    """Yielded by ``Trainer.run`` after each step.

    Attributes:
        step: optimizer steps done.
        images: training images seen.
        loss: mean training loss since the last logged report.
        lr: learning rate of this step.
        budget_used: fraction of the budget used, in [0, 1].
        dropped_steps: steps dropped so far because the loss or the gradient was not finite.
        rollbacks: number of returns to a saved state after dropped steps.
        grad_norm: norm of the gradient before clipping.
        logged: whether this report is written to reports.jsonl.
        held_out_loss: loss on held-out images with the EMA weights; None at steps that do not measure it.
        held_out_loss_raw: the same with the raw weights.
        loss_by_t: ``held_out_loss`` in ten equal bins of t; None for an empty bin.
        timing: numbers that depend on the machine: ``seconds`` of training, ``images_per_second``,
            ``remaining_seconds``, ``memory_mb``, the peak memory, and ``threads``.
    """

    step: int
    images: int
    loss: float
    lr: float
    budget_used: float
    dropped_steps: int
    rollbacks: int
    grad_norm: float
    logged: bool
    held_out_loss: float | None = None
    held_out_loss_raw: float | None = None
    loss_by_t: list[float | None] | None = None
    timing: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A line of reports.jsonl: without fields that were not measured, and with null for a non-finite number."""
        fields = {k: v for k, v in self.__dict__.items() if v is not None and k != "logged"}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in fields.items()}


@dataclass
class TrainingProgress:
    """The part of the training state that is no tensor.

    Attributes:
        step: optimizer steps done, with the dropped ones.
        seconds: time spent training.
        dropped_steps: steps dropped because the loss or the gradient was not finite.
        dropped_in_a_row: dropped steps since the last finite one or the last rollback.
        rollbacks: number of returns to a saved state.
        rollbacks_in_a_row: rollbacks since the last finite step.
        lr_scale: factor of the learning rate, halved by each rollback.
        loss_sum: sum of the training losses since the last logged report.
        loss_count: number of these losses.
    """

    step: int = 0
    seconds: float = 0.0
    dropped_steps: int = 0
    dropped_in_a_row: int = 0
    rollbacks: int = 0
    rollbacks_in_a_row: int = 0
    lr_scale: float = 1.0
    loss_sum: float = 0.0
    loss_count: int = 0


def timing(
    seconds: float, images_per_second: float, remaining_seconds: float, device: torch.device
) -> dict[str, float]:
    """The field ``timing`` of a report: what depends on the machine, rounded."""
    return {
        "seconds": round(seconds, 2),
        "images_per_second": round(images_per_second, 2),
        "remaining_seconds": round(remaining_seconds, 1),
        "memory_mb": round(peak_memory(device)),
        "threads": torch.get_num_threads(),
    }


def peak_memory(device: torch.device) -> float:
    """Peak memory in MB: GPU memory on a GPU, memory of the process otherwise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if resource is None:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
