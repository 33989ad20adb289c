"""What a model knows about its data: shape, classes or attributes; and the conditions made from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.data.dataset import Attribute
from fromnoise.utils.errors import UserError


@dataclass(frozen=True)
class DatasetInfo:
    """Description of the data that a model was trained on.

    Attributes:
        shape: (C, H, W) of the images.
        class_names: names of the classes that the model is conditioned on; None if it is not.
        fingerprint: of the data; empty if unknown.
        attributes: numbers that the model is conditioned on instead of a class; None if it is not.
    """

    shape: tuple[int, int, int]
    class_names: tuple[str, ...] | None = None
    fingerprint: str = ""
    attributes: tuple[Attribute, ...] | None = None

    @property
    def is_conditional(self) -> bool:
        """Whether the model is conditioned on classes or attributes."""
        return self.class_names is not None or self.attributes is not None

    def class_index(self, label: str) -> int:
        """Index of the class that ``label`` names, by its name (case is ignored) or its number.

        Raises:
            UserError: the model has no labels, or not this one.
        """
        if self.class_names is None:
            raise UserError(
                "this model was trained without labels: leave out --label, or train with --data.labels true"
            )
        folded = [name.casefold() for name in self.class_names]
        if label.casefold() in folded:
            return folded.index(label.casefold())
        if label.isdecimal() and int(label) < len(self.class_names):
            return int(label)
        shown = ", ".join(self.class_names[:12]) + (", ..." if len(self.class_names) > 12 else "")
        raise UserError(f"this model has no label {label!r}: choose from {shown}")


def conditioning_for(dataset_info: DatasetInfo, label: str | None, ids: Tensor) -> Tensor | None:
    """Make the condition of the samples ``ids`` from a label.

    Args:
        dataset_info: of the model.
        label: for a model of classes a name or number, several of them separated by commas, or "all"; sample i gets
            number (i mod count) of the list. For a model of attributes ``age=30,height=1.8``; attributes that are
            left out are at their mean. None leaves the condition unknown.
        ids: numbers of the samples, int64 (N,).

    Returns:
        Class indices, int64 (N,), or attributes, float32 (N, A). An unknown condition is the null label: -1 for
        classes, NaN for attributes, None for an unconditional model.

    Raises:
        UserError: the model has no such label or attribute.
    """
    if dataset_info.attributes is not None:
        return _parse_attributes(dataset_info.attributes, label).expand(len(ids), -1)
    if label is None:
        return None if dataset_info.class_names is None else torch.full_like(ids, -1)
    if label == "all" and dataset_info.class_names is not None:
        classes = torch.arange(len(dataset_info.class_names))
    else:
        classes = torch.tensor([dataset_info.class_index(part.strip()) for part in label.split(",")])
    return classes[ids % len(classes)]


def _parse_attributes(attributes: tuple[Attribute, ...], label: str | None) -> Tensor:
    """Values of the attributes in ``label``, float32 (1, A)."""
    if label is None:
        return torch.full((1, len(attributes)), torch.nan)
    values = {a.name: a.mean for a in attributes}
    for part in label.split(","):
        name, _, number = (word.strip() for word in part.partition("="))
        try:
            value = float(number)
        except ValueError:
            value = torch.nan
        if name not in values or not math.isfinite(value):
            raise UserError(
                f"{part!r} does not set an attribute of this model: write {attributes[0].name}="
                f"{attributes[0].mean:.3g}, with any of {', '.join(values)}"
            )
        values[name] = value
    return torch.tensor([list(values.values())])
