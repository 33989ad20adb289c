"""What a model knows of its data, and what it can be told when it draws."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.data import Attribute
from fromnoise.utils.errors import UserError


@dataclass(frozen=True)
class DatasetInfo:
    """What a model must know of its data.

    Attributes:
        shape: (C, H, W) of the images.
        class_names: names of the classes that the model is conditioned on; None if it is not.
        fingerprint: of the data, "" if unknown.
        attributes: the numbers that it was told in place of a class; None if it was told none.
    """

    shape: tuple[int, int, int]
    class_names: tuple[str, ...] | None = None
    fingerprint: str = ""
    attributes: tuple[Attribute, ...] | None = None

    @property
    def is_conditional(self) -> bool:
        """Whether the model was told anything of its images."""
        return self.class_names is not None or self.attributes is not None

    def class_index(self, label: str) -> int:
        """The class that ``label`` names, by name or number.

        Raises:
            UserError: the model knows no labels, or not this one.
        """
        labels = self.class_names
        if labels is None:
            raise UserError(
                "this model was trained without labels: leave out --label, or train with --data.labels true"
            )
        folded = [name.casefold() for name in labels]
        if label.casefold() in folded:
            return folded.index(label.casefold())
        if label.isdecimal() and int(label) < len(labels):
            return int(label)
        shown = ", ".join(labels[:12]) + (", ..." if len(labels) > 12 else "")
        raise UserError(f"this model knows no label {label!r}: it knows {shown}")


def conditioning_for(dataset_info: DatasetInfo, label: str | None, ids: Tensor) -> Tensor | None:
    """Classes of the samples ``ids``: ``label`` names one, several with commas or "all", dealt out in turn.

    None where none was asked. To a model of attributes ``label`` says ``age=30,height=1.8``; those left out are at
    their mean.

    A conditional model that is told nothing gets -1, its null class, or NaN, its null attributes.

    Raises:
        UserError: unknown label.
    """
    if dataset_info.attributes is not None:
        return _attributes(dataset_info.attributes, label).expand(len(ids), -1)
    if label is None:
        return None if dataset_info.class_names is None else torch.full_like(ids, -1)
    if label == "all" and dataset_info.class_names is not None:
        known = torch.arange(len(dataset_info.class_names))
    else:
        known = torch.tensor([dataset_info.class_index(part.strip()) for part in label.split(",")])
    return known[ids % len(known)]


def _attributes(known: tuple[Attribute, ...], label: str | None) -> Tensor:
    """The numbers that ``label`` says, float32 (1, A)."""
    if label is None:
        return torch.full((1, len(known)), torch.nan)
    values = {a.name: a.mean for a in known}
    for part in label.split(","):
        name, _, number = (word.strip() for word in part.partition("="))
        try:
            value = float(number)
        except ValueError:
            value = torch.nan
        if name not in values or not math.isfinite(value):
            raise UserError(
                f"{part!r} is none of this model's attributes: say {known[0].name}={known[0].mean:.3g}, "
                f"or any of {', '.join(values)}"
            )
        values[name] = value
    return torch.tensor([list(values.values())])
