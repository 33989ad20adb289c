"""A small loop: the bundled digits and a network with a few thousand weights."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from forked import ForkedCommand
from fromnoise import config as recipes
from fromnoise.config.recipe_data import dataset_info, open_data
from fromnoise.model import build
from fromnoise.training.distributed import make_accelerator
from fromnoise.training.loop import TrainingLoop
from fromnoise.utils.device import select_device

TINY = {
    "train.optimizer": "adamw",
    "train.lr": 2e-3,
    "train.warmup": 50,
    "network.width": 8,
    "network.multipliers": [1],
    "network.blocks": 1,
    "network.groups": 4,
    "network.attention_resolutions": [],
    "network.middle_attention": False,
    "network.dropout": 0.1,
    "train.batch": 16,
    "train.held_out": 16,
    "train.evaluations": 2,
    "train.previews": 0,
    "train.report_every": 2,
    "sample.count": 4,
    "sample.steps": 3,
}


@pytest.fixture(scope="session")
def make():
    """``make(steps=..., **overrides)`` returns a loop on the digits; ``train_lr`` overrides train.lr."""
    data = {}

    def loop(
        steps: int | None = 12, load_state=lambda skip: None, log=lambda line: None, precision="fp32", **over
    ) -> TrainingLoop:
        dotted = {key.replace("_", ".", 1): value for key, value in over.items()}
        recipe = recipes.load("digits", TINY | ({"train.steps": steps} if steps else {}) | dotted)
        if "d" not in data:
            data["d"] = open_data(recipe, lambda line: None)
        model = build(recipe, dataset_info(recipe, data["d"]))
        return TrainingLoop(
            model, data["d"], select_device("cpu", precision), make_accelerator(cpu=True), load_state, log
        )

    return loop


@pytest.fixture
def tiny():
    """Values of the recipe ``digits`` by dotted key, for a small network and short runs."""
    return TINY.copy()


AUTOENCODER = {
    "data.source": "digits",
    "data.flip": False,
    "autoencoder.width": 8,
    "autoencoder.factor": 2,
    "autoencoder.patch": 1,
    "autoencoder.blocks": 1,
    "autoencoder.latent_channels": 2,
}
"""A small autoencoder of the digits, for recipes autoencoder and latent."""


def command(out: Path, *words: str, recipe: str = "digits") -> list[str]:
    """The command line that trains a small network in a separate process."""
    values = TINY | (AUTOENCODER if recipe in ("autoencoder", "latent") else {})
    tiny = [w for key, value in values.items() for w in (f"--{key}", str(value).lower())]
    return [sys.executable, "-m", "fromnoise", "train", recipe, "--out", str(out), *tiny, "--device", "cpu", *words]


def environment() -> dict[str, str]:
    """One thread per process, because the tests share the cores."""
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="session")
def run_command():
    """``(command, environment)``."""
    return command, environment


@pytest.fixture
def fork_command() -> Callable[..., ForkedCommand]:
    """``fork_command(out, *words, recipe="digits", **variables)`` starts ``command`` in a forked process."""

    def start(out: Path, *words: str, recipe: str = "digits", **variables: object) -> ForkedCommand:
        chosen = {name: str(value) for name, value in ({"CUDA_VISIBLE_DEVICES": ""} | variables).items()}
        return ForkedCommand(command(out, *words, recipe=recipe)[3:], chosen)

    return start
