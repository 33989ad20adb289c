"""Mistakes with model files, sampling and showing: exit code 2, one line with the remedy, no files written."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch


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


def test_state_is_not_a_model(wrong, run):
    """The error names the model file."""
    state = max((run / "state").iterdir())
    wrong("sample", state, "--out", "x.png", message=("state for resuming", "model.safetensors"))


# ---- sampling


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
