"""Training passes of a network as CUDA graphs: two launches in place of hundreds, for small networks on fast GPUs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_CALLS_BEFORE = 3  # with a shape, before its graph is captured: the first ones load and choose kernels
_MAX_SHAPES = 2  # each graph keeps its activations; further shapes run without one


def enable(network: nn.Module) -> bool:
    """Run the forward and backward passes of a network as CUDA graphs while it trains on a GPU.

    The first calls with a shape of input run as before; then both passes are captured
    (``torch.cuda.make_graphed_callables``), and replayed from then on. They launch the same kernels, so losses and
    gradients are the same. Calls on CPUs, without gradients or in evaluation mode run as before.

    Args:
        network: called as ``network(x, t, cond)``; its forward method is replaced.

    Returns:
        Whether it was enabled: for a network whose attribute ``capturable`` is true, and that torch.compile has not
        compiled.
    """
    compiled = getattr(network, "_compiled_call_impl", None) is not None
    if compiled or not getattr(network, "capturable", False):
        return False
    network.forward = _Graphed(network)
    return True


class _Passes(nn.Module):
    """The original forward method of a network as a module with its parameters."""

    def __init__(self, network: nn.Module, forward: Any) -> None:
        super().__init__()
        self.network, self._original = network, forward

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._original(*inputs)


class _Graphed:
    """In place of the forward method of a network: replays a graph for inputs of a shape that was seen before."""

    def __init__(self, network: nn.Module) -> None:
        self._network, self._original = network, network.forward
        self._calls: dict[Any, int] = {}
        self._graphs: dict[Any, Any] = {}

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        inputs = (x, t) if cond is None else (x, t, cond)
        if not (x.is_cuda and self._network.training and torch.is_grad_enabled()) or x.requires_grad:
            return self._original(*inputs)
        key = (torch.is_autocast_enabled("cuda"), *((i.shape, i.stride(), i.dtype) for i in inputs))
        graph = self._graphs.get(key)
        if graph is not None:
            return graph(*inputs)
        self._calls[key] = self._calls.get(key, 0) + 1
        if self._calls[key] <= _CALLS_BEFORE or len(self._graphs) == _MAX_SHAPES:
            return self._original(*inputs)
        graph = self._graphs[key] = self._capture(inputs)
        return graph(*inputs)

    def _capture(self, inputs: tuple[Tensor, ...]) -> Any:
        """Capture both passes; their kernels are run a few times on a stream of their own before that."""
        # torch would warn that this stream is not that of the steps before
        quiet = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None)
        if quiet is not None:
            quiet(False)
        examples = tuple(i.detach().clone() for i in inputs)
        passes = _Passes(self._network, self._original).train()
        return torch.cuda.make_graphed_callables(passes, examples, allow_unused_input=True)
