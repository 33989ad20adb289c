"""The weaker version of a model, kept early in its training, and guidance by it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import fromnoise as fn
from fromnoise import checkpoint
from fromnoise import config as recipes
from fromnoise.cli import main
from fromnoise.config.recipe_data import dataset_info, open_data
from fromnoise.diffusion import Autoguidance
from fromnoise.evaluation.model_source import ModelSource
from fromnoise.interop import export_model
from fromnoise.model import build
from fromnoise.training.base_model import with_base
from fromnoise.training.distillation import distillation_recipe
from fromnoise.training.distributed import make_accelerator
from fromnoise.training.loop import TrainingLoop
from fromnoise.training.run import train
from fromnoise.utils.device import select_device
from fromnoise.utils.errors import UserError

CPU = select_device("cpu", "fp32")
TINY = {
    "network.width": 8,
    "network.multipliers": [1],
    "network.blocks": 1,
    "network.groups": 4,
    "network.attention_resolutions": [],
    "network.middle_attention": False,
    "data.pseudo_labels": 4,
    "data.pseudo_label_means": True,
    "train.batch": 16,
    "train.steps": 4,
    "train.held_out": 16,
    "train.evaluations": 1,
    "train.previews": 0,
    "train.report_every": 1,
    "sample.count": 2,
    "sample.steps": 3,
    "sample.guidance_method": "autoguidance",
    "ema.weak_at": 0.5,
}


def recipe(**values):
    return recipes.load("digits", TINY | {key.replace("__", "."): value for key, value in values.items()})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of four steps that kept its average after the second."""
    out = tmp_path_factory.mktemp("weak") / "run"
    train(recipe(), out, device="cpu", precision="fp32")
    return out


@pytest.fixture(scope="module")
def data():
    return open_data(recipe(), lambda line: None)


@pytest.fixture(scope="module")
def info(data):
    return dataset_info(recipe(), data)


def samples(run, *flags):
    out = run.parent / "out.npz"
    assert (
        main(["sample", str(run), "-n", "2", "--out", str(out), "--device", "cpu", "--precision", "fp32", *flags]) == 0
    )
    with np.load(out) as arrays:
        found = torch.from_numpy(arrays[arrays.files[0]].copy())
    out.unlink()
    return found


def test_the_average_of_that_time_is_kept():
    trainer = fn.Trainer(recipe(), device="cpu", precision="fp32")
    kept, before = None, None
    for report in trainer:
        denoiser, averages = trainer.model.denoiser, trainer._loop.ema.parameters()
        if report.step == 2:
            kept = {name: t.clone() for name, t in averages.items()}
        before = denoiser.weak() is not None if report.step == 1 else before
    weak = trainer.pipeline().denoiser.weak()
    assert before is False and weak is not None and int(weak.weak_step) == 2
    names = dict(weak.network.named_parameters())
    assert all(torch.equal(p, kept[f"network.{name}"]) for name, p in names.items())
    assert not any(p.requires_grad for p in names.values())
    assert torch.equal(weak.network.means, denoiser.network.means)  # fitted after the copy was made


def test_guided_samples_are_those_of_both_versions(run):
    model = checkpoint.load_model(run).model
    config = model.recipe.sample.model_copy(update={"guidance": 1.5, "clip": False})
    level, x, cond = model.schedule.at(0.5), torch.randn(2, *model.dataset_info.shape), torch.tensor([0, 3])
    with torch.no_grad():
        guided = model.guided(config)(x, level, cond, None).x0
        strong, weak = (d(x, level, cond).x0 for d in (model.denoiser, model.denoiser.weak()))
    assert not torch.equal(strong, weak)
    torch.testing.assert_close(guided, weak + 1.5 * (strong - weak), rtol=0, atol=0)
    assert model.network_evaluations(config) == 2 * model.network_evaluations(model.recipe.sample)
    weak_alone = config.model_copy(update={"guidance": 0.0})
    assert model.network_evaluations(weak_alone) == model.network_evaluations(model.recipe.sample)
    assert not torch.equal(samples(run), samples(run, "--guidance", "1.5"))
    own = samples(run, "--autoguide", str(run), "--autoguidance", "1")
    assert torch.equal(samples(run), own)


