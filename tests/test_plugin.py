"""A plug-in with an own sampler, schedule, target, weighting, network, metric and file format, from end to end.

``tests/plugin/my_parts`` has one file for each; it is copied to a temporary folder, and imported from there.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fromnoise as fn
import fromnoise.data
import fromnoise.evaluation.metrics  # noqa: F401  with the imports above and below: every component of the package
from forked_python import python
from fromnoise import checkpoint, config, registry
from fromnoise.cli import main
from fromnoise.data import MemoryImages
from fromnoise.evaluation.features.pixel_features import PixelFeatures
from fromnoise.reporting import plots
from fromnoise.utils.errors import UserError

PARTS = Path(__file__).parent / "plugin" / "my_parts"
RECIPE = """
name = "mine"
[data]
source = "pictures"
holdout = 0.25
[network]
kind = "small"
width = 6
[diffusion]
schedule = { kind = "straight", end = -7.0 }
target = { kind = "scaled-flow", scale = 0.5 }
[loss]
weighting = { kind = "scaled", factor = 3.0 }
[train]
steps = 4
batch = 8
threads = 1
previews = 0
evaluations = 1
held_out = 8
checkpoint_steps = 2
[sample]
sampler = { kind = "fading", fade = 1.0 }
count = 0
"""
assert config  # imported for the components that it registers


def call(*words: object) -> tuple[int, str, str]:
    """``fromnoise WORDS`` in this process: exit code, output and messages."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(map(str, words)))
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) else 1
    return code, out.getvalue(), err.getvalue()


def run(*words: object) -> str:
    """The output of a call that succeeds, with the plug-in."""
    code, out, err = call(*words, "--plugin", "my_parts", "--device", "cpu")
    assert code == 0 and "Traceback" not in err, err
    return out


