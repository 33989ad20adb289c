"""Feature maps inside a frozen network, and a distance of images in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_MIN_CHANNELS = 4  # maps with fewer are images, not features
_FLOOR = 1e-4  # of the mean square, whose root has no gradient at 0


def feature_distance(maps: list[Tensor], targets: list[Tensor]) -> Tensor:
    """Distance of the feature maps of B images to those of B others, (B,): mean over the maps of

    sqrt(mean_(c,h,w) ((phi - phi') / s_c)^2 + 1e-4)

    with s_c the standard deviation of channel c over the targets and places, held fixed.

    Args:
        maps: (B, C, h, w) each.
        targets: of the same shapes.
    """  # noqa: D400, D415
    total = torch.zeros(len(maps[0]), device=maps[0].device)
    for a, b in zip(maps, targets, strict=True):
        a, b = a.float(), b.float().detach()
        scale = b.std((0, 2, 3), correction=0, keepdim=True) + 1e-3
        total = total + (((a - b) / scale).square().mean((1, 2, 3)) + _FLOOR).sqrt()
    return total / len(maps)


class FeatureMaps:
    """Feature maps inside a frozen network: the outputs of the first and of the last block at each resolution.

    Attributes:
        names: of the modules whose outputs they are; found at the first call.
    """

    def __init__(self, network: nn.Module) -> None:
        """Wrap a network; it is changed only during a call."""
        self.network = network
        self.names: list[str] = []

    def __call__(self, evaluate: Callable[[], Any]) -> list[Tensor]:
        """The maps (B, C, h, w) of one evaluation of the network.

        Args:
            evaluate: calls the network once.

        Raises:
            ValueError: the network has no feature maps.
        """
        if not self.names:
            with torch.no_grad():
                blocks = [name for name, module in self.network.named_modules() if name and any(module.children())]
                self.names = _first_and_last(_record(self.network, blocks, evaluate))
            if not self.names:
                raise ValueError("the network has no feature maps (B, C, h, w) inside: set features 0")
        return list(_record(self.network, self.names, evaluate).values())


def _record(network: nn.Module, names: list[str], evaluate: Callable[[], Any]) -> dict[str, Tensor]:
    """Outputs (B, C, h, w) of the modules of these names in one evaluation, in the order of the evaluation."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, out: Any) -> None:
            if isinstance(out, Tensor) and out.ndim == 4:
                outputs.pop(name, None)
                outputs[name] = out

        return hook

    modules = dict(network.named_modules())
    hooks = [modules[name].register_forward_hook(keep(name)) for name in names]
    try:
        evaluate()
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def _first_and_last(outputs: dict[str, Tensor]) -> list[str]:
    """For each resolution the first module and the last one."""
    ends: dict[tuple[int, ...], tuple[str, str]] = {}
    for name, out in outputs.items():
        if out.shape[1] >= _MIN_CHANNELS:
            size = tuple(out.shape[2:])
            ends[size] = ends.get(size, (name, name))[0], name
    return list(dict.fromkeys(name for pair in ends.values() for name in pair))
