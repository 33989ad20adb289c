"""The verbs on an autoencoder, a VAE and a diffusion model of latents."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fromnoise.cli import main
from fromnoise.clustering.activations import Activations
from fromnoise.data import MemoryImages
from fromnoise.reporting import image_io
from fromnoise.utils.device import select_device

SMALL = (
    *("--data", "digits", "--steps", "12", "--batch", "8", "--autoencoder.width", "8", "--autoencoder.factor", "2"),
    *("--autoencoder.patch", "1", "--autoencoder.blocks", "1", "--train.held_out", "8", "--train.evaluations", "1"),
    *("--train.previews", "0", "--sample.count", "0", "--device", "cpu", "--precision", "fp32"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs ``latent`` (with ``latent/autoencoder``) and ``vae``, and two images with a mask."""
    out = tmp_path_factory.mktemp("runs")
    network = ("--network.width", "8", "--network.attention_resolutions", "[]", "--sample.steps", "3")
    assert main(["train", "latent", *SMALL, *network, "--out", str(out / "latent")]) == 0
    assert main(["train", "vae", *SMALL, "--autoencoder.dimensions", "4", "--out", str(out / "vae")]) == 0
    pixels = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for name, image in zip("ab", pixels, strict=True):
        image_io.save(image_io.single(image), out / f"{name}.png")
    mask = torch.zeros(1, 8, 8, dtype=torch.uint8)
    mask[:, 2:5, 3:8] = 255
    image_io.save(image_io.single(mask), out / "mask.png")
    np.save(out / "a.npy", pixels[0, 0].numpy())
    return out


def pixels_of(path):
    """The pixels of a grey PNG."""
    from PIL import Image

    return np.asarray(Image.open(path).convert("L"))


@pytest.mark.parametrize("run", ["latent", "vae"])
def test_sample(folder, run, tmp_path):
    """Grid, array and GIF; sample 3 alone is sample 3 of five."""
    command = ["sample", str(folder / run), "--device", "cpu", "--precision", "fp32", "--seed", "4"]
    assert main([*command, "-n", "5", "--out", str(tmp_path / "a.npz"), "--gif", str(tmp_path / "a.gif")]) == 0
    assert main([*command, "--seeds", "3", "--out", str(tmp_path / "b.npz")]) == 0
    five, one = np.load(tmp_path / "a.npz")["images"], np.load(tmp_path / "b.npz")["images"]
    assert five.shape == (5, 1, 8, 8) and five.std() > 0
    assert (five[3] == one[0]).all()


def test_another_size(folder, tmp_path, capsys):
    """Multiples of the factor; the latents of a VAE have one size."""
    command = ["sample", str(folder / "latent"), "-n", "2", "--out", str(tmp_path / "a.npz"), "--size"]
    assert main([*command, "12x10"]) == 0
    assert np.load(tmp_path / "a.npz")["images"].shape == (2, 1, 12, 10)
    assert main([*command, "9"]) == 2
    assert "9x9 cannot be divided by the autoencoder's factor 2" in capsys.readouterr().err
    assert main(["sample", str(folder / "vae"), "-n", "2", "--size", "12", "--out", str(tmp_path / "b.npz")]) == 2


def test_inpainting_keeps_the_known_pixels(folder, tmp_path):
    """Bit for bit; the others are sampled."""
    command = ["edit", "inpaint", str(folder / "latent"), "--image", str(folder / "a.png"), "--precision", "fp32"]
    assert main([*command, "--mask", str(folder / "mask.png"), "--out", str(tmp_path / "out.png")]) == 0
    before, after, mask = np.load(folder / "a.npy"), pixels_of(tmp_path / "out.png"), pixels_of(folder / "mask.png")
    assert (before == after)[mask == 0].all() and not (before == after)[mask > 0].all()


