"""Weights by the names of network ``adm``, taken from foreign state dicts layer by layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fromnoise.interop.state_dict import Tensors
from fromnoise.utils.errors import UserError


class ADMWeights:
    """Collects the weights of network ``adm``.

    Attributes:
        found: by the names of network ``adm``, float32.
    """

    def __init__(self, tensors: Tensors, residual: Mapping[str, str], attention: Mapping[str, str]) -> None:
        """Start without weights.

        Args:
            tensors: the foreign ones.
            residual: foreign names of the parts of a residual block: norm1, conv1, time_emb_proj, norm2, conv2,
                conv_shortcut.
            attention: foreign names of the parts of an attention layer: group_norm, qkv, out.
        """
        self.found: dict[str, Tensor] = {}
        self._tensors, self._residual, self._attention = tensors, residual, attention

    def layer(self, name: str, source: str) -> None:
        """A layer with weight and bias."""
        for part in ("weight", "bias"):
            self.found[f"{name}.{part}"] = self._tensors.take(f"{source}.{part}").float()

    def residual(self, name: str, source: str) -> None:
        """A residual block."""
        for ours, theirs in self._residual.items():
            if ours != "conv_shortcut" or f"{source}.{theirs}.weight" in self._tensors:
                self.layer(f"{name}.{ours}", f"{source}.{theirs}")

    def has_attention(self, source: str) -> bool:
        """Whether there is an attention layer."""
        return f"{source}.{self._attention['qkv']}.weight" in self._tensors

    def attention(self, name: str, source: str, heads: int, order: str) -> None:
        """An attention layer, if there is one.

        Args:
            name: ours.
            source: theirs.
            heads: number of heads.
            order: of the rows of its joint projection: "qkv head channel", "head qkv channel" or "head channel qkv".

        Raises:
            UserError: the heads do not divide its channels.
        """
        if not self.has_attention(source):
            return
        self.layer(f"{name}.group_norm", f"{source}.{self._attention['group_norm']}")
        sizes = {"qkv": 3, "head": heads, "channel": -1}
        places = order.split()
        for part in ("weight", "bias"):
            out = self._tensors.take(f"{source}.{self._attention['out']}.{part}").float()
            rows = self._tensors.take(f"{source}.{self._attention['qkv']}.{part}").float()
            if min(out.ndim, rows.ndim) < (2 if part == "weight" else 1) or len(rows) % (3 * heads):
                raise UserError(f"{source}: an attention of shape {tuple(rows.shape)} has no {heads} heads")
            self.found[f"{name}.to_out.0.{part}"] = out.flatten(1) if part == "weight" else out
            rows = rows.flatten(1) if part == "weight" else rows[:, None]
            split = rows.unflatten(0, [sizes[place] for place in places])
            split = split.permute(*(places.index(place) for place in ("qkv", "head", "channel")), 3)
            for key, value in zip("qkv", split.flatten(1, 2), strict=True):
                self.found[f"{name}.to_{key}.{part}"] = value.contiguous() if part == "weight" else value[:, 0].clone()

    def classes(self, table: Tensor, null: Tensor | None = None) -> None:
        """The table of classes (classes, D), and the row of no class, which becomes the last."""
        rows = table.float() if null is None else torch.cat([table.float(), null.float()[None]])
        self.found["class_embedding.weight"] = rows.contiguous()