@dataclass(frozen=True)
class Place:
    """A folder with the plug-in, its recipe, pictures, and ``runs/whole``, an uninterrupted run of 4 steps."""

    folder: Path
    before: dict[str, dict[str, Callable[..., Any]]]
    images: np.ndarray


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The run of ``train`` is a process of its own, so that the plug-in is found as for a user."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(PARTS, folder / "my_parts", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "mine.toml").write_text(RECIPE)
    images = np.random.default_rng(0).integers(0, 256, (80, 8, 8), dtype=np.uint8)
    (folder / "pictures").mkdir()
    for i, image in enumerate(images):
        (folder / "pictures" / f"{i:02d}.raw8").write_bytes(image.tobytes())
    command = [python(), "-m", "fromnoise", "train", "mine.toml", "--plugin", "my_parts", "--out", "runs/whole"]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(fn.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    process = subprocess.Popen(
        [*command, "--device", "cpu"], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    before = {family: dict(known) for family, known in registry._COMPONENTS.items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # runs are compared bit for bit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "loss_plot", lambda reports, path: None)  # not drawn: it takes longer than the training
        patch.setattr(registry, "_COMPONENTS", {family: dict(known) for family, known in before.items()})
        patch.setattr(sys, "path", [str(folder), *sys.path])
        patch.chdir(folder)
        importlib.import_module("my_parts")
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0 and b"Traceback" not in err, err.decode()
        assert b"runs/whole/model.safetensors" in out
        yield Place(folder, before, images)
    torch.set_num_threads(threads)
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_parts"]:
        del sys.modules[name]


@pytest.fixture
def without(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the plug-in is registered."""
    monkeypatch.setattr(registry, "_COMPONENTS", {family: dict(known) for family, known in place.before.items()})


def state(folder: Path) -> dict[str, torch.Tensor]:
    """The newest training state of a run."""
    return checkpoint.read(sorted((folder / "state").glob("*.safetensors"))[-1])[0]


def same_runs(a: Path, b: Path) -> bool:
    """Whether two runs have the same model and the same training state, bit for bit."""
    one, other = state(a), state(b)
    models = [(folder / "model.safetensors").read_bytes() for folder in (a, b)]
    return models[0] == models[1] and one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_a_stopped_run_resumes_on_the_command_line(place, monkeypatch):
    """After SIGTERM in step 2 the same command goes on to the model of the uninterrupted run, bit for bit."""
    words = ["train", "mine.toml", "--out", "runs/stopped"]
    scaled, calls = sys.modules["my_parts"].scaled_weighting.Scaled, []
    weight = scaled.weight

    def stopping(self, level, target):
        nonlocal calls
        training = torch.is_grad_enabled() and signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        calls += [self.factor] * training
        if training and len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return weight(self, level, target)

    with monkeypatch.context() as patch:
        patch.setattr(scaled, "weight", stopping)
        code, _, err = call(*words, "--plugin", "my_parts", "--device", "cpu")
    assert code == 128 + signal.SIGTERM and "stopped at step 2" in err, err
    assert set(calls) == {3.0} and not same_runs(Path("runs/stopped"), Path("runs/whole"))
    run(*words)
    assert "resuming from step 2" in Path("runs/stopped/log").read_text()
    assert same_runs(Path("runs/stopped"), Path("runs/whole"))


def test_the_parts_are_in_the_model(place):
    """With the options of the recipe; the file describes them by name and names no module."""
    loaded = fn.load("runs/whole", device="cpu")
    parts = (loaded.denoiser.network, loaded.denoiser.schedule, loaded.denoiser.target)
    assert [type(p).__name__ for p in parts] == ["Small", "Straight", "ScaledFlow"]
    network, schedule, target = parts
    assert network.first.out_channels == 6 and schedule.end == -7.0 and target.scale == 0.5
    assert loaded.shape == (1, 8, 8)  # of the plug-in's file format
    _, header = checkpoint.read("runs/whole/model.safetensors")
    assert header["recipe"]["loss"]["weighting"] == {"kind": "scaled", "factor": 3.0}
    assert "my_parts" not in json.dumps(header)
    plain = fn.Trainer("mine.toml", loss__weighting="constant", device="cpu", progress=False)
    tripled = fn.Trainer("mine.toml", device="cpu", progress=False)
    losses = [next(iter(trainer)).loss for trainer in (plain, tripled)]
    assert losses[1] == pytest.approx(3 * losses[0], rel=1e-5)


def test_sample_on_the_command_line(place):
    """The sampler's option is a flag with its help; without flags the recipe's sampler is used at its own defaults."""
    run("sample", "runs/whole", "-n", 12, "--out", "gray.npz")
    for fade in (0.0, 0.25):
        run("sample", "runs/whole", "-n", 12, "--sampler", "fading", "--fade", fade, "--out", f"{fade}.npz")
    run("sample", "runs/whole", "-n", 12, "--sampler", "ddim", "--steps", 3, "--grid", "karras", "--out", "ddim.npz")
    gray, plain, faded, ddim = (np.load(f"{n}.npz")["images"] for n in ("gray", "0.0", "0.25", "ddim"))
    assert gray.shape == (12, 1, 8, 8) and set(np.unique(gray)) <= {127, 128}
    assert np.array_equal(plain, ddim) and len(np.unique(plain)) > 20
    assert np.abs((faded - 127.5) - 0.75 * (plain - 127.5)).max() <= 1
    assert "fading: 0 is DDIM, 1 gives gray images" in " ".join(run("sample", "--help").split())
    code, _, err = call("sample", "runs/whole", "--plugin", "my_parts", "--fade", 2, "--out", "never.npz")
    assert code == 2 and len(err.splitlines()) == 1 and "fade=2.0 must lie in [0, 1]" in err, err


def test_evaluate_on_the_command_line(place):
    """The metric is in the table, in JSON and in the report, with its value."""
    run("sample", "runs/whole", "-n", 20, "--fade", 0.5, "--out", "samples.npz")
    words = ["evaluate", "runs/whole", "samples.npz", "--against", "pictures", "-n", 20, "--bits", 0]
    out = run(*words, "--features", "pixels", "--json", "x.json", "--out", "report")
    assert "mean difference" in out and "mean difference" in Path("report/report.html").read_text()
    gray, half = json.loads(Path("x.json").read_text())["evaluations"]
    train = fn.Trainer("mine.toml", device="cpu", progress=False).data.train
    real = np.stack([np.asarray(train.get(torch.tensor([i]))[0]) for i in range(len(train))]) / 255
    for row, images in ((gray, None), (half, np.load("samples.npz")["images"])):
        if images is not None:
            assert row["mean_difference"]["value"] == pytest.approx(images.mean() / 255 - real.mean(), abs=1e-9)
        assert row["mean_difference"].keys() >= {"value", "error", "real_vs_real", "n", "features"}
    assert half["mean_difference"]["value"] != gray["mean_difference"]["value"]


def test_everything_from_python(place):
    """Train, stop, resume, load, sample with the sampler by name and as an object, evaluate."""
    parts = sys.modules["my_parts"]
    for report in fn.Trainer("mine.toml", "pictures", out="runs/python", device="cpu", progress=False):
        if report.step == 3:  # after the state of step 2
            break
    assert not same_runs(Path("runs/python"), Path("runs/whole"))
    trainer = fn.Trainer("mine.toml", "pictures", out="runs/python", device="cpu", progress=False)
    trainer.run()
    assert [tuple(map(int, p.stem.split())) for p in sorted(Path("runs/python/state").glob("0*"))] == [(2,), (4,)]
    one, whole = (checkpoint.load_model(f"runs/{n}").model.denoiser.state_dict() for n in ("python", "whole"))
    assert all(torch.equal(one[k], whole[k]) for k in whole)
    model = fn.load("runs/python", device="cpu")
    named = model.sample(8, sampler={"kind": "fading", "fade": 0.25}, progress=False)
    made = model.sample(8, sampler=parts.fading_sampler.Fading(0.25), progress=False)
    assert torch.equal(named, made) and not torch.equal(named, model.sample(8, progress=False))
    result = fn.evaluate(named.repeat(3, 1, 1, 1), trainer.data, features="pixels", device="cpu")
    real = MemoryImages(trainer.data.train.get(torch.arange(len(trainer.data.train))))
    features = PixelFeatures((1, 8, 8)).features(real.get(torch.arange(len(real))))
    expected = float(named.double().mean() / 255 - features.mean())
    assert result["mean_difference"].samples.value == pytest.approx(expected, abs=1e-9)


def test_objects_in_place_of_names(place):
    """A denoiser and a loss made from objects of the plug-in; the file is loaded with a network, or by its recipe."""
    parts = sys.modules["my_parts"]
    network = parts.small_network.Small(1, 1, width=6)
    schedule, target = parts.straight_schedule.Straight(end=-7.0), parts.flow_target.ScaledFlow(0.5)
    denoiser = fn.Denoiser(network, schedule=schedule, target=target)
    images = torch.from_numpy(place.images)[:, None]
    trainer = fn.Trainer(
        denoiser,
        images,
        loss__weighting=parts.scaled_weighting.Scaled(3.0),
        sample__sampler=parts.fading_sampler.Fading(0.75),
        steps=2,
        batch=8,
        out="runs/objects",
        device="cpu",
        progress=False,
    )
    trained = trainer.run()
    assert trained.recipe.loss.weighting.options() == {"factor": 3.0}
    assert trained.recipe.sample.sampler.options() == {"fade": 0.75}
    loaded = fn.load("runs/objects", network=parts.small_network.Small(1, 1, width=6), device="cpu")
    assert torch.equal(loaded.sample(4, progress=False), trained.sample(4, progress=False))
    with pytest.raises(UserError, match="network=MyNet"):
        fn.load("runs/objects")


@pytest.mark.parametrize(
    "words",
    [
        ["sample", "runs/whole", "--out", "never.png"],
        ["evaluate", "runs/whole", "--out", "never"],
        ["bits", "runs/whole"],
        ["train", "mine.toml", "--out", "runs/whole"],
        ["train", "mine.toml", "--out", "never"],
        ["sample", "runs/whole", "--sampler", "fading", "--out", "never.png"],
        ["train", "images", "--data", "pictures", "--out", "never"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_without_the_plug_in(place, without, words):
    """One line that names what is missing and the flag; nothing is written."""
    code, _, err = call(*words)
    (line,) = err.splitlines()
    assert code == 2 and "--plugin" in line and len(line) < 400, err
    assert "raw8" in line if "images" in words else any(f"'{n}'" in line for n in ("small", "straight", "fading")), line
    assert "did you mean" not in line or "mine.toml" in words  # a recipe may have a typo, a file of weights has none
    assert not list(Path().glob("never*"))


def test_without_the_plug_in_from_python(place, without):
    """The message names both ways: import it, or give the network."""
    with pytest.raises(UserError, match="import") as caught:
        fn.load("runs/whole")
    assert "'small'" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["my_parts.small_network", "my_parts:Small", "os.system", "torch.nn.Identity"])
def test_a_file_names_no_code(place, without, monkeypatch, kind):
    """The name of a component is looked up among those that are registered; nothing is imported for it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_parts"]:
        monkeypatch.delitem(sys.modules, name)
    tensors, header = checkpoint.read("runs/whole/model.safetensors")
    header["recipe"]["network"] = {"kind": kind}
    header = {key: value for key, value in header.items() if key not in ("format", "version")}
    checkpoint.write("crafted.safetensors", tensors, header | {"plugin": "my_parts", "plugins": ["my_parts"]})
    with pytest.raises(UserError, match="which is not registered"):
        fn.load("crafted.safetensors")
    assert "my_parts" not in sys.modules