def test_without_a_weaker_version_it_says_how_to_get_one(run, capsys):
    other = run.with_name("plain")
    train(recipe(ema__weak_at=0.0), other, device="cpu", precision="fp32")
    assert main(["sample", str(other), "--guidance", "1.5", "--out", str(run.parent / "x.png")]) == 2
    assert "train it with --ema.weak_at" in capsys.readouterr().err


def test_before_that_time_samples_are_not_guided(info):
    model = build(recipe(), info)
    config = model.recipe.sample.model_copy(update={"guidance": 2.0, "clip": False})
    assert model.guided(config) is model.denoiser


def test_unconditional_models_are_guided_too(tmp_path, capsys):
    out = tmp_path / "run"
    values = {"data__pseudo_labels": 0, "data__pseudo_label_means": False, "sample__guidance": 1.5}
    train(recipe(**values), out, device="cpu", precision="fp32")
    plain = samples(out, "--guidance", "1")
    assert not torch.equal(samples(out), plain)
    assert torch.equal(samples(out, "--autoguide", str(out), "--autoguidance", "1"), plain)  # not guided by both
    words = [
        "sample",
        str(out),
        "--guidance",
        "2",
        "--guidance-method",
        "classifier-free",
        "--out",
        str(tmp_path / "x.png"),
    ]
    assert main(words) == 2 and "needs a model trained with labels" in capsys.readouterr().err


def test_a_stopped_run_keeps_the_same_version(run, tmp_path):
    trainer = fn.Trainer(recipes.load(str(run / "recipe.toml")), out=tmp_path / "again", device="cpu", precision="fp32")
    for report in trainer:
        if report.step == 3:
            trainer._loop.stop()
    trainer = fn.Trainer(recipes.load(str(run / "recipe.toml")), out=tmp_path / "again", device="cpu", precision="fp32")
    trainer.run()
    once, again = (checkpoint.load_model(r).model.denoiser.state_dict() for r in (run, tmp_path / "again"))
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_a_distilled_run_learns_from_the_guided_base(run, info):
    chosen = distillation_recipe(run, 2, {"train.steps": 2, "train.minutes": None})
    model = with_base(build(chosen, info), CPU)
    assert model.denoiser.weak_step is None and model.base is not None and model.base.denoiser.weak() is not None
    objective = model.training_loss().objective
    x, level, cond = torch.randn(2, *model.dataset_info.shape), 0.5, torch.tensor([1, 2])
    ends = {}
    for scale in (1.0, 1.5):
        with torch.no_grad():
            ends[scale] = replace(objective, autoguidance=scale, solver_steps=1)._end(x, level, cond)
    base = model.base.denoiser
    at = base.schedule.at(level)
    with torch.no_grad():
        wanted = Autoguidance(base, base.weak(), 1.5)(x, at, cond).x0.clamp(-1, 1)
    torch.testing.assert_close(ends[1.5], wanted)
    assert not torch.allclose(ends[1.0], ends[1.5])


def test_only_denoisers_that_hold_one_keep_a_weaker_version(data, info):
    plain = build(recipe(ema__weak_at=0.0), info)
    model = replace(plain, recipe=recipe())
    with pytest.raises(UserError, match=r"Denoiser\(\.\.\., weak=True\)"):
        TrainingLoop(model, data, CPU, make_accelerator(True))


def test_evaluations_of_both_versions_are_counted(run):
    model = checkpoint.load_model(run).model
    config = model.recipe.sample.model_copy(update={"guidance": 1.5})
    source = ModelSource("samples", model, config, select_device("cpu", "fp32"), 4)
    assert sum(map(len, source.batches())) == 4
    assert source.cost is not None and source.cost.nfe == model.network_evaluations(config) == 2 * 3


def test_guidance_in_a_recipe_needs_a_weaker_version():
    with pytest.raises(UserError, match=r"set ema\.weak_at, such as 0\.12, or set sample\.guidance 1"):
        recipe(ema__weak_at=0.0, sample__guidance=1.5)


def test_an_export_is_without_autoguidance_and_says_so(info, tmp_path):
    model = build(recipe(data__pseudo_labels=0, data__pseudo_label_means=False, sample__guidance=1.5), info)
    options = {"sampler": "ddim", "steps": 2}
    notes = export_model(model, tmp_path / "a", "diffusers", options)
    assert notes[0] == "without guidance: autoguidance, scale 1.5 in the recipe, cannot be exported"
    with pytest.raises(UserError, match="give --guidance 1"):
        export_model(model, tmp_path / "b", "diffusers", options | {"guidance": 1.5})
