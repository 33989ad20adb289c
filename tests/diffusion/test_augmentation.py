"""Augmentation as a condition: geometry, condition, random numbers, and its place in training."""

from __future__ import annotations

import math

import pytest
import torch

from fromnoise import config as recipes
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.diffusion.augmentation import EDMAugmentation, _resampled, _rotation
from fromnoise.diffusion.rng import Noise
from fromnoise.model import build
from fromnoise.utils.errors import UserError

TINY = {
    "network.width": 8,
    "network.multipliers": [1],
    "network.attention_resolutions": [],
    "network.middle_attention": False,
    "network.groups": 4,
}
PLAIN = {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
UNIT = torch.eye(2, dtype=torch.float64)[None]
STILL = torch.zeros(1, 2, dtype=torch.float64)


def dot(height: int = 16, width: int = 16) -> torch.Tensor:
    """A white pixel in row 6, column 9."""
    x = torch.full((1, 1, height, width), -1.0)
    x[0, 0, 6, 9] = 1
    return x


def white(x: torch.Tensor) -> list[list[int]]:
    return (x[0, 0] > 0.5).nonzero().tolist()


def test_maps_move_pixels_where_they_say():
    """Translation to the right and down, in sides; a quarter turn about the centre; nothing for the unit map."""
    assert torch.allclose(_resampled(dot(), UNIT, STILL), dot(), atol=1e-5)
    assert white(_resampled(dot(), UNIT, torch.tensor([[2 / 16, 3 / 16]], dtype=torch.float64))) == [[9, 11]]
    assert white(_resampled(dot(16, 20), UNIT, torch.tensor([[2 / 20, 3 / 16]], dtype=torch.float64))) == [[9, 11]]
    turned = _resampled(dot(), _rotation(torch.tensor([math.pi / 2], dtype=torch.float64)), STILL)
    assert torch.allclose(turned[0, 0], dot()[0, 0].rot90(-1), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "columns"),
    [
        ({"scale": 0, "rotate": 0, "anisotropy": 0, "translate": 0}, {0, 1, 2, 5, 6, 7, 8}),
        ({"flip": False, "rotate": 0.5}, {2, 3, 4, 5, 6, 7, 8}),
    ],
)
def test_condition_has_nine_numbers(options, columns):
    """0 for what is switched off, and in the columns of table 6 for what is done."""
    augmentation = EDMAugmentation(probability=1.0, **options)
    images, vector = augmentation(torch.rand(64, 1, 8, 8) * 2 - 1, Noise(0, torch.arange(64)))
    assert images.shape == (64, 1, 8, 8) and vector.shape == (64, augmentation.conditions)
    assert {i for i in range(9) if bool((vector[:, i] != 0).any())} == columns
    if options.get("flip", True):
        assert set(vector[:, :2].unique().tolist()) == {0.0, 1.0}
    assert float(vector[:, 3].min()) >= (-1 if options.get("rotate") == 0.5 else 0)  # cos a - 1, of half a turn at most


def test_flips_are_exact_and_the_condition_says_which():
    """No resampling: an image with its condition can be undone bit for bit."""
    x = torch.rand(64, 3, 6, 5) * 2 - 1
    still = EDMAugmentation(probability=1.0, scale=0, rotate=0, anisotropy=0, translate=0)
    flips = [still(x[i : i + 1], Noise(3, torch.tensor([i]))) for i in range(4)]
    for i, (image, vector) in enumerate(flips):
        dims = [dim for dim, mirrored in ((3, vector[0, 0]), (2, vector[0, 1])) if mirrored]
        assert torch.allclose(image.flip(dims), x[i : i + 1], atol=1e-5)
    untouched, vector = EDMAugmentation(probability=0.0)(x, Noise(3, torch.arange(64)))
    assert torch.equal(untouched, x) and not bool(vector.any())


def test_depends_on_seed_and_position_alone():
    """Not on the batch; about half of the images are left as they are at 0.12."""
    x, augmentation = torch.rand(400, 1, 8, 8) * 2 - 1, EDMAugmentation()
    images, vector = augmentation(x, Noise(5, torch.arange(400)))
    part, same = augmentation(x[100:107], Noise(5, torch.arange(100, 107)))
    assert torch.equal(vector[100:107], same) and torch.allclose(images[100:107], part, atol=1e-6)
    other = augmentation(x, Noise(6, torch.arange(400)))[1]
    assert not torch.equal(other, vector)
    unchanged = (vector == 0).all(1)
    assert torch.equal(images[unchanged], x[unchanged])
    assert float(unchanged.double().mean()) == pytest.approx(0.88**4 * 0.94**2, abs=0.08)


@pytest.mark.parametrize(
    "network",
    [
        {**TINY},
        {"network": {"kind": "adm", "width": 8, "multipliers": [1], "blocks": 1, "groups": 4}},
        {"network": {"kind": "lucidrains", "width": 8, "multipliers": [1], "heads": 1, "head_dim": 4}},
        {"network": {"kind": "diffusers", "block_out_channels": [8], "norm_num_groups": 4} | PLAIN},
    ],
    ids=["unet", "adm", "lucidrains", "diffusers"],
)
def test_networks_take_the_condition(network):
    """The loss depends on the layer in training alone; samples see no augmentation; held-out images keep their loss."""
    values = network | {"data.pseudo_labels": 4, "data.augmentation": {"kind": "edm", "probability": 1.0}}
    model = build(recipes.load("digits", values), DatasetInfo((1, 8, 8)))
    layer = model.denoiser.network.augmentation
    assert layer.weight.shape[1] == 9 and layer.bias is None
    loss, x, positions = model.training_loss(), torch.rand(8, 1, 8, 8) * 2 - 1, torch.arange(8)
    cond = torch.arange(8) % 4

    def measured(training: bool) -> torch.Tensor:
        return loss(x, positions, cond, training=training).unweighted

    for parameter in model.denoiser.network.parameters():  # some layers begin with zeros, behind which nothing shows
        torch.nn.init.normal_(parameter, std=0.1)
    before = measured(True), measured(False)
    torch.nn.init.normal_(layer.weight)
    after = measured(True), measured(False)
    assert not torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
    assert not torch.equal(before[0], before[1])


def test_what_cannot_be_augmented_is_one_line():
    """Networks that take no condition, and latents."""
    with pytest.raises(UserError, match="network simple does not take the condition of data.augmentation: use"):
        build(recipes.load("digits", {"network": "simple", "data.augmentation": "edm"}), DatasetInfo((1, 32, 32)))
    with pytest.raises(UserError, match=r"data\.augmentation moves pixels"):
        recipes.load("latent", {"data.augmentation": "edm"})
    with pytest.raises(UserError, match=r"probability=1\.5 must lie in \[0, 1\]"):
        recipes.load("digits", {"data.augmentation": {"kind": "edm", "probability": 1.5}})
    with pytest.raises(UserError, match="augmentation"):
        recipes.load("digits", {"data.augmentation": "nothing"})
