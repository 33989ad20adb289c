"""Wrong inputs: exit code 2, one line that names the mistake and the mend, nothing made or overwritten."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from fromnoise import config as recipes

# ---- recipes


@pytest.mark.parametrize(("typed", "meant"), [("digit", "digits"), ("ho202", "ho2020"), ("Flowers", "flowers")])
def test_a_mistyped_recipe(wrong, typed, meant):
    """The nearest is named, and all."""
    wrong("train", typed, message=(repr(typed), f"did you mean {meant}?", *recipes.names()))


def test_a_recipe_like_no_other(wrong):
    """All are named."""
    wrong("train", "qqqq", message=("qqqq", *recipes.names()))


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("train.learning_rat", "train."),
        ("train.lrr", "train.lr"),
        ("network.widht", "width"),
        ("trian.lr", "train.lr"),
        ("diffusion.shedule", "diffusion.schedule"),
        ("batch.size", "batch"),
    ],
)
def test_an_unknown_key(wrong, key, meant):
    """The nearest is named."""
    wrong("train", "digits", f"--{key}", "3", message=("unknown key", "did you mean", meant))


def test_a_key_below_a_value(wrong):
    """A value has no parts."""
    wrong("train", "digits", "--train.lr.first", "3", message="train.lr.first")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--train.lr", "-1"], ("train.lr", "-1", "greater than 0")),
        (["--train.lr=nan"], ("train.lr",)),
        (["--train.lr", "inf"], ("train.lr",)),
        (["--train.lr", "fast"], ("train.lr", "fast", "number")),
        (["--train.lr"], ("train.lr",)),
        (["--train.optimizer.betas", "[0.9, nan]"], ("train.optimizer", "betas")),
        (["--train.optimizer.betas", "[1.0, 0.9]"], ("train.optimizer", "betas")),
        (["--sample.guidance", "3", "--dry-run"], ("guidance", "labels")),
        (["--train.optimizer", "adam", "--train.optimizer.weight_decay", "0.1"], ("weight_decay", "adamw")),
        (["--ema.decays", "[1.0]"], ("ema.decays", "less than 1")),
        (["--ema.widths", "[0.5]"], ("ema.widths", "less than 0.28")),
        (["--batch", "0"], ("train.batch", "0", "greater than or equal to 1")),
        (["--batch", "2.5"], ("train.batch", "2.5")),
        (["--batch", "many"], ("train.batch", "many")),
        (["--steps", "0"], ("train.steps",)),
        (["--steps", "-5"], ("train.steps",)),
        (["--minutes", "0"], ("train.minutes",)),
        (["--minutes", "soon"], ("train.minutes", "soon")),
        (["--epochs", "-1"], ("train.epochs",)),
        (["--seed", "x"], ("train.seed", "x")),
        (["--seed", str(10**20)], ("train.seed",)),
        (["--sample.steps", "5000"], ("5000", "1000")),
        (["--sample.sampler", "dddim"], ("sample.sampler", "dddim", "'ddim'")),
        (["--sample.sampler", "ddim", "--sample.sampler.eta", "2"], ("sample.sampler", "eta")),
        (["--data.size", "0"], ("data.size",)),
        (["--data.size", "[8]"], ("data.size",)),
        (["--data.holdout", "1"], ("data.holdout",)),
        (["--diffusion.schedule", "cosin"], ("diffusion.schedule", "cosin", "'cosine'")),
        (["--diffusion.schedule", "linear", "--diffusion.schedule.beta_end", "1"], ("diffusion.schedule", "beta_end")),
        (
            ["--diffusion.zero_terminal_snr", "true", "--diffusion.target", "eps"],
            ("pure noise", "v or x0"),
        ),
        (
            ["--diffusion.zero_terminal_snr", "true", "--diffusion.schedule", "cosine-continuous"],
            ("zero_terminal_snr", "beta schedule", "linear, cosine or sigmoid"),
        ),
        (["--diffusion.zero_terminal_snr", "true", "--loss.weighting", "min-snr"], ("min-snr", "weighting constant")),
        (["--diffusion.zero_terminal_snr", "true", "--sample.grid", "karras"], ("karras", "uniform")),
        (["--loss.objective", "vlb", "--diffusion.schedule", "cosine-continuous"], ("vlb", "schedule linear")),
        (["--steps", "5", "--epochs", "2"], ("--epochs", "--steps", "not allowed")),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_value_out_of_range(wrong, words, message):
    """Key and value are named, and what they may be."""
    wrong("train", "digits", *words, message=message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--network.width", "30", "--network.groups", "8"], "8"),
        (["--network.heads", "7"], "heads"),
        (["--network.multipliers", "[]"], "levels"),
        (["--network.dropout", "1"], "dropout"),
        (["--network.kind", "pulfer", "--data.labels", "true"], ("pulfer", "unet")),
    ],
)
def test_a_network_that_cannot_be(wrong, words, message):
    """Numbers that do not divide one another."""
    wrong(
        "train",
        "digits",
        *words,
        message=("network", *((message,) if isinstance(message, str) else message)),
        notes=True,
    )


def test_a_device_that_is_not_there(wrong, run):
    """Another is named."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    wrong("train", "digits", "--device", "cuda", message=("'cuda'", "--device cpu"), notes=True)
    wrong("sample", run, "--out", "x.png", "--device", "cuda", message=("'cuda'", "--device cpu"))


