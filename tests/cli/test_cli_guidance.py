"""Guidance flags of ``fromnoise sample``: each changes the samples, and a wrong value gives one line."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from calling import call

from fromnoise import config as recipes
from fromnoise.checkpoint import save_model
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import build
from fromnoise.training import noisy_classifier

EXACTLY = ["--precision", "fp32", "--steps", "6", "-n", "4", "--no-clip", "--sampler", "ddim", "--eta", "0"]


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    """A model file whose label embedding is scaled up, so that its samples depend on the label."""
    recipe = recipes.load(
        "digits",
        {"data.labels": True, "network.zero_output": False, "network.width": 8, "network.multipliers": [1]}
        | {"network.groups": 4, "network.attention_resolutions": [], "network.middle_attention": False},
    )
    model = build(recipe, DatasetInfo((1, 8, 8), tuple("0123456789")))
    with torch.no_grad():
        model.denoiser.network.labels.weight.mul_(100)
    path = tmp_path_factory.mktemp("conditional") / "model.safetensors"
    save_model(path, model, model.denoiser.state_dict(), {"step": 0})
    return path


@pytest.fixture
def sampled(right, conditional):
    """``sampled(*words)`` returns samples of the conditional model, int (N, C, H, W)."""

    def sample(*words, model=conditional):
        right("sample", model, "--out", "x.npz", *EXACTLY, *words)
        with np.load("x.npz", allow_pickle=False) as file:
            return file["images"].astype(int)

    return sample


def test_scale_one_and_scale_zero(sampled):
    """Scale 1 is the conditional model and scale 0 the unconditional one, bit for bit."""
    plain, labeled = sampled(), sampled("--label", "3")
    assert (sampled("--label", "3", "--guidance", 1) == labeled).all()
    assert (sampled("--label", "3", "--guidance", 0) == plain).all()
    assert (plain != labeled).any()


def test_flags_change_the_samples(sampled):
    base = ["--label", "3", "--guidance", 9]
    guided = sampled(*base)
    for words in (
        ["--rescale", 0.7],
        ["--interval", "0.3,0.6"],
        ["--interval-logsnr=-1,2"],
        ["--threshold", 0.5],
        ["--truncation", 0.5],
    ):
        assert (sampled(*base, *words) != guided).any(), words


def test_guidance_interval_in_t_and_in_logsnr(sampled):
    """An interval of all times changes nothing; outside of it the conditional model is used."""
    base = ["--label", "3", "--guidance", 9]
    assert (sampled(*base, "--interval", "0,1") == sampled(*base)).all()
    assert (sampled(*base, "--interval-logsnr=-100,100") == sampled(*base)).all()
    assert (sampled(*base, "--interval-logsnr", "90,100") == sampled("--label", "3")).all()


def test_autoguidance(sampled, run, told_run):
    """Guiding a model by itself changes nothing but rounding; no labels are needed."""
    plain = sampled(model=run)
    assert np.abs(sampled("--autoguide", run, model=run) - plain).max() <= 1
    assert (sampled("--autoguide", run, "--autoguidance", 1, model=run) == plain).all()


def test_autoguidance_by_an_incompatible_model(wrong, run, told_run):
    wrong(
        "sample",
        run,
        "--out",
        "x.png",
        "--autoguide",
        told_run,
        message=("--autoguide", "labels", "earlier or smaller"),
    )
    wrong("sample", run, "--out", "x.png", "--autoguide", "nowhere", message=("nowhere", "fromnoise train"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--interval", "0.8,0.2"], ("interval is 0.8,0.2", "smaller")),
        (["--interval", "0.8"], ("--interval 0.8",)),
        (["--interval", "a,b"], ("--interval a,b", "number")),
        (["--interval", "0,1", "--interval-logsnr=-1,1"], ("interval or interval_logsnr", "not both")),
        (["--rescale", "2"], ("rescale is 2", "0 to 1")),
        (["--threshold", "0"], ("--threshold 0",)),
        (["--truncation", "0"], ("--truncation 0",)),
    ],
    ids=lambda v: " ".join(v),
)
def test_value_out_of_range(wrong, told_run, words, message):
    """The message names the flag as it was typed."""
    wrong("sample", told_run, "--out", "x.png", *words, message=message)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_training_of_a_classifier(told_run, tmp_path, monkeypatch, number):
    """Nothing is written; the exit code is 128 + the signal's number."""
    train = noisy_classifier.train_classifier

    def interrupted(*args: Any, **options: Any) -> Iterator[noisy_classifier.ClassifierStep]:
        for step in train(*args, **options):
            if step.step == 2:
                os.kill(os.getpid(), number)
            yield step

    monkeypatch.setattr(noisy_classifier, "train_classifier", interrupted)
    said = call("guide", told_run, "--out", tmp_path / "guide.safetensors", "--steps", 10**6, "--batch", 8)
    assert said.code == 128 + number and "stopped at step 2; nothing was written" in said.err
    assert not list(tmp_path.glob("guide*"))
