"""Import of the tutorial network simple, whatever its modules are called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fromnoise import interop
from fromnoise.networks import SimpleUNet
from fromnoise.utils.errors import UserError

PARTS = ("time", "conv1", "conv2", "norm1", "norm2")
BLOCKS = ("down1", "down2", "down3", "middle", "up3", "up2", "up1")


def nested(block: str, part: str) -> str:
    """Names of a block with sequences inside, the time last."""
    place = {"conv1": "first.0", "norm1": "first.2", "conv2": "second.0", "norm2": "second.2", "time": "zeit"}[part]
    return f"unet.{block}.{place}"


def flat(block: str, part: str) -> str:
    """Names of a block with its layers side by side, the time first."""
    place = {"time": "time_mlp", "conv1": "conv1", "conv2": "conv2", "norm1": "bnorm1", "norm2": "bnorm2"}[part]
    return f"{block}s.0.{place}"


@pytest.mark.parametrize(("names", "order"), [(flat, PARTS), (nested, ("conv1", "norm1", "conv2", "norm2", "time"))])
@pytest.mark.parametrize("time_last", [False, True])
def test_same_outputs(
    names: Callable[[str, str], str], order: tuple[str, ...], time_last: bool, tmp_path: Path
) -> None:
    """The layers are found by their shapes and their order; tables of the schedule beside them do not matter."""
    torch.manual_seed(0)
    network = SimpleUNet(1, 1).eval()
    state = network.state_dict()

    def layer(ours: str, theirs: str) -> dict[str, Tensor]:
        return {f"{theirs}.{kind}": state[f"{ours}.{kind}"] for kind in ("weight", "bias")}

    time = layer("time", "time_embedding.1")
    theirs: dict[str, Tensor] = {"sqrt_alphas_cumprod": torch.rand(300)} | ({} if time_last else time)
    for block in BLOCKS:
        for part in order:
            theirs |= layer(f"{block}.{part}", names(block, part))
    theirs |= layer("out", "final") | (time if time_last else {})
    torch.save(theirs, tmp_path / "simple.pt")
    imported = interop.import_model(tmp_path / "simple.pt", options={"timesteps": 300}, read_pickles=True)
    model = imported.model
    assert imported.format == "simple" and model.schedule.steps == 300 and model.recipe.published is not None
    x, t = torch.randn(2, 1, 28, 28), torch.tensor([3.0, 250.0])
    with torch.inference_mode():
        assert torch.equal(model.denoiser.network(x, t), network(x, t))


def test_other_layers_are_refused(tmp_path: Path) -> None:
    """A block of another shape is another network."""
    state = SimpleUNet(1, 1).state_dict()
    torch.save(state | {"up1.norm2.weight": torch.ones(16), "up1.norm2.bias": torch.ones(16)}, tmp_path / "other.pt")
    for options in ({}, {"format": "simple"}):
        with pytest.raises(UserError, match="simple"):
            interop.import_model(tmp_path / "other.pt", read_pickles=True, **options)