def test_a_device_that_never_was(wrong, run):
    """As one that is not there."""
    wrong("train", "digits", "--device", "gpu", message=("'gpu'", "--device cpu"), notes=True)
    wrong("sample", run, "--out", "x.png", "--device", "cpu:x", message=("'cpu:x'", "--device cpu"))


def test_a_device_that_holds_nothing(wrong, run):
    """As one that is not there."""
    wrong("sample", run, "--out", "x.png", "--device", "meta", message=("'meta'", "--device cpu"))


def test_a_precision_that_is_not_there(wrong, run):
    """The known ones are named."""
    message = ("fp16", "auto, bf16 or fp32")
    wrong("train", "digits", "--precision", "fp16", message=message, notes=True)
    wrong("sample", run, "--out", "x.png", "--precision", "fp16", message=message)


def test_a_batch_that_cannot_be_shared_makes_no_folder(wrong, small):
    """Which the mended command would find in its way; a dry run says so too."""
    words = ["train", "digits", *small, "--train.batch", "10", "--train.accumulate", "4"]
    wrong(*words, message=("10", "not divisible"))
    wrong(*words, "--dry-run", message=("10", "not divisible"))


# ---- recipe files


def test_a_recipe_file_that_is_not_there(wrong):
    """The message names it."""
    wrong("train", "mine.toml", message=("mine.toml", "No such file"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "not valid TOML"),
        ("[train\nlr = 1", "not valid TOML"),
        ("[train]\nsteps = 5\nminutes = 2", "steps and minutes"),
        ("[train]\nlr = 0.1", "none"),
        ("train = 3", "train"),
        ("[train]\nsteps = 5\nlr = '0.1x'", "train.lr"),
        ("[train]\nsteps = 5\nlearning_rate = 0.1", "learning_rate"),
        ("[trian]\nsteps = 5", "trian"),
        ("[train]\nsteps = 5\n[data]\nsource = 3", "data.source"),
        ("[train]\nsteps = 2015-01-01", "train.steps"),
    ],
)
def test_a_recipe_file_that_is_wrong(wrong, tmp_path, text, message):
    """The message says what is wrong in it."""
    (tmp_path / "mine.toml").write_text(text)
    wrong("train", "mine.toml", message=message)


def test_a_recipe_file_that_is_no_text(wrong, tmp_path):
    """Such as a model by the wrong name."""
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe\x00\x01 = 3")
    wrong("train", "mine.toml", message="mine.toml")


