"""fromnoise distill: a run from a run, resumable as any, and what a distilled model does and refuses."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import fromnoise as fn
from fromnoise import checkpoint
from fromnoise import config as recipes
from fromnoise.cli import main
from fromnoise.cli.distill import default_folder
from fromnoise.config.recipe_data import dataset_info, open_data
from fromnoise.model import build
from fromnoise.training.base_model import with_base
from fromnoise.training.distillation import distillation_recipe, step_times
from fromnoise.training.distributed import make_accelerator
from fromnoise.training.loop import TrainingLoop
from fromnoise.training.run import train
from fromnoise.utils.device import select_device
from fromnoise.utils.errors import UserError

CPU = select_device("cpu", "fp32")
SHORT = {"train.held_out": 16, "train.evaluations": 2, "train.previews": 0, "train.report_every": 2, "sample.count": 2}
FLAGS = [word for key, value in SHORT.items() for word in (f"--{key}", str(value))]
ON_CPU = ["--device", "cpu", "--precision", "fp32"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny run with pseudo-labels."""
    values = {
        "network.width": 8,
        "network.multipliers": [1],
        "network.blocks": 1,
        "network.groups": 4,
        "network.attention_resolutions": [],
        "network.middle_attention": False,
        "data.pseudo_labels": 4,
        "train.batch": 16,
        "train.steps": 4,
    }
    out = tmp_path_factory.mktemp("base") / "run"
    train(recipes.load("digits", SHORT | values), out, device="cpu", precision="fp32")
    return out


@pytest.fixture(scope="module")
def distilled(base):
    """Distilled by the command to two evaluations."""
    words = ["distill", str(base), "--steps", "2", "--train.steps", "4", "-n", "20", *FLAGS, *ON_CPU]
    assert main(words) == 0
    return base.with_name("run-2-steps")


# ---- the run


def test_the_command_makes_a_run_that_samples_in_so_many_evaluations(base, distilled, capsys):
    """With the base beside it, the distances of both, and the same result when it is called again."""
    model = checkpoint.load_model(distilled).model
    assert model.network_evaluations(model.recipe.sample) == 2
    assert fn.load(distilled, device="cpu").sample(3, progress=False).shape == (3, 1, 8, 8)
    found = json.loads((distilled / "distillation.json").read_text())
    assert [name.split(",")[0] for name in found["frechet"]] == ["base", "base", "distilled"]
    assert all(row["n"] == 20 and row["value"] > 0 for row in found["frechet"].values())
    before = (distilled / "model.safetensors").read_bytes()
    words = ["distill", str(base), "--steps", "2", "--train.steps", "4", "-n", "0", *FLAGS, *ON_CPU]
    assert main(words) == 0
    assert (distilled / "model.safetensors").read_bytes() == before


def test_it_starts_from_the_weights_and_clusters_of_the_base(base, distilled):
    """Its own copy of the base has them."""
    first = checkpoint.read(sorted((distilled / "state").glob("*"))[0])[0]
    kept = checkpoint.load_model(distilled / "base.safetensors").model
    own = checkpoint.load_model(base).model
    for name, t in own.denoiser.state_dict().items():
        assert torch.equal(kept.denoiser.state_dict()[name], t)
    assert kept.recipe == own.recipe
    assert first["model.pseudo_labels.centroids"].equal(own.denoiser.pseudo_labels.centroids)


def loop_of(base, steps=8, resumed=None):
    """A loop of a distillation, new or resumed."""
    recipe = distillation_recipe(base, 2, SHORT | {"train.steps": steps})
    data = open_data(recipe, lambda line: None)
    model = with_base(build(recipe, dataset_info(recipe, data)), CPU)
    loop = TrainingLoop(model, data, CPU, make_accelerator(cpu=True), lambda skip: None)
    if resumed is not None:
        loop.resume(*resumed)
    return loop


def test_resumed_is_uninterrupted_bit_for_bit(base):
    """Eight steps, and four with a state and four from it; the base does not change."""
    whole = loop_of(base)
    assert whole.model.base is not None
    before = {name: t.clone() for name, t in whole.model.base.denoiser.state_dict().items()}
    losses = [report.loss for report in whole.run()]
    assert all(np.isfinite(losses))
    assert all(torch.equal(t, before[name]) for name, t in whole.model.base.denoiser.state_dict().items())
    first = loop_of(base)
    for _, _ in zip(range(4), first.run(), strict=False):
        pass
    tensors, header = first.state()
    second = loop_of(base, resumed=({name: t.clone() for name, t in tensors.items()}, header))
    assert [report.loss for report in second.run()][-1] == losses[-1]
    for name, t in whole.ema_state_dict().items():
        assert torch.equal(t, second.ema_state_dict()[name]), name


def test_a_run_goes_on_without_its_base(base, tmp_path):
    """From the copy in its folder, after the base was moved away."""
    moved, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(base, moved)
    recipe = distillation_recipe(moved, 1, SHORT | {"train.steps": 3})
    train(recipe, out, device="cpu", precision="fp32")
    shutil.rmtree(moved)
    longer = recipes.change(recipe, {"train.steps": 5, "train.init_from": "nowhere"})
    assert train(longer, out, device="cpu", precision="fp32").step == 5


