"""Checkpoints with a valid digest and a hostile header answer in one line, at once (review C3, C13)."""

from __future__ import annotations

import copy
import subprocess
import sys
import time

import pytest
import torch
from malformed_inputs import SAFETENSORS_HEADERS, safetensors

from fromnoise import checkpoint
from fromnoise import config as recipes
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.model import build, build_trainable
from fromnoise.utils.errors import UserError

TINY = {
    "network.width": 8,
    "network.multipliers": [1],
    "network.attention_resolutions": [],
    "network.groups": 4,
    "network.middle_attention": False,
}


@pytest.fixture(scope="module")
def model():
    """A tiny conditional model."""
    return build(recipes.load("digits", TINY | {"data.labels": True}), DatasetInfo((1, 8, 8), ("zero", "one"), "abc"))


def write(path, model, changes, weights=None):
    """Write a model whose header has other values by dotted key."""
    header = copy.deepcopy(checkpoint.model_header(model.recipe, model.dataset_info))
    header |= {"kind": "model", "progress": {"step": 1}}
    for key, value in changes.items():
        *parts, last = key.split(".")
        section = header
        for part in parts:
            section = section[part]
        section[last] = value
    checkpoint.write(path, weights or model.module.state_dict(), header)


HOSTILE = {
    "width": {"recipe.network.width": 8192},
    "huge_width": {"recipe.network.width": 10**9},
    "blocks": {"recipe.network.blocks": 10**6},
    "many_blocks": {"recipe.network.blocks": 60_000},
    "blocks_up": {"recipe.network.blocks_up": 10**9},
    "multipliers": {"recipe.network.multipliers": [1] * 100_000},
    "steps": {"recipe.diffusion.schedule": {"kind": "linear", "steps": 10**9}},
    "betas": {"recipe.diffusion.schedule": {"kind": "betas", "betas": [2.0]}},
    "pseudo_labels": {"recipe.data.pseudo_labels": 10**9, "recipe.data.labels": False},
    "height": {"dataset.shape": [1, 10**9, 8]},
    "channels": {"dataset.shape": [10**9, 8, 8]},
    "side": {"dataset.shape": [1, 8, 65536]},  # header case 83 of the fault campaign, seed 1
    "negative": {"dataset.shape": [1, -8, 8]},
    "fraction": {"dataset.shape": [1, 8.5, 8]},
    "words": {"dataset.shape": "888"},
    "no_shape": {"dataset.shape": None},
    "classes": {"dataset.class_names": ["x"] * 100_000},
    "class_numbers": {"dataset.class_names": [1, 2]},
    "class_count": {"dataset.class_names": 10**9},
    "attributes": {"dataset.attributes": [{"name": "a", "mean": float("inf"), "deviation": 0}]},
    "attribute_keys": {"dataset.attributes": [{"nome": "a"}]},
    "network_list": {"recipe.network": []},
    "network_number": {"recipe.network": 7},
    "groups": {"recipe.network.groups": 0},
    "time_dim": {"recipe.network.time_dim": -5},
    "hidden_dim": {"recipe.network.hidden_dim": -5},
    "dropout": {"recipe.network.dropout": float("nan")},
    "resolution": {"recipe.network.attention_resolutions": [-1]},
    "zero_resolution": {"recipe.network.attention_resolutions": [0]},
    "heads": {"recipe.network.middle_attention": True, "recipe.network.heads": 0},
    "patch": {"recipe.network.patch": 60_000},
    "recipe": {"recipe": None},
    "dataset": {"dataset": [1]},
    "progress": {"progress": 3},
    "unknown": {"recipe.network.depth": 3},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_c3_hostile_header(tmp_path, model, name):
    """One line with the file's name, at once."""
    path = tmp_path / "m.safetensors"
    write(path, model, HOSTILE[name])
    start = time.monotonic()
    with pytest.raises(UserError, match="m.safetensors") as caught:
        checkpoint.load_model(path)
    assert time.monotonic() - start < 4  # under 2 s on a machine that does nothing else
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


HOSTILE_AUTOENCODERS = {
    "width": {"recipe.autoencoder.width": 60_000},
    "huge_width": {"recipe.autoencoder.width": 10**9},
    "blocks": {"recipe.autoencoder.blocks": 60_000},
    "latents": {"recipe.autoencoder.latent_channels": 10**9},
    "no_latents": {"recipe.autoencoder.latent_channels": 0},
    "factor": {"recipe.autoencoder.factor": 0},
    "negative_factor": {"recipe.autoencoder.factor": -4},
    "other_factor": {"recipe.autoencoder.factor": 4},
    "patch": {"recipe.autoencoder.patch": 0},
    "kind": {"recipe.autoencoder": "network"},
    "none": {"recipe.autoencoder": None},
    "size": {"dataset.shape": [1, 9, 9]},
}


@pytest.mark.parametrize("recipe", ["autoencoder", "latent"])
@pytest.mark.parametrize("name", HOSTILE_AUTOENCODERS)
def test_hostile_headers_of_autoencoders(tmp_path, recipe, name):
    """Of an autoencoder alone and of a diffusion model of its latents."""
    tiny = {"autoencoder.width": 8, "autoencoder.factor": 2, "autoencoder.patch": 1, "train.autosize": []}
    tiny |= {"network.width": 8, "network.attention_resolutions": []}
    known = build_trainable(recipes.load(recipe, tiny), DatasetInfo((1, 8, 8)))
    path = tmp_path / "m.safetensors"
    write(path, known, HOSTILE_AUTOENCODERS[name])
    start = time.monotonic()
    with pytest.raises(UserError, match="m.safetensors") as caught:
        checkpoint.load_trainable(path)
    assert time.monotonic() - start < 4
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.slow
@pytest.mark.parametrize("name", ["width", "steps", "blocks", "many_blocks", "pseudo_labels", "classes"])
def test_c3_hostile_header_within_a_gigabyte(tmp_path, model, name):
    """``fromnoise sample`` answers within 1 GB of memory beyond that of its libraries."""
    path = tmp_path / "m.safetensors"
    write(path, model, HOSTILE[name])
    code = (
        "import resource, sys; from fromnoise.cli import main; import torch, fromnoise.checkpoint;"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize();"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30));"
        f"sys.exit(main(['sample', {str(path)!r}, '-n', '1', '--out', {str(tmp_path / 'x.png')!r}, '--device', 'cpu']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and "m.safetensors" in done.stderr.splitlines()[-1]


def test_c3_many_steps_in_a_recipe():
    """The limit of diffusion steps holds for recipes too."""
    with pytest.raises(UserError, match="1,000,000"):
        recipes.load("digits", {"diffusion.schedule.steps": 10**9})


def test_c3_recipe_of_too_many_blocks():
    """It is refused while it is constructed, in seconds."""
    with pytest.raises(UserError, match="use a smaller network"):
        build(recipes.load("digits", TINY | {"network.blocks": 3_000}), DatasetInfo((1, 8, 8)), device="meta")


def test_c3_a_quarter_of_the_memory(monkeypatch):
    """The limit of the weights follows the machine; nothing is initialized beyond it."""
    monkeypatch.setattr("fromnoise.utils.construction.total_memory", lambda: 4 * 100_000.0)
    with pytest.raises(UserError, match="0.0954 MiB"):
        build(recipes.load("digits", TINY | {"network.width": 128}), DatasetInfo((1, 8, 8)))
    build(recipes.load("digits", TINY), DatasetInfo((1, 8, 8)))


def test_c3_network_that_cannot_be_constructed(tmp_path, model, monkeypatch):
    """Whatever the constructor of a network of the package raises becomes one line."""

    def fail(*args, **kwargs):
        raise ZeroDivisionError("integer modulo by zero")

    write(tmp_path / "m.safetensors", model, {})
    monkeypatch.setattr("fromnoise.networks.unet.UNet.__init__", fail)
    with pytest.raises(checkpoint.DamagedFile, match=r"m\.safetensors.*modulo by zero"):
        checkpoint.load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_c13_weights_that_are_not_finite(tmp_path, model, value):
    """A model that cannot sample is refused, by name."""
    weights = {name: t.clone() for name, t in model.denoiser.state_dict().items()}
    weights["network.out.bias"][0] = value
    write(tmp_path / "m.safetensors", model, {}, weights)
    with pytest.raises(UserError, match=r"m\.safetensors.*not finite.*network\.out\.bias"):
        checkpoint.load_model(tmp_path / "m.safetensors")


def test_low_headers_that_are_not_objects(tmp_path):
    """Metadata of other kinds, deep nesting, and dtypes that safetensors does not know."""
    for i, text in enumerate(SAFETENSORS_HEADERS):
        path = tmp_path / f"{i}.safetensors"
        path.write_bytes(safetensors(text))
        with pytest.raises(checkpoint.DamagedFile, match=path.name):
            checkpoint.load_model(path)


def test_low_digest_of_another_type(tmp_path):
    """A digest that is a number or missing."""
    for digest in (7, None, ""):
        path = tmp_path / "m.safetensors"
        checkpoint.write(path, {"w": torch.zeros(1)}, {"kind": "model", "digest": digest})
        with pytest.raises(checkpoint.DamagedFile, match=r"m\.safetensors"):
            checkpoint.load_model(path)
