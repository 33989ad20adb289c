"""How the weights lie on the processes: all of them in each (DDP), or a part in each (``sharding.py``)."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from fromnoise import checkpoint
from fromnoise.config import TrainConfig
from fromnoise.training.rollback import State
from fromnoise.utils.device import ComputeConfig

Weights = dict[str, Tensor]
"""Parameters by name."""


class Layout:
    """Each process holds all weights; several exchange gradients by DDP.

    The weights for sampling lie in a copy of the module, which is the same object at each call.

    Attributes:
        sharded: whether a process holds a part of the weights only.
        saving_group: of all processes, for the states of sharded weights.
    """

    sharded = False
    saving_group: Any = None

    def __init__(self, accelerator: Accelerator, compute: ComputeConfig) -> None:
        """Prepare.

        Args:
            accelerator: the processes.
            compute: device and precision.
        """
        self.accelerator, self.compute = accelerator, compute

    def distribute(self, loss: nn.Module, module: nn.Module) -> nn.Module:
        """Bring a module with new weights to the devices.

        Args:
            loss: the training loss, of which ``module`` is a part.
            module: what is trained; its parameters may be replaced.

        Returns:
            What takes the place of ``loss``.
        """
        self.compute.to_device(module)
        self._copy = copy.deepcopy(module).eval().requires_grad_(False)
        return self.accelerator.prepare(loss)

    def accumulating(self, loss: nn.Module) -> contextlib.AbstractContextManager[Any]:
        """Context of a backward pass to which others are added before the optimizer steps."""
        return self.accelerator.no_sync(loss)

    def agree(self, decision: bool) -> bool:
        """The first process's decision to measure or save, where all take part; otherwise ``decision``."""
        return decision

    # ---- whole weights

    def gather(self, module: nn.Module, averages: Weights, *, raw: bool) -> None:
        """Collect whole weights in the first process; all processes call it together.

        Args:
            module: what is trained.
            averages: the weights for sampling; those without an average are taken from ``module``.
            raw: collect the weights of ``module`` too.
        """

    def release(self) -> None:
        """Forget what ``gather`` collected."""

    def averaged(self, module: nn.Module, averages: Weights) -> nn.Module:
        """A copy of ``module`` with the weights for sampling, in evaluation mode.

        Args:
            module: what is trained.
            averages: as of ``gather``.
        """
        with torch.no_grad():
            for (name, p), raw in zip(self._copy.named_parameters(), module.parameters(), strict=True):
                p.copy_(averages.get(name, raw))  # frozen parameters have no average
            for copied, original in zip(self._copy.buffers(), module.buffers(), strict=True):
                copied.copy_(original)
        return self._copy

    def averaged_state(self, module: nn.Module, averages: Weights) -> dict[str, Tensor]:
        """The state dict of ``averaged``."""
        return self.averaged(module, averages).state_dict()

    def raw(self, module: nn.Module) -> nn.Module:
        """``module``, or a copy of it with whole weights, in evaluation mode."""
        return module.eval()

    # ---- states

    def read(self, path: Path, module: nn.Module) -> State:
        """Tensors and header of a training state; of sharded tensors the parts of this process.

        Args:
            path: of the state.
            module: what is trained.

        Raises:
            DamagedFile: it is damaged.
            UserError: it cannot be read.
        """
        return checkpoint.read_state(path)

    def load(self, module: nn.Module, state: dict[str, Tensor]) -> None:
        """Load a state dict of ``module``, of sharded parameters the parts of this process.

        Raises:
            RuntimeError: names or shapes differ.
        """
        module.load_state_dict(state)


def parameter_of(name: str, parameters: Mapping[str, Tensor]) -> Tensor | None:
    """The parameter to which a tensor of a training state belongs, if any.

    Args:
        name: of the tensor: ``model.PARAMETER``, ``ema.INDEX.PARAMETER``, ``ema.snapshot.INDEX.PARAMETER`` or
            ``optimizer.PARAMETER.KEY``.
        parameters: by name.
    """
    part, _, rest = name.partition(".")
    if part == "ema":
        rest = rest.removeprefix("snapshot.").partition(".")[2]
    elif part == "optimizer":
        rest = rest.rpartition(".")[0]
    return parameters.get(rest)


def layout_of(config: TrainConfig, accelerator: Accelerator, compute: ComputeConfig) -> Layout:
    """The layout that ``train.sharding`` names.

    Raises:
        UserError: it needs several processes.
    """
    if config.sharding == "none":
        return Layout(accelerator, compute)
    from fromnoise.training.sharding import Sharded, check_possible

    check_possible()
    return Sharded(accelerator, compute)