def test_other_edits(folder, tmp_path, capsys):
    """Variations and interpolations are decoded; restoration is refused with the reason."""
    run, image = str(folder / "latent"), str(folder / "a.png")
    assert (
        main(["edit", "vary", run, "--image", image, "--depth", "0.4", "-n", "2", "--out", str(tmp_path / "v.npz")])
        == 0
    )
    assert np.load(tmp_path / "v.npz")["images"].shape == (2, 1, 8, 8)
    ends = [
        "edit",
        "interpolate",
        run,
        "--image",
        image,
        "--to",
        str(folder / "b.png"),
        "--out",
        str(tmp_path / "i.png"),
    ]
    assert main(ends) == 0
    assert main(["edit", "restore", run, "--image", image, "--deblur", "1", "--out", str(tmp_path / "r.png")]) == 2
    assert "works on pixels, and this model on the latents of an autoencoder" in capsys.readouterr().err


@pytest.mark.parametrize("run", ["latent", "vae"])
def test_bits(folder, run, tmp_path, capsys):
    """The joint bound has its parts; so has that of the VAE."""
    words = [
        "bits",
        str(folder / run),
        "-n",
        "4",
        "--bound-steps",
        "8",
        "--flow",
        "0",
        "--json",
        str(tmp_path / "b.json"),
    ]
    assert main(words) == 0
    found = json.loads((tmp_path / "b.json").read_text())
    assert found["bound"]["value"] == pytest.approx(sum(found["parts"].values()), rel=1e-6)
    assert "-log p(x | z)" in found["parts"] and "bound" in capsys.readouterr().out


def test_evaluate_reconstructions_and_samples(folder, tmp_path, capsys):
    """A table with the diffusion model, the VAE's samples and the autoencoder's reconstructions."""
    runs = [str(folder / name) for name in ("latent", "vae", "latent/autoencoder")]
    words = ["-n", "40", "--features", "pixels", "--bits", "0", "--out", str(tmp_path / "out")]
    assert main(["evaluate", *runs, *words]) == 0
    printed = capsys.readouterr()
    assert "latent/autoencoder, reconstructions" in printed.out
    assert printed.err.count("PSNR") == 2 and "latent channels dead" in printed.err


def test_activations(folder):
    """Of a model of latents, for images."""
    activations = Activations.from_run(folder / "latent", (1, 8, 8), select_device("cpu", "fp32"), 0)
    pixels = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = activations.at(MemoryImages(pixels), torch.arange(3), 0.3, activations.layers)
    assert len(found) > 4 and all(len(matrix) == 3 and matrix.std() > 0 for matrix in found.values())


@pytest.mark.parametrize(
    "words",
    [
        ("sample", "AE", "-n", "2"),
        ("edit", "vary", "AE", "--image", "IMAGE", "--depth", "0.4", "--out", "OUT"),
        ("export", "AE", "--to", "onnx", "--out", "OUT"),
        ("export", "LATENT", "--to", "diffusers", "--out", "OUT"),
        ("train", "latent", "--data", "digits", "--autoencoder", "LATENT", "--out", "OUT"),
        ("train", "latent", "--data", "digits", "--autoencoder", "IMAGE", "--out", "OUT"),
        ("train", "autoencoder", "--data", "digits", "--autoencoder.factor", "16", "--out", "OUT"),
        ("bits", "LATENT", "--bound-steps", "0"),
        ("cluster", "digits", "-q", "3", "-n", "40", "--features", "AE", "--out", "OUT"),
        ("sample", "VAE", "-n", "2", "--label", "3"),
    ],
)
def test_wrong_uses_get_one_line(folder, tmp_path, words, capsys):
    """Exit code 2, and what to do."""
    paths = {"AE": folder / "latent/autoencoder", "LATENT": folder / "latent", "VAE": folder / "vae"}
    paths |= {"IMAGE": folder / "a.png", "OUT": tmp_path / "out"}
    assert main([str(paths.get(word, word)) for word in words]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fromnoise: ")]
    assert len(error) == 1 and ":" in error[0][11:]
