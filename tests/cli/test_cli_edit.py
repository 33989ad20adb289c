"""Editing: what is kept is kept, what is asked reaches the model, and each mistake is one line."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

QUICK = ["--steps", "4", "--precision", "fp32"]


@pytest.fixture(scope="session")
def colour_run(tmp_path_factory):
    """A run of three steps on colour pictures of 8x8."""
    from calling import SMALL, call

    place = tmp_path_factory.mktemp("colour")
    rng = np.random.default_rng(0)
    (place / "data").mkdir()
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(place / "data" / f"{i}.png")
    words = ["train", "images", "--data", place / "data", "--data.size", "8", "--steps", "3", "--out", place / "run"]
    said = call(*words, *SMALL, "--sample.sampler", "ddim")
    assert said.code == 0, said.err
    return place / "run"


@pytest.fixture
def picture(tmp_path):
    """``picture(name, *shape)`` -> a file of noise and its pixels."""

    def maker(name, *shape, seed=0):
        pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
        return pixels

    return maker


@pytest.fixture
def hole(tmp_path):
    """A mask, white in the middle: where it is dark."""
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 3:7] = 255
    Image.fromarray(mask).save(tmp_path / "hole.png")
    return mask == 0


def images(path):
    with np.load(path, allow_pickle=False) as file:
        return file["images"]


@pytest.mark.parametrize("method", [["posterior"], ["posterior", "--effort", 1], ["pigdm"], ["projected"], ["repaint"]])
def test_inpainting_keeps_what_is_seen(right, run, picture, hole, method):
    """Pixel by pixel, by every method, and the rest is drawn anew each time."""
    pixels = picture("x.png", 8, 8)
    words = ["edit", "inpaint", run, "--image", "x.png", "--mask", "hole.png", *QUICK, "--method", *method]
    right(*words, "-n", 3, "--out", "y.npz")
    drawn = images("y.npz")
    assert drawn.shape == (3, 1, 8, 8)
    assert (drawn[:, 0][:, hole] == pixels[hole]).all()
    assert (drawn[0] != drawn[1]).any()


def test_one_picture_is_written_as_it_is(right, run, picture, hole):
    """Of its own size, and a function of the seed."""
    pixels = picture("x.png", 8, 8)
    words = ["edit", "inpaint", run, "--image", "x.png", "--mask", "hole.png", *QUICK]
    right(*words, "--out", "a.png")
    right(*words, "--out", "b.png", "--seed", 1)
    right(*words, "--out", "c.npz", "-n", 2, "--batch", 1)
    a, b = (np.asarray(Image.open(p)) for p in ("a.png", "b.png"))
    assert a.shape == (8, 8) and (a[hole] == pixels[hole]).all() and (a != b).any()
    assert np.abs(images("c.npz")[0, 0].astype(int) - a).max() <= 1


def test_outpainting(right, run, picture):
    """The picture lies where it was put."""
    pixels = picture("x.png", 4, 6)
    words = ["edit", "outpaint", run, "--image", "x.png", *QUICK, "--out", "y.npz"]
    right(*words)
    assert (images("y.npz")[0, 0, 2:6, 1:7] == pixels).all()
    right(*words, "--size", "9x12", "--at", "5,0", "--any-size")
    assert images("y.npz").shape == (1, 1, 9, 12) and (images("y.npz")[0, 0, 5:, :6] == pixels).all()


def test_varying(right, run, picture):
    """The deeper, the further from the picture; hardly any depth leaves it."""
    pixels = picture("x.png", 8, 8).astype(int)
    far = []
    for depth in (0.001, 0.3, 1.0):
        words = ["edit", "vary", run, "--image", "x.png", "--depth", depth, "--steps", 50, "--precision", "fp32"]
        right(*words, "-n", 4, "--out", "y.npz")
        far.append(np.abs(images("y.npz")[:, 0] - pixels).mean())
    assert far[0] < 5 < far[1] < far[2]


def test_restoring(right, colour_run, picture):
    """What is left of the drawn pictures is what was given, to the steps of 8 bits."""
    whole = picture("x.png", 8, 8, 3).astype(float)
    luma = whole @ [0.299, 0.587, 0.114]
    words = ["edit", "restore", colour_run, *QUICK, "-n", 2]
    right(*words, "--image", "x.png", "--degrade", "--colourise", "--out", "y.npz", "--no-clip")
    drawn = images("y.npz").transpose(0, 2, 3, 1).astype(float)
    inside = (drawn > 0).all(-1) & (drawn < 255).all(-1)  # elsewhere the range of pixels cut it
    assert inside.mean() > 0.1 and np.abs(drawn @ [0.299, 0.587, 0.114] - luma)[inside].max() < 1.5
    small = picture("small.png", 4, 4, 3, seed=1)
    right(*words, "--image", "small.png", "--enlarge", 2, "--out", "y.npz", "--no-clip")
    drawn = images("y.npz").astype(float)
    means = drawn.reshape(2, 3, 4, 2, 4, 2).mean((3, 5))
    squares = drawn.reshape(2, 3, 4, 2, 4, 2)
    inside = (squares > 0).all((3, 5)) & (squares < 255).all((3, 5))
    assert inside.mean() > 0.1 and np.abs(means - small.transpose(2, 0, 1))[inside].max() < 1
    right(*words, "--image", "x.png", "--deblur", 1.0, "--out", "y.npz")
    Image.fromarray(whole[..., 0].astype(np.uint8)).save("grey.png")
    right(*words, "--image", "grey.png", "--colourise", "--out", "y.npz")
    assert images("y.npz").shape == (2, 3, 8, 8)


def test_a_label_reaches_the_edit(right, told_run, picture, hole):
    """And without one a model of labels is told nothing."""
    picture("x.png", 8, 8)
    words = ["edit", "inpaint", told_run, "--image", "x.png", "--mask", "hole.png", *QUICK, "--out", "y.npz"]
    right(*words)
    right(*words, "--label", "3", "--guidance", 2)


# ---- mistakes


def test_wrong_masks(wrong, run, picture, hole, tmp_path):
    """Of another size, all kept, all lost, no picture, not there."""
    picture("x.png", 8, 8)
    words = ["edit", "inpaint", run, "--image", "x.png", "--out", "y.png", "--mask"]
    picture("large.png", 9, 8)
    wrong(*words, "large.png", told=("large.png", "9x8", "8x8", "one size"))
    for name, value, told in (("dark.png", 0, "keeps the whole"), ("light.png", 255, "keeps nothing")):
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(tmp_path / name)
        wrong(*words, name, told=(name, told))
    (tmp_path / "text.png").write_text("words")
    wrong(*words, "text.png", told=("text.png", "cannot be read"))
    wrong(*words, "nowhere.png", told=("nowhere.png", "no picture"))


def test_wrong_pictures(wrong, run, colour_run, picture, hole):
    """Of more channels, of another size, not there."""
    words = ["edit", "inpaint", run, "--mask", "hole.png", "--out", "y.png", "--image"]
    picture("colour.png", 8, 8, 3)
    wrong(*words, "colour.png", told=("colour.png", "3 channels", "draws 1"))
    picture("clear.png", 8, 8, 4)
    wrong("edit", "vary", colour_run, "--out", "y.png", "--image", "clear.png", told=("4 channels", "draws 3"))
    picture("wide.png", 8, 12)
    wrong("edit", "vary", run, "--out", "y.png", "--image", "wide.png", told=("8x12", "8x8", "--any-size"))
    wrong(*words, "nowhere.png", told=("nowhere.png", "no picture"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["vary", "--depth", "0"], ("depth of 0", "above 0")),
        (["vary", "--depth", "1.5"], ("depth of 1.5",)),
        (["vary", "--label", "3"], ("without labels",)),
        (["vary", "-n", "0"], ("-n 0",)),
        (["vary", "--steps", "5000"], ("5000", "1000")),
        (["outpaint"], ("as large as the sheet", "--size")),
        (["outpaint", "--size", "4"], ("does not lie", "--size")),
        (["outpaint", "--size", "axb"], ("--size axb",)),
        (["outpaint", "--size", "12"], ("12x12", "8x8", "--any-size")),
        (["outpaint", "--size", "12", "--at", "7,7"], ("row 7, column 7",)),
        (["restore", "--colourise"], ("1 channels",)),
        (["restore", "--enlarge", "1"], ("2 or more",)),
        (["restore", "--enlarge", "2"], ("16x16", "8x8", "--any-size")),
        (["restore", "--degrade", "--enlarge", "3"], ("8x8", "3 by 3", "divides")),
        (["restore", "--deblur", "-1"], ("-1", "blur")),
        (["restore", "--deblur", "1", "--method", "magic"], ("'magic'", "posterior", "repaint")),
        (["restore", "--deblur", "1", "--method", "pigdm", "--effort", "3"], ("effort", "pigdm")),
        (["restore"], ("--colourise", "--enlarge", "--deblur", "required")),
        (["restore", "--deblur", "1", "--enlarge", "2"], ("not allowed",)),
        (["inpaint"], ("--mask", "required")),
    ],
    ids=lambda v: " ".join(v),
)
def test_a_mistake(wrong, run, picture, words, told):
    """One line each."""
    picture("x.png", 8, 8)
    wrong("edit", words[0], run, "--image", "x.png", "--out", "y.png", *words[1:], told=told)