def test_from_python(base):
    """``fn.distill`` with images of one's own, in memory."""
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
    pipeline = fn.distill(base, 1, images, device="cpu", progress=False, train__steps=2, train__held_out=16)
    assert pipeline.sample(2, progress=False).shape == (2, 1, 8, 8)
    assert pipeline.recipe.sample.steps == 1


# ---- what it does, and what it leaves to the base


@pytest.mark.parametrize(
    "words",
    [
        ["sample", "RUN", "-n", "2", "--steps", "4", "--out", "OUT/x.png"],
        ["edit", "vary", "RUN", "--image", "OUT/image.png", "--depth", "0.5", "--out", "OUT/x.png"],
        ["edit", "interpolate", "RUN", "--image", "OUT/image.png", "--to", "OUT/image.png", "--out", "OUT/x.png"],
    ],
)
def test_sampling_and_variations_work(distilled, tmp_path, words):
    """In other numbers of steps, and from a noised image."""
    image(tmp_path)
    assert on_cpu(words, distilled, tmp_path) == 0
    assert (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["bits", "RUN", "-n", "2", "--flow", "0"],
        ["sample", "RUN", "--guidance", "2", "--out", "OUT/x.png"],
        ["sample", "RUN", "--autoguide", "RUN", "--out", "OUT/x.png"],
        [
            *("edit", "interpolate", "RUN", "--image", "OUT/image.png", "--to", "OUT/image.png"),
            *("--flow", "--out", "OUT/x.png"),
        ],
        ["edit", "outpaint", "RUN", "--image", "OUT/image.png", "--size", "10x10", "--any-size", "--out", "OUT/x.png"],
        ["edit", "restore", "RUN", "--image", "OUT/image.png", "--upscale", "2", "--any-size", "--out", "OUT/x.png"],
    ],
)
def test_what_needs_a_mean_is_left_to_the_base(distilled, tmp_path, capsys, words):
    """One line that says so, exit code 2, and no file."""
    image(tmp_path)
    assert on_cpu(words, distilled, tmp_path) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "use the run that it was distilled from" in error
    assert not (tmp_path / "x.png").exists()


def on_cpu(words, run, folder):
    """The exit code of a command with RUN and OUT filled in."""
    return main([w.replace("RUN", str(run)).replace("OUT", str(folder)) for w in words] + ["--device", "cpu"])


def image(folder):
    """An image of the size of the digits."""
    from PIL import Image

    Image.fromarray(np.full((8, 8), 128, np.uint8)).save(folder / "image.png")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"diffusion.target": "eps"}, "does not determine x_0"),
        ({"loss.self_conditioning": True}, "self-conditioning"),
        ({"loss.objective": {"kind": "consistency"}}, "distilled already"),
    ],
)
def test_models_that_cannot_be_distilled(base, tmp_path, changed, message):
    """Each with what can be done instead."""
    loaded = checkpoint.load_model(base).model
    recipe = recipes.change(loaded.recipe, changed)
    model = build(recipe, loaded.dataset_info)
    checkpoint.save_model(tmp_path / "model.safetensors", model, model.denoiser.state_dict(), {"step": 0})
    with pytest.raises(UserError, match=message):
        distillation_recipe(tmp_path / "model.safetensors", 2)


@pytest.mark.parametrize("words", [["--steps", "3"], ["--steps", "2", "--train.init_from", "nowhere"]])
def test_impossible_commands(base, tmp_path, capsys, words):
    """One line, and nothing is written."""
    assert main(["distill", str(base), "--out", str(tmp_path / "out"), *words, *ON_CPU]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) <= 3
    assert not (tmp_path / "out").exists()


def test_another_network_or_other_images_are_refused(base):
    """With what to use."""
    for changed, message in (
        ({"network.width": 16}, "other layers"),
        ({"data.channels": 3}, "use the data of that run"),
    ):
        recipe = distillation_recipe(base, 2, changed)
        data = open_data(recipe, lambda line: None)
        with pytest.raises(UserError, match=message):
            with_base(build(recipe, dataset_info(recipe, data)), CPU)


def test_times_of_steps_follow_the_noise_of_the_schedule():
    """They begin at t = 1, decrease, and lie on the steps of a beta schedule."""
    from fromnoise.diffusion import schedules

    for schedule in (schedules.linear(1000), schedules.cosine(200), schedules.continuous_cosine()):
        for steps in (1, 2, 4):
            times = step_times(schedule, steps)
            assert len(times) == steps and times[0] == 1.0
            assert all(a > b > 0 for a, b in zip(times, times[1:], strict=False))
    with pytest.raises(UserError, match="too coarse"):
        step_times(schedules.linear(4), 4)


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ("runs/a.b", "runs/a.b-2-steps"),
        ("runs/a/model.safetensors", "runs/a-2-steps"),
        ("some/file.safetensors", "some/file-2-steps"),
        ("hub:owner/name@main", "runs/name-2-steps"),
    ],
)
def test_the_folder_beside_the_base(run, expected):
    """Of a run, of its file, of another file, of a model of the hub."""
    assert default_folder(run, 2).as_posix() == expected
    assert default_folder(run, 1).name.endswith("-1-step")
