"""Limits of the networks that are constructed from recipes and headers, checked while they are constructed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.overrides import TorchFunctionMode

from fromnoise.utils.errors import UserError
from fromnoise.utils.reading import size_text

_MOST_TENSORS, _MOST_MODULES = 5_000, 50_000  # beyond these the construction alone takes minutes
_MEMORY_PART = 4  # training needs gradients, moments and averages beside the weights
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@contextlib.contextmanager
def limited(error: Exception, tensors: int, modules: int, size: float = float("inf")) -> Iterator[None]:
    """Raise ``error`` as soon as a network that is being constructed exceeds a limit.

    A layer registers its weights before it sets their initial values, so the memory of the layer that exceeds the limit
    has not been used yet.

    Args:
        error: what is raised.
        tensors: number of parameter tensors, at most.
        modules: number of modules, at most.
        size: bytes of all parameters, at most.
    """
    counts = {"tensors": 0, "modules": 0, "size": 0}

    def on_parameter(module: object, name: str, parameter: Tensor | None) -> None:
        if parameter is not None:
            counts["tensors"] += 1
            counts["size"] += parameter.numel() * parameter.element_size()
        if counts["tensors"] > tensors or counts["size"] > size:
            raise error

    def on_module(*_: object) -> None:
        counts["modules"] += 1
        if counts["modules"] > modules:
            raise error

    hooks = (
        register_module_parameter_registration_hook(on_parameter),
        register_module_module_registration_hook(on_module),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def limited_by_machine() -> contextlib.AbstractContextManager[None]:
    """Limit a network to a quarter of this machine's memory and to a number of layers that takes seconds to construct.

    Raises:
        UserError: in the block, for a larger network.
    """
    most = total_memory() / _MEMORY_PART
    too_large = UserError(
        f"this network has more than {_MOST_TENSORS:,} tensors, or its weights need more than {size_text(most)}, "
        "a quarter of this machine's memory: use a smaller network"
    )
    return limited(too_large, _MOST_TENSORS, _MOST_MODULES, most)


class NoInitialValues(TorchFunctionMode):
    """Leaves out random and in-place initialization on the meta device, for which torch would import much."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch for each function."""
        kwargs = kwargs or {}
        if func in (torch.randn, torch.rand):
            func = torch.empty
        name, target = getattr(func, "__name__", ""), next(iter((*args, *kwargs.values())), None)
        if name.endswith("_") and not name.endswith("__") and isinstance(target, Tensor) and target.is_meta:
            return target
        return func(*args, **kwargs)


def total_memory() -> float:
    """Bytes of memory of this machine or of this process's control group; infinity where it is unknown."""
    try:
        size = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return float("inf")
    with contextlib.suppress(OSError, ValueError):
        size = min(size, float(_CGROUP_LIMIT.read_text(encoding="ascii")))
    return size
