"""What the things of ``fromnoise edit`` share: their flags, the opened model, and where the pictures go."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fromnoise.cli import guidance_flags

if TYPE_CHECKING:
    from torch import Tensor

    from fromnoise.editing import EditRun
    from fromnoise.pipeline import SampleStep


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("model", metavar="RUN", help="a run folder or one .safetensors file")
    add("--image", metavar="FILE", type=Path, required=True, help="the picture")
    add("--out", metavar="PATH", type=Path, required=True, help=".png, .npz, anything else is a folder of PNGs")
    add("-n", dest="count", metavar="N", type=int, default=1, help="how many ways to do it")
    add("--steps", metavar="K", type=int, help="steps of the whole way from noise")
    add("--sampler", metavar="NAME", help="what a step does: see fromnoise sample --help")
    add("--grid", metavar="NAME", help="where the steps are: see fromnoise sample --help")
    add("--seed", metavar="S", type=int, default=0, help="picture i depends on (seed, i) alone")
    add("--any-size", action="store_true", help="take a picture of another size than the model learned from")
    add("--batch", metavar="B", type=int, default=64, help="pictures at a time")
    add("--device", help="cpu, cuda, cuda:1, mps; the best there is if left out")
    add("--precision", default="auto", help="auto, bf16 or fp32")
    guidance_flags.configure(parser)


def solver_flags(parser: argparse.ArgumentParser) -> None:
    """Declare how what is lost is found."""
    add = parser.add_argument
    add("--method", default="posterior", help="posterior, pigdm, projected (fastest) or repaint")
    add("--effort", metavar="E", type=int, help="iterations of posterior (3 if left out), passes of repaint (10)")


def brush(args: argparse.Namespace) -> EditRun:
    """The model with the flags of sampling; places are looked at before it is opened.

    Raises:
        UserError: a mistake in any of them.
    """
    import torch

    from fromnoise.checkpoint import load_model
    from fromnoise.editing import EditRun
    from fromnoise.reporting import image_io
    from fromnoise.utils.device import select_device
    from fromnoise.utils.errors import UserError

    for flag, number in (("-n", args.count), ("--batch", args.batch)):
        if number < 1:
            raise UserError(f"{flag} {number} is too small: take at least 1")
    image_io.check_writable(args.out)
    model = load_model(args.model).model
    config = guidance_flags.settings(model.recipe.sample, args, "sampler", "steps", "grid")
    guidance_flags.check_labels(args, model)
    compute = select_device(args.device, args.precision)
    compute.to_device(model.denoiser)
    model, wrap = guidance_flags.wrap(args, model, compute)
    return EditRun(model, config, compute, torch.arange(args.count), args.seed, args.label, args.batch, wrap)


def check_size(args: argparse.Namespace, made: EditRun, size: tuple[int, int]) -> None:
    """Look whether pictures of this size are what the model learned from.

    Raises:
        UserError: they are not, and ``--any-size`` was not asked.
    """
    from fromnoise.utils.errors import UserError

    own = made.model.dataset_info.shape[1:]
    if size != own and not args.any_size:
        raise UserError(
            f"{args.image} makes a picture of {size[0]}x{size[1]} and this model learned from {own[0]}x{own[1]}: "
            "resize it, or add --any-size"
        )


def finish(args: argparse.Namespace, made: EditRun, steps: Iterator[SampleStep]) -> int:
    """Draw, write, and say what was written."""
    import time

    from tqdm import tqdm

    from fromnoise.pipeline import collect

    begun = time.perf_counter()
    with tqdm(unit="step") as bar:

        def on_step(drawn: SampleStep) -> None:
            bar.total = drawn.step.total * -(-args.count // args.batch)
            bar.update()

        images = collect(steps, on_step=on_step).images
    spent = time.perf_counter() - begun
    _save(images, args.out)
    print(f"{args.count} picture{'s' if args.count > 1 else ''} in {spent:.1f} s: {args.out}")
    return 0


def _save(images: Tensor, path: Path) -> None:
    """One picture as it is, pixel by pixel; several as ``sample`` writes them."""
    from fromnoise.reporting import image_io

    if len(images) == 1 and path.suffix.lower() == ".png":
        image_io.save(image_io.single(images[0]), path)
    else:
        image_io.save_images(images, path)
