"""What the training loop says of itself, and what it remembers besides tensors."""

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
    """What the loop yields after each step.

    Attributes:
        step: steps done.
        images: training images seen.
        loss: mean since the last kept report.
        lr: learning rate of this step.
        progress: share of the budget used.
        dropped: steps dropped so far because loss or gradient was not finite.
        rollbacks: times that training went back to its last good state.
        gradient: norm of the gradient before clipping.
        kept: whether this is a line of reports.jsonl.
        held_out: loss on held-out images with the averaged weights; None if not measured at this step.
        held_out_raw: the same with the raw weights.
        loss_by_t: ``held_out`` in ten bins of t.
        clock: what depends on the machine: seconds, images_per_second, left_seconds, memory_mb.
    """

    step: int
    images: int
    loss: float
    lr: float
    progress: float
    dropped: int
    rollbacks: int
    gradient: float
    kept: bool
    held_out: float | None = None
    held_out_raw: float | None = None
    loss_by_t: list[float | None] | None = None
    clock: dict[str, float] = field(default_factory=dict)

    def line(self) -> dict[str, Any]:
        """The report as JSON, without what was not measured; a loss that is not finite is null."""
        out = {k: v for k, v in self.__dict__.items() if v is not None and k != "kept"}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in out.items()}


@dataclass
class TrainingProgress:
    """All that changes while training, besides tensors; with them it is what a resumed run starts from."""

    step: int = 0
    seconds: float = 0.0
    dropped: int = 0
    dropped_in_row: int = 0
    rollbacks: int = 0
    rollbacks_in_row: int = 0
    lr_scale: float = 1.0
    loss_sum: float = 0.0
    loss_count: int = 0


def peak_memory(device: torch.device) -> float:
    """Peak memory in MB: of the GPU, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if resource is None:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
