"""Export to ONNX: every recipe's network, and samples without torch."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import fromnoise as fn
from fromnoise import config as recipes
from fromnoise.config import SamplingConfig
from fromnoise.data.dataset import Attribute
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.diffusion.rng import Noise, Stream
from fromnoise.interop.exporting import export_model
from fromnoise.interop.step_coefficients import NotLinear, step_coefficients
from fromnoise.interop.to_onnx import RUNNER, step_numbers
from fromnoise.model import Model, build
from fromnoise.pipeline import collect, sample_steps
from fromnoise.utils.device import select_device
from fromnoise.utils.errors import UserError

SMALL = {"network.width": 8, "network.groups": 4}


def runner(name: str = "sample") -> ModuleType:
    """sample.py or noise.py as a module."""
    sys.path.insert(0, str(RUNNER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(RUNNER))


def perturbed(recipe: Any, info: DatasetInfo) -> Model:
    """A model with noise in every parameter, so that no layer gives zeros."""
    model = build(recipe, info)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.denoiser.network.parameters():
            p.add_(torch.randn_like(p), alpha=0.05)
    model.denoiser.eval()
    return model


def small(name: str, **values: Any) -> Model:
    """The model of a recipe, narrower where it can be, for images of 10x14, which most networks pad."""
    recipe = recipes.load(name)
    known = {"width", "groups"} & set(type(recipe.network).model_fields)
    changed = {f"network.{key}": SMALL[f"network.{key}"] for key in known}
    changed |= {key.replace("__", "."): value for key, value in values.items()}
    recipe = recipes.change(recipe, {"train.autosize": []} | changed)
    names = tuple("abc") if recipe.data.labels else None
    return perturbed(recipe, DatasetInfo((recipe.data.channels or 1, 10, 14), names))


def compare(model: Model, out: Path, config: SamplingConfig, cond: torch.Tensor | None = None) -> None:
    """Outputs of the network at three noise levels, and samples."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    shape, n = model.dataset_info.shape, 3
    x, previous = torch.randn(n, *shape), torch.rand(n, *shape) * 4 - 2
    t = torch.tensor([0.0, 17.0, 999.0])
    with torch.no_grad():
        inputs = torch.cat([x, previous.clamp(-1, 1)], 1) if model.denoiser.self_conditioning else x
        expected = model.denoiser.network(inputs, t, cond)[:, : shape[0]]
    feed = {"x": x, "t": t, "previous": previous, "cond": cond}
    names = [i.name for i in session.get_inputs()]
    [given] = session.run(None, {name: feed[name].numpy() for name in names})
    assert expected.std() > 0.01
    np.testing.assert_allclose(given, expected.numpy(), atol=1e-4, rtol=0)

    ids = torch.tensor([0, 5, 2**33])
    steps = sample_steps(model, config, select_device("cpu", "fp32"), ids=ids, seed=-3, label=cond)
    ours = collect(steps).images.numpy().astype(int)
    drawn = runner().sample(out, ids.numpy(), -3, cond.numpy() if cond is not None else None)
    assert ours.std() > 10
    assert np.abs(drawn - ours).max() <= 1


FAST = ("digits", "fast", "pulfer", "unet")
PIXELS = [name for name in recipes.names() if recipes.load(name).autoencoder is None]
"""Recipes of diffusion models of pixels; a model of latents is refused, with the reason."""


def test_models_of_latents_are_refused(tmp_path: Path) -> None:
    """With one line, and nothing is written."""
    model = build(recipes.change(recipes.load("latent"), {"train.autosize": []}), DatasetInfo((3, 32, 32)))
    with pytest.raises(UserError, match="export to onnx works on pixels, and this model on the latents"):
        export_model(model, tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in PIXELS])
def test_every_recipe_exports(name: str, tmp_path: Path) -> None:
    """The recipe's own sampler, guidance and target; classes and pseudo-labels are an input."""
    model = small(name, sample__steps=4)
    notes = export_model(model, tmp_path / "out", "onnx")
    assert "4 steps" in notes[0]
    conditional = model.dataset_info.class_names is not None or model.denoiser.pseudo_labels is not None
    compare(model, tmp_path / "out", model.recipe.sample, torch.tensor([1, 0, 2]) if conditional else None)


