"""``fromnoise tune``: what was learned is kept in the run, used for that number of steps, and can be left out."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import fromnoise as fn
from fromnoise import checkpoint
from fromnoise.diffusion.samplers import TunedSteps
from fromnoise.tuning import Tuned

STEPS = TunedSteps((1.0, 0.3, 0.0), (1.0, 0.25), (0.4, 0.0), ((0.7,), (0.2, 0.9)))


@pytest.fixture(autouse=True)
def _few_samples(monkeypatch):
    monkeypatch.setattr("fromnoise.tuning.learning._CHECKED", 16)


@pytest.fixture
def own(run, tmp_path):
    """A copy of the run that may be changed."""
    return shutil.copytree(run, tmp_path / "own")


@pytest.fixture
def tuned(own):
    """The same, with steps for two evaluations."""
    checkpoint.save_tuned(checkpoint.load_model(own), STEPS)
    return own


def test_tune_keeps_what_it_learned_in_the_run(own, right):
    """Whatever it finds, weights and training stay as they are, and the message says which it was."""
    before, header = checkpoint.read(own / "model.safetensors")
    said = right("tune", own, "--steps", "3", "--iterations", "2", "--batch", "8").out
    after, changed = checkpoint.read(own / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    kept = changed.pop("tuned", {})
    assert changed == header
    assert list(kept) == (["3"] if "3 tuned steps: distance to samples of more steps" in said else [])
    assert kept or "nothing was changed" in said
    assert not (own / ".lock").exists()


def test_tuned_steps_are_used_for_their_number_alone(tuned, right):
    """And not with --no-tuned, another sampler, guidance, clipping or truncation."""

    def sample(*words):
        said = right("sample", tuned, "-n", "4", "--out", "a.npz", *words).out
        return np.load("a.npz")["images"], "2 tuned steps (--no-tuned: sampler " in said

    images, used = sample("--steps", "2")
    assert used
    plain, used = sample("--steps", "2", "--no-tuned")
    assert not used and not np.array_equal(images, plain)
    assert np.array_equal(images, fn.load(tuned).sample(4, steps=2, seed=0).numpy())
    assert np.array_equal(plain, fn.load(tuned).sample(4, steps=2, seed=0, tuned=False).numpy())
    for other in (["--steps", "3"], ["--sampler", "ddim", "--steps", "2"], ["--steps", "2", "--truncation", "1"]):
        assert not sample(*other)[1]
    assert not sample("--steps", "2", "--no-clip")[1]
    assert sample("--steps", "2", "--size", "8")[1] and not sample("--steps", "2", "--size", "16")[1]


def test_a_sample_with_tuned_steps_does_not_depend_on_its_batch(tuned):
    """Two at a time or one at a time."""
    model = fn.load(tuned, device="cpu")
    one, two = (model.sample(4, steps=2, batch=b).int() for b in (1, 2))
    assert int((one - two).abs().max()) <= 1


def test_the_numbers_go_where_the_model_goes(tuned, tmp_path):
    """Through save and load, replaced by later ones of the same number; not to another network."""
    model = fn.load(tuned)
    fn.save(model, tmp_path / "copy.safetensors")
    loaded = checkpoint.load_model(tmp_path / "copy.safetensors")
    assert loaded.model.tuned == {2: STEPS}
    other = replace(STEPS, keep=(0.5, 0.0))
    assert checkpoint.save_tuned(loaded, other).model.tuned == {2: other}
    assert checkpoint.load_model(tmp_path / "copy.safetensors").model.tuned == {2: other}
    assert not model.model.with_module(model.denoiser).tuned


def test_weights_that_changed_meanwhile_are_not_tuned(own, tuned):
    """Training may have gone on in the run."""
    loaded = checkpoint.load_model(own)
    tensors, header = checkpoint.read(loaded.path)
    name = next(name for name, t in tensors.items() if t.is_floating_point())
    checkpoint.write(loaded.path, tensors | {name: tensors[name] + 1}, header)
    with pytest.raises(fn.UserError, match="was changed while its steps were tuned"):
        checkpoint.save_tuned(loaded, STEPS)


def test_damaged_numbers_are_refused(tuned, wrong):
    """A header with a valid digest can hold anything."""
    path = tuned / "model.safetensors"
    tensors, header = checkpoint.read(path)
    for bad in ({"2": {"times": [1, 0]}}, {"2": header["tuned"]["2"] | {"keep": [1e9, 0]}}, {"2": 3}, [1]):
        checkpoint.write(path, tensors, header | {"tuned": bad})
        wrong("sample", tuned, "--steps", "2", message="the tuned steps in its header are damaged")


def test_tune_in_python(own):
    """The same as a function."""
    found = fn.tune(own, 2, iterations=1, progress=False)
    assert isinstance(found, Tuned)
    assert (found.steps is not None) == (2 in fn.load(own).model.tuned)


def test_mistakes_of_tune(own, wrong, tmp_path):
    """One line each."""
    wrong("tune", tmp_path / "none", message="none")
    wrong("tune", "hub:a/b", message="is on the hub")
    wrong("tune", own, "--steps", "0", message="--steps 0 is too small")
    wrong("tune", own, "--steps", "101", message="choose from 1 to 100")
    wrong("tune", own, "--steps", "5", "--teacher", "5", message="--teacher 5: choose more steps than the 5")
    wrong("tune", own, "--batch", "0", message="--batch 0 is too small")
