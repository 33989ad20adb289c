"""Sharded training: each process holds a part of weights, gradients, moments and averages (FSDP2).

torch's ``fully_shard`` is called directly: accelerate wraps it for GPUs only, and the tests of this module need none.

Source: Zhao et al. 2023, "PyTorch FSDP"; Rajbhandari et al. 2020, "ZeRO", stage 3.
"""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fromnoise import checkpoint
from fromnoise.optim.parts import local, whole
from fromnoise.training.launch import LONGEST_COLLECTIVE
from fromnoise.training.layout import Layout, Weights, parameter_of
from fromnoise.training.rollback import State
from fromnoise.utils.errors import UserError

_LEAST_SHARE = 0.01
"""Share of all parameters from which on a submodule is gathered on its own."""


def check_possible() -> None:
    """Check that weights can be sharded here.

    Raises:
        UserError: this build of torch has no FSDP2, or there is one process only.
    """
    remedy = "leave --train.sharding out, or set it to none"
    if not dist.is_available():
        raise UserError(f"train.sharding full needs torch.distributed, which this build of torch lacks: {remedy}")
    if not dist.is_initialized():
        raise UserError(
            "train.sharding full shares the weights out over several processes, and there is one: start it by "
            f"torchrun --nproc_per_node N -m fromnoise train ..., or {remedy}"
        )


def units(module: nn.Module) -> list[nn.Module]:
    """The submodules whose parameters are gathered together for their forward and backward pass, inner ones first.

    A unit consists of submodules, is called as a whole, and has at least a hundredth of the parameters that are
    trained, not counting those of units within it. What is left belongs to ``module``.
    """
    least = _LEAST_SHARE * sum(p.numel() for p in module.parameters() if p.requires_grad)
    found: list[nn.Module] = []

    def visit(part: nn.Module) -> int:
        count = sum(p.numel() for p in part.parameters(recurse=False) if p.requires_grad)
        children = list(part.children())
        count += sum(visit(child) for child in children)
        called = type(part).forward is not nn.Module.forward  # lists of modules are not
        if part is module or not children or not called or count < max(1, least):
            return count
        found.append(part)
        return 0

    visit(module)
    return found