@pytest.mark.parametrize(
    ("sampler", "values"),
    [
        ("ddim", {"diffusion__target": "posterior-mean", "sample__clip": False}),
        ({"kind": "ddim", "eta": 0.5}, {"diffusion__target": "edm", "loss__offset_noise": 0.1}),
        ("ancestral", {"diffusion__target": "v", "diffusion__zero_terminal_snr": True}),
        ({"kind": "ancestral", "variance": 1.0}, {"diffusion__learned_variance": True, "loss__objective": "hybrid"}),
        ("dpmpp-3m", {"loss__self_conditioning": True}),
        pytest.param("unipc", {"diffusion__target": "x0"}, marks=pytest.mark.slow),
        pytest.param("ipndm", {}, marks=pytest.mark.slow),
        pytest.param("sde", {}, marks=pytest.mark.slow),
        ("euler", {"diffusion__schedule": "cosine-continuous", "diffusion__target": "v"}),
    ],
)
def test_every_option_is_kept(sampler: Any, values: dict[str, Any], tmp_path: Path) -> None:
    """Samplers with memory and noise, targets, self-conditioning, offset noise, learned variance."""
    base = {"sample__steps": 5, "sample__sampler": sampler, "sample__grid": "uniform", "loss__time_sampler": "uniform"}
    model = small("digits", **(base | {"loss__weighting": "constant"} | values))
    export_model(model, tmp_path / "out", "onnx")
    compare(model, tmp_path / "out", model.recipe.sample)


@pytest.mark.long
@pytest.mark.parametrize("name", PIXELS)
def test_every_recipe_exports_in_full_size(name: str, tmp_path: Path) -> None:
    """The network as the recipe has it, for its own images: outputs within 1e-4."""
    import onnxruntime

    recipe = recipes.change(recipes.load(name), {"train.autosize": []})
    shape = (recipe.data.channels or 3, *(recipe.data.size or (32, 32)))
    names = tuple("abc") if recipe.data.labels else None
    model = perturbed(recipe, DatasetInfo(shape, names))
    export_model(model, tmp_path / "out", "onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"), providers=["CPUExecutionProvider"])
    x, t, cond = torch.randn(2, *shape), torch.tensor([3.0, 871.0]), torch.tensor([0, -1])
    inputs = [i.name for i in session.get_inputs()]
    with torch.no_grad():
        expected = model.denoiser.network(x, t, cond if "cond" in inputs else None)
    feed = {"x": x.numpy(), "t": t.numpy(), "cond": cond.numpy()}
    [given] = session.run(None, {name: feed[name] for name in inputs})
    error = float(np.abs(given - expected.numpy()).max())
    print(f"{name}: {model.parameters:,} parameters, {'x'.join(map(str, shape))}, largest difference {error:.1e}")
    assert error < 1e-4


def test_attributes_are_an_input(tmp_path: Path) -> None:
    """Also unknown ones, and guidance."""
    recipe = recipes.load("digits", SMALL | {"data.attributes": True, "sample.guidance": 2.0, "sample.steps": 4})
    info = DatasetInfo((1, 6, 5), attributes=(Attribute("size", 1.0, 2.0), Attribute("angle", 0.0, 1.0)))
    model = perturbed(recipe, info)
    export_model(model, tmp_path / "out", "onnx")
    compare(model, tmp_path / "out", model.recipe.sample, torch.tensor([[1.0, 2.0], [0.5, torch.nan], [3.0, -1.0]]))


def test_guidance_of_clipped_predictions_is_refused(tmp_path: Path) -> None:
    """The exported loop clips after the guidance, the model before and after it."""
    keys = {"data.attributes": True, "sample.guidance": 2.0, "diffusion.clip_x0": True, "sample.clip": False}
    info = DatasetInfo((1, 6, 5), attributes=(Attribute("size", 1.0, 2.0),))
    model = perturbed(recipes.load("digits", SMALL | keys), info)
    with pytest.raises(UserError, match="guidance of clipped predictions"):
        export_model(model, tmp_path / "out", "onnx")
    export_model(model, tmp_path / "out", "onnx", {"guidance": 1.0})
    assert json.loads((tmp_path / "out" / "steps.json").read_text())["clip"]


