"""Published recipes on the command line: ``recipes``, ``train flowers`` without its data, ``sample --as-published``."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fromnoise import config as recipes
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.data.download import RemoteFile
from fromnoise.data.named.flowers102_official import Flowers102Official
from fromnoise.model import build_trainable

# shape of the images and number of classes that the model is conditioned on, by recipe
DATA = {
    "autoencoder": ((3, 64, 64), 0),
    "digits": ((1, 8, 8), 0),
    "fashion-labels": ((1, 28, 28), 10),
    "fast": ((1, 28, 28), 0),
    "flowers": ((3, 64, 64), 0),
    "ho2020": ((3, 32, 32), 0),
    "images": ((3, 64, 64), 0),
    "latent": ((3, 64, 64), 0),
    "mixture": ((1, 28, 28), 10),
    "pulfer": ((1, 28, 28), 0),
    "pulfer-fashion": ((1, 28, 28), 0),
    "simple": ((1, 28, 28), 0),
    "unet": ((3, 128, 128), 0),
    "vae": ((1, 28, 28), 0),
}
TINY_UNET = ["--network.width", "8", "--network.multipliers", "[1,2]", "--network.groups", "4"]
TINY = [
    *("--train.held_out", "2", "--train.evaluations", "1", "--train.previews", "0", "--sample.count", "0"),
    *("--steps", "2", "--train.batch", "4"),
]


def test_recipes_prints_the_size_and_the_parameters_of_each_recipe(right) -> None:
    """The printed parameters are those of a network built for the recipe's images and classes."""
    printed = right("recipes", "--json", "recipes.json").out
    rows = {row["name"]: row for row in json.loads(Path("recipes.json").read_text())}
    assert list(rows) == list(DATA)
    for name, (shape, classes) in DATA.items():
        info = DatasetInfo(shape, tuple(map(str, range(classes))) or None)
        count = build_trainable(recipes.load(name), info, device="meta").parameters
        assert rows[name]["parameters"] == count
        assert rows[name]["size"].removeprefix("e.g. ") == "x".join(map(str, shape))
        line = next(line for line in printed.splitlines() if line.split()[0] == name)
        assert rows[name]["size"] in line and f"{count:,} parameters" in line
    assert [name for name, row in rows.items() if row["size"].startswith("e.g. ")] == [
        "autoencoder",
        "images",
        "latent",
    ]


def read(path: str) -> np.ndarray:
    """The images of an .npz file."""
    with np.load(path) as file:
        return file["images"]


@pytest.fixture
def folder(paint) -> str:
    """Eight images of noise, 8x8 RGB."""
    paint(Path("images"), [f"{i}.png" for i in range(8)])
    return "images"


@pytest.mark.parametrize(
    ("recipe", "words", "same", "different"),
    [
        (
            "flowers",
            [*TINY_UNET, "--network.attention_resolutions", "[]", "--diffusion.schedule.steps", "30"],
            ["--sampler", "ancestral", "--variance", "0", "--steps", "30", "--clip"],
            [["--sampler", "ancestral", "--variance", "1", "--steps", "30"], []],
        ),
        (
            "ho2020",
            [*TINY_UNET, "--network.attention_resolutions", "[]", "--diffusion.schedule.steps", "30"],
            ["--sampler", "ancestral", "--variance", "1", "--steps", "30", "--clip"],
            [["--sampler", "ancestral", "--variance", "0", "--steps", "30"], []],
        ),
        (
            "pulfer",
            ["--diffusion.schedule.steps", "30"],
            ["--sampler", "ancestral", "--variance", "1", "--steps", "30", "--no-clip"],
            [["--sampler", "ancestral", "--variance", "1", "--steps", "30", "--clip"], []],
        ),
        (
            "unet",
            ["--network.width", "8", "--network.multipliers", "[1,2]", "--published.steps", "30"],
            ["--sampler", "ddim", "--eta", "0", "--steps", "30", "--clip"],
            [["--sampler", "ddim", "--eta", "0", "--steps", "20"], []],
        ),
    ],
)
def test_as_published_uses_the_published_section(right, folder, recipe, words, same, different) -> None:
    """Samples equal those with the source's sampler, variance, steps and clipping as flags, and not others."""
    right("train", recipe, "--data", folder, "--data.size", "8", "--out", "run", *TINY, *words)
    right("sample", "run", "-n", 2, "--as-published", "--out", "published.npz")
    right("sample", "run", "-n", 2, *same, "--out", "same.npz")
    assert np.array_equal(read("published.npz"), read("same.npz"))
    for i, flags in enumerate(different):
        right("sample", "run", "-n", 2, *flags, "--out", f"{i}.npz")
        assert not np.array_equal(read("published.npz"), read(f"{i}.npz"))


