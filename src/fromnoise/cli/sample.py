"""``fromnoise sample``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fromnoise.cli import guidance_flags, parsing

if TYPE_CHECKING:
    from torch import Tensor

    from fromnoise.model import Model

HELP = "draw pictures from a trained model"
EPILOG = """what is left out is taken from the model's own recipe.

rules:
  dpmpp-2m-sde  with noise, order 2; 10 to 30: what most recipes do
  unipc         deterministic, order 3; 10 to 30
  dpmpp-2m      deterministic, order 2; 10 to 30.  dpmpp-3m: order 3; 15 to 50
  ddim          deterministic, or with noise by --eta; 20 to 100
  ipndm         deterministic, order 3; 20 to 50
  heun          deterministic, or with noise by --churn, order 2, two evaluations a step; 10 to 50
  ancestral     the paper's; all steps of the table, or a hundred
  pc            ancestral and a Langevin correction, two evaluations a step; several hundred
  sde           Euler's step of the reverse SDE; all steps, for comparison
  euler         ddim without noise

examples:
  fromnoise sample runs/digits -n 100 --out digits.png --gif reverse.gif
  fromnoise sample model.safetensors -n 1000 --sampler ddim --steps 50 --out samples.npz
  fromnoise sample runs/flowers -n 500 --out folder/"""

_OWNERS = {"variance": ("ancestral", "pc"), "eta": ("ddim",), "churn": ("heun",), "langevin_snr": ("pc",)}
"""Which rules heed a flag."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("model", metavar="RUN", help="a run folder or one .safetensors file")
    add("-n", dest="count", metavar="N", type=int, help="how many pictures; 64 if left out, 8 a class of --label all")
    add(
        "--out",
        metavar="PATH",
        type=Path,
        required=True,
        help=".png for a grid, .npz for an array, anything else is a folder of PNGs",
    )
    add("--gif", metavar="FILE", type=Path, help="also the reverse process as a GIF")
    add("--strip", metavar="FILE", type=Path, help="also the reverse process as a strip, a PNG")
    add("--sampler", metavar="NAME", help="what a step does: see below")
    add("--steps", metavar="K", type=int, help="steps; heun and pc evaluate the network twice in each")
    add("--grid", metavar="NAME", help="uniform (or trailing), quadratic, logsnr, karras or leading")
    add("--variance", metavar="F", type=float, help="of ancestral and pc: 0 small to 1 large")
    add("--eta", type=float, help="of ddim: 0 deterministic to 1 ancestral")
    add("--churn", metavar="G", type=float, help="of heun: share by which the noise is raised before each step")
    add("--langevin-snr", metavar="R", type=float, help="of pc: how long a Langevin step is")
    add("--seed", metavar="S", type=int, default=0, help="picture i depends on (seed, i) alone")
    add("--first", metavar="I", type=int, default=0, help="number of the first picture")
    add("--seeds", metavar="I,J,...", help="only the pictures of these numbers, as in 3,17,204")
    add("--size", metavar="HxW", help="of the pictures, other than the training images'")
    add("--batch", metavar="B", type=int, default=64, help="pictures at a time")
    add("--device", help="cpu, cuda, cuda:1, mps; the best there is if left out")
    add("--precision", default="auto", help="auto, bf16 or fp32")
    guidance_flags.configure(parser)


def run(args: argparse.Namespace) -> int:
    """Draw."""
    from fromnoise.utils.errors import UserError

    count = 1 if args.count is None else args.count
    for flag, number, least in (("-n", count, 1), ("--batch", args.batch, 1), ("--first", args.first, 0)):
        if number < least:
            raise UserError(f"{flag} {number} is too small: take at least {least}")
    if args.seeds is not None and (args.count is not None or args.first):
        raise UserError("--seeds names the pictures, so -n and --first have no place beside it")
    import time

    from tqdm import tqdm

    from fromnoise.checkpoint import load_model
    from fromnoise.data.dataset_info import conditioning_for
    from fromnoise.pipeline import collect, sample_steps
    from fromnoise.reporting import image_io
    from fromnoise.utils.device import select_device
    from fromnoise.utils.files import check_file

    image_io.check_writable(args.out)
    for each, ending in ((args.gif, ".gif"), (args.strip, ".png")):
        if each is not None:
            check_file(each, ending)
    loaded = load_model(args.model)
    config = guidance_flags.settings(
        loaded.model.recipe.sample, args, "sampler", "steps", "grid", "variance", "eta", "churn", "langevin_snr"
    )
    for flag, owners in _OWNERS.items():
        if getattr(args, flag) is not None and config.sampler not in owners:
            raise UserError(
                f"--{flag} says nothing to rule {config.sampler}: leave it out, or take --sampler {owners[0]}"
            )
    guidance_flags.check_labels(args, loaded.model)
    compute = select_device(args.device, args.precision)
    compute.to_device(loaded.model.denoiser)
    model, wrap = guidance_flags.wrap(args, loaded.model, compute)
    ids = _numbers(args, model)
    count = len(ids)
    conditioning_for(model.dataset_info, args.label, ids)  # an unknown label is told of before the bar is drawn
    size = parsing.parse_size("--size", args.size) if args.size else None
    begun = time.perf_counter()
    steps = sample_steps(
        model, config, compute, ids=ids, seed=args.seed, label=args.label, batch=args.batch, wrap=wrap, size=size
    )
    with tqdm(total=-(-count // args.batch) * (len(model.levels(config)) - 1), unit="step") as bar:
        drawn = collect(steps, frames=100 if args.gif or args.strip else 0, on_step=lambda step: bar.update())
    spent = time.perf_counter() - begun
    labels = drawn.labels if args.label is not None and model.dataset_info.class_names is not None else None
    names = model.dataset_info.class_names if args.label == "all" else None
    image_io.save_images(drawn.images, args.out, labels, ids.tolist(), names)
    print(f"{count} pictures in {spent:.1f} s ({spent / count:.3g} s each): {args.out}")
    if args.gif:
        image_io.save_gif(drawn.frames, args.gif)
        print(f"the reverse process: {args.gif}")
    if args.strip:
        image_io.save(image_io.reverse_strip(drawn.frames, drawn.times), args.strip)
        print(f"the reverse process: {args.strip}")
    return 0


def _numbers(args: argparse.Namespace, model: Model) -> Tensor:
    """Which pictures to draw, (N,).

    Raises:
        UserError: a number too large.
    """
    import torch

    from fromnoise.utils.errors import UserError

    if args.seeds is not None:
        return torch.tensor(parsing.parse_list("--seeds", args.seeds))
    each = (
        8 * len(model.dataset_info.class_names)
        if args.label == "all" and model.dataset_info.class_names is not None
        else 64
    )
    count = args.count if args.count is not None else each
    if args.first + count > 2**63 - 1:
        raise UserError(f"--first {args.first} is too large: the numbers of the pictures end at 2^63")
    return torch.arange(args.first, args.first + count)