class Sharded(Layout):
    """FSDP2: parameter tensors are split by rows, and whole ones exist only while a unit computes.

    Whole weights, which sampling and ``model.safetensors`` need, are collected in the CPU memory of the first process
    (``gather``); a module with them lies on its device while it is used.
    """

    sharded = True

    def distribute(self, loss: nn.Module, module: nn.Module) -> nn.Module:
        """Shard the parameters that are trained, unit by unit.

        Args:
            loss: as of ``Layout``.
            module: as of ``Layout``.

        Raises:
            UserError: a parameter is a single number, which has no rows.
        """
        from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
        from torch.distributed.fsdp import fully_shard

        scalar = next((name for name, p in module.named_parameters() if p.requires_grad and not p.ndim), None)
        if scalar is not None:
            raise UserError(
                f"train.sharding full splits parameters by rows, and {scalar} is a single number: give it the shape 1"
            )
        device, world = self.compute.device, dist.get_world_size()
        # of their own, because a state is written beside training
        self.group, self.saving_group = (
            cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=LONGEST_COLLECTIVE)) for _ in range(2)
        )
        self._cpu_mesh = DeviceMesh.from_group(self.group, "cpu")
        self._full: dict[str, Weights] = {}
        self._blank = copy.deepcopy(module).to("meta").eval().requires_grad_(False)
        frozen = {p for p in loss.parameters() if not p.requires_grad}
        mesh = init_device_mesh(device.type, (world,))
        for part in (*units(loss), loss):
            fully_shard(part, mesh=mesh, ignored_params=frozen)
        for p in frozen:
            p.data = p.data.to(device)
        for part in module.modules():
            for name, buffer in part.named_buffers(recurse=False):
                setattr(part, name, buffer.to(device))
        return loss

    def accumulating(self, loss: nn.Module) -> contextlib.AbstractContextManager[Any]:
        """Nothing: every micro-batch adds to sharded gradients, because whole ones would not fit."""
        return contextlib.nullcontext()

    def agree(self, decision: bool) -> bool:
        """The first process's decision."""
        flag = torch.tensor([decision], dtype=torch.uint8)
        dist.broadcast(flag, 0, group=self.group)
        return bool(flag)

    # ---- whole weights

    def gather(self, module: nn.Module, averages: Weights, *, raw: bool) -> None:
        """Collect the weights tensor by tensor, each set once until ``release``."""
        wanted: dict[str, Weights] = {"averaged": averages} | ({"raw": {}} if raw else {})
        for kind, weights in wanted.items():
            if kind not in self._full:
                self._full[kind] = self._collect(module, weights)

    @torch.no_grad()
    def _collect(self, module: nn.Module, weights: Weights) -> Weights:
        found: Weights = {}
        for name, p in module.named_parameters(remove_duplicate=False):
            full = whole(weights.get(name, p.detach()))
            if self.accelerator.is_main_process:
                found[name] = full.detach().to("cpu", copy=True)
        return found

    def release(self) -> None:
        """Free the memory of the whole weights."""
        self._full.clear()

    def averaged(self, module: nn.Module, averages: Weights) -> nn.Module:
        """A new module with the weights for sampling, after ``gather``."""
        return self._whole_module("averaged", module)

    def averaged_state(self, module: nn.Module, averages: Weights) -> dict[str, Tensor]:
        """The state dict of ``averaged``, without a module on the device."""
        full = self._full["averaged"]
        return {name: full[name] if name in full else t for name, t in module.state_dict().items()}

    def raw(self, module: nn.Module) -> nn.Module:
        """A new module with the weights of ``module``, after ``gather``."""
        return self._whole_module("raw", module)

    @torch.no_grad()
    def _whole_module(self, kind: str, module: nn.Module) -> nn.Module:
        """A module with whole weights; in all processes but the first one it is without values."""
        made = copy.deepcopy(self._blank)
        if not self.accelerator.is_main_process:
            return made
        try:
            self.compute.to_device(made.to_empty(device=self.compute.device))
        except torch.OutOfMemoryError:
            size = 4 * sum(p.numel() for p in made.parameters())
            raise UserError(
                f"the whole network, {size / 2**30:.3g} GiB, does not fit on the first device beside its part of the "
                "training: it is needed there to measure and to sample; use more processes, or a smaller network"
            ) from None
        for name, p in made.named_parameters(remove_duplicate=False):
            p.copy_(self._full[kind][name])
        for copied, original in zip(made.buffers(), module.buffers(), strict=True):
            copied.copy_(original)
        return made

    # ---- states

    def read(self, path: Path, module: nn.Module) -> State:
        """All processes read the state together, each its parts; as of ``Layout``."""
        from torch.distributed.tensor import Shard, zeros

        from fromnoise.checkpoint.sharded import read_parts

        parameters = dict(module.named_parameters())

        def template(name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
            parameter = parameter_of(name, parameters)
            if parameter is None or local(parameter) is parameter or parameter.shape != shape:
                return torch.zeros(shape, dtype=dtype)
            return zeros(*shape, dtype=dtype, device_mesh=self._cpu_mesh, placements=[Shard(0)])

        tensors = read_parts(path, template, self.group)
        return {name: local(t) for name, t in tensors.items()}, checkpoint.read_header(path)

    @torch.no_grad()
    def load(self, module: nn.Module, state: dict[str, Tensor]) -> None:
        """Copy the parts of this process."""
        present = {name: local(t.detach()) for name, t in module.state_dict().items()}
        if {name: t.shape for name, t in present.items()} != {name: t.shape for name, t in state.items()}:
            raise RuntimeError("its tensors have other names or shapes than those of the network")
        for name, t in present.items():
            t.copy_(state[name])
