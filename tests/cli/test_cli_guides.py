"""Guidance on the command line: each flag reaches the sampler, and each mistake is one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fromnoise import config as recipes
from fromnoise.checkpoint import save_model
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import build

EXACTLY = ["--precision", "fp32", "--steps", "6", "-n", "4", "--no-clip", "--sampler", "ddim", "--eta", "0"]


@pytest.fixture(scope="module")
def heeding(tmp_path_factory):
    """A model file whose weights are away from zero, so that it heeds its label."""
    recipe = recipes.load(
        "digits",
        {"data.labels": True, "network.zero_output": False, "network.width": 8, "network.multipliers": [1]}
        | {"network.groups": 4, "network.attention_resolutions": [], "network.middle_attention": False},
    )
    model = build(recipe, DatasetInfo((1, 8, 8), tuple("0123456789")))
    with torch.no_grad():
        model.denoiser.network.labels.weight.mul_(100)
    path = tmp_path_factory.mktemp("heeding") / "model.safetensors"
    save_model(path, model, model.denoiser.state_dict(), {"step": 0})
    return path


@pytest.fixture
def drawn(right, heeding):
    """``drawn(words)`` -> images of that model."""

    def drawer(*words, model=heeding):
        right("sample", model, "--out", "x.npz", *EXACTLY, *words)
        with np.load("x.npz", allow_pickle=False) as file:
            return file["images"].astype(int)

    return drawer


def test_scale_one_and_scale_zero(drawn):
    """The conditional model and the unconditional one, bit for bit."""
    plain, told = drawn(), drawn("--label", "3")
    assert (drawn("--label", "3", "--guidance", 1) == told).all()
    assert (drawn("--label", "3", "--guidance", 0) == plain).all()
    assert (plain != told).any()


def test_the_flags_reach_the_sampler(drawn):
    """Each changes the pictures."""
    base = ["--label", "3", "--guidance", 9]
    guided = drawn(*base)
    for words in (
        ["--rescale", 0.7],
        ["--interval", "0.3,0.6"],
        ["--interval-logsnr=-1,2"],
        ["--threshold", 0.5],
        ["--truncation", 0.5],
    ):
        assert (drawn(*base, *words) != guided).any(), words


def test_an_interval_in_t_and_in_logsnr(drawn):
    """All of time is no interval; none of it is the conditional model."""
    base = ["--label", "3", "--guidance", 9]
    assert (drawn(*base, "--interval", "0,1") == drawn(*base)).all()
    assert (drawn(*base, "--interval-logsnr=-100,100") == drawn(*base)).all()
    assert (drawn(*base, "--interval-logsnr", "90,100") == drawn("--label", "3")).all()


def test_autoguidance(drawn, run, told_run):
    """By itself a model is left as it is, to rounding; needs no labels."""
    plain = drawn(model=run)
    assert np.abs(drawn("--autoguide", run, model=run) - plain).max() <= 1
    assert (drawn("--autoguide", run, "--autoguidance", 1, model=run) == plain).all()


def test_autoguidance_by_another_kind(wrong, run, told_run):
    """What is other is told."""
    wrong(
        "sample", run, "--out", "x.png", "--autoguide", told_run, told=("--autoguide", "labels", "earlier or smaller")
    )
    wrong("sample", run, "--out", "x.png", "--autoguide", "nowhere", told=("nowhere", "fromnoise train"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--interval", "0.8,0.2"], ("interval", "smaller", "larger")),
        (["--interval", "0.8"], ("--interval 0.8",)),
        (["--interval", "a,b"], ("--interval a,b", "number")),
        (["--interval", "0,1", "--interval-logsnr=-1,1"], ("one interval",)),
        (["--rescale", "2"], ("--rescale 2",)),
        (["--threshold", "0"], ("--threshold 0",)),
        (["--truncation", "0"], ("--truncation 0",)),
    ],
    ids=lambda v: " ".join(v),
)
def test_a_value_out_of_range(wrong, told_run, words, told):
    """The flag is named as it was typed."""
    wrong("sample", told_run, "--out", "x.png", *words, told=told)
