"""State dicts of other programs: finding them in a checkpoint, and taking their tensors one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from fromnoise.interop.source import Source
from fromnoise.utils.errors import UserError


def mapping_of(source: Source) -> Mapping[str, Any] | None:
    """What a .safetensors file or a pickle that may be read holds by name; None for anything else."""
    if source.path.suffix == ".safetensors" and source.path.is_file():
        return source.tensors
    found = source.pickle if source.is_pickle else None
    return found if isinstance(found, Mapping) and all(isinstance(key, str) for key in found) else None


def below(values: Mapping[str, Any], name: str) -> dict[str, Tensor] | None:
    """The tensors beside and below the one whose name ends with ``name``, without what stands before it.

    Args:
        values: names to tensors and others.
        name: of a tensor of the network, such as ``init_conv.weight``.

    Returns:
        The tensors by the network's own names; None if there is no such tensor.
    """
    for key, value in values.items():
        prefix = key.removesuffix(name)
        if isinstance(value, Tensor) and key.endswith(name) and (not prefix or prefix.endswith(".")):
            found = {k[len(prefix) :]: v for k, v in values.items() if k.startswith(prefix) and isinstance(v, Tensor)}
            return found
    return None


class Tensors:
    """The tensors of a foreign state dict, each of which is used once."""

    def __init__(self, path: object, tensors: Mapping[str, Tensor]) -> None:
        """Keep them.

        Args:
            path: of the file, for messages.
            tensors: by foreign name.
        """
        self._path, self._left = path, dict(tensors)

    def __contains__(self, name: str) -> bool:
        """Whether a tensor is there and not used yet."""
        return name in self._left

    def names(self) -> list[str]:
        """The names of the tensors that are not used yet."""
        return list(self._left)

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        """The shape of a tensor.

        Raises:
            UserError: it is not there, or has another number of dimensions.
        """
        if name not in self._left:
            raise UserError(f"{self._path} has no tensor {name}: it is of another network or version")
        shape = tuple(self._left[name].shape)
        if len(shape) != dimensions or 0 in shape:
            raise UserError(f"{self._path}: {name} has the shape {shape}, not {dimensions} dimensions above 0")
        return shape

    def take(self, name: str) -> Tensor:
        """Use a tensor.

        Raises:
            UserError: it is not there.
        """
        if name not in self._left:
            raise UserError(f"{self._path} has no tensor {name}: it is of another network or version")
        return self._left.pop(name)

    def finish(self, ignored: Iterable[str] = ()) -> None:
        """Check that every tensor was used.

        Args:
            ignored: names that need not be.

        Raises:
            UserError: one was not; the message names it.
        """
        left = sorted(self._left.keys() - set(ignored))
        if left:
            raise UserError(f"{self._path} has a tensor {left[0]} that this network does not have")
