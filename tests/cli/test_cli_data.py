"""The verb data: pack and verify; training on shards."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fromnoise import checkpoint, config
from fromnoise.config.recipe_data import open_data
from fromnoise.data import load
from fromnoise.run_dir import fixed_difference


def test_pack_and_verify(right, wrong, tmp_path):
    """What was packed is printed; a damaged shard is named, and written again by the same command."""
    images = np.random.default_rng(0).integers(0, 256, (1100, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(1100) % 7)
    said = right("data", "pack", "x.npz", "--out", "shards", "--shard-mb", 1)
    assert "1,100 images in 3 shards" in said.out
    assert right("data", "verify", "shards").out == "3 shards are whole\n"
    shards = [load(spec, log=lambda line: None) for spec in ("x.npz", "shards")]
    assert shards[0].fingerprint == shards[1].fingerprint
    (tmp_path / "shards" / "shard-000001.tar").unlink()
    wrong("data", "verify", "shards", message=("1 of 3 shards", "shard-000001.tar", "pack again"))
    wrong("train", "digits", "--data", "shards", "--dry-run", message=("shard-000001.tar", "skip_damaged"))
    recipe = config.load("digits", {"data.source": "shards", "data.skip_damaged": True})
    assert fixed_difference(config.load("digits", {"data.source": "shards"}), recipe) == []  # a resumed run may set it
    data = open_data(recipe, lambda line: None)
    assert 500 < len(data.train) + len(data.held_out) < 1100
    right("data", "pack", "x.npz", "--out", "shards", "--shard-mb", 1)
    right("data", "verify", "shards")


def test_pack_as_a_recipe_says(right, wrong, tmp_path):
    """Size and channels of a recipe, or of flags, not both."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (3, 9, 9, 3), dtype=np.uint8))
    right("data", "pack", "x.npy", "--out", "s", "--recipe", "flowers")
    assert load(str(tmp_path / "s"), log=lambda line: None).shape == (3, 64, 64)
    assert json.loads((tmp_path / "s" / "index.json").read_text())["settings"]["size"] == [64, 64]
    wrong("data", "pack", "x.npy", "--out", "t", "--recipe", "flowers", "--size", 8, message=("--recipe", "--size"))
    wrong("data", "pack", "x.npy", "--out", "s", "--size", 8, message=("another size", "--out"))
    wrong("data", "pack", "x.npy", "--out", "s3://bucket/s", message=("s3:/bucket/s", "this machine"))
    wrong("data", "verify", "x.npy", message="index.json")
    wrong("data", "pack", "x.npy", "--out", "t", "--shard-mb", 0, message="--shard-mb")


@pytest.mark.slow
def test_training_on_shards_is_training_in_memory(right, small, tmp_path):
    """Stopped and resumed on shards, the weights are bit for bit those of an undisturbed run in memory."""
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(40) % 3)
    right("data", "pack", "x.npz", "--out", "shards")
    words = ("train", "digits", *small, "--data.labels", "true", "--train.decay", "constant", "--device", "cpu")
    right(*words, "--data", "x.npz", "--steps", 4, "--out", "memory")
    for steps in (2, 4):
        right(*words, "--data", "shards", "--data.memory_gb", 1e-6, "--steps", steps, "--out", "streamed")
    assert "decoded on demand" in (tmp_path / "streamed" / "log").read_text()
    one, two = (checkpoint.read(tmp_path / run / "model.safetensors")[0] for run in ("memory", "streamed"))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
