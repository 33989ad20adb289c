"""Files of denoising-diffusion-pytorch: a model that its own Trainer trained and saved, and bare networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from foreign_packages import import_lucidrains
from fromnoise import interop
from fromnoise.config import SamplingConfig
from fromnoise.diffusion.rng import Noise
from fromnoise.pipeline import collect, sample_steps
from fromnoise.utils.device import select_device
from fromnoise.utils.errors import UserError

T, SIDE = 20, 16


@pytest.fixture(scope="module")
def package() -> ModuleType:
    return import_lucidrains()


@pytest.fixture(scope="module")
def trained(package: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Their GaussianDiffusion with averaged weights after 20 steps of their Trainer, and the file that it saved.

    The Trainer's data set is a list of random images, because theirs needs torchvision.
    """
    folder = tmp_path_factory.mktemp("lucidrains")
    module = package.denoising_diffusion_pytorch
    torch.manual_seed(0)
    unet = package.Unet(8, dim_mults=(1, 2), channels=1, self_condition=True, attn_dim_head=4, attn_heads=2)
    diffusion = package.GaussianDiffusion(
        unet, image_size=SIDE, timesteps=T, beta_schedule="cosine", objective="pred_v", min_snr_loss_weight=True
    )
    images = torch.rand(100, 1, SIDE, SIDE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "Dataset", lambda *args, **options: [*images])
        patch.setattr(module, "cpu_count", lambda: 0)
        patch.setattr(module, "utils", SimpleNamespace(save_image=lambda *args, **options: None))
        trainer = package.Trainer(
            diffusion,
            str(folder),
            train_batch_size=16,
            train_lr=1e-2,
            train_num_steps=20,
            ema_update_every=1,
            save_and_sample_every=20,
            num_samples=1,
            calculate_fid=False,
            results_folder=str(folder),
        )
        trainer.train()
    return trainer, folder / "model-1.pt"


def read(path: Path, **options: Any) -> interop.ImportedModel:
    """Import as ``fromnoise import`` does."""
    return interop.import_model(path, options=options, read_pickles=True)


def test_trained_model_is_inferred(trained: tuple[Any, Path]) -> None:
    """Every option but the size of the images."""
    model = read(trained[1], size=SIDE).model
    network, diffusion, loss = model.recipe.network, model.recipe.diffusion, model.recipe.loss
    assert (network.width, network.multipliers, network.heads, network.head_dim) == (8, (1, 2), 2, 4)
    assert network.memory_kv == 4 and network.full_attention == (False, True)
    assert (diffusion.schedule.kind, diffusion.schedule.steps, diffusion.target.kind) == ("cosine", T, "v")
    assert (loss.weighting.kind, loss.weighting.gamma, loss.self_conditioning) == ("min-snr", 5.0, True)
    assert model.dataset_info.shape == (1, SIDE, SIDE)


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_trained_model_gives_the_same_outputs(trained: tuple[Any, Path], weights: str) -> None:
    """Averaged and raw weights, which differ, at every timestep, with and without an estimate."""
    trainer, path = trained
    theirs = (trainer.ema.ema_model if weights == "ema" else trainer.model).model.eval()
    ours = read(path, size=SIDE, weights=weights).model.denoiser.network.eval()
    x, previous = torch.randn(T, 1, SIDE, SIDE), torch.rand(T, 1, SIDE, SIDE) * 2 - 1
    t = torch.arange(T)
    with torch.no_grad():
        for estimate in (previous, torch.zeros_like(x)):
            out = ours(torch.cat([x, estimate], 1), t.float())
            torch.testing.assert_close(out, theirs(x, t, estimate), atol=1e-5, rtol=0)


