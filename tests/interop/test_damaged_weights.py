"""State dicts of other networks with damaged tensors: one line, whatever they hold."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from edm_unet import EDMUNet
from openai_unet import OpenAIUNet
from torch import Tensor

from fromnoise import interop
from fromnoise.networks import SimpleUNet
from fromnoise.utils.errors import UserError

NETWORKS = {
    "openai": (OpenAIUNet(classes=3, updown=True, multipliers=(1, 1)), {"size": 8}),
    "edm": (EDMUNet(True, classes=3, multipliers=(1, 1)), {}),
    "simple": (SimpleUNet(), {}),
}


def damaged(tensor: Tensor, way: int) -> Tensor:
    """The tensor with another shape or type."""
    return (
        torch.zeros(()),
        torch.zeros(0),
        tensor[:1],
        tensor.flatten(),
        tensor[None],
        tensor.long(),
        torch.full_like(tensor, torch.nan),
    )[way]


@pytest.mark.parametrize("format", NETWORKS)
def test_one_line(format: str, tmp_path: Path) -> None:
    """A tensor is missing, renamed, reshaped, not finite, or of another type."""
    network, options = NETWORKS[format]
    state = network.state_dict()
    # the layers that the options are inferred from, and some others
    names = [name for name in state if name.endswith("weight") and ("0.0." in name or "map" in name or "emb" in name)]
    draw = random.Random(0)
    names += draw.sample(sorted(state), 12)
    for name in names:
        changed: dict[str, Any] = dict(state)
        way = draw.randrange(9)
        tensor = changed.pop(name)
        if way < 7:
            changed[name] = damaged(tensor, way)
        elif way == 7:
            changed[name + ".more"] = tensor
        torch.save(changed, tmp_path / "model.pt")
        try:
            interop.import_model(tmp_path / "model.pt", format, options, read_pickles=True)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            fewer_classes = way == 2 and name == "label_emb.weight"
            assert fewer_classes or (way in (2, 5) and changed[name].shape == tensor.shape), (name, way)
