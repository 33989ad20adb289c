"""Import of improved-diffusion and guided-diffusion: outputs of a transcription of their U-Net, options inferred."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from openai_unet import OpenAIUNet
from torch import nn

import fromnoise as fn
from fromnoise import cli, interop
from fromnoise.interop.importing import ImportedModel
from fromnoise.utils.errors import UserError

SIDE = 8


def randomized(network: nn.Module) -> Any:
    """The network with every weight random, also those of the normalizations."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return network.eval()


def imported(network: nn.Module, folder: Path, **options: Any) -> ImportedModel:
    """Save the state dict and import it."""
    torch.save(network.state_dict(), folder / "ema_0.9999_000010.pt")
    return interop.import_model(folder / "ema_0.9999_000010.pt", options={"size": SIDE} | options, read_pickles=True)


CONFIGURATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "defaults": ({}, {}),
    "learned variance, added time": ({"outputs": 6, "scale_shift": False, "heads": 1}, {"num_heads": 1}),
    "residual resampling, heads of 16, new order": (
        {"updown": True, "head_channels": 16, "new_order": True, "blocks": 2, "attention": (1, 2)},
        {"num_head_channels": 16, "new_attention_order": True},
    ),
    "classes, other heads on the way up, grey": (
        {"channels": 1, "outputs": 1, "classes": 3, "heads_up": 2, "updown": True},
        {"num_heads_upsample": 2},
    ),
    "narrow first level, three levels": ({"width": 64, "multipliers": (0.5, 0.5, 1), "attention": (4,)}, {}),
    "one level": ({"multipliers": (1,), "attention": ()}, {}),
}


@pytest.mark.parametrize(("theirs", "flags"), CONFIGURATIONS.values(), ids=CONFIGURATIONS)
@torch.inference_mode()
def test_the_network_is_theirs(theirs: dict[str, Any], flags: dict[str, Any], tmp_path: Path) -> None:
    """The same output within 1e-5."""
    network = randomized(OpenAIUNet(**theirs))
    model = imported(network, tmp_path, **flags).model
    assert model.denoiser.learned_variance == (theirs.get("outputs") == 6)
    x = torch.randn(3, theirs.get("channels", 3), SIDE, SIDE)
    t = torch.tensor([0.0, 411.0, 999.0])
    y = torch.tensor([2, 0, 1]) if theirs.get("classes") else None
    torch.testing.assert_close(model.denoiser.network(x, t, y), network(x, t, y), atol=1e-5, rtol=0)


def test_times_are_rescaled(tmp_path: Path) -> None:
    """With 4000 steps improved-diffusion's networks are given a quarter of the step."""
    network = randomized(OpenAIUNet())
    model = imported(network, tmp_path, timesteps=4000, schedule="cosine", rescale_timesteps=True).model
    assert model.schedule.steps == 4000
    given: list[float] = []
    model.denoiser.network.register_forward_hook(lambda module, inputs, out: given.extend(inputs[1].tolist()))
    with torch.inference_mode():
        model.denoiser(torch.zeros(1, 3, SIDE, SIDE), model.schedule.at(2001 / 4000))
    assert given == [500.0]
    with pytest.raises(UserError, match="--rescale-timesteps"):
        imported(network, tmp_path, timesteps=4000)


def test_a_learned_variance_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the command line to images, classes by their numbers; the published sampling is ancestral."""
    torch.save(randomized(OpenAIUNet(outputs=6, classes=2)).half().state_dict(), tmp_path / "model.pt")
    run = tmp_path / "run"
    command = ["import", str(tmp_path / "model.pt"), "--size", "8", "--timesteps", "10", "--rescale-timesteps", "false"]
    assert cli.main([*command, "--out", str(run)]) == 0
    out = capsys.readouterr().out
    assert "learned variance, 2 classes" in out and "converted to float32" in out and "openai, network adm" in out
    assert (
        cli.main(["sample", str(run), "-n", "2", "--label", "1", "--as-published", "--out", str(tmp_path / "x.png")])
        == 0
    )
    assert fn.load(run).sample(2, label="0", steps=3).shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": None}, "--size"),
        ({"num_heads": 3}, "--num-heads"),
        ({"num_head_channels": 48}, "--num-head-channels"),
    ],
)
def test_missing_and_wrong_flags_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """One line that names the flag."""
    with pytest.raises(UserError, match=message) as error:
        imported(OpenAIUNet(), tmp_path, **change)
    assert "\n" not in str(error.value)


def test_other_networks_of_theirs_are_refused(tmp_path: Path) -> None:
    """Upsamplers, pooled resampling, and latent diffusion with the same names."""
    with pytest.raises(UserError, match="SuperResModel"):
        imported(OpenAIUNet(channels=6), tmp_path)
    without = OpenAIUNet()
    without.input_blocks[2] = nn.ModuleList([nn.AvgPool2d(2)])
    with pytest.raises(UserError, match="conv_resample"):
        imported(without, tmp_path)
    state = {f"model.{k}": v for k, v in OpenAIUNet().state_dict().items()}
    torch.save(state | {"first_stage_model.conv.weight": torch.zeros(1)}, tmp_path / "ldm.pt")
    with pytest.raises(UserError, match="latent diffusion"):
        interop.import_model(tmp_path / "ldm.pt", options={"size": 8}, read_pickles=True)
    more = OpenAIUNet().state_dict() | {"middle_block.1.transformer.weight": torch.zeros(1)}
    torch.save(more, tmp_path / "more.pt")
    with pytest.raises(UserError, match="transformer"):
        interop.import_model(tmp_path / "more.pt", options={"size": 8}, read_pickles=True)


@torch.inference_mode()
def test_on_to_diffusers(tmp_path: Path) -> None:
    """With heads of one size the weights go on to a UNet2DModel of diffusers; otherwise a line says why not."""
    from diffusers.models.unets.unet_2d import UNet2DModel

    theirs = randomized(
        OpenAIUNet(
            head_channels=16, updown=True, classes=3, outputs=6, blocks=2, multipliers=(1, 2, 2), attention=(1, 4)
        )
    )
    model = imported(theirs, tmp_path, num_head_channels=16).model
    interop.export_model(model, tmp_path / "folder", "diffusers", {"sampler": "ancestral"})
    unet = UNet2DModel.from_pretrained(tmp_path / "folder" / "unet")
    x, t, y = torch.randn(2, 3, SIDE, SIDE), torch.tensor([3, 876]), torch.tensor([2, 0])
    torch.testing.assert_close(unet(x, t, class_labels=y).sample, theirs(x, t, y), atol=1e-5, rtol=0)
    other = imported(randomized(OpenAIUNet(attention=(1, 2))), tmp_path).model
    with pytest.raises(UserError, match="heads of 8 and 16 channels"):
        interop.export_model(other, tmp_path / "other", "diffusers")