def test_flags_replace_parts_of_the_published_section(right, folder) -> None:
    """``--as-published --steps 5`` keeps the sampler and takes five steps."""
    words = ["--network.width", "8", "--network.multipliers", "[1,2]"]
    right("train", "unet", "--data", folder, "--data.size", "8", "--out", "run", *TINY, *words)
    right("sample", "run", "-n", 1, "--as-published", "--steps", 5, "--out", "published.npz")
    right("sample", "run", "-n", 1, "--sampler", "ddim", "--steps", 5, "--out", "same.npz")
    assert np.array_equal(read("published.npz"), read("same.npz"))


def test_as_published_needs_a_published_recipe(wrong, run) -> None:
    """The message names the recipe."""
    wrong("sample", run, "--as-published", "--out", "x.png", message=("--as-published", "digits"))


def test_published_steps_of_a_shorter_schedule(wrong) -> None:
    """The message names the key to set."""
    words = ["--diffusion.schedule.steps", "100"]
    wrong("train", "unet", *words, "--dry-run", message=("published.steps 250", "100 steps of the schedule"))


def test_flowers_without_its_data_names_another_data_set(fromnoise, tmp_path, monkeypatch) -> None:
    """One line that says what to do."""
    none = (tmp_path / "none").as_uri()
    files = tuple(RemoteFile(f.name, (f"{none}/{f.name}",), f.digest) for f in Flowers102Official.files)
    monkeypatch.setattr(Flowers102Official, "files", files)
    said = fromnoise("train", "flowers", "--out", "run")
    log, line = said.err.splitlines()
    assert said.code == 2 and log.startswith("downloading") and not Path("run").exists()
    assert "flowers102_official" in line and "use --data flowers102, or put its images as split/class/image.jpg" in line


def test_flowers_trains_on_the_official_train_split(right, tmp_path, monkeypatch) -> None:
    """With the authors' files, made small: 3 of 40 images are training images, and the rest of the recipe is kept."""
    savemat = pytest.importorskip("scipy.io").savemat
    server = tmp_path / "server"
    server.mkdir()
    savemat(server / "imagelabels.mat", {"labels": np.repeat([77, 3], 20)[None]})
    rest = [number for number in range(1, 41) if number not in (1, 22, 39, 8)]
    splits = {"trnid": np.array([[1, 22, 39]]), "valid": np.array([[8]]), "tstid": np.array([rest])}
    savemat(server / "setid.mat", splits)
    with tarfile.open(server / "102flowers.tgz", "w:gz") as archive:
        for number in range(1, 41):
            file = io.BytesIO()
            Image.fromarray(np.full((8, 8, 3), number * 5, dtype=np.uint8)).save(file, "JPEG")
            member = tarfile.TarInfo(f"jpg/image_{number:05d}.jpg")
            member.size = file.tell()
            archive.addfile(member, io.BytesIO(file.getvalue()))
    files = []
    for remote in Flowers102Official.files:
        path = server / remote.name
        files.append(RemoteFile(remote.name, (path.as_uri(),), "md5:" + hashlib.md5(path.read_bytes()).hexdigest()))
    monkeypatch.setattr(Flowers102Official, "files", tuple(files))
    words = [*TINY_UNET, "--network.attention_resolutions", "[]", "--data.size", "8"]
    said = right("train", "flowers", "--out", "run", *TINY, *words)
    assert "3 images of 8x8, grey; 36 held out (its test split)" in said.err + said.out
