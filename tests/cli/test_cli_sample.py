"""Sampling: picture i is picture i, whatever else is drawn; one file is enough; every kind of output is whole."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from fromnoise.reporting import image_io

EXACTLY = ["--precision", "fp32", "--steps", "12"]


def loaded(path):
    """Images and labels of a .npz."""
    with np.load(path, allow_pickle=False) as file:
        return file["images"], file["labels"] if "labels" in file else None


def near(a, b):
    """At most one grey level apart: sums of floats may be taken in another order."""
    return a.shape == b.shape and np.abs(a.astype(int) - b).max() <= 1


@pytest.fixture
def sample(right, run):
    """``sample("x.npz", ...)`` from the run -> images."""

    def sampler(out, *words, model=run):
        right("sample", model, "--out", out, *EXACTLY, *words)
        return loaded(out)[0]

    return sampler


def test_the_run_s_own_pictures(right, run, told_run, tmp_path):
    """The same numbers, seed and rule give what training left."""
    for folder, words in ((run, []), (told_run, ["--label", "all"])):
        right("sample", folder, "-n", 2, "--out", "x.png", *words)
        a, b = (np.asarray(Image.open(p)).astype(int) for p in (tmp_path / "x.png", folder / "samples.png"))
        assert near(a, b)


def test_one_file_is_enough(right, paint, small, tmp_path):
    """The model alone, elsewhere, after run and data are gone, draws the same pictures (ID#41, DD#185)."""
    paint(tmp_path / "data", [f"{c}/{i}.png" for c in ("cat", "dog") for i in range(6)], 9, 11)
    words = ["--data", "data", "--data.labels", "true", "--data.size", "[9, 11]", "--steps", 2, "--out", "run", *small]
    right("train", "images", *words, "--sample.sampler", "ancestral")
    right("sample", "run", "-n", 5, "--out", "before.npz", "--label", "dog")
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(tmp_path / "run" / "model.safetensors", tmp_path / "elsewhere" / "mine.safetensors")
    shutil.rmtree(tmp_path / "run")
    shutil.rmtree(tmp_path / "data")
    right("sample", "elsewhere/mine.safetensors", "-n", 5, "--out", "after.npz", "--label", "dog")
    before, after = loaded("before.npz"), loaded("after.npz")
    assert before[0].shape == (5, 3, 9, 11)
    assert (before[0] == after[0]).all() and before[1].tolist() == after[1].tolist() == [1] * 5


@pytest.mark.parametrize(
    "sampler", [["--sampler", "ancestral"], ["--sampler", "ddim"], ["--sampler", "ddim", "--eta", "1"]]
)
def test_more_pictures_leave_the_first_alone(sample, sampler):
    """Ten are the first ten of twenty-five."""
    ten, more = sample("a.npz", "-n", 10, *sampler), sample("b.npz", "-n", 25, *sampler)
    assert ten.shape == (10, 1, 8, 8) and near(ten, more[:10])
    assert len({p.tobytes() for p in more}) == 25


def test_the_batch_is_no_matter(sample):
    """One, seven or all at a time."""
    all_at_once = sample("a.npz", "-n", 25, "--batch", 64)
    assert near(all_at_once, sample("b.npz", "-n", 25, "--batch", 7))
    assert near(all_at_once, sample("c.npz", "-n", 25, "--batch", 1))


def test_later_pictures_alone(sample):
    """Numbers 7 to 11 are those of a longer set, also in a later batch."""
    whole = sample("a.npz", "-n", 12)
    assert near(whole[7:], sample("b.npz", "-n", 5, "--first", 7))
    assert near(whole[7:], sample("c.npz", "-n", 5, "--first", 7, "--batch", 2))


def test_the_seed_is_all(sample):
    """The same twice, others with another."""
    first = sample("a.npz", "-n", 4, "--seed", 3)
    assert (first == sample("b.npz", "-n", 4, "--seed", 3)).all()
    assert not near(first, sample("c.npz", "-n", 4, "--seed", 4))


def test_the_flags_reach_the_sampler(sample):
    """Each changes the pictures."""
    base = ["-n", 4, "--sampler", "ancestral"]
    plain = sample("a.npz", *base, "--variance", 0)
    for i, words in enumerate(
        (["--sampler", "ddim", "--eta", 0], ["--steps", 5], ["--grid", "quadratic"], ["--variance", 1], ["--no-clip"])
    ):
        assert not near(plain, sample(f"{i}.npz", *base, *words)), words
    ddim = ["-n", 4, "--sampler", "ddim", "--eta"]
    assert not near(sample("e.npz", *ddim, 0), sample("f.npz", *ddim, 1))


def test_no_guidance_is_no_mistake(right, run):
    """A scale of one is what an unconditional model does anyway."""
    right("sample", run, "-n", 1, "--out", "x.png", "--guidance", 1)


def test_pictures_by_their_numbers(right, sample, run, tmp_path):
    """Those that one saw and liked, in the order named; their files keep the numbers."""
    whole = sample("a.npz", "-n", 12)
    assert near(whole[[3, 11, 0]], sample("b.npz", "--seeds", "3,11,0"))
    right("sample", run, "--seeds", "3,11", "--out", "liked", *EXACTLY)
    assert sorted(p.name for p in (tmp_path / "liked").iterdir()) == ["000003.png", "000011.png"]


def test_another_size(sample):
    """Where the network allows."""
    assert sample("a.npz", "-n", 2, "--size", 12).shape == (2, 1, 12, 12)
    assert sample("b.npz", "-n", 2, "--size", "7x10").shape == (2, 1, 7, 10)


def test_all_labels_are_rows(right, told_run):
    """Eight pictures a class if no number is named, and as large as that."""
    right("sample", told_run, "--out", "x.npz", "--label", "all", "--steps", 2)
    assert np.bincount(loaded("x.npz")[1]).tolist() == [8] * 10
    right("sample", told_run, "--out", "x.png", "--label", "all", "--steps", 2)
    right("sample", told_run, "--out", "y.png", "-n", 80, "--steps", 2)
    assert Image.open("x.png").height > Image.open("y.png").height


# ---- labels


def test_labels_are_dealt_out_in_turn(right, told_run):
    """By number, and they are written beside the images."""
    right("sample", told_run, "-n", 5, "--out", "x.npz", "--label", "3,5", *EXACTLY)
    both, labels = loaded("x.npz")
    assert labels.tolist() == [3, 5, 3, 5, 3]
    right("sample", told_run, "-n", 5, "--out", "y.npz", "--label", " 5 ", *EXACTLY)
    fives, labels = loaded("y.npz")
    assert labels.tolist() == [5] * 5 and near(both[1::2], fives[1::2])


def test_all_labels(right, told_run):
    """Picture i is of class i modulo their number, whatever is first and whatever the batch."""
    right("sample", told_run, "-n", 12, "--first", 8, "--batch", 5, "--out", "x.npz", "--label", "all")
    assert loaded("x.npz")[1].tolist() == [i % 10 for i in range(8, 20)]


def test_labels_end_the_names_of_files(right, told_run, tmp_path):
    """In a folder."""
    right("sample", told_run, "-n", 3, "--first", 9, "--out", "out", "--label", "all")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["000009_9.png", "000010_0.png", "000011_1.png"]


def test_no_label_is_none(right, told_run):
    """A conditional model samples without a label, and no labels are invented."""
    right("sample", told_run, "-n", 3, "--out", "x.npz")
    assert loaded("x.npz")[1] is None


def test_guidance(right, told_run):
    """Is taken by a conditional model."""
    right("sample", told_run, "-n", 2, "--out", "x.npz", "--label", "1", "--guidance", 3)
    assert loaded("x.npz")[0].shape == (2, 1, 8, 8)


# ---- files


def test_a_folder_of_pngs(right, sample, run, tmp_path):
    """One a picture, grey as the data, and the very pixels of the array."""
    images = sample("x.npz", "-n", 11)
    right("sample", run, "-n", 11, "--out", "deep/out", *EXACTLY)
    files = sorted((tmp_path / "deep" / "out").iterdir())
    assert [f.name for f in files] == [f"{i:06d}.png" for i in range(11)]
    assert all(Image.open(f).mode == "L" for f in files)
    assert (np.stack([np.asarray(Image.open(f)) for f in files]) == images[:, 0]).all()


def test_a_grid(right, sample, run, tmp_path):
    """Of the very same pictures."""
    images = sample("x.npz", "-n", 7)
    right("sample", run, "-n", 7, "--out", "x.png", *EXACTLY)
    assert (np.asarray(Image.open("x.png")) == np.asarray(image_io.grid(torch.from_numpy(images)))).all()


def test_the_reverse_process(right, sample, run, tmp_path):
    """A GIF whose last frame are the pictures, and a strip."""
    images = torch.from_numpy(sample("x.npz", "-n", 4, "--gif", "x.gif", "--strip", "x.png"))
    with Image.open("x.gif") as g:
        assert g.n_frames == 12 and g.info["loop"] == 0
        g.seek(11)
        assert (np.asarray(g.convert("RGB")) == np.asarray(image_io.grid(images))).all()
    with Image.open("x.png") as p:
        column = np.asarray(image_io.grid(images, columns=1))
        assert p.format == "PNG" and p.width >= 10 * column.shape[1]
        body = np.asarray(p)[-column.shape[0] :]
        assert any((body[:, x : x + column.shape[1]] == column).all() for x in range(p.width - column.shape[1] + 1))


def test_a_long_reverse_process_is_a_hundred_frames(right, run):
    """However many steps."""
    right("sample", run, "-n", 1, "--out", "x.png", "--gif", "x.gif", "--steps", 230)
    with Image.open("x.gif") as g:
        assert g.n_frames <= 100


def test_what_was_done_is_said(right, run):
    """How many, how long and where."""
    said = right("sample", run, "-n", 2, "--out", "x.png", "--gif", "g.gif", "--strip", "s.png").out
    assert "2 samples" in said and "x.png" in said and "g.gif" in said and "s.png" in said


def test_the_run_is_left_alone(right, run):
    """Sampling only reads it."""
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    right("sample", run, "-n", 2, "--out", "x.png")
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before
