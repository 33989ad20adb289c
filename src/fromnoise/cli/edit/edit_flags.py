"""What the subcommands of ``fromnoise edit`` share: flags, loading the model, the inverse solver, writing images."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fromnoise.cli import component_flags, guidance_flags

if TYPE_CHECKING:
    from torch import Tensor

    from fromnoise.diffusion.inverse import InverseSolver
    from fromnoise.editing import EditConfig
    from fromnoise.pipeline import SampleStep

DEFAULT_SOLVER = "mmps"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of all subcommands but ``interpolate``."""
    add = parser.add_argument
    add("model", metavar="RUN", help="a run directory, a .safetensors file or hub:owner/name")
    add("--image", metavar="FILE", type=Path, required=True, help="the image to edit")
    add("--out", metavar="PATH", type=Path, required=True, help=".png, .npz, or a folder of PNG files")
    add("-n", dest="count", metavar="N", type=int, default=1, help="number of samples")
    add("--steps", metavar="K", type=int, help="sampling steps from t = 1 to t = 0")
    component_flags.add_flag(parser, "sampler", "--sampler", "sampler")
    add("--grid", metavar="NAME", help="time grid: see fromnoise sample --help")
    add("--seed", metavar="S", type=int, default=0, help="seed; sample i depends on (seed, i) only")
    add("--any-size", action="store_true", help="accept an image of another size than the training images")
    add("--batch", metavar="B", type=int, default=64, help="samples per batch")
    add("--device", help="cpu, cuda, cuda:1 or mps; default: the best available")
    add("--precision", default="auto", help="auto, bf16 or fp32")
    guidance_flags.configure(parser)


def solver_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of the inverse solver."""
    component_flags.add_flag(parser, "inverse_solver", "--method", "inverse solver (default: mmps)")


def inverse_solver(args: argparse.Namespace) -> InverseSolver:
    """The inverse solver that ``--method`` and the flags of its options describe.

    ``--iterations`` also sets the resamplings of a solver that has these instead of iterations.

    Raises:
        UserError: there is no such solver, it does not have an option, or an option's value is invalid.
    """
    from fromnoise import registry
    from fromnoise.config.component import parse_component
    from fromnoise.utils.errors import UserError

    family, kind = "inverse_solver", args.method or DEFAULT_SOLVER
    try:
        options = registry.options(family, kind)
    except ValueError as e:
        raise UserError(f"--method {kind}: {e}") from None
    if args.inverse_solver_iterations is not None and "iterations" not in options:
        if "resamplings" not in options:
            owners = [
                n for n in registry.names(family) if {"iterations", "resamplings"} & set(registry.options(family, n))
            ]
            raise UserError(f"--iterations does not apply to {kind}: use {' or '.join(owners)}")
        args.inverse_solver_resamplings, args.inverse_solver_iterations = args.inverse_solver_iterations, None
    own = parse_component(family, kind, kind)
    table = component_flags.component_from_flags(args, family, kind, own, "--method")
    values = {name: value for name, value in (table or own.options()).items() if name != "kind"}
    try:
        return registry.build(family, kind, values)
    except ValueError as e:
        raise UserError(f"--method {kind}: {e}") from None


def open_edit(args: argparse.Namespace) -> EditConfig:
    """Load the model and read the sampling flags; the output path is checked first.

    Raises:
        UserError: a flag has an impossible value, or a file cannot be read or written.
    """
    import torch

    from fromnoise.checkpoint import load_model
    from fromnoise.cli.common import check_minimum
    from fromnoise.editing import EditConfig
    from fromnoise.reporting import image_io
    from fromnoise.utils.device import select_device

    check_minimum(("-n", args.count, 1), ("--batch", args.batch, 1))
    image_io.check_writable(args.out)
    model = load_model(args.model).model
    config = guidance_flags.settings(model.recipe.sample, args, "steps", "grid")
    model.guided(config)  # impossible guidance is reported before the work, also where it is not used
    compute = select_device(args.device, args.precision)
    compute.to_device(model.denoiser)
    model, wrap = guidance_flags.wrap(args, model, compute)
    return EditConfig(model, config, compute, torch.arange(args.count), args.seed, args.label, args.batch, wrap)


def check_size(args: argparse.Namespace, edit: EditConfig, size: tuple[int, int]) -> None:
    """Check that the result has the size of the training images.

    Raises:
        UserError: it has not, and ``--any-size`` is not set.
    """
    from fromnoise.utils.errors import UserError

    own = edit.model.dataset_info.shape[1:]
    if size != own and not args.any_size:
        raise UserError(
            f"{args.image} gives an image of {size[0]}x{size[1]} and this model was trained on {own[0]}x{own[1]}: "
            "resize it, or add --any-size"
        )


def finish(args: argparse.Namespace, steps: Iterator[SampleStep]) -> int:
    """Run the sampling loop, write the images and print where they are."""
    import time

    from tqdm import tqdm

    from fromnoise.pipeline import collect

    begin = time.perf_counter()
    with tqdm(unit="step") as bar:

        def on_step(sample_step: SampleStep) -> None:
            bar.total = sample_step.step.total * -(-args.count // args.batch)
            bar.update()

        images = collect(steps, on_step=on_step).images
    seconds = time.perf_counter() - begin
    _save(images, args.out)
    print(f"{args.count} image{'s' if args.count > 1 else ''} in {seconds:.1f} s: {args.out}")
    return 0


def _save(images: Tensor, path: Path) -> None:
    """Write one image to a .png pixel by pixel; several as ``fromnoise sample`` does."""
    from fromnoise.reporting import image_io

    if len(images) == 1 and path.suffix.lower() == ".png":
        image_io.save(image_io.single(images[0]), path)
    else:
        image_io.save_images(images, path)
