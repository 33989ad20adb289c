"""Activations of denoisers: the blocks of every network, noise that belongs to its image, and the choice of a block."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fromnoise import config as recipes
from fromnoise import registry
from fromnoise.clustering.activation_choice import choose, shared_neighbours
from fromnoise.clustering.activations import Activations, standardized
from fromnoise.clustering.graph import NEIGHBOURS
from fromnoise.data import MemoryImages
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.diffusion import schedules
from fromnoise.diffusion.denoiser import Denoiser
from fromnoise.model import Model
from fromnoise.networks.cluster_means import ClusterMeans
from fromnoise.utils.device import select_device
from fromnoise.utils.errors import UserError

UNET: dict[str, Any] = {"width": 8, "multipliers": (1, 2), "blocks": 1, "groups": 4}
NETWORKS: dict[str, dict[str, Any]] = {
    "unet": UNET | {"attention_resolutions": ()},
    "adm": UNET | {"heads": 1},
    "lucidrains": {"width": 8, "multipliers": (1, 2), "heads": 1, "head_dim": 8},
    "diffusers": {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    "pulfer": {"size": (8, 8)},
    "simple": {},
}
SHAPE = (1, 8, 8)
CPU = select_device("cpu", "fp32")


def images(count: int = 20) -> MemoryImages:
    """Images of noise."""
    generator = torch.Generator().manual_seed(0)
    return MemoryImages(torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8, generator=generator))


def model_of(network: nn.Module, info: DatasetInfo | None = None, **options: Any) -> Model:
    """A model of 8x8 images."""
    denoiser = Denoiser(network, schedules.linear(100), **options)
    return Model(recipes.load("digits", {}), info or DatasetInfo(SHAPE), denoiser)


def unet(**options: Any) -> Any:
    """A tiny U-Net whose output depends on its input and on its class."""
    torch.manual_seed(0)
    channels = {"in_channels": options.pop("ins", 1), "out_channels": 1}
    return registry.build("network", "unet", NETWORKS["unet"] | {"zero_output": False} | options, **channels)


def read(model: Model, **options: Any) -> dict[str, torch.Tensor]:
    """Activations of 20 images at t = 0.3."""
    activations = Activations.from_model(model, CPU, 0)
    return activations.at(images(), torch.arange(20), 0.3, activations.layers, **options)


def test_every_network_is_covered():
    """A network that is added to the registry needs a line above."""
    built_in = {n for n in registry.names("network") if registry.get("network", n).__module__.startswith("fromnoise.")}
    assert set(NETWORKS) == built_in


@pytest.mark.parametrize("kind", NETWORKS)
def test_blocks_of_networks(kind):
    """Several, none within another, as vectors of at most 4x4 pixels; an image's do not depend on the batch."""
    torch.manual_seed(0)
    network = registry.build("network", kind, NETWORKS[kind], in_channels=1, out_channels=1)
    activations = Activations.from_model(model_of(network), CPU, 0)
    assert len(activations.layers) >= 6
    assert not any(a != b and a.startswith(f"{b}.") for a in activations.layers for b in activations.layers)
    found = activations.at(images(), torch.arange(20), 0.3, activations.layers)
    for layer, matrix in found.items():
        channels = matrix.shape[1] / 16 if matrix.shape[1] % 16 == 0 else matrix.shape[1]
        assert matrix.shape[0] == 20 and matrix.dtype == torch.float32 and channels >= 1, layer
    alone = activations.at(images(), torch.tensor([7]), 0.3, activations.layers)
    for layer in activations.layers:
        assert torch.allclose(alone[layer][0], found[layer][7], atol=1e-5)


def test_blocks_of_the_unet():
    """Residual blocks and attention, in the order of evaluation; within a wrapper too."""
    expected = ["down.0.blocks.0", "down.1.blocks.0", "middle.0", "middle.1", "middle.2"]
    expected += ["up.1.blocks.0", "up.1.blocks.1", "up.0.blocks.0", "up.0.blocks.1"]
    assert list(Activations.from_model(model_of(unet()), CPU, 0).layers) == expected
    wrapped = Activations.from_model(model_of(ClusterMeans(unet(ins=2), 3, SHAPE)), CPU, 0)
    assert list(wrapped.layers) == [f"network.{name}" for name in expected]


def test_noise_belongs_to_the_image():
    """Other noises and seeds give other activations, a mean of noises their mean; the hooks are removed."""
    model = model_of(unet())
    first, second = read(model, noises=[0])["middle.2"], read(model, noises=[1])["middle.2"]
    assert not torch.allclose(first, second)
    assert torch.allclose(read(model, noises=[0, 1])["middle.2"], (first + second) / 2, atol=1e-6)
    assert not any(module._forward_hooks for module in model.network.modules())


def test_null_condition():
    """Of classes it is the null label, of attributes the unknown ones; self-conditioning has no first estimate."""
    network = unet(classes=3)
    found = read(model_of(network, DatasetInfo(SHAPE, ("a", "b", "c"))))
    with torch.no_grad():
        network.labels.weight[1:] += 1  # of the classes, not of the null label
    assert torch.equal(read(model_of(network, DatasetInfo(SHAPE, ("a", "b", "c"))))["middle.2"], found["middle.2"])
    assert read(model_of(unet(ins=2), self_conditioning=True))["middle.2"].isfinite().all()


def test_mistakes():
    """A network without blocks; activations that are not finite."""
    flat = nn.Conv2d(1, 1, 3, padding=1)

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = flat

        def forward(self, x, t, cond=None):
            return self.layer(x)

    with pytest.raises(UserError, match="no blocks whose output is an image"):
        Activations.from_model(model_of(Flat()), CPU, 0)
    network = unet()
    with torch.no_grad():
        network.middle[0].conv1.bias.fill_(torch.inf)
    with pytest.raises(UserError, match="not finite"):
        read(model_of(network))


def test_choice():
    """The best of the criterion, the same each time; every block at every time is compared."""
    activations = Activations.from_model(model_of(unet(multipliers=(1,))), CPU, 0)
    progress: list[float] = []
    found = choose(activations, images(40), progress.append, (0.1, 0.4))
    assert len(found.candidates) == 2 * len(activations.layers) and progress[-1] == 1
    assert found.value == max(c.value for c in found.candidates)
    assert found == choose(activations, images(40), times=(0.1, 0.4))
    assert found.layer in found.describe() and found.json()["time"] == found.time


def test_shared_neighbours():
    """All of them for the same points, and as many as chance gives for others."""
    points = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    other = torch.randn(200, 5, generator=torch.Generator().manual_seed(1))
    assert shared_neighbours(points, 3 * points) == 1
    assert shared_neighbours(points, other) == pytest.approx(NEIGHBOURS / 199, abs=0.02)
    assert 0.3 < shared_neighbours(points, points + 0.2 * other) < 0.95


def test_standardized():
    """Mean 0 and deviation 1 of each number; a constant one tells nothing and stays 0."""
    matrix = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 100.0, 0.0]) + 5
    found = standardized(matrix)
    assert torch.allclose(found.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-5)
    assert float(found.mean(0).abs().max()) < 1e-5 and not standardized(torch.ones(4, 2)).any()