# ---- data


def test_data_that_are_not_there(wrong):
    """The path is named."""
    wrong("train", "images", "--data", "nowhere/at/all", message="nowhere/at/all")
    wrong("show", "data", "nowhere", "--out", "x.png", message="nowhere")


def test_an_empty_folder(wrong, tmp_path):
    """As one."""
    (tmp_path / "empty").mkdir()
    wrong("train", "images", "--data", "empty", message="empty folder")


def test_a_folder_of_text(wrong, tmp_path):
    """The message says what it contains."""
    (tmp_path / "texts").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "texts" / name).write_text("words")
    wrong("train", "images", "--data", "texts", message=("no images", "2 .txt"))


def test_a_text_file(wrong, tmp_path):
    """The message lists what exists."""
    (tmp_path / "x.txt").write_text("words")
    wrong("train", "images", "--data", "x.txt", message=("x.txt", "folder of images"))


@pytest.mark.parametrize(
    "array",
    [
        np.random.default_rng(0).normal(50, 1000, (10, 8, 8)),
        np.full((10, 8, 8), np.nan),
        np.zeros((10, 8), np.uint8),
        np.zeros((2, 2, 2, 8, 8), np.uint8),
        np.zeros((0, 8, 8), np.uint8),
        np.array(5, np.uint8),
        np.array(["a", "b"]),
    ],
    ids=["floats", "nan", "rank 2", "rank 5", "none", "rank 0", "strings"],
)
def test_an_array_that_is_no_images(wrong, tmp_path, array):
    """Numbers of no usual range, or the wrong rank."""
    np.savez(tmp_path / "x.npz", images=array)
    wrong("train", "images", "--data", "x.npz", message="x.npz")


def test_labels_that_are_not_there(wrong, tmp_path, paint):
    """The message says how to get some."""
    paint(tmp_path / "flat", ["a.png", "b.png"])
    said = wrong("train", "images", "--data", "flat", "--data.labels", "true", message="no labels", notes=True)
    assert "folder of its own" in said


def test_images_without_data(wrong):
    """The recipe for one's own pictures needs pictures."""
    wrong("train", "images", message="--data")
    wrong("train", "images", "--dry-run", message="--data")
    wrong("show", "forward", "images", "--out", "x.png", message="--data")


# ---- places


@pytest.mark.parametrize("out", ["file", "file/run", "file/deep/run"])
def test_a_run_folder_below_a_file(wrong, tmp_path, small, out):
    """The file stays."""
    (tmp_path / "file").write_text("mine")
    wrong("train", "digits", "--steps", "1", "--out", out, *small, message="file", notes=True)


def test_a_folder_of_a_different_recipe(wrong, tmp_path, run, small):
    """The message names the difference, and the run is unchanged."""
    shutil.copytree(run, tmp_path / "run")
    words = ["train", "digits", "--steps", "9", "--out", "run", *small]
    wrong(*words, "--train.lr", "0.5", message=("train.lr", "0.5", "0.004", "--out"), notes=True)
    wrong(*words, "--network.width", "16", message=("network.width", "--out"), notes=True)
    wrong(*words, "--seed", "1", "--train.lr", "0.5", message=("and 1 more", "--out"), notes=True)


def test_a_folder_that_is_no_run(wrong, tmp_path, small):
    """What is in it is left as it is."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")
    words = ["train", "digits", "--steps", "1", "--out", "mine", *small]
    wrong(*words, message=("not empty", "--out"), notes=True)


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe\x00"], ids=["no TOML", "no text"])
def test_a_run_whose_recipe_is_broken(wrong, tmp_path, run, small, content):
    """Its recipe is named."""
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "recipe.toml").write_bytes(content)
    words = ["train", "digits", "--steps", "3", "--out", "run", *small]
    wrong(*words, message="recipe.toml", notes=True)
