"""Import of EDM's state dicts: denoiser and trajectories of a transcription; pickles with code are refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from edm_unet import EDMPrecond, EDMUNet, heun_steps
from safetensors.torch import save_file
from torch import Tensor

import fromnoise as fn
from fromnoise import cli, interop
from fromnoise.diffusion import sampling_loop
from fromnoise.diffusion.rng import Noise
from fromnoise.model import Model
from fromnoise.utils.errors import UserError

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "DDPM++": {"song": True, "augment": 9},
    "DDPM++, classes, wide first level": {"song": True, "classes": 3, "multipliers": (2, 2), "blocks": 2},
    "ADM": {"song": False, "augment": 9, "blocks": 2},
    "ADM, classes, attention of two widths": {
        "song": False,
        "classes": 3,
        "multipliers": (2, 4),
        "attention": (8, 4),
        "channels": 1,
    },
}


def precond(**options: Any) -> EDMPrecond:
    """A preconditioned network with random weights."""
    torch.manual_seed(0)
    network = EDMPrecond(EDMUNet(**options)).eval()
    for parameter in network.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return network


def read(network: torch.nn.Module, folder: Path, **options: Any) -> Model:
    """Save the state dict and import it."""
    torch.save(network.state_dict(), folder / "edm.pt")
    return interop.import_model(folder / "edm.pt", options=options, read_pickles=True).model


def one_hot(classes: Tensor | None, count: int) -> Tensor | None:
    """Rows of zeros with a one; zeros for -1."""
    if classes is None:
        return None
    return (classes[:, None] == torch.arange(count)).float()


@pytest.mark.parametrize("options", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
@torch.inference_mode()
def test_denoiser_and_trajectory(options: dict[str, Any], tmp_path: Path) -> None:
    """D(x; sigma) within 1e-5 at noise levels from 0.002 to 80, and 6 Heun steps within 1e-4 of their scale."""
    theirs = precond(**options)
    model = read(theirs, tmp_path)
    assert model.dataset_info.shape == (options.get("channels", 3), 8, 8)
    count = options.get("classes", 0)
    cond = torch.tensor([2, -1]) if count else None
    x0 = torch.randn(2, *model.dataset_info.shape)
    for sigma in (0.002, 0.05, 0.7, 9.0, 80.0):
        level = model.schedule.at(
            model.schedule.time_from_logsnr(torch.tensor(-2 * math.log(sigma), dtype=torch.float64))
        )
        x = x0 + sigma * torch.randn_like(x0)
        expected = theirs(x, torch.full((2,), sigma), one_hot(cond, count))
        torch.testing.assert_close(
            model.denoiser((level.alpha * x).float(), level, cond).x0, expected, atol=1e-5, rtol=1e-5
        )
    config = model.recipe.sample.model_copy(update={"steps": 6, "clip": False})
    levels = model.levels(config)
    start = 80 * torch.randn_like(x0)
    x = (levels[0].alpha * start).float()
    *_, last = sampling_loop(model.denoiser, model.sampler(config), levels, x, Noise(0, torch.arange(2)), cond)
    expected = heun_steps(theirs, start, 6, one_hot(cond, count))
    assert (last.x - expected).abs().max() < 1e-4 * expected.abs().max()


def test_bare_network_and_safetensors(tmp_path: Path) -> None:
    """A network without its preconditioning, as .safetensors, which load reads as well."""
    network = EDMUNet(song=True).eval()
    save_file(network.state_dict(), tmp_path / "network.safetensors")
    assert cli.main(["import", str(tmp_path / "network.safetensors"), "--out", str(tmp_path / "run")]) == 0
    for source in (tmp_path / "network.safetensors", tmp_path / "run"):
        model = fn.load(source).model
        x, t = torch.randn(2, 3, 8, 8), torch.tensor([-1.0, 1.0])
        with torch.inference_mode():
            torch.testing.assert_close(model.denoiser.network.cpu()(x, t), network(x, t), atol=1e-5, rtol=0)
    assert fn.load(tmp_path / "run").sample(2, steps=2).shape == (2, 3, 8, 8)


def test_a_pickle_of_theirs_names_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their .pkl holds the source of its classes: nothing is read, and the line says how to make a state dict."""
    path = tmp_path / "edm-cifar10-32x32-cond-vp.pkl"
    path.write_bytes(
        b"\x80\x03}q\x00X\x03\x00\x00\x00emaq\x01ctorch_utils.persistence\n_reconstruct_persistent_obj\nq\x02s."
    )
    assert cli.main(["import", str(path), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "calls torch_utils.persistence._reconstruct_persistent_obj: nothing was read" in error
    assert "NVlabs/edm" in error and "['ema'].state_dict()" in error and str(path.with_suffix(".pt")) in error
    assert len(error.strip().splitlines()) == 1


def test_other_networks_of_theirs_are_refused(tmp_path: Path) -> None:
    """NCSN++ by its filter or its frequencies, iDDPM's preconditioning, and attention of odd widths."""
    network = precond(song=True)
    for name, value in (("map_noise.freqs", torch.zeros(16)), ("enc.4x4_aux_residual.weight", torch.zeros(1))):
        torch.save(network.state_dict() | {f"model.{name}": value}, tmp_path / "ncsn.pt")
        with pytest.raises(UserError, match=r"NCSN\+\+"):
            interop.import_model(tmp_path / "ncsn.pt", read_pickles=True)
    torch.save(network.state_dict() | {"u": torch.zeros(1001)}, tmp_path / "iddpm.pt")
    with pytest.raises(UserError, match="iDDPM"):
        interop.import_model(tmp_path / "iddpm.pt", read_pickles=True)
    torch.save(network.state_dict() | {"model.other": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="other"):
        interop.import_model(tmp_path / "other.pt", read_pickles=True)
    with pytest.raises(UserError, match="multiples of 64"):
        read(precond(song=False, width=48, multipliers=(2, 4), attention=(8, 4)), tmp_path)
