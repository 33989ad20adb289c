"""``fromnoise edit``: known pixels are kept, options reach the model, and each error is one line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

QUICK = ["--steps", "4", "--precision", "fp32"]


@pytest.fixture(scope="session")
def color_run(tmp_path_factory):
    """A run of three steps on 8x8 color images."""
    from calling import SMALL, call

    place = tmp_path_factory.mktemp("color")
    rng = np.random.default_rng(0)
    (place / "data").mkdir()
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(place / "data" / f"{i}.png")
    words = ["train", "images", "--data", place / "data", "--data.size", "8", "--steps", "3", "--out", place / "run"]
    said = call(*words, *SMALL, "--sample.sampler", "ddim")
    assert said.code == 0, said.err
    return place / "run"


@pytest.fixture
def image(tmp_path):
    """``image(name, *shape)`` writes an image of noise and returns its pixels."""

    def maker(name, *shape, seed=0):
        pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
        return pixels

    return maker


@pytest.fixture
def known(tmp_path):
    """Write mask.png, white in the middle; true where it is dark."""
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 3:7] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return mask == 0


def saved(path):
    with np.load(path, allow_pickle=False) as file:
        return file["images"]


@pytest.mark.parametrize(
    "method",
    [
        ["mmps"],
        ["mmps", "--iterations", 1],
        ["pigdm"],
        ["ddnm"],
        ["repaint"],
        ["repaint", "--iterations", 2],
        ["pigdm", "--sigma-data", 0.3],
    ],
)
def test_inpainting_keeps_the_known_pixels(right, run, image, known, method):
    """Exactly, by every method; the unknown pixels differ between samples."""
    pixels = image("x.png", 8, 8)
    words = ["edit", "inpaint", run, "--image", "x.png", "--mask", "mask.png", *QUICK, "--method", *method]
    right(*words, "-n", 3, "--out", "y.npz")
    samples = saved("y.npz")
    assert samples.shape == (3, 1, 8, 8)
    assert (samples[:, 0][:, known] == pixels[known]).all()
    assert (samples[0] != samples[1]).any()


def test_a_single_sample_is_written_pixel_by_pixel(right, run, image, known):
    """At its own size; it depends on the seed and not on the batch size."""
    pixels = image("x.png", 8, 8)
    words = ["edit", "inpaint", run, "--image", "x.png", "--mask", "mask.png", *QUICK]
    right(*words, "--out", "a.png")
    right(*words, "--out", "b.png", "--seed", 1)
    right(*words, "--out", "c.npz", "-n", 2, "--batch", 1)
    a, b = (np.asarray(Image.open(p)) for p in ("a.png", "b.png"))
    assert a.shape == (8, 8) and (a[known] == pixels[known]).all() and (a != b).any()
    assert np.abs(saved("c.npz")[0, 0].astype(int) - a).max() <= 1


def test_outpainting_keeps_the_image_in_its_place(right, run, image):
    """In the middle of the training size, or at --at in a canvas of --size."""
    pixels = image("x.png", 4, 6)
    words = ["edit", "outpaint", run, "--image", "x.png", *QUICK, "--out", "y.npz"]
    right(*words)
    assert (saved("y.npz")[0, 0, 2:6, 1:7] == pixels).all()
    right(*words, "--size", "9x12", "--at", "5,0", "--any-size")
    assert saved("y.npz").shape == (1, 1, 9, 12) and (saved("y.npz")[0, 0, 5:, :6] == pixels).all()


def test_variations_differ_more_with_depth(right, run, image):
    """A small depth keeps the image; a larger one moves the samples further away."""
    pixels = image("x.png", 8, 8).astype(int)
    distance = []
    for depth in (0.001, 0.3, 1.0):
        words = ["edit", "vary", run, "--image", "x.png", "--depth", depth, "--steps", 50, "--precision", "fp32"]
        right(*words, "-n", 4, "--out", "y.npz")
        distance.append(np.abs(saved("y.npz")[:, 0] - pixels).mean())
    assert distance[0] < 5 < distance[1] < distance[2]


def test_restored_images_agree_with_the_input(right, color_run, image):
    """Degrading the samples gives the input, up to 8-bit rounding."""
    whole = image("x.png", 8, 8, 3).astype(float)
    luma = whole @ [0.299, 0.587, 0.114]
    words = ["edit", "restore", color_run, *QUICK, "-n", 2]
    right(*words, "--image", "x.png", "--degrade", "--colorize", "--out", "y.npz", "--no-clip")
    samples = saved("y.npz").transpose(0, 2, 3, 1).astype(float)
    inside = (samples > 0).all(-1) & (samples < 255).all(-1)  # elsewhere the pixel range clips it
    assert inside.mean() > 0.1 and np.abs(samples @ [0.299, 0.587, 0.114] - luma)[inside].max() < 1.5
    small = image("small.png", 4, 4, 3, seed=1)
    right(*words, "--image", "small.png", "--upscale", 2, "--out", "y.npz", "--no-clip")
    samples = saved("y.npz").astype(float)
    means = samples.reshape(2, 3, 4, 2, 4, 2).mean((3, 5))
    squares = samples.reshape(2, 3, 4, 2, 4, 2)
    inside = (squares > 0).all((3, 5)) & (squares < 255).all((3, 5))
    assert inside.mean() > 0.1 and np.abs(means - small.transpose(2, 0, 1))[inside].max() < 1
    right(*words, "--image", "x.png", "--deblur", 1.0, "--out", "y.npz")
    Image.fromarray(whole[..., 0].astype(np.uint8)).save("grey.png")
    right(*words, "--image", "grey.png", "--colorize", "--out", "y.npz")
    assert saved("y.npz").shape == (2, 3, 8, 8)


def test_edit_with_and_without_a_label(right, told_run, image, known):
    """A conditional model accepts both."""
    image("x.png", 8, 8)
    words = ["edit", "inpaint", told_run, "--image", "x.png", "--mask", "mask.png", *QUICK, "--out", "y.npz"]
    right(*words)
    right(*words, "--label", "3", "--guidance", 2)


def test_an_inverse_solver_of_a_user(right, wrong, run, image, known, monkeypatch):
    """A solver registered outside the package, with an option, is chosen by ``--method``."""
    from fromnoise import registry
    from fromnoise.diffusion.denoiser import Prediction
    from fromnoise.diffusion.inverse import InverseSolver

    monkeypatch.setattr(registry, "_COMPONENTS", {k: dict(v) for k, v in registry._COMPONENTS.items()})

    @registry.register("inverse_solver", "constant")
    @dataclass(frozen=True)
    class Constant(InverseSolver):
        """Predict a constant.

        Args:
            value: of all pixels.
        """

        value: float = 0.0

        def denoiser(self, denoise, operator, y):
            def constant(x, level, cond=None, previous=None):
                return Prediction(torch.full_like(x, self.value))

            return constant

    pixels = image("x.png", 8, 8)
    words = ["edit", "inpaint", run, "--image", "x.png", "--mask", "mask.png", *QUICK, "--sampler", "ddim"]
    words += ["--method", "constant"]
    right(*words, "--value", 1, "--out", "y.npz")
    samples = saved("y.npz")[0, 0]
    assert (samples[known] == pixels[known]).all() and (samples[~known] == 255).all()
    wrong(*words, "--noise-std", 1, "--out", "z.npz", message=("--noise-std", "constant", "--method mmps"))


# ---- errors


def test_invalid_masks(wrong, run, image, known, tmp_path):
    """Another size, all pixels kept, no pixel kept, not an image, missing."""
    image("x.png", 8, 8)
    words = ["edit", "inpaint", run, "--image", "x.png", "--out", "y.png", "--mask"]
    image("large.png", 9, 8)
    wrong(*words, "large.png", message=("large.png", "9x8", "8x8", "one size"))
    for name, value, expected in (("dark.png", 0, "keeps every pixel"), ("light.png", 255, "keeps no pixel")):
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(tmp_path / name)
        wrong(*words, name, message=(name, expected))
    (tmp_path / "text.png").write_text("words")
    wrong(*words, "text.png", message=("text.png", "cannot be read"))
    wrong(*words, "nowhere.png", message=("nowhere.png", "No such file"))


def test_invalid_images(wrong, run, color_run, image, known):
    """Too many channels, another size, missing."""
    words = ["edit", "inpaint", run, "--mask", "mask.png", "--out", "y.png", "--image"]
    image("color.png", 8, 8, 3)
    wrong(*words, "color.png", message=("color.png", "3 channels", "this model has 1"))
    image("clear.png", 8, 8, 4)
    wrong(
        "edit", "vary", color_run, "--out", "y.png", "--image", "clear.png", message=("4 channels", "this model has 3")
    )
    image("wide.png", 8, 12)
    wrong("edit", "vary", run, "--out", "y.png", "--image", "wide.png", message=("8x12", "8x8", "--any-size"))
    wrong(*words, "nowhere.png", message=("nowhere.png", "No such file"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["vary", "--depth", "0"], ("--depth 0", "above 0")),
        (["vary", "--depth", "1.5"], ("--depth 1.5",)),
        (["vary", "--label", "3"], ("without labels",)),
        (["vary", "-n", "0"], ("-n 0",)),
        (["vary", "--steps", "5000"], ("5000", "1000")),
        (["outpaint"], ("as large as the canvas", "--size")),
        (["outpaint", "--size", "4"], ("does not fit", "--size")),
        (["outpaint", "--size", "axb"], ("--size axb",)),
        (["outpaint", "--size", "12"], ("12x12", "8x8", "--any-size")),
        (["outpaint", "--size", "12", "--at", "7,7"], ("row 7, column 7",)),
        (["restore", "--colorize"], ("3 channels", "this one has 1")),
        (["restore", "--upscale", "1"], ("2 or more",)),
        (["restore", "--upscale", "2"], ("16x16", "8x8", "--any-size")),
        (["restore", "--degrade", "--upscale", "3"], ("8x8", "factor of 3", "divides")),
        (["restore", "--deblur", "-1"], ("-1", "blur")),
        (["restore", "--deblur", "1", "--method", "magic"], ("'magic'", "mmps", "repaint")),
        (["outpaint", "--sigma-data", "1"], ("--sigma-data", "inverse solver mmps", "--method pigdm")),
        (["outpaint", "--method", "ddnm", "--resamplings", "2"], ("--resamplings", "ddnm", "--method repaint")),
        (["outpaint", "--noise-std", "low"], ("--noise-std", "low")),
        (["outpaint", "--noise-std", "-1"], ("noise_std is -1", "0 or more")),
        (["restore", "--deblur", "1", "--iterations", "0"], ("iterations is 0", "1 or more")),
        (
            ["restore", "--deblur", "1", "--method", "repaint", "--iterations", "0"],
            ("resamplings is 0", "use a number of at least 1"),
        ),
        (
            ["restore", "--deblur", "1", "--method", "pigdm", "--iterations", "3"],
            ("--iterations does not apply to pigdm", "use mmps or repaint"),
        ),
        (["restore"], ("--colorize", "--upscale", "--deblur", "missing")),
        (["restore", "--deblur", "1", "--upscale", "2"], ("not allowed",)),
        (["inpaint"], ("--mask", "missing")),
    ],
    ids=lambda v: " ".join(v),
)
def test_an_invalid_option_is_one_line(wrong, run, image, words, expected):
    """It names the option, or what is wrong with its value."""
    image("x.png", 8, 8)
    wrong("edit", words[0], run, "--image", "x.png", "--out", "y.png", *words[1:], message=expected)
