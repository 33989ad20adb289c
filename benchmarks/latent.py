"""VAE, diffusion of pixels and diffusion of latents at equal minutes on a CPU.

python benchmarks/latent.py [--data mnist,fashion_mnist,emoji_64,emoji_128] [--minutes 5] [--seeds 0] [-n 1000]
    [--models vae,fast,latent] [--threads 1] [--bits 64] [--folder DIR] [--json FILE]

Trains the runs that do not exist, and prints for each: parameters, minutes of training in all (with the autoencoder),
network evaluations and images per second of sampling, the distances and shares of ``fromnoise evaluate`` with their
standard errors and those of as many held-out images, and bits/dim of held-out images by each one's bound;
for latent diffusion the reconstructions of its autoencoder as well, what the autoencoder alone costs. Writes a PNG
with the first images of each, side by side. A data set is a name or a file below FROMNOISE_DATA.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import time
from pathlib import Path
from typing import Any

import torch
from header import header
from PIL import Image

from fromnoise import checkpoint
from fromnoise.cli import main as fromnoise
from fromnoise.config.recipe_data import open_data
from fromnoise.evaluation.reconstruction import measure_reconstruction
from fromnoise.model import AutoencoderModel
from fromnoise.pipeline import collect, sample_steps
from fromnoise.reporting import image_io
from fromnoise.run_dir import RunDir
from fromnoise.utils.device import ComputeConfig, select_device

METRICS = {"frechet": 1, "kernel": 1000, "precision": 1, "recall": 1, "coverage": 1}
"""Keys of the JSON of ``fromnoise evaluate``, and factors."""
SHOWN = 24


def data_spec(name: str) -> str:
    """A named data set, or a file of that name."""
    for path in (Path(name), *(Path(os.environ.get("FROMNOISE_DATA", ".")) / f"{name}{end}" for end in (".zip", ""))):
        if path.is_file():
            return str(path)
    return name


def quietly(*words: str) -> None:
    """Run a command of fromnoise; what it prints is shown if it fails."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = fromnoise(list(words))
    if code:
        raise SystemExit(out.getvalue())


def train(model: str, name: str, seed: int, folder: Path, args: argparse.Namespace) -> Path:
    """The run of a recipe, which is trained if it does not exist or was interrupted."""
    out = folder / f"{name}-{args.minutes:g}-{model}-{seed}"
    words = ["train", model, "--data", data_spec(name), "--minutes", f"{args.minutes:g}", "--seed", str(seed)]
    words += ["--out", str(out), "--train.threads", str(args.threads), "--data.flip", str(name not in args.upright)]
    quietly(*words)
    return out


def sampling(run: Path, compute: ComputeConfig, count: int) -> tuple[torch.Tensor, float, int]:
    """Samples, images per second after a first batch, and network evaluations of a sample."""
    model = checkpoint.load_trainable(run).model
    compute.to_device(model.module)
    batches = torch.arange(2 * count).split(count)
    collect(sample_steps(model, model.recipe.sample, compute, ids=batches[1], batch=count))
    start = time.perf_counter()
    images = collect(sample_steps(model, model.recipe.sample, compute, ids=batches[0], batch=count)).images
    return images, count / (time.perf_counter() - start), model.network_evaluations(model.recipe.sample)


def row_of(found: dict[str, Any]) -> dict[str, Any]:
    """Values, errors and those of held-out images from a source's JSON."""
    out: dict[str, Any] = {"n": found["n"]}
    for key, factor in METRICS.items():
        value = found[key]
        out[key] = {k: factor * value[k] for k in ("value", "error", "real_vs_real") if value.get(k) is not None}
    return out


def describe(row: dict[str, Any], key: str) -> str:
    """A value with its error, and that of held-out images."""
    value = row[key]
    digits = 1 if key == "kernel" else 2
    real = f" ({value['real_vs_real']:.{digits}f})" if "real_vs_real" in value else ""
    return f"{value['value']:.{digits}f} +- {value['error']:.{digits}f}{real}"


