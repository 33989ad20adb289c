"""Mistakes with model files, sampling and showing: exit code 2, one line with the remedy, no files written."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_array_of_objects_is_not_unpickled(wrong, tmp_path):
    """A .npz file can contain a pickle."""
    np.savez(tmp_path / "x.npz", images=np.array([Bomb(tmp_path / "executed")], dtype=object))
    wrong("train", "images", "--data", "x.npz", message="x.npz")
    assert not (tmp_path / "executed").exists()


def test_missing_run(wrong, tmp_path):
    """The error names the command that creates one."""
    wrong("sample", "nowhere", "--out", "x.png", message=("nowhere", "fromnoise train"))
    (tmp_path / "empty").mkdir()
    wrong("sample", "empty", "--out", "x.png", message=("empty", "model.safetensors"))


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "run/model.safetensors"])
def test_pickle_is_refused_without_opening_it(wrong, tmp_path, name):
    """With any suffix."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    bomb = Bomb(tmp_path / "executed")
    for write in (lambda: torch.save({"w": bomb}, path), lambda: path.write_bytes(pickle.dumps(bomb))):
        write()
        wrong("sample", path if path.parent == tmp_path else path.parent, "--out", "x.png", message=(name, "refused"))
    assert not (tmp_path / "executed").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "executed").exists()  # so that the test can fail


def test_damaged_model(wrong, tmp_path, run):
    """Truncated anywhere, or with one changed byte."""
    content = (run / "model.safetensors").read_bytes()
    path = tmp_path / "model.safetensors"
    for cut in (0, 4, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        wrong("sample", path, "--out", "x.png", message=("model.safetensors", "damaged"))
    path.write_bytes(content[:-50] + bytes([content[-50] ^ 1]) + content[-49:])
    wrong("sample", path, "--out", "x.png", message=("model.safetensors", "damaged"))


def test_model_of_another_program(wrong, tmp_path):
    """Weights without the header of fromnoise."""
    save_file({"w": torch.zeros(3)}, tmp_path / "other.safetensors", {"format": "pt"})
    wrong("sample", "other.safetensors", "--out", "x.png", message="not written by fromnoise")


def test_state_is_not_a_model(wrong, run):
    """The error names the model file."""
    state = max((run / "state").iterdir())
    wrong("sample", state, "--out", "x.png", message=("state for resuming", "model.safetensors"))


def test_image_is_not_a_model(wrong, run):
    """The error names the file."""
    wrong("sample", run / "samples.png", "--out", "x.png", message="samples.png")


# ---- sampling


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-n", "0"], ("-n 0", "at least 1")),
        (["-n", "-3"], ("-n -3", "at least 1")),
        (["--batch", "0"], ("--batch 0", "at least 1")),
        (["--first", "-1"], ("--first -1", "at least 0")),
        (["--seeds", "3,x"], ("--seeds 3,x", "3,17,204")),
        (["--seeds", "3", "-n", "5"], ("--seeds", "-n")),
        (["--size", "0"], ("--size 0", "from 1")),
        (["--size", "8x8x8"], ("--size 8x8x8",)),
        (["--first", "99999999999999999999"], ("--first", "too large")),
        (["--steps", "0"], ("--steps 0", "1")),
        (["--steps", "5000"], ("5000", "1000")),
        (["--sampler", "eular"], ("--sampler", "euler", "ddim")),
        (["--grid", "log"], ("--grid", "log", "uniform")),
        (["--sampler", "ddim", "--eta", "1.5"], ("--sampler", "eta=1.5")),
        (["--sampler", "ddim", "--eta", "nan"], ("--sampler", "eta=nan")),
        (["--sampler", "ancestral", "--variance", "-1"], ("--sampler", "variance=-1")),
        (["--guidance", "-1"], ("--guidance", "-1")),
        (["--guidance", "inf"], ("--guidance", "inf")),
        (["--guidance", "3"], ("--guidance", "labels")),
        (["--label", "3"], ("without labels", "--label")),
        (["--label", "all"], ("without labels", "--label")),
        (["--train.lr", "3"], ("--train.lr",)),
        (["--sample.steps=3"], ("--sample.steps",)),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_flags_out_of_range(wrong, run, words, message):
    """Checked before sampling."""
    wrong("sample", run, "--out", "x.png", *words, message=message)


@pytest.mark.parametrize("label", ["ten", "10", "-1", "", "3,,4", "²"])
def test_unknown_label(wrong, told_run, label):
    """The error lists the labels of the model."""
    wrong("sample", told_run, "-n", 2, "--out", "x.png", f"--label={label}", message=("has no label", "0, 1, 2"))


@pytest.mark.parametrize("seed", ["x", "1.5"])
def test_seed_that_is_not_a_number(wrong, run, seed):
    """Refused by the parser."""
    wrong("sample", run, "--out", "x.png", "--seed", seed, message=("--seed", seed))


@pytest.mark.parametrize("out", ["x.jpg", "x.gif", "x.npy", "x.safetensors"])
def test_unknown_output_suffix(wrong, run, out):
    """The error lists the suffixes."""
    wrong("sample", run, "--out", out, message=(".png for a grid", ".npz", "folder"))


def test_unwritable_output(wrong, run, tmp_path):
    """Below a file, a folder that is not empty, a folder with the name of a file."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "x.png").mkdir()
    wrong("sample", run, "--out", "file/x.png", message="file is a file")
    wrong("sample", run, "--out", "file", message="file")
    wrong("sample", run, "--out", "full", message="not empty")
    wrong("sample", run, "--out", "x.png", message="is a folder")
    wrong("sample", run, "--out", "y.png", "--gif", "file/y.gif", message="file is a file")
    wrong("sample", run, "--out", "y.png", "--strip", "full", message="full")
    wrong("sample", run, "--out", "z.png", "--gif", "y.png", message=".gif")
    wrong("sample", run, "--out", "y.png", "--strip", "y.jpg", message=".png")


# ---- showing


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data", "digits", "-n", "0", "--out", "x.png"], "at least 1"),
        (["data", "digits", "--size", "0", "--out", "x.png"], "0"),
        (["data", "digits", "--size", "-4", "--out", "x.png"], "-4"),
        (["data", "digit", "--out", "x.png"], "did you mean 'digits'?"),
        (["data", "digits:tset", "--out", "x.png"], "tset"),
        (["data", "digits", "--out", "x.jpg"], ".png"),
        (["forward", "digit", "--out", "x.png"], "did you mean digits?"),
        (["forward", "digits", "-n", "-1", "--out", "x.png"], "at least 1"),
        (["forward", "digits", "--data", "nowhere", "--out", "x.png"], "nowhere"),
        (["forward", ".", "--out", "x.png"], "model.safetensors"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_mistakes_of_show(wrong, words, message):
    """One line each."""
    wrong("show", *words, message=message)


def test_unwritable_json(wrong, tmp_path):
    """One line."""
    (tmp_path / "file").write_text("mine")
    wrong("recipes", "--json", "file/x.json", message="file")