def test_samples_without_torch(tmp_path: Path) -> None:
    """sample.py runs in a process where neither torch nor fromnoise can be imported, and draws the same images."""
    model = small("digits", sample__steps=5)
    export_model(model, tmp_path / "out", "onnx", {"sampler": "dpmpp-2m", "steps": 4})
    blocker = "import sys; sys.modules['torch'] = sys.modules['fromnoise'] = None\n"
    program = f"{blocker}import runpy; del sys.argv[0]; sys.path.insert(0, sys.argv[0].removesuffix('sample.py'))"
    program += "; runpy.run_path(sys.argv[0], run_name='__main__')"
    words = [str(tmp_path / "out" / "sample.py"), "-n", "3", "--seed", "7", "--out", str(tmp_path / "s.npz")]
    subprocess.run(
        [sys.executable, "-c", program, *words],
        check=True,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )
    drawn = np.load(tmp_path / "s.npz")["images"].astype(int)
    ours = fn.Pipeline(model, device="cpu", precision="fp32").sample(3, sampler="dpmpp-2m", steps=4, seed=7)
    assert np.abs(drawn - ours.numpy()).max() <= 1 and drawn.std() > 10
    lines = [line for name in ("sample.py", "noise.py") for line in (tmp_path / "out" / name).read_text().splitlines()]
    imported = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import", "from"))}
    assert imported == {"argparse", "json", "pathlib", "numpy", "onnxruntime", "noise"}


@pytest.mark.slow
def test_samples_in_a_clean_environment(tmp_path: Path) -> None:
    """A new virtual environment with numpy and onnxruntime alone, where torch is not installed: the same images."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    wanted = [f"{name}=={metadata.version(name)}" for name in ("numpy", "onnxruntime")]
    quiet = ["--quiet", "--disable-pip-version-check", "--no-compile"]
    installed = subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", *quiet, *wanted],
        env=environment,
        capture_output=True,
        text=True,
    )
    if installed.returncode:
        pytest.skip(f"no package index: {installed.stderr.splitlines()[-1:]}")
    missing = subprocess.run([python, "-c", "import torch"], env=environment, capture_output=True, text=True)
    assert "No module named 'torch'" in missing.stderr
    model = small("digits", sample__steps=5)
    export_model(model, tmp_path / "out", "onnx")
    words = ["-n", "3", "--seed", "7", "--out", str(tmp_path / "s.npz")]
    subprocess.run([python, str(tmp_path / "out" / "sample.py"), *words], check=True, env=environment)
    drawn = np.load(tmp_path / "s.npz")["images"].astype(int)
    ours = fn.Pipeline(model, device="cpu", precision="fp32").sample(3, seed=7)
    assert np.abs(drawn - ours.numpy()).max() <= 1 and drawn.std() > 10


def test_runner_draws_our_random_numbers() -> None:
    """Philox and Box-Muller in numpy, for large and negative seeds and large ids."""
    for seed in (0, -1, 2**40 + 3):
        ids = torch.tensor([0, 1, 2**35 + 7])
        ours = Noise(seed, ids).normal((3, 5, 7), Stream.STEP, 48, like=torch.zeros(0)).flatten(1)
        theirs = runner("noise").normal(seed, ids.numpy(), int(Stream.STEP), 48, 105)
        np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sample__sampler": "heun"}, "calls the network more than once"),
        ({"sample__sampler": "pc"}, "more than once"),
        ({"sample__threshold": 0.9}, "sample.threshold"),
        ({"sample__truncation": 1.5}, "sample.truncation"),
        ({"diffusion__learned_variance": True, "loss__objective": "hybrid", "sample__sampler": "ancestral"}, "learned"),
    ],
)
def test_what_cannot_be_written_is_named(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    """One line with the reason and what works."""
    with pytest.raises(UserError, match=message):
        export_model(small("digits", sample__steps=4, **values), tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


def test_a_sampler_that_is_not_linear_is_seen() -> None:
    """One of a plug-in, which clips its step."""

    class Clipping(fn.samplers.DDIM):
        def step(self, denoise, x, level_t, level_s, noise, memory):
            x, prediction, memory = super().step(denoise, x, level_t, level_s, noise, memory)
            return x.clamp(-1, 1), prediction, memory

    model = small("digits")
    levels = model.levels(SamplingConfig(sampler="ddim", steps=4))
    with pytest.raises(NotLinear, match="not linear"):
        step_coefficients(Clipping(), levels)
    assert len(step_coefficients(fn.samplers.DDIM(), levels)) == 4


def test_every_step_of_a_long_chain() -> None:
    """A thousand ancestral steps have three terms each, two in the last."""
    model = small("digits")
    numbers = step_numbers(model, SamplingConfig(sampler="ancestral", steps=model.schedule.steps, grid="uniform"))
    assert [len(step["next"]) for step in numbers["steps"]] == [3] * (len(numbers["steps"]) - 1) + [1]
    assert numbers["history"] == 0
    json.dumps(numbers, allow_nan=False)