@pytest.mark.parametrize("published", [True, False])
def test_trained_model_draws_the_same_pictures(
    trained: tuple[Any, Path], published: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With our random numbers, their ancestral and their DDIM sampling draw ours within one grey level."""
    model = read(trained[1], size=SIDE).model
    config = model.recipe.published if published else SamplingConfig(sampler="ddim", steps=10, grid="uniform")
    assert config is not None
    noises: list[torch.Tensor] = []
    image = Noise.image

    def recorded(*args: Any, **options: Any) -> torch.Tensor:
        noises.append(image(*args, **options).clone())
        return noises[-1]

    monkeypatch.setattr(Noise, "image", recorded)
    ours = collect(sample_steps(model, config, select_device("cpu", "fp32"), ids=torch.arange(3))).images

    theirs = trained[0].ema.ema_model.eval()
    rest = iter(noises)
    following: Callable[..., torch.Tensor] = lambda *args, **options: next(rest, torch.zeros(3, 1, SIDE, SIDE))  # noqa: E731
    monkeypatch.setattr(torch, "randn", following)
    monkeypatch.setattr(torch, "randn_like", following)
    if published:
        drawn = theirs.p_sample_loop((3, 1, SIDE, SIDE))
    else:
        monkeypatch.setattr(theirs, "sampling_timesteps", 10)
        drawn = theirs.ddim_sample((3, 1, SIDE, SIDE))
    assert ours.float().std() > 10
    assert (drawn * 255 - ours).abs().max() <= 1


@pytest.mark.parametrize(
    "options",
    [
        {"dim_mults": (1, 2, 4), "channels": 3},
        {"dim_mults": (2, 3), "channels": 4, "full_attn": (True, False), "attn_heads": 3, "attn_dim_head": 8},
        {"dim_mults": (1,), "channels": 1, "self_condition": True, "sinusoidal_pos_emb_theta": 100},
    ],
)
def test_bare_unet(package: ModuleType, tmp_path: Path, options: dict[str, Any]) -> None:
    """A state dict without GaussianDiffusion: the rest is said by flags."""
    torch.manual_seed(1)
    unet = package.Unet(8, **options).eval()
    torch.save(unet.state_dict(), tmp_path / "unet.pt")
    flags = {"timesteps": 100, "schedule": "sigmoid", "objective": "pred_noise", "size": SIDE}
    if "sinusoidal_pos_emb_theta" in options:
        flags["theta"] = 100.0
    model = read(tmp_path / "unet.pt", **flags).model
    assert model.recipe.diffusion.target.kind == "eps" and model.schedule.steps == 100
    x, t = torch.randn(2, options["channels"], SIDE, SIDE), torch.tensor([3, 71])
    with torch.no_grad():
        inputs = torch.cat([x, torch.zeros_like(x)], 1) if options.get("self_condition") else x
        torch.testing.assert_close(model.denoiser.network.eval()(inputs, t.float()), unet(x, t), atol=1e-5, rtol=0)
    for missing in ("timesteps", "schedule", "objective", "size"):
        with pytest.raises(UserError, match=f"--{missing}"):
            read(tmp_path / "unet.pt", **{k: v for k, v in flags.items() if k != missing})


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid"])
def test_objective_and_schedule_are_inferred(
    package: ModuleType, tmp_path: Path, objective: str, schedule: str
) -> None:
    """From the buffers of GaussianDiffusion; a schedule with other options is kept as betas."""
    unet = package.Unet(8, dim_mults=(1,), channels=1)
    for options, kind in (({}, schedule), ({"start": -2, "end": 4} if schedule == "sigmoid" else {}, "betas")):
        if kind == "betas" and schedule != "sigmoid":
            continue
        diffusion = package.GaussianDiffusion(
            unet, image_size=8, timesteps=50, objective=objective, beta_schedule=schedule, schedule_fn_kwargs=options
        )
        torch.save(diffusion.state_dict(), tmp_path / "diffusion.pt")
        recipe = read(tmp_path / "diffusion.pt", size=8).model.recipe
        assert recipe.diffusion.schedule.kind == kind
        assert recipe.diffusion.target.kind == {"pred_noise": "eps", "pred_x0": "x0", "pred_v": "v"}[objective]
        assert recipe.loss.weighting.kind == "snr"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init_dim": 12}, "init_dim 12"),
        ({"learned_variance": True}, "learned_variance"),
        ({"random_fourier_features": True}, "sinusoids"),
        ({"attn_heads": (2, 4)}, "attn_heads"),
    ],
)
def test_what_cannot_be_imported_is_named(
    package: ModuleType, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    """One line that names the option."""
    torch.save(package.Unet(8, **({"dim_mults": (1, 2)} | options)).state_dict(), tmp_path / "unet.pt")
    with pytest.raises(UserError, match=message):
        read(tmp_path / "unet.pt", size=8, timesteps=10, schedule="linear", objective="pred_v")


def test_contradicting_flags_are_refused(trained: tuple[Any, Path]) -> None:
    """What the file says is not overruled."""
    for options in ({"timesteps": 7}, {"schedule": "linear"}, {"objective": "pred_x0"}):
        with pytest.raises(UserError, match="leave it out"):
            read(trained[1], size=SIDE, **options)
