"""The energy distance of two sets of images in the features of a network, as a loss of each image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_MIN_CHANNELS = 4  # maps with fewer are images, not features
_FLOOR = 1e-6  # of a squared distance, whose root has no gradient at 0


def energy_distance(x: Tensor, y: Tensor, own: Tensor) -> Tensor:
    """Contribution of each of n vectors to their energy distance to m others, in units of the mean distance of these.

    D = (2 E|x - y| - E|x - x'| - E|y - y'|) / E|y - y'|

    Zero exactly where both are samples of one distribution (Szekely and Rizzo 2013, sec. 2). Each mean leaves out the
    pairs of a vector with itself and with its own y, so that the mean over the n contributions is unbiased; the
    denominator is a constant.

    Args:
        x: vectors at P places, (P, n, C); n of 2 or more.
        y: vectors to compare with, (P, m, C); m of 2 or more.
        own: index of the y that belongs to each x, such as the image from which it was made, int64 (n,).

    Returns:
        (n,), the mean over the places.
    """
    n, m = x.shape[1], y.shape[1]
    among_y = _pairwise(y, y)
    scale = (among_y.sum((1, 2)) - among_y.diagonal(dim1=1, dim2=2).sum(1)) / (m * (m - 1))
    among_x, across = _pairwise(x, x), _pairwise(x, y)
    to_x = (among_x.sum(2) - among_x.diagonal(dim1=1, dim2=2)) / (n - 1)
    to_y = (across.sum(2) - across[:, torch.arange(n, device=x.device), own]) / (m - 1)
    scale = scale.detach()[:, None]
    return ((2 * to_y - to_x - scale).mean(0) / scale.mean(0)).to(x)


def _pairwise(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances (P, n, m) of vectors (P, n, C) and (P, m, C)."""
    square = a.square().sum(-1)[:, :, None] + b.square().sum(-1)[:, None] - 2 * a @ b.mT
    return square.clamp(min=_FLOOR).sqrt()


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
