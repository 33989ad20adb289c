"""UNet with the options of S5 against the U-Net of the Keras example: the same weights give the same output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from keras_unet import KerasUNet
from torch import Tensor

from fromnoise import config as recipes
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import build
from fromnoise.networks import UNet

FLOWERS: dict[str, Any] = {
    "multipliers": (1, 2, 4, 8),
    "blocks": 2,
    "blocks_up": 3,
    "size": (64, 64),
    "attention_resolutions": (16, 8),
    "groups": 8,
    "norm_eps": 1e-3,
    "attention_residual": "normalized",
}


def flowers(width: int, **options: Any) -> UNet:
    """The network of S5 at any width."""
    return UNet(3, 3, width=width, time_dim=4 * width, **(FLOWERS | options)).eval()


def from_keras(keras: KerasUNet) -> dict[str, Tensor]:
    """The weights under our names and in torch's layout; each is used once."""
    remaining, ours = dict(keras.weights), {}

    def layer(name: str, source: str) -> None:
        kernel = remaining.pop(f"{source}.kernel")
        ours[f"{name}.weight"] = kernel.permute(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
        ours[f"{name}.bias"] = remaining.pop(f"{source}.bias")

    def norm(name: str, source: str) -> None:
        ours[f"{name}.weight"] = remaining.pop(f"{source}.gamma")
        ours[f"{name}.bias"] = remaining.pop(f"{source}.beta")

    def residual(name: str, source: str) -> None:
        for i in (1, 2):
            norm(f"{name}.norm{i}", f"{source}.norm{i}")
            layer(f"{name}.conv{i}", f"{source}.conv{i}")
        layer(f"{name}.time", f"{source}.time")
        if f"{source}.shortcut.kernel" in remaining:
            layer(f"{name}.shortcut", f"{source}.shortcut")

    def attention(name: str, source: str) -> None:
        parts = [f"{source}.{part}" for part in ("query", "key", "value")]
        ours[f"{name}.qkv.weight"] = torch.cat([remaining.pop(f"{part}.kernel").T for part in parts])
        ours[f"{name}.qkv.bias"] = torch.cat([remaining.pop(f"{part}.bias") for part in parts])
        norm(f"{name}.norm", f"{source}.norm")
        layer(f"{name}.out", f"{source}.proj")

    layer("stem", "stem")
    layer("time.lower", "time.0")
    layer("time.upper", "time.1")
    for way, blocks in (("down", 2), ("up", 3)):
        for i in range(len(keras.widths)):
            for j in range(blocks):
                residual(f"{way}.{i}.blocks.{j}", f"{way}.{i}.{j}")
                if keras.has_attention[i]:
                    attention(f"{way}.{i}.attentions.{j}", f"{way}.{i}.{j}.attention")
            if f"{way}.{i}.sample.kernel" in remaining:
                layer(f"{way}.{i}.resample.conv", f"{way}.{i}.sample")
    residual("middle.0", "middle.0")
    attention("middle.1", "middle.attention")
    residual("middle.2", "middle.1")
    norm("norm", "end.norm")
    layer("out", "end")
    assert not remaining, remaining.keys()
    return ours


def test_published_parameter_count() -> None:
    """63,200,387: the sum over the weights of the Keras example, and ours."""
    keras = KerasUNet(dtype=torch.float32, device="meta")
    keras(torch.empty(1, 64, 64, 3, device="meta"), torch.empty(1, device="meta"))
    assert sum(w.numel() for w in keras.weights.values()) == 63_200_387
    with torch.device("meta"):
        assert sum(p.numel() for p in flowers(64).parameters()) == 63_200_387


def test_equals_the_keras_example() -> None:
    """In float64, at a quarter of the published width and an oblong size."""
    keras = KerasUNet(16)
    x, steps = torch.randn(2, 16, 24, 3, dtype=torch.float64), torch.tensor([0, 731])
    expected = keras(x, steps).permute(0, 3, 1, 2)
    assert expected.std() > 0.1
    ours = flowers(16).double()
    ours.load_state_dict(from_keras(keras))
    with torch.no_grad():
        out = ours(x.permute(0, 3, 1, 2), steps.double())
    torch.testing.assert_close(out, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("other", [{"attention_residual": "input"}, {"norm_eps": 1e-6}])
def test_both_options_matter(other: dict[str, Any]) -> None:
    """Without either of them the same weights give another output."""
    keras = KerasUNet(16)
    x, steps = torch.randn(2, 16, 16, 3, dtype=torch.float64), torch.tensor([0, 731])
    expected = keras(x, steps).permute(0, 3, 1, 2)
    ours = flowers(16, **other).double()
    ours.load_state_dict(from_keras(keras))
    with torch.no_grad():
        out = ours(x.permute(0, 3, 1, 2), steps.double())
    assert (out - expected).abs().max() > 1e-4


def test_unknown_attention_residual_is_refused() -> None:
    """The message names the two that are possible."""
    with pytest.raises(ValueError, match="attention_residual='output' is not known; use input or normalized"):
        flowers(16, attention_residual="output")


@pytest.mark.slow
def test_network_of_the_recipe_equals_the_keras_example() -> None:
    """The recipe ``flowers`` at its published width, in float64."""
    keras = KerasUNet()
    x, steps = torch.randn(1, 16, 24, 3, dtype=torch.float64), torch.tensor([731])
    expected = keras(x, steps).permute(0, 3, 1, 2)
    model = build(recipes.load("flowers"), DatasetInfo((3, 64, 64)), device="meta")
    network = model.denoiser.network.eval()
    network.load_state_dict(from_keras(keras), assign=True)
    with torch.no_grad():
        out = network(x.permute(0, 3, 1, 2), steps.double())
    assert expected.std() > 0.1
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
