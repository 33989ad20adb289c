"""Writes the training states and the model of a run: at once, or beside training where the weights are sharded."""

from __future__ import annotations

import secrets
from typing import Any

from accelerate.utils import broadcast_object_list

from fromnoise import checkpoint
from fromnoise.run_dir import RunDir
from fromnoise.training.loop import TrainingLoop
from fromnoise.training.resume import arithmetic


class StateSaver:
    """Saves the states of a training loop whose weights lie in one process, which alone calls it."""

    def __init__(self, loop: TrainingLoop[Any], run_dir: RunDir) -> None:
        """Prepare.

        Args:
            loop: whose states are saved.
            run_dir: opened.
        """
        self.loop, self.run_dir = loop, run_dir

    def save(self) -> None:
        """Write the state and, after it, model.safetensors.

        Raises:
            UserError: a file cannot be written.
        """
        tensors, header = self._state()
        self.run_dir.save_state(self.loop.progress.step, tensors, header)
        self._save_model(self.loop.progress.step, self.loop.ema_state_dict())

    def wait(self) -> None:
        """Wait until everything is written.

        Raises:
            UserError: a file cannot be written.
        """

    def _state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        loop = self.loop
        tensors, header = loop.state()
        header |= checkpoint.model_header(loop.model.recipe, loop.model.dataset_info)
        return tensors, header | {"arithmetic": arithmetic(loop.compute, loop.accelerator, loop.layout.sharded)}

    def _save_model(self, step: int, weights: dict[str, Any]) -> None:
        checkpoint.save_model(self.run_dir.model_file, self.loop.model, weights, {"step": step})


class ShardedStateSaver(StateSaver):
    """Saves the states of a sharded loop; all processes call it together.

    Each process copies its parts to the CPU and writes them in a thread, while training goes on; when all have written,
    the first process writes the file that makes the state count, and then model.safetensors. A kill in between leaves
    the state before. One state is written at a time.
    """

    _pending: Any = None

    def save(self) -> None:
        """Begin to write the state of this moment, after the one before is written; as of ``StateSaver``."""
        from fromnoise.checkpoint.sharded import ShardWriter, save_async

        self.wait()
        loop, run_dir, step = self.loop, self.run_dir, self.loop.progress.step
        loop.gather()
        weights = loop.ema_state_dict() if loop.accelerator.is_main_process else {}

        def on_commit() -> None:
            run_dir.remove_old_states()
            self._save_model(step, weights)

        tensors, header = self._state()
        # a name of its own, so that a state of the same step is whole until this one is
        folder = broadcast_object_list([f"{step:09d}.{secrets.token_hex(4)}.shards"])[0]
        writer = ShardWriter(run_dir.state_file(step), folder, header, on_commit)
        self._pending = save_async(writer, tensors, loop.layout.saving_group)

    def wait(self) -> None:
        """Wait until the state is written that ``save`` began last; as of ``StateSaver``."""
        from fromnoise.checkpoint.sharded import finished

        pending, self._pending = self._pending, None
        if pending is not None:
            finished(pending)


def saver_of(loop: TrainingLoop[Any], run_dir: RunDir) -> StateSaver:
    """What saves the states of a loop; before a saved state is read again, everything is written."""
    saver = (ShardedStateSaver if loop.layout.sharded else StateSaver)(loop, run_dir)
    loop.before_rollback = saver.wait
    return saver