def measure(name: str, seed: int, compute: ComputeConfig, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Train, evaluate and print the rows of a data set."""
    models = args.models.split(",")
    runs = {model: train(model, name, seed, args.folder, args) for model in models}
    sources = [str(run) for run in runs.values()]
    ceiling = runs["latent"] / "autoencoder" if "latent" in runs else None
    evaluated = args.folder / f"{name}-{args.minutes:g}-{seed}.json"
    words = [*sources, *([str(ceiling)] if ceiling else []), "-n", str(args.count), "--bits", "0"]
    out = evaluated.with_suffix("")
    if not evaluated.exists():
        quietly("evaluate", *words, "--json", str(evaluated), "--out", str(out))
    evaluations = json.loads(evaluated.read_text())["evaluations"]
    rows, panels = [], []
    for model, run in runs.items():
        bits_file = run / "bits.json"
        if not bits_file.exists():
            quietly("bits", str(run), "-n", str(args.bits), "--flow", "0", "--json", str(bits_file))
        bits = json.loads(bits_file.read_text())["bound"]
        images, rate, nfe = sampling(run, compute, SHOWN)
        panels.append((model, image_io.grid(images, columns=4, scale=max(1, 64 // images.shape[-1]))))
        parameters = sum(p.numel() for p in checkpoint.load_trainable(run).model.module.parameters())
        last = RunDir(run).read_reports()[-1]
        for found in evaluations:
            if not found["name"].startswith(str(run)) or found["name"].startswith(f"{run}/"):
                continue
            kind = found["name"].removeprefix(str(run)).lstrip(", ") or "-"
            row = {"data": name, "model": model, "seed": seed, "labels": kind, "parameters": parameters}
            first = RunDir(ceiling).read_reports()[-1]["timing"]["seconds"] if model == "latent" and ceiling else 0.0
            row |= {
                "minutes": (first + last["timing"]["seconds"]) / 60,
                "steps": last["step"],
                "nfe": nfe,
                "rate": rate,
            }
            row |= {"bits": bits} | row_of(found)
            rows.append(row)
            print(
                f"| {name} | {model} | {kind} | {seed} | {parameters / 1e6:.2f} | {row['minutes']:.1f} "
                f"| {last['step']:,} | {nfe} | {rate:.3g} | {' | '.join(describe(row, key) for key in METRICS)} "
                f"| {bits['value']:.3f} +- {bits['error']:.3f} |",
                flush=True,
            )
    if ceiling is not None:
        found = next(e for e in evaluations if e["name"].startswith(str(ceiling)))
        autoencoder = checkpoint.load_autoencoder(ceiling)
        compute.to_device(autoencoder.module)
        held_out = open_data(autoencoder.recipe, lambda line: None).held_out
        report = measure_reconstruction(autoencoder, compute, held_out)
        row = row_of(found)
        rows.append({"data": name, "model": "reconstructions", "seed": seed, "psnr": report.psnr.value} | row)
        print(
            f"| {name} | reconstructions of latent | - | {seed} | {autoencoder.parameters / 1e6:.2f} | | | | "
            f"| {' | '.join(describe(row, key) for key in METRICS)} | PSNR {report.psnr.value:.2f} +- "
            f"{report.psnr.error:.2f} dB |",
            flush=True,
        )
        few = held_out.get(torch.arange(min(SHOWN // 2, len(held_out))))
        pairs = torch.stack([few, _reconstructed(autoencoder, few, compute)], 1).flatten(0, 1)
        panels.append(("image, reconstruction", image_io.grid(pairs, columns=4, scale=max(1, 64 // few.shape[-1]))))
    picture: Image.Image = image_io.side_by_side(panels)
    image_io.save(picture, args.folder / f"{name}-{args.minutes:g}-{seed}.png")
    return rows


def _reconstructed(model: AutoencoderModel, pixels: torch.Tensor, compute: ComputeConfig) -> torch.Tensor:
    from fromnoise.data import to_uint8

    return to_uint8(model.reconstruct(pixels, compute)).cpu()


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist,fashion_mnist,emoji_64,emoji_128")
    parser.add_argument("--models", default="vae,fast,latent")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("-n", dest="count", type=int, default=1000)
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--upright", default="mnist", help="data sets whose images are not mirrored")
    parser.add_argument("--folder", type=Path, default=Path("runs/latent"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.upright = args.upright.split(",")
    torch.set_num_threads(args.threads)
    compute = select_device(None)
    print(header())
    print(f"{compute.describe()}; in brackets: as many held-out images")
    titles = "data | model | pseudo-labels | seed | M parameters | minutes | steps | evaluations | images/s | Frechet"
    print(f"| {titles} | kernel x 1000 | precision | recall | coverage | bits/dim |\n" + "|---" * 15 + "|")
    rows = []
    for name in args.data.split(","):
        for seed in map(int, args.seeds.split(",")):
            rows += measure(name, seed, compute, args)
    print(f"largest memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:,.0f} MB")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
