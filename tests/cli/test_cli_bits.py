"""``fromnoise bits``, and ``fromnoise show`` and ``edit interpolate`` of a model."""

from __future__ import annotations

import json

import pytest
from PIL import Image

FAST = ("-n", 6, "--bound-steps", 4, "--flow", 2, "--flow-steps", 2)


def test_bits(right, run, tmp_path):
    """Both methods on held-out and training images, with errors and n, as text, JSON and a plot."""
    output = right("bits", run, *FAST, "--json", tmp_path / "b.json", "--plot", tmp_path / "b.png")
    assert "held out" in output.out and "training" in output.out and "flow" in output.out and "+-" in output.out
    result = json.loads((tmp_path / "b.json").read_text())
    for part in (result, result["train"]):
        assert part["bound"]["n"] == 6 and part["flow"]["n"] == 2
        assert part["bound"]["value"] > 0 and part["bound"]["error"] > 0
        assert sum(part["parts"].values()) == pytest.approx(part["bound"]["value"])
    assert result["gap"]["bound"]["value"] == pytest.approx(
        result["bound"]["value"] - result["train"]["bound"]["value"]
    )
    assert Image.open(tmp_path / "b.png").size[0] > 300


def test_bits_are_reproducible(right, run, tmp_path):
    """The same seed gives the same numbers, another seed others."""
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        right("bits", run, *FAST, "--flow", 0, "--seed", seed, "--json", tmp_path / f"{name}.json")
    a, b, c = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "abc")
    assert a == b and a["bound"]["value"] != c["bound"]["value"] and a["flow"] is None


def test_bits_of_other_images(right, run, paint, tmp_path):
    """Other data are resized to the model's shape; their training images are not measured."""
    paint(tmp_path / "others", [f"{i}.png" for i in range(60)], 20, 12)
    output = right("bits", run, "--data", tmp_path / "others", *FAST, "--flow", 0, "--json", tmp_path / "b.json")
    assert "training images are not measured" in output.out and "train" not in json.loads(
        (tmp_path / "b.json").read_text()
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-n", 1], "-n 1"),
        (["--bound-steps", "some"], "--bound-steps some"),
        (["--bound-steps", 0], "--bound-steps 0"),
        (["--flow-steps", 0], "--flow-steps"),
        (["--tolerance", 2], "--tolerance 2"),
        (["--probes", 0], "--probes"),
        (["--json", "b.txt"], ".json"),
        (["--plot", "b.jpg"], ".png"),
        (["--data", "no-such-set"], "no-such-set"),
    ],
)
def test_invalid_options_of_bits(wrong, run, words, message):
    """One line each."""
    wrong("bits", run, *words, message=message)


@pytest.mark.parametrize("figure", ["progressive", "shared"])
def test_show_a_model(right, run, figure, tmp_path):
    """Both write a figure."""
    right("show", figure, run, "-n", 2, "--steps", 4, "--out", tmp_path / "p.png")
    assert min(Image.open(tmp_path / "p.png").size) > 30


def test_show_rate(right, small, tmp_path):
    """The whole curve as a plot, a table and JSON, with T = 30."""
    right("train", "digits", "--steps", 1, "--out", tmp_path / "r", *small, "--diffusion.schedule.steps", 30)
    output = right("show", "rate", tmp_path / "r", "-n", 2, "--out", tmp_path / "p.png", "--json", tmp_path / "r.json")
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["n"] == 2 and result["steps"] == list(range(1, 31)) and len(result["rates"]) == 30
    assert "lossless" in output.out and Image.open(tmp_path / "p.png").size[0] > 300
    assert result["rates"] == sorted(result["rates"]) and result["lossless"] > result["rates"][-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shared", "--times", "2"], "--times 2"),
        (["shared", "--times", "deep"], "--times deep"),
        (["shared", "--steps", "2000"], "steps 2000"),
        (["progressive", "--steps", "0"], "--steps 0"),
        (["rate", "-n", "0"], "-n 0"),
    ],
)
def test_invalid_options_of_show(wrong, run, words, message):
    """One line each."""
    wrong("show", words[0], run, *words[1:], "--out", "p.png", message=message)


@pytest.mark.parametrize("flow", [(), ("--flow",)])
def test_interpolate(right, run, paint, tmp_path, flow):
    """One row per depth, one column per point."""
    paint(tmp_path, ["a.png", "b.png"], 8, 8, 1)
    few = ("--points", 3, "--depth", "0.3,1", "--steps", 4)
    right("edit", "interpolate", run, "--image", "a.png", "--to", "b.png", *few, *flow, "--out", "p.png")
    height, width = reversed(Image.open(tmp_path / "p.png").size)
    assert width == 3 * 64 + 2 * 2 and height == 2 * 64 + 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--points", 1], "--points 1"),
        (["--depth", "0"], "--depth 0"),
        (["--to", "none.png"], "none.png"),
        (["--to", "wide.png"], "8x12"),
        (["--steps", 5000], "steps 5000"),
    ],
)
def test_invalid_options_of_interpolate(wrong, run, paint, tmp_path, words, message):
    """One line each."""
    paint(tmp_path, ["a.png", "b.png"], 8, 8, 1)
    paint(tmp_path, ["wide.png"], 8, 12, 1)
    wrong("edit", "interpolate", run, "--image", "a.png", "--to", "b.png", "--out", "p.png", *words, message=message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sampler", "dpmpp-3m", "--steps", 2], ("dpmpp-3m", "at least 3 steps")),
        (["--sampler", "ipndm", "--steps", 1], "at least 3 steps"),
        (["--sampler", "unipc", "--steps", 1], "at least 2 steps"),
        (["--sampler", "unipc", "--steps", 1001], "steps 1001"),
        (["--sampler", "unipc", "--steps", 10, "--eta", 0.5], ("--eta", "unipc", "--sampler ddim")),
        (["--sampler", "ddim", "--churn", 0.1], ("--churn", "--sampler heun")),
        (["--sampler", "heun", "--langevin-snr", 0.1], ("--langevin-snr", "--sampler pc")),
        (["--sampler", "ddim", "--variance", 1], ("--variance", "--sampler ancestral")),
    ],
)
def test_sampler_options_that_do_not_apply(wrong, run, words, message):
    """One line each."""
    wrong("sample", run, "-n", 1, "--out", "p.png", *words, message=message)
