"""Non-finite steps: dropped, and after several in a row training goes back to a saved state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fromnoise.training.progress import TrainingProgress
from fromnoise.utils.errors import UserError

_MAX_DROPPED_IN_A_ROW = 5  # non-finite steps that cause a rollback
_MAX_ROLLBACKS_IN_A_ROW = 10  # rollbacks without a finite step between them that end the run

State = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors and JSON header of a training state."""


def drop_step(
    progress: TrainingProgress,
    load_state: Callable[[int], State | None],
    load_tensors: Callable[[dict[str, Tensor]], object],
    log: Callable[[str], None],
) -> None:
    """Count a non-finite step; after several in a row return to a saved state with half the learning rate.

    Args:
        progress: counters of the run; changed in place.
        load_state: returns the newest state, or an older one by the number of newer ones to skip.
        load_tensors: takes the tensors of a state.
        log: receives messages.

    Raises:
        UserError: the loss is not finite even at small learning rates.
    """
    progress.dropped_steps += 1
    progress.dropped_in_a_row += 1
    log(f"step {progress.step}: the loss or the gradient is not finite; step dropped ({progress.dropped_steps} so far)")
    if progress.dropped_in_a_row < _MAX_DROPPED_IN_A_ROW:
        return
    if progress.rollbacks_in_a_row >= _MAX_ROLLBACKS_IN_A_ROW:
        raise UserError(
            f"the loss is not finite, even at {progress.lr_scale:.2g} of the learning rate: "
            "check the data with fromnoise show data, or lower --train.lr"
        )
    state = load_state(progress.rollbacks_in_a_row)
    if state is not None:
        load_tensors(state[0])
    progress.lr_scale, progress.dropped_in_a_row = progress.lr_scale / 2, 0
    progress.rollbacks, progress.rollbacks_in_a_row = progress.rollbacks + 1, progress.rollbacks_in_a_row + 1
    action = f"back to the weights of step {state[1]['progress']['step']}" if state is not None else "continuing"
    log(
        f"step {progress.step}: {_MAX_DROPPED_IN_A_ROW} steps dropped in a row; {action} with the learning rate "
        f"halved (now x{progress.lr_scale:.3g})"
    )
